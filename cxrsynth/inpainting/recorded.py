"""Velocity fields on a GPU as CUDA graphs: the hundreds of small kernels of a forward are started as one."""

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.embedder import Embedded
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.unet import VelocityUNet
from cxrsynth.inpainting.velocity import VelocityField
from cxrsynth.precision import has_bf16

FIELDS = (VelocityUNet, VelocityDiT, FlowMap)  # and no subclasses: sharding makes these
PATIENCE = 2  # forwards of a shape that go by before it is recorded, which takes as long as several
MOST = 4  # recordings of a field that are kept; each holds the memory of a forward

Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], object]]]


def recorded(field: VelocityField) -> Callable[..., Tensor]:
    """The forward of a field; on a GPU and without gradients, shapes that come again run from a recording.

    A recording in bfloat16 has weights of its own, which saves casting them in every forward. Ask anew once the weights
    may have changed: recordings of those before are then dropped. `CXRSYNTH_CUDA_GRAPHS=0` in the environment turns
    recording off.

    Args:
        field: The field. Fields of other classes than ours, and sharded ones, are not recorded.

    Returns:
        Called as the field is.
    """
    if os.environ.get("CXRSYNTH_CUDA_GRAPHS") == "0" or not recordable(field):
        return field
    module = cast(nn.Module, field)
    state = _state(module)
    recordings = getattr(module, "recordings", None)
    if recordings is None or recordings.state != state:
        module.recordings = recordings = Recordings(state)  # type: ignore[assignment]

    def forward(
        x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition | Embedded, *until: Tensor
    ) -> Tensor:
        if isinstance(condition, Condition) or torch.is_grad_enabled() or not can_record(x.device):
            return module(x, t, region, coordinates, condition, *until)
        return recordings(module, x, t, region, coordinates, condition.tokens, condition.vector, *until)

    return forward


def recordable(field: object) -> bool:
    """Whether a field is one of ours, whole in one process."""
    return type(field) in FIELDS and type(getattr(field, "field", field)) in FIELDS


def can_record(device: torch.device) -> bool:
    """Whether a device has CUDA graphs, and nothing records already."""
    return device.type == "cuda" and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing()


class Recording:
    """A function of tensors over memory of its own.

    Args:
        function: What is recorded.
        inputs: What it is called with, as an example.
        record: Runs a function without arguments; its result, and what writes that result anew.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor], record: Record):
        self.inputs = [given.clone() for given in inputs]
        self.result, self.again = record(lambda: function(*self.inputs))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result for inputs shaped as the example was."""
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        self.again()
        return self.result.clone()


class Recordings:
    """The recordings of a field, by the shapes of its inputs. A copy of the field starts without any.

    Args:
        state: Of its weights.
    """

    def __init__(self, state: tuple = ()):
        self.state = state
        self.seen: dict[tuple, int] = {}
        self.kept: dict[tuple, Recording | None] = {}  # None = it could not be recorded
        self.field: nn.Module | None = None  # that runs in the recordings

    def __deepcopy__(self, memo: dict) -> "Recordings":
        return Recordings()

    def __reduce__(self) -> tuple[type, tuple]:
        return Recordings, ()

    def __call__(self, field: nn.Module, *inputs: Tensor) -> Tensor:
        """The field's velocity; `inputs` as the field's, the condition as tokens and vector."""
        device = inputs[0].device
        key = (
            stream_of(device),
            torch.is_autocast_enabled(device.type),
            *((given.shape, given.dtype) for given in inputs),
        )
        self.seen[key] = self.seen.get(key, 0) + 1
        if key not in self.kept and self.seen[key] > PATIENCE:
            self.kept[key] = self._record(field, inputs)
            while len(self.kept) > MOST:
                self.kept.pop(next(iter(self.kept)))
        recording = self.kept.get(key)
        return recording(*inputs) if recording else _forward(field, *inputs)

    def _record(self, field: nn.Module, inputs: Sequence[Tensor]) -> Recording | None:
        caching = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # it lets go of cast weights that the recording would read
        try:
            with torch.inference_mode(False), torch.no_grad():  # buffers of inference mode could not be filled later
                own = self.field = self.field or with_half_weights(field)
                return Recording(lambda *given: _forward(own, *given), inputs, record_graph)
        except RuntimeError as error:
            warnings.warn(f"a velocity field could not become a CUDA graph and runs without one: {error}", stacklevel=2)
            return None
        finally:
            torch.set_autocast_cache_enabled(caching)


def with_half_weights(field: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers hold bfloat16, as autocast would cast them; the rest is shared.

    A field that does not compute in bfloat16 is returned as it is.
    """
    core: Any = getattr(field, "field", field)
    if not (core.bf16 and has_bf16(next(core.parameters()).device.type)):
        return field
    shared = {id(part): part for part in (core.embed, getattr(field, "length", core.embed))}
    copied = copy.deepcopy(field, shared)
    for name, part in getattr(copied, "field", copied).named_children():
        for layer in part.modules() if name != "embed" else ():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(torch.bfloat16)
    return copied


def record_graph(function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
    """Record a function as a CUDA graph (see `Record`). Other threads may use the GPU meanwhile."""
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        function()  # what a first call sets up must not be part of it
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
        result = function()
    graph.replay()
    return result, graph.replay


def stream_of(device: torch.device) -> int:
    """The stream that a recording would run on: two at once would write the same memory."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _forward(field: nn.Module, *inputs: Tensor) -> Tensor:
    x, t, region, coordinates, tokens, vector, *until = inputs
    result: Tensor = field(x, t, region, coordinates, Embedded(tokens, vector), *until)
    return result


def _state(field: nn.Module) -> tuple:
    """Changes whenever a weight does."""
    weights = (*field.parameters(), *field.buffers())
    versions = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
    return (getattr(field, "field", field).bf16, *versions)
