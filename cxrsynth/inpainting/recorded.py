"""Velocities on a GPU from CUDA graphs: the hundreds of small kernels of a forward are started as one."""

import copy
import os
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

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
MOST = 8  # recordings of a field that are kept

Record = Callable[[Callable[[], Tensor], Any], tuple[Tensor, Callable[[], object]]]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a velocity field is given besides state and time."""

    region: Tensor
    coordinates: Tensor
    told: Condition | Embedded


class Ask(Hashable, Protocol):
    """Asks a field for a velocity. What is not in the arguments must be in the hash."""

    def __call__(self, field: VelocityField, x: Tensor, times: Sequence[Tensor], setting: Setting) -> Tensor:
        """Velocity at the state `x` and the times `[B]`: now, and for a `FlowMap` the step's end."""


def as_it_is(ask: Ask, field: VelocityField, setting: Setting) -> Callable[..., Tensor]:
    """`ask` as a function of the state and the times as numbers."""

    def forward(x: Tensor, *times: float) -> Tensor:
        return ask(field, x, [x.new_full((len(x),), t) for t in times], setting)

    return forward


def recorded(ask: Ask, field: VelocityField, setting: Setting) -> Callable[..., Tensor]:
    """The same; on a GPU and without gradients, from a recording, which takes as long as a few forwards to make.

    A recording in bfloat16 has weights of its own, which saves casting them in every forward. Call this anew once
    weights may have changed: recordings of those before are then dropped. `CXRSYNTH_CUDA_GRAPHS=0` in the environment
    turns recording off.

    Args:
        ask: What is computed.
        field: The field. Fields of other classes than ours, and sharded ones, are not recorded.
        setting: Stays as it is from call to call.
    """
    plainly = as_it_is(ask, field, setting)
    told = setting.told
    if isinstance(told, Condition) or not recordable(field) or os.environ.get("CXRSYNTH_CUDA_GRAPHS") == "0":
        return plainly
    module = cast(nn.Module, field)
    state = _state(module)
    recordings = getattr(module, "recordings", None)
    if recordings is None or recordings.state != state:
        module.recordings = recordings = Recordings(state)  # type: ignore[assignment]

    def forward(x: Tensor, *times: float) -> Tensor:
        if torch.is_grad_enabled() or not can_record(x.device):
            return plainly(x, *times)
        recording = recordings.find(ask, module, x, times, setting)
        return recording(x, times, setting) if recording else plainly(x, *times)

    return forward


def recordable(field: object) -> bool:
    """Whether a field is one of ours, whole in one process."""
    return type(field) in FIELDS and type(getattr(field, "field", field)) in FIELDS


def can_record(device: torch.device) -> bool:
    """Whether a device has CUDA graphs, and nothing records already."""
    return device.type == "cuda" and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing()


class Recording:
    """What `ask` does, over memory of its own.

    Args:
        ask: What is recorded.
        field: The field.
        x: A state, as an example; as are the others.
        times: Its times.
        setting: Its setting.
        record: Runs a function without arguments; its result, and what writes that result anew.
        pool: Memory that `record` shares with others.
    """

    def __init__(
        self, ask: Ask, field: nn.Module, x: Tensor, times: Sequence[float], setting: Setting, record: Record, pool: Any
    ):
        self.x, self.times = x.clone(), [x.new_full((len(x),), t) for t in times]
        self.setting, self.tensors = setting, [part.clone() for part in _tensors(setting)]
        region, coordinates, tokens, vector = self.tensors
        own = Setting(region, coordinates, Embedded(tokens, vector))
        self.result, self.again = record(lambda: ask(cast(VelocityField, field), self.x, self.times, own), pool)

    def __call__(self, x: Tensor, times: Sequence[float], setting: Setting) -> Tensor:
        """The velocity for what is shaped as the example was."""
        if setting is not self.setting:
            self.setting = setting
            for kept, part in zip(self.tensors, _tensors(setting), strict=True):
                kept.copy_(part)
        self.x.copy_(x)
        for held, t in zip(self.times, times, strict=True):
            held.fill_(t)
        self.again()
        return self.result.clone()


class Recordings:
    """The recordings of a field. A copy of the field starts without any.

    Args:
        state: Of its weights.
    """

    def __init__(self, state: tuple = ()):
        self.state = state
        self.kept: dict[tuple, Recording | None] = {}  # None = it could not be recorded
        self.pools: dict[int, Any] = {}  # by stream
        self.field: nn.Module | None = None  # that runs in the recordings

    def __deepcopy__(self, memo: dict) -> "Recordings":
        return Recordings()

    def __reduce__(self) -> tuple[type, tuple]:
        return Recordings, ()

    def find(self, ask: Ask, field: nn.Module, x: Tensor, times: Sequence[float], setting: Setting) -> Recording | None:
        """The recording for these shapes, made if there is none; None where that is not possible."""
        stream, tensors = stream_of(x.device), (x, *_tensors(setting))
        shapes = tuple((part.shape, part.dtype) for part in tensors)
        key = (ask, len(times), stream, torch.is_autocast_enabled(x.device.type), shapes)
        if key not in self.kept:
            self.kept[key] = self._record(ask, field, x, times, setting, stream)
            while len(self.kept) > MOST:
                self.kept.pop(next(iter(self.kept)))
        return self.kept[key]

    def _record(
        self, ask: Ask, field: nn.Module, x: Tensor, times: Sequence[float], setting: Setting, stream: int
    ) -> Recording | None:
        caching = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # it lets go of cast weights that the recording would read
        try:
            with torch.inference_mode(False), torch.no_grad():  # buffers of inference mode could not be filled later
                own = self.field = self.field or with_half_weights(field)
                pool = self.pools.setdefault(stream, new_pool(x.device))
                return Recording(ask, own, x, times, setting, record_graph, pool)
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


def record_graph(function: Callable[[], Tensor], pool: Any) -> tuple[Tensor, Callable[[], object]]:
    """Record a function as a CUDA graph (see `Recording`). Other threads may use the GPU meanwhile."""
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        function()  # what a first call sets up must not be part of it
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
        result = function()
    return result, graph.replay


def new_pool(device: torch.device) -> Any:
    """Memory for the recordings of a stream: as one runs after the other, they can share it."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def stream_of(device: torch.device) -> int:
    """The stream that a recording would run on: two at once would write the same memory."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _tensors(setting: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    told = cast(Embedded, setting.told)
    return setting.region, setting.coordinates, told.tokens, told.vector


def _state(field: nn.Module) -> tuple:
    """Changes whenever a weight does."""
    weights = (*field.parameters(), *field.buffers())
    versions = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
    return (getattr(field, "field", field).bf16, *versions)
