"""Velocities on a GPU from CUDA graphs: the hundreds of small kernels of a forward are started as one."""

import copy
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.embedder import Embedded
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.unet import VelocityUNet
from cxrsynth.inpainting.velocity import VelocityField
from cxrsynth.ops.extension import on_device_of
from cxrsynth.precision import has_bf16

FIELDS = (VelocityUNet, VelocityDiT, FlowMap)  # and no subclasses: sharding makes these
MOST = 16  # recordings of a field that are kept; they share the memory of a forward

Record = Callable[[Callable[[], Tensor], "Pool"], tuple[Tensor, Callable[[], object]]]


@dataclass(frozen=True)
class Pool:
    """Memory that recordings share, for one runs after the other: a CUDA graph pool and the stream they are made on."""

    handle: Any
    stream: Any


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

    A recording in bfloat16 has weights of its own, which saves casting them in every forward: call this anew once
    weights may have changed, and it takes them over. `CXRSYNTH_CUDA_GRAPHS=0` in the environment turns recording off.

    Args:
        ask: What is computed.
        field: The field. Fields of other classes than ours, and sharded ones, are not recorded.
        setting: Stays as it is from call to call.
    """
    plainly = as_it_is(ask, field, setting)
    wanted = os.environ.get("CXRSYNTH_CUDA_GRAPHS") != "0" and can_record(setting.region.device)
    if not wanted or isinstance(setting.told, Condition) or not recordable(field):
        return plainly
    module = cast(nn.Module, field)
    state = _state(module)
    recordings = getattr(module, "recordings", None)
    if recordings is None or recordings.state != state:
        module.recordings = recordings = Recordings(state)  # type: ignore[assignment]
    recordings.refresh(module)

    def forward(x: Tensor, *times: float) -> Tensor:
        if torch.is_grad_enabled():
            return plainly(x, *times)
        found = recordings(ask, module, x, times, setting)
        return plainly(x, *times) if found is None else found

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
        pool: See `Pool`.
    """

    def __init__(
        self,
        ask: Ask,
        field: nn.Module,
        x: Tensor,
        times: Sequence[float],
        setting: Setting,
        record: Record,
        pool: Pool,
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
    """The recordings of a field. A copy of the field starts without any. Threads may share them: they take turns.

    Args:
        state: Of its weights.
    """

    def __init__(self, state: tuple = ()):
        self.state = state
        self.kept: OrderedDict[tuple, Recording | None] = OrderedDict()  # None = it could not be recorded
        self.pools: dict[int, Pool] = {}  # by stream
        self.field: nn.Module | None = None  # that runs in the recordings
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> "Recordings":
        return Recordings()

    def __reduce__(self) -> tuple[type, tuple]:
        return Recordings, ()

    def refresh(self, field: nn.Module) -> None:
        """Take over the field's weights, whoever changed them and however."""
        with self.lock, torch.inference_mode(False), torch.no_grad():
            if self.field is not None and self.field is not field:
                take_weights(self.field, field)

    def __call__(
        self, ask: Ask, field: nn.Module, x: Tensor, times: Sequence[float], setting: Setting
    ) -> Tensor | None:
        """What `ask` gives, from the recording for these shapes, made if there is none; None where that cannot be."""
        with self.lock, on_device_of(x):
            stream, kind = stream_of(x.device), x.device.type
            shapes = tuple((part.shape, part.dtype) for part in (x, *_tensors(setting)))
            casts = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
            exact = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
            key = (ask, len(times), stream, shapes, casts, exact, torch.are_deterministic_algorithms_enabled())
            if key not in self.kept:
                self.kept[key] = self._record(ask, field, x, times, setting, stream)
                if len(self.kept) > MOST:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(key)
            recording = self.kept[key]
            return None if recording is None else recording(x, times, setting)

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
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.pools.pop(stream, None)  # a pool whose first recording failed is of no more use
            warnings.warn(f"a velocity field could not become a CUDA graph and runs without one: {error}", stacklevel=2)
            return None
        finally:
            torch.set_autocast_cache_enabled(caching)


def with_half_weights(field: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers hold bfloat16, as autocast would cast them; its embedder is shared.

    A field that does not compute in bfloat16 is returned as it is, and so is one with low-rank changes, whose weights
    are sums that autocast takes part in.
    """
    core: Any = getattr(field, "field", field)
    half = core.bf16 and has_bf16(next(core.parameters()).device.type)
    if not half or any(is_parametrized(layer) for layer in core.modules()):
        return field
    shared = {id(part): part for part in (core.embed, getattr(field, "length", core.embed))}
    copied = copy.deepcopy(field, shared)
    for layer in _cast_layers(copied).values():
        layer.to(torch.bfloat16)
    return copied


def take_weights(half: nn.Module, field: nn.Module) -> None:
    """Give a copy that `with_half_weights` made the field's weights, in place."""
    mine, theirs = _cast_layers(half), _cast_layers(field)
    for name, layer in mine.items():
        for part in ("weight", "bias"):
            if getattr(layer, part) is not None:
                getattr(layer, part).copy_(getattr(theirs[name], part))
    known = dict(field.named_parameters()) | dict(field.named_buffers())
    for name, value in (*half.named_parameters(), *half.named_buffers()):
        if name.rpartition(".")[0] not in mine and known[name] is not value:
            value.copy_(known[name])


def _cast_layers(field: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """By name, the layers that autocast would cast the weights of: all but those of `embed` and `length`."""
    start = "field." if isinstance(field, FlowMap) else ""
    found = {}
    for name, layer in field.named_modules():
        local = name.removeprefix(start)
        if name.startswith(start) and not local.startswith("embed.") and isinstance(layer, nn.Conv2d | nn.Linear):
            found[name] = layer
    return found


def record_graph(function: Callable[[], Tensor], pool: Pool) -> tuple[Tensor, Callable[[], object]]:
    """Record a function as a CUDA graph (see `Recording`). Other threads may use the GPU meanwhile."""
    current = torch.cuda.current_stream()
    pool.stream.wait_stream(current)
    with torch.cuda.stream(pool.stream):
        function()  # what a first call sets up must not be part of it
    current.wait_stream(pool.stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool.handle, stream=pool.stream, capture_error_mode="thread_local"):
        result = function()
    return result, graph.replay


def new_pool(device: torch.device) -> Pool:
    """Memory for the recordings that run on one stream of a device."""
    return (
        Pool(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)) if device.type == "cuda" else Pool(None, None)
    )


def stream_of(device: torch.device) -> int:
    """The stream that a recording would run on: two at once would write the same memory."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _tensors(setting: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    told = cast(Embedded, setting.told)
    return setting.region, setting.coordinates, told.tokens, told.vector


def _state(field: nn.Module) -> tuple:
    """Where the weights lie, and what else a recording could not follow."""
    weights = (*field.parameters(), *field.buffers())
    return (getattr(field, "field", field).bf16, field.training, *(weight.data_ptr() for weight in weights))
