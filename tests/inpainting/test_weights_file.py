import pytest
import torch
from torch import nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting import InpaintingTask, load_inpainter
from cxrsynth.inpainting.average import AverageMaps
from cxrsynth.inpainting.export import weights_of
from cxrsynth.inpainting.telling import corpus
from cxrsynth.inpainting.text import Vocabulary
from cxrsynth.inpainting.warm_start import take_over, take_over_clock, take_over_maps
from cxrsynth.inpainting.weights_file import digests, read_weights_file, write_weights_file

TINY = {"size": 16, "channels": [8, 16], "attention": [False, True], "head_channels": 8, "norm_groups": 4}
GUIDED = {**TINY, "fields": ["text", "sex"], "vocabulary": 300, "text_width": 16, "text_depth": 1}


@pytest.fixture(scope="module")
def task() -> InpaintingTask:
    torch.manual_seed(0)
    task = InpaintingTask(["Effusion", "Nodule"], **GUIDED, start="somewhere")
    for weight in task.painter.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    task.average_maps.add(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))
    task.patients = digests(["a", "b", "a"])
    vocabulary = Vocabulary.train(corpus([], ["Effusion", "Nodule"], ["PA"]), 300, 64)
    task.teller = task.teller.__class__(**{**vars(task.teller), "vocabulary": vocabulary})
    return task.eval()


@pytest.fixture(scope="module")
def file(task, tmp_path_factory):
    return write_weights_file(tmp_path_factory.mktemp("weights") / "small.safetensors", weights_of(task))


def test_an_exported_inpainter_paints_as_before_but_for_rounding(task, file):
    again = load_inpainter(file)
    assert again.hparams["findings"] == ["Effusion", "Nodule"]
    assert again.hparams["start"] is None
    assert again.patients == task.patients
    image = torch.rand(1, 1, 32, 32)
    region = torch.zeros_like(image)
    region[..., 8:24, 8:24] = 1
    painted = []
    for one in (task, again):
        condition = one.condition(1, ["Nodule"], text="A nodule.", sex="F")
        painted.append(one.inpaint(image, region, condition, seeds=[3], steps=3))
    assert (painted[0] - painted[1]).abs().max() < 0.02
    assert not torch.equal(*painted)  # bfloat16 did round
    assert torch.equal(task.average_maps.total, again.average_maps.total)


def test_weights_are_those_of_the_average_rounded_to_bfloat16(task, file):
    state = read_weights_file(file).state
    wanted = task.painter.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], value.bfloat16().float()) for name, value in wanted.items())
    parameters = sum(value.numel() for value in wanted.values())
    assert file.stat().st_size < 2 * parameters + 4 * 2 * (32 * 32 + 1) + 100_000


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="checkpoint") as error:
        load_inpainter(path)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(task, tmp_path):
    content = weights_of(task)
    name = next(iter(content.state))
    content.state[name] = torch.full_like(content.state[name], torch.nan)
    with pytest.raises(UserError, match="not finite"):
        load_inpainter(write_weights_file(tmp_path / "nan.safetensors", content))


def test_a_checkpoint_whose_trained_weights_are_not_finite_is_refused(task, tmp_path):
    """Also where the average, which paints, still is."""
    content = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    content["state_dict"] = {
        name: torch.full_like(value, torch.inf) if name.startswith("velocity.") else value
        for name, value in content["state_dict"].items()
    }
    torch.save(content | {"pytorch-lightning_version": "2.6.0"}, tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match="not finite"):
        load_inpainter(tmp_path / "nan.ckpt")


class Field(nn.Module):
    """As much of a velocity field as matters here."""

    def __init__(self, findings: int, width: int = 4):
        super().__init__()
        self.embed = nn.Module()
        self.embed.states = nn.Parameter(torch.randn(findings, 3, width))
        self.body = nn.Linear(width, 50)
        self.head = nn.Linear(50, findings)


def test_what_agrees_is_taken_over_and_findings_go_by_their_names():
    old, new = Field(3), Field(2)
    fresh = take_over(new, old.state_dict(), ["Mass", "Nodule"], ["Effusion", "Nodule", "Edema"])
    assert torch.equal(new.embed.states[1], old.embed.states[1])
    assert new.embed.states[0].any(1).tolist() == [False, True, False]  # absent, present, unknown
    assert torch.equal(new.body.weight, old.body.weight)
    assert set(fresh) == {"Mass", "head.weight", "head.bias"}


def test_another_network_is_refused():
    with pytest.raises(UserError, match="0% of this network's weights"):
        take_over(Field(2, 4), Field(2, 5).state_dict(), ["a", "b"], ["a", "b"])


def test_average_maps_follow_the_names():
    old, new = AverageMaps(2), AverageMaps(2)
    old.add(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))
    take_over_maps(new, old, ["Nodule", "Mass"], ["Effusion", "Nodule"])
    assert torch.equal(new.of(0), old.of(1))
    assert new.area(0) == old.area(1)
    assert new.of(1) is None


@pytest.mark.parametrize(
    ("asked", "trained", "expected"), [(None, 20.0, 20.0), (50.0, 20.0, 50.0), (None, None, 1000.0)]
)
def test_the_clock_is_that_of_the_weights_unless_another_is_asked_for(asked, trained, expected):
    """Told another time than it was trained with, a network paints noise."""
    task = InpaintingTask(["Mass"], 16, "unet", (16, 16), (False, True), clock=asked)
    other = InpaintingTask(["Mass"], 16, "unet", (16, 16), (False, True), clock=trained)
    fields = [task.velocity, task.average.module]
    assert take_over_clock(fields, task.hparams, other.hparams) == expected
    assert [field.parametrisation.clock for field in fields] == [expected, expected]
