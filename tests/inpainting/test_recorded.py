import copy
import pickle

import pytest
import torch

from cxrsynth.inpainting import inpaint
from cxrsynth.inpainting import recorded as module
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.recorded import MOST, PATIENCE, recorded, with_half_weights
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


def inputs(field, batch=2, size=16, device="cpu"):
    x, places = torch.randn(batch, 1, size, size), torch.rand(batch, 2, size, size)
    region = (torch.rand(batch, 1, size, size) > 0.5).float()
    asked = Condition.from_names([[FINDINGS[int(torch.randint(2, ()))]] for _ in range(batch)], FINDINGS)
    given = [part.to(device) for part in (x, torch.rand(batch), region, places)]
    return *given, field.embed(asked.to(device))


@pytest.fixture
def graphs(monkeypatch):
    """What a GPU does: run what was recorded over the memory that it was recorded with. Counts recordings and runs."""
    counts = {"recorded": 0, "run": 0}

    def record(function):
        counts["recorded"] += 1
        result = function().clone()

        def again():
            counts["run"] += 1
            result.copy_(function())

        return result, again

    monkeypatch.setattr(module, "can_record", lambda device: True)
    monkeypatch.setattr(module, "record_graph", record)
    return counts


@torch.no_grad()
@pytest.mark.parametrize("make", [unet, dit, lambda: FlowMap(unet()), lambda: FlowMap(dit())])
def test_a_recording_is_the_field(graphs, make):
    field = make().eval()
    for turn in range(PATIENCE + 3):
        given = inputs(field)
        if isinstance(field, FlowMap):
            given = (*given, torch.ones(2))
        assert torch.equal(recorded(field)(*given), field(*given))
        assert graphs == {"recorded": int(turn >= PATIENCE), "run": max(0, turn + 1 - PATIENCE)}


@torch.no_grad()
def test_results_of_calls_do_not_share_memory(graphs):
    field = unet()
    results = [recorded(field)(*inputs(field)) for _ in range(PATIENCE + 3)]
    assert len({result.data_ptr() for result in results}) == len(results)
    assert not torch.equal(results[-1], results[-2])


@torch.no_grad()
@pytest.mark.parametrize("make", [unet, dit])
def test_half_weights_change_no_bit(graphs, make, monkeypatch):
    for name in ("cxrsynth.precision.has_bf16", "cxrsynth.inpainting.recorded.has_bf16"):
        monkeypatch.setattr(name, lambda kind: True)
    field = make(bf16=True)
    for whole in (field, FlowMap(field)):
        given = (*inputs(whole), torch.ones(2))[: 6 if isinstance(whole, FlowMap) else 5]
        half = with_half_weights(whole)
        assert torch.equal(half(*given), whole(*given))
        assert {w.dtype for w in whole.parameters()} == {torch.float32}
        assert {w.dtype for w in half.parameters()} == {torch.float32, torch.bfloat16}
    whole = make()
    assert with_half_weights(whole) is whole


@torch.no_grad()
def test_other_shapes_are_recorded_apart_and_the_oldest_go(graphs):
    field = unet()
    for batch in range(1, MOST + 2):
        for _ in range(PATIENCE + 1):
            given = inputs(field, batch)
            assert torch.equal(recorded(field)(*given), field(*given))
    assert graphs["recorded"] == MOST + 1
    assert len(field.recordings.kept) == MOST


@torch.no_grad()
def test_new_weights_are_seen(graphs):
    field, other = unet(), unet()
    given = inputs(field)
    for _ in range(PATIENCE + 1):
        recorded(field)(*given)
    before = recorded(field)(*given)
    field.load_state_dict(other.state_dict())
    for _ in range(PATIENCE + 2):
        assert torch.equal(recorded(field)(*given), other(*given))
    assert not torch.equal(before, other(*given))
    assert graphs["recorded"] == 2


def test_gradients_subclasses_and_the_switch(graphs, monkeypatch):
    field = unet()
    forward, given = recorded(field), inputs(field)
    for _ in range(PATIENCE + 2):
        assert forward(*given).requires_grad

    class Sharded(VelocityUNet):
        pass

    sharded = unet()
    sharded.__class__ = Sharded
    assert recorded(sharded) is sharded
    monkeypatch.setenv("CXRSYNTH_CUDA_GRAPHS", "0")
    assert recorded(field) is field
    assert graphs["recorded"] == 0


@torch.no_grad()
def test_copies_start_without_recordings(graphs):
    field = unet()
    given = inputs(field)
    for _ in range(PATIENCE + 1):
        expected = recorded(field)(*given)
    names = list(field.state_dict())
    for copied in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert not copied.recordings.kept
        assert list(copied.state_dict()) == names
        assert torch.equal(recorded(copied)(*given), expected)


@torch.no_grad()
def test_what_cannot_be_recorded_runs(graphs, monkeypatch):
    def fails(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "record_graph", fails)
    field = unet()
    given = inputs(field)
    for _ in range(PATIENCE):
        recorded(field)(*given)
    with pytest.warns(UserWarning, match="could not become a CUDA graph"):
        assert torch.equal(recorded(field)(*given), field(*given))
    assert torch.is_autocast_cache_enabled()
    assert torch.equal(recorded(field)(*given), field(*given))


@pytest.mark.parametrize("settings", [{}, {"solver": "heun", "guidance": {"findings": 3.0}, "rescale": 0.5}])
def test_inpainting_is_the_same(graphs, monkeypatch, settings):
    field = unet(recompute=True)
    image = torch.rand(2, 1, 40, 30)
    region = torch.zeros_like(image)
    region[..., 5:25, 5:25] = 1
    asked = Condition.from_names([["Effusion"], ["Nodule"]], FINDINGS)
    options = {"velocity": field, "size": 16, "seeds": [1, 2], "steps": 4, **settings}
    with torch.inference_mode():
        recording = inpaint(image, region, asked, **options)
    assert graphs["recorded"] == 1
    again = inpaint(image, region, asked, **options)  # what was recorded in inference mode serves outside it too
    assert graphs == {"recorded": 1, "run": 14}
    graphs["recorded"] = 0
    del field.recordings
    monkeypatch.setattr(module, "can_record", lambda device: False)
    assert torch.equal(recording, inpaint(image, region, asked, **options))
    assert torch.equal(again, recording)
    assert graphs["recorded"] == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("make", [unet, dit, lambda bf16: FlowMap(unet(bf16)), lambda bf16: unet(bf16, recompute=True)])
def test_graphs_on_a_gpu(make, bf16, recwarn):
    field = make(bf16).cuda().eval()
    for _ in range(PATIENCE + 3):
        given = inputs(field, device="cuda")
        if isinstance(field, FlowMap):
            given = (*given, torch.ones(2, device="cuda"))
        torch.testing.assert_close(recorded(field)(*given), field(*given), rtol=1e-4, atol=1e-4)
    assert len(field.recordings.kept) == 1
    assert all(field.recordings.kept.values())
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]
