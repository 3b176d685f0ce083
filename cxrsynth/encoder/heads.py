"""The projection heads of DINO and iBOT, used in pretraining only."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class ProjectionHead(nn.Module):
    """Three-layer MLP, bottleneck on the unit sphere, weight-normed prototypes (DINO, arXiv 2104.14294, app. C).

    Args:
        dim: Width of the tokens.
        prototypes: Number K of outputs.
        hidden: Width of the MLP.
        bottleneck: Width before the prototypes.
        batch_norm: Whether hidden activations are standardised over the batch of the process, an option of DINO's code.
            A small encoder's cls tokens hardly differ between images at first; without it they stay within a fraction
            of the teacher's temperature, every target is uniform, and nothing is learnt.
    """

    def __init__(
        self,
        dim: int,
        prototypes: int = 131072,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
    ):
        super().__init__()

        def layer(inputs: int) -> list[nn.Module]:
            # always the batch's own statistics: the teacher has no running ones
            norm: list[nn.Module] = [nn.BatchNorm1d(hidden, track_running_stats=False)] if batch_norm else []
            return [nn.Linear(inputs, hidden), *norm, nn.GELU()]

        self.mlp = nn.Sequential(*layer(dim), *layer(hidden), nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = weight_norm(nn.Linear(bottleneck, prototypes, bias=False))
        # prototypes keep length 1: only their direction is learnt
        length = self.last_layer.parametrizations.weight.original0
        length.data.fill_(1)
        length.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[..., K]` of tokens `[..., D]`."""
        return self.last_layer(F.normalize(self.mlp(x), dim=-1, eps=1e-6))
