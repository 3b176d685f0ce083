"""Published networks under the flow's time, against MONAI's own schedulers."""

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler

from cxrsynth.errors import UserError
from cxrsynth.inpainting import InpaintingTask
from cxrsynth.inpainting.parametrisation import Preconditioned, published
from cxrsynth.inpainting.velocity import preconditioning

SCHEDULE = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}


@pytest.mark.parametrize(("prediction", "name"), [("v", "v_prediction"), ("epsilon", "epsilon")])
@pytest.mark.parametrize("step", [0, 1, 250, 700, 999])
def test_a_diffusion_models_answer_means_the_image_that_its_scheduler_reads_from_it(prediction, name, step):
    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type=name, clip_sample=False, **SCHEDULE)
    scheduler.set_timesteps(1000)
    kept = scheduler.alphas_cumprod.double()[step]
    a, b = kept.sqrt(), (1 - kept).sqrt()
    t = (a / (a + b)).float()[None]
    noisy, answer = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)  # x' and what the network says of it
    _, image = scheduler.step(answer, step, noisy)
    terms = published(prediction, **SCHEDULE)(t)
    x = noisy * (a + b).reciprocal().float()  # our state: (1 - t) z + t x1 = x' / (a + b)
    assert float(terms.time) == pytest.approx(step, abs=0.02)
    torch.testing.assert_close(terms.factor * x, noisy, rtol=1e-4, atol=1e-4)
    ours = x + (1 - t) * terms.velocity(x, answer)
    torch.testing.assert_close(ours, image, rtol=2e-3, atol=2e-3)


def test_the_ends_of_time_stay_finite():
    t = torch.tensor([0.0, 1e-6, 0.5, 1.0])
    for prediction in ("v", "epsilon"):
        terms = published(prediction, **SCHEDULE)(t)
        for part in (terms.time, terms.factor, terms.skip, terms.scale):
            assert part.isfinite().all()
        assert terms.time.tolist()[0] == 999
        assert terms.time.tolist()[-1] == 0


def test_rectified_flow_counts_time_from_the_image():
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    image, noise, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([0.2, 0.7])
    terms = published("velocity")(t)
    x = scheduler.add_noise(image, noise, terms.time)
    torch.testing.assert_close(x, (1 - t.view(-1, 1, 1, 1)) * noise + t.view(-1, 1, 1, 1) * image)
    torch.testing.assert_close(terms.velocity(x, image - noise), image - noise)  # what it was trained to say


def test_our_own_is_the_best_linear_guess():
    t = torch.linspace(0, 1, 5)
    terms = Preconditioned(1.0)(t)
    skip, scale = preconditioning(t, 1.0)
    assert torch.equal(terms.skip, skip)
    assert torch.equal(terms.scale, scale)
    # a v-prediction of data of unit spread is the same, but for the sign and the time
    v = published("v", **SCHEDULE)(t)
    torch.testing.assert_close(v.skip, skip)
    torch.testing.assert_close(v.scale, -scale)


def test_the_clock_is_what_the_network_is_told():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert Preconditioned(1.0)(t).time.tolist() == [0, 500, 1000]
    slow = Preconditioned(1.0, 20)(t)
    assert slow.time.tolist() == [0, 10, 20]
    assert torch.equal(slow.skip, Preconditioned(1.0)(t).skip)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_task_keeps_its_clock(network):
    x, region, coordinates = torch.randn(1, 1, 16, 16), torch.ones(1, 1, 16, 16), torch.zeros(1, 2, 16, 16)
    told = []
    for clock, t in ((20.0, 0.5), (10.0, 1.0), (1000.0, 0.5)):
        task = InpaintingTask(["Mass"], 16, network, (16, 16), (False, True), clock=clock)
        assert task.hparams["clock"] == clock
        first = task.velocity.unet.time_embed if network == "unet" else task.velocity.time
        first.register_forward_pre_hook(lambda module, inputs: told.append(inputs[0]))
        task.velocity(x, torch.tensor([t]), region, coordinates, task.condition(1, []))
    torch.testing.assert_close(told[0], told[1])
    assert not torch.allclose(told[0], told[2])
    with pytest.raises(UserError, match="clock is 0"):
        InpaintingTask(["Mass"], clock=0.0)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prediction": "sample"}, "sample"),
        ({"prediction": "v"}, "schedule is None"),
        ({"prediction": "epsilon", "schedule": "linear_beta"}, "beta_start"),
        ({"prediction": "v", **SCHEDULE, "timesteps": 1}, "timesteps"),
    ],
)
def test_what_cannot_be_known_is_asked_for(asked, words):
    with pytest.raises(UserError, match=words):
        published(**asked)
