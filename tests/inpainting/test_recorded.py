import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cxrsynth.inpainting import inpaint
from cxrsynth.inpainting import recorded as module
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.guidance import Combined
from cxrsynth.inpainting.published import tune
from cxrsynth.inpainting.recorded import MOST, Setting, recorded, with_half_weights
from cxrsynth.inpainting.unet import VelocityUNet

FINDINGS = ["Effusion", "Nodule"]


def unet(bf16=False, **options):
    field = VelocityUNet(2, (16, 32), (False, True), 1, 16, norm_groups=8, token_width=16, bf16=bf16, **options)
    for weight in field.parameters():  # MONAI starts the last layers at 0
        weight.data += 0.02 * torch.randn(weight.shape)
    return field.eval()


def dit(bf16=False):
    field = VelocityDiT(2, dim=32, depth=2, num_heads=2, patch=4, bf16=bf16)
    for weight in field.parameters():
        weight.data += 0.02 * torch.randn(weight.shape)
    return field.eval()


def example(field, batch=2, size=16, device="cpu", count=1):
    """A state, times and the setting of `count` branches."""
    x, places = torch.randn(batch, 1, size, size), torch.rand(count * batch, 2, size, size)
    region = (torch.rand(count * batch, 1, size, size) > 0.5).float()
    asked = [[FINDINGS[int(torch.randint(2, ()))]] for _ in range(count * batch)]
    told = field.embed(Condition.from_names(asked, FINDINGS).to(device))
    times = torch.rand(2).tolist()[: 2 if isinstance(field, FlowMap) else 1]
    return x.to(device), times, Setting(region.to(device), places.to(device), told)


def direct(ask, field, x, times, setting):
    return ask(field, x, [torch.full((len(x),), t, device=x.device) for t in times], setting)


@pytest.fixture
def graphs(monkeypatch):
    """What a GPU does: run what was recorded over the memory that it was recorded with. Counts recordings and runs."""
    counts = {"recorded": 0, "run": 0}

    def record(function, pool):
        counts["recorded"] += 1
        result = torch.full_like(function(), torch.nan)

        def again():
            counts["run"] += 1
            result.copy_(function())

        return result, again

    monkeypatch.setattr(module, "can_record", lambda device: True)
    monkeypatch.setattr(module, "record_graph", record)
    return counts


ASKS = [Combined(), Combined((-1.0, 2.0)), Combined((-0.5, -0.5, 2.0), 0.7)]
MAKERS = [unet, dit, lambda bf16=False: FlowMap(unet(bf16)), lambda bf16=False: FlowMap(dit(bf16))]


@torch.no_grad()
@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("make", MAKERS)
def test_a_recording_is_what_it_was_made_from(graphs, make, ask):
    field = make().eval()
    for setting in range(3):  # in turns, as of two samplers at work
        x, times, given = example(field, count=len(ask.coefficients))
        for turn in range(2):
            found = recorded(ask, field, given)(x + turn, *times)
            torch.testing.assert_close(found, direct(ask, field, x + turn, times, given), rtol=0, atol=0)
        assert graphs == {"recorded": 1, "run": 2 * setting + 2}


@torch.no_grad()
def test_results_of_calls_do_not_share_memory(graphs):
    field = unet()
    x, times, setting = example(field)
    forward = recorded(Combined(), field, setting)
    results = [forward(x + turn, *times) for turn in range(3)]
    assert len({result.data_ptr() for result in results}) == 3
    assert not torch.equal(results[0], results[1])


@torch.no_grad()
@pytest.mark.parametrize("make", MAKERS)
def test_half_weights_change_no_bit(make, monkeypatch):
    for name in ("cxrsynth.precision.has_bf16", "cxrsynth.inpainting.recorded.has_bf16"):
        monkeypatch.setattr(name, lambda kind: True)
    field = make(bf16=True).eval()
    given, half = example(field), with_half_weights(field)
    assert torch.equal(direct(Combined(), half, *given), direct(Combined(), field, *given))
    assert {w.dtype for w in field.parameters()} == {torch.float32}
    assert {w.dtype for w in half.parameters()} == {torch.float32, torch.bfloat16}
    field = make()
    assert with_half_weights(field) is field


@torch.no_grad()
def test_other_shapes_are_recorded_apart_and_those_long_unused_go(graphs):
    field = unet()
    first = example(field, 1)
    for batch in range(1, MOST + 2):
        for x, times, setting in (first, example(field, batch)):
            expected = direct(Combined(), field, x, times, setting)
            assert torch.equal(recorded(Combined(), field, setting)(x, *times), expected)
    assert graphs["recorded"] == MOST + 1  # the first is not recorded again: it was always in use
    assert len(field.recordings.kept) == MOST


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("how", ["load", "data", "assign"])
def test_new_weights_are_seen(graphs, monkeypatch, how, half):
    """Also where torch does not count the change: fused optimisers and `.data`."""
    for name in ("cxrsynth.precision.has_bf16", "cxrsynth.inpainting.recorded.has_bf16"):
        monkeypatch.setattr(name, lambda kind: half)
    field, other = unet(half), unet(half)
    x, times, setting = example(field)
    before = recorded(Combined(), field, setting)(x, *times)
    if how == "data":
        for mine, new in zip(field.parameters(), other.parameters(), strict=True):
            mine.data.copy_(new)
    else:
        field.load_state_dict(copy.deepcopy(other.state_dict()), assign=how == "assign")
    after = [recorded(Combined(), field, setting)(x, *times) for _ in range(2)]
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], direct(Combined(), other, x, times, setting))
    assert not torch.equal(before, after[0])
    assert graphs["recorded"] == (2 if how == "assign" else 1)


@torch.no_grad()
def test_low_rank_changes_are_not_cast_ahead(graphs, monkeypatch):
    for name in ("cxrsynth.precision.has_bf16", "cxrsynth.inpainting.recorded.has_bf16"):
        monkeypatch.setattr(name, lambda kind: True)
    field = unet(bf16=True)
    tune(field, "lora")
    for weight in field.parameters():
        weight.data += 0.02 * torch.randn(weight.shape)
    x, times, setting = example(field)
    assert torch.equal(recorded(Combined(), field, setting)(x, *times), direct(Combined(), field, x, times, setting))
    assert with_half_weights(field) is field


@torch.no_grad()
def test_threads_take_turns(graphs):
    field = unet()
    work = [example(field) for _ in range(2)]
    expected = [direct(Combined(), field, *given) for given in work]

    def paint(which):
        x, times, setting = work[which]
        forward = recorded(Combined(), field, setting)
        with torch.no_grad():
            return all(torch.equal(forward(x, *times), expected[which]) for _ in range(30))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(paint, (0, 1)))


def test_gradients_subclasses_and_the_switch(graphs, monkeypatch):
    class Sharded(VelocityUNet):
        pass

    field = unet()
    x, times, setting = example(field)
    assert recorded(Combined(), field, setting)(x, *times).requires_grad
    with torch.no_grad():
        field.__class__ = Sharded
        recorded(Combined(), field, setting)(x, *times)
        field.__class__ = VelocityUNet
        monkeypatch.setenv("CXRSYNTH_CUDA_GRAPHS", "0")
        recorded(Combined(), field, setting)(x, *times)
        assert graphs["recorded"] == 0
        monkeypatch.delenv("CXRSYNTH_CUDA_GRAPHS")
        recorded(Combined(), field, setting)(x, *times)
    assert graphs["recorded"] == 1


@torch.no_grad()
def test_copies_start_without_recordings(graphs):
    field = unet()
    x, times, setting = example(field)
    expected = recorded(Combined(), field, setting)(x, *times)
    for copied in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert not copied.recordings.kept
        assert list(copied.state_dict()) == list(field.state_dict())
        assert torch.equal(recorded(Combined(), copied, setting)(x, *times), expected)


@torch.no_grad()
def test_what_cannot_be_recorded_runs(graphs, monkeypatch):
    def fails(function, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "record_graph", fails)
    field = unet()
    x, times, setting = example(field)
    forward, expected = recorded(Combined(), field, setting), direct(Combined(), field, x, times, setting)
    with pytest.warns(UserWarning, match="could not become a CUDA graph"):
        assert torch.equal(forward(x, *times), expected)
    assert torch.is_autocast_cache_enabled()
    assert torch.equal(forward(x, *times), expected)


@pytest.mark.parametrize("settings", [{}, {"solver": "heun", "guidance": {"findings": 3.0}, "rescale": 0.5}])
def test_inpainting_is_the_same(graphs, monkeypatch, settings):
    field = unet(recompute=True)
    image = torch.rand(2, 1, 40, 30)
    region = torch.zeros_like(image)
    region[..., 5:25, 5:25] = 1
    asked = Condition.from_names([["Effusion"], ["Nodule"]], FINDINGS)
    options = {"velocity": field, "size": 16, "seeds": [1, 2], "steps": 4, **settings}
    with torch.inference_mode():
        first = inpaint(image, region, asked, **options)
    recordings = dict(graphs)
    again = inpaint(image, region, asked, **options)  # what was recorded in inference mode serves outside it too
    assert graphs == {"recorded": recordings["recorded"], "run": 16}
    assert torch.equal(again, first)
    monkeypatch.setattr(module, "can_record", lambda device: False)
    assert torch.equal(first, inpaint(image, region, asked, **options))
    assert graphs["run"] == 16


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("make", [*MAKERS, lambda bf16=False: unet(bf16, recompute=True)])
def test_graphs_on_a_gpu(make, ask, bf16, recwarn):
    field = make(bf16).cuda().eval()
    for _ in range(3):
        x, times, given = example(field, device="cuda", count=len(ask.coefficients))
        for turn in range(2):
            found = recorded(ask, field, given)(x + turn, *times)
            torch.testing.assert_close(found, direct(ask, field, x + turn, times, given), rtol=1e-3, atol=1e-3)
            assert torch.equal(found, recorded(ask, field, given)(x + turn, *times))
    assert len(field.recordings.kept) == 1
    assert all(field.recordings.kept.values())
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]
