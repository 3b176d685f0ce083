import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader

from cxrsynth.classification import EfficientNet
from cxrsynth.classification.compact import CompactNet
from cxrsynth.classification.residual import ResidualNet
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data.targets import FindingMetrics, binary_cross_entropy, focal_loss, mix
from cxrsynth.errors import UserError

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "log_every_n_steps": 1,
}


def bright_corner(count: int, seed: int) -> DataLoader:
    """Images whose two findings are bright patches in two corners; every fourth target unknown."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(count, 2, generator=generator) < 0.5).float()
    image = 0.3 + 0.1 * torch.randn(count, 1, 32, 32, generator=generator)
    image[:, 0, :10, :10] += 0.5 * target[:, 0, None, None]
    image[:, 0, -10:, -10:] += 0.5 * target[:, 1, None, None]
    target[::4, 1] = torch.nan
    rows = [
        {"image": i.clamp(0, 1), "target": t, "image_id": str(n)}
        for n, (i, t) in enumerate(zip(image, target, strict=True))
    ]
    return DataLoader(rows, batch_size=16, shuffle=seed == 0)


def test_the_loss_is_the_mean_over_known_targets():
    logits, target = torch.tensor([[0.3, -1.0], [2.0, 0.5]]), torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    probability = 1 / (1 + np.exp(-np.array([0.3, 2.0, 0.5])))
    expected = -np.mean([np.log(probability[0]), np.log(1 - probability[1]), np.log(probability[2])])
    assert binary_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)
    assert binary_cross_entropy(logits, torch.full((2, 2), torch.nan)).item() == 0.0


def test_unknown_targets_send_no_gradient():
    logits = torch.zeros(1, 2, requires_grad=True)
    binary_cross_entropy(logits, torch.tensor([[1.0, torch.nan]])).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0.0]]


def test_metrics_agree_with_sklearn_and_know_absent_classes():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 2, (60, 3)).astype(np.float32)
    scores = generator.random((60, 3)).astype(np.float32)
    target[:20, 1] = np.nan
    target[:, 2] = 0
    metrics = FindingMetrics(3)
    for part in (slice(0, 25), slice(25, 60)):
        metrics.update(torch.logit(torch.tensor(scores[part])), torch.tensor(target[part]))
    values = metrics.compute()
    for index, known in ((0, slice(None)), (1, slice(20, None))):
        truth, score = target[known, index], scores[known, index]
        assert values["auroc"][index].item() == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
        assert values["auprc"][index].item() == pytest.approx(average_precision_score(truth, score), abs=1e-6)
    assert values["auroc"][2].isnan()


def test_images_are_normalised_inside():
    net = EfficientNet("efficientnet-b0", 2).eval()
    image = torch.rand(1, 1, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (image.repeat(1, 3, 1, 1) - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(net(image), net.net(normalised))


def test_learns_from_scratch_logs_and_reloads(tmp_path):
    task = ClassificationTask(["left", "right"], "efficientnet-b0", lr=3e-3, schedule="one_cycle")
    trainer = L.Trainer(max_epochs=6, logger=L.pytorch.loggers.CSVLogger(tmp_path), **QUIET)
    trainer.fit(task, bright_corner(128, 0), bright_corner(64, 1))
    assert {"train/loss", "val/loss", "val/auroc", "val/auprc", "val/auroc/left"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["val/auroc"] > 0.9
    trainer.save_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    again = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True).eval()
    batch = next(iter(bright_corner(8, 2)))
    with torch.no_grad():
        probabilities = again.predict_step(batch, 0)
        torch.testing.assert_close(probabilities, task.eval()(batch["image"]).sigmoid())
    assert probabilities.shape == (8, 2)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_pretrained_weights_are_read_when_training_starts(tmp_path):
    donor = EfficientNet("efficientnet-b0", 2)
    torch.save(donor.net.state_dict(), tmp_path / "weights.pt")
    task = ClassificationTask(["left", "right"], "efficientnet-b0", weights=str(tmp_path / "weights.pt"), lr=0.0)
    trainer = L.Trainer(max_steps=1, logger=False, **QUIET)
    trainer.fit(task, bright_corner(16, 0), bright_corner(16, 1))
    assert torch.equal(task.net.net._fc.weight, donor.net._fc.weight)


def test_arguments_are_checked():
    with pytest.raises(UserError, match="findings is empty"):
        ClassificationTask([])
    with pytest.raises(UserError, match="plateau or one_cycle"):
        ClassificationTask(["a"], "efficientnet-b0", schedule="cosine")


@pytest.mark.parametrize("network", [CompactNet, ResidualNet])
def test_small_networks_learn_where_a_bright_spot_is_and_take_any_size(network):
    net = network(2)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        image = torch.rand(16, 1, 32, 32, generator=generator) * 0.3
        target = torch.rand(16, 2, generator=generator).round()
        image[target[:, 0] == 1, :, 8:12, 4:8] += 0.6
        image[target[:, 1] == 1, :, 8:12, 20:24] -= 0.3
        loss = binary_cross_entropy(net(image), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert net.eval()(torch.rand(3, 1, 47, 80)).shape == (3, 2)


@pytest.mark.parametrize("network", ["compact", "residual"])
def test_small_networks_have_no_published_weights(network):
    with pytest.raises(UserError, match="weights"):
        ClassificationTask(["Mass"], network, weights="file.pth")


def test_focal_and_weighted_losses_are_their_formulas():
    logits, target = torch.tensor([[0.3, -1.0], [2.0, 0.5]]), torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    p = logits.sigmoid()
    right = torch.stack([p[0, 0], 1 - p[1, 0], p[1, 1]])
    assert focal_loss(logits, target, 2.0).item() == pytest.approx(-((1 - right) ** 2 * right.log()).mean().item())
    assert focal_loss(logits, target, 0.0).item() == pytest.approx(binary_cross_entropy(logits, target).item())
    weighted = binary_cross_entropy(logits, target, torch.tensor([5.0, 2.0])).item()
    assert weighted == pytest.approx(-(torch.tensor([5.0, 1.0, 2.0]) * right.log()).mean().item())


def test_mixup_blends_image_and_target_alike_and_keeps_the_unknown():
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 4)
    target[0, 1] = torch.nan
    image = target[:, :1, None, None].expand(8, 1, 4, 4).contiguous()
    mixed, soft = mix(image, target, 1.0)
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft[:, 0])
    assert ((soft[:, 0] > 0) & (soft[:, 0] < 1)).any()
    assert soft[:, 1].isnan().sum() >= 1
    assert mix(image, target, 0.0)[0] is image


def test_a_training_can_start_from_another_ones_network(tmp_path):
    first = ClassificationTask(["left", "right"], "compact")
    trainer = L.Trainer(max_steps=1, logger=False, **QUIET)
    trainer.fit(first, bright_corner(16, 0), bright_corner(16, 1))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    options = {"pos_weight": [2.0, 3.0], "mixup": 0.2}
    second = ClassificationTask(["left", "right"], "compact", lr=0.0, start=str(tmp_path / "first.ckpt"), **options)
    L.Trainer(max_steps=1, logger=False, **QUIET).fit(second, bright_corner(16, 0), bright_corner(16, 1))
    assert torch.equal(second.net.output.weight, first.net.output.weight)
    with pytest.raises(UserError, match="one a finding"):
        ClassificationTask(["left", "right"], "compact", pos_weight=[1.0])
    with pytest.raises(UserError, match="mixup"):
        ClassificationTask(["left"], "compact", mixup=-1.0)
