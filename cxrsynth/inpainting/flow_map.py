"""A velocity field that knows where its step ends, so that a few steps are enough."""

import torch
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT, waves, zeros
from cxrsynth.inpainting.embedder import UNKNOWN, Embedded
from cxrsynth.inpainting.unet import VelocityUNet


class FlowMap(nn.Module):
    """The mean velocity `u(x_t, t, s) = (x_s - x_t) / (s - t)` of a flow between two of its times.

    Geng et al. 2025 (arXiv 2505.13447, eq. 3); the step's length is told as in Frans et al. 2024 (arXiv 2410.12557).
    The network is that of a velocity field; one embedding, of the length, joins its condition. It starts at 0: with the
    weights of a trained field the map starts as that field, whatever the step.

    Args:
        field: The velocity field.
        dim: Number of waves that describe the length.
    """

    def __init__(self, field: VelocityUNet | VelocityDiT, dim: int = 32):
        super().__init__()
        self.field, self.dim, self.multiple = field, dim, field.multiple
        vector = int(field.embed.to_vector[-1].out_features)  # type: ignore[arg-type]
        self.length = nn.Sequential(nn.Linear(dim, vector), nn.SiLU(), zeros(nn.Linear(vector, vector)))

    def embed(self, condition: Condition) -> Embedded:
        """See `VelocityField`."""
        return self.field.embed(condition)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        region: Tensor,
        coordinates: Tensor,
        condition: Condition | Embedded,
        until: Tensor | None = None,
    ) -> Tensor:
        """Mean velocity from `t` to `until`, both `[B]`, 0 outside the region; for the others see `VelocityField`.

        Raises:
            UserError: Without `until`: a solver asked that follows velocities.
        """
        if until is None:
            raise UserError("this inpainter was distilled for few steps; choose the solver 'jump', with 1 to 4 steps")
        told = self.embed(condition) if isinstance(condition, Condition) else condition
        # In the precision of its own weights, whatever that of the field: the embedding of a condition may be bfloat16.
        own = next(self.length.parameters()).dtype
        steer = self.length(waves(10 * (until - t), self.dim, longest=100.0).to(own))
        return self.field(x, t, region, coordinates, Embedded(told.tokens, told.vector + steer.to(told.vector.dtype)))


def start_from(student: FlowMap, teacher: nn.Module, boost: float = 1.0) -> None:
    """Give the map the weights of a trained field of the same architecture.

    Args:
        student: The map.
        teacher: The field.
        boost: How far the tokens of absent and present findings move away from those of unknown ones, as multiples of
            their distance; above 1 the map starts with a part of the guidance that it is to learn.
    """
    with torch.no_grad():
        student.field.load_state_dict(teacher.state_dict())
        told, unknown = student.field.embed.states[:, :UNKNOWN], student.field.embed.states[:, UNKNOWN:]
        told += (boost - 1) * (told - unknown)
