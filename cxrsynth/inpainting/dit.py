"""The velocity field as a diffusion transformer: patches, adaLN-zero, cross-attention to the condition, any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cxrsynth.encoder.layers import MLP, Attention
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.embedder import ConditionEmbedder, Embedded
from cxrsynth.inpainting.parametrisation import Preconditioned
from cxrsynth.precision import autocast


class VelocityDiT(nn.Module):
    """Diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748) as a velocity field (see `VelocityField`).

    Time and the condition's vector modulate every block (adaLN-zero); the condition's tokens are attended to. Positions
    are sines and cosines of the pixel's place in the image at hand, so any size that the patch divides works.

    Args:
        findings: Number of findings, C.
        dim: Width of the tokens; divisible by 4 and by `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads.
        patch: Side of a patch.
        bf16: Compute in bfloat16 where the machine can (see `autocast`); weights and result stay float32.
        fields: See `ConditionEmbedder`; as are `views` and `text`.
        views: Number of views.
        text: Encoder of texts.
        recompute: Keep no activations inside the blocks and compute them again on the way back (less memory, slower).
        state_channels: Channels of the state.
        spread: Its standard deviation.
        clock: See `Preconditioned`.
    """

    def __init__(
        self,
        findings: int,
        dim: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        patch: int = 4,
        bf16: bool = False,
        fields: Sequence[str] = (),
        views: int = 2,
        text: nn.Module | None = None,
        recompute: bool = False,
        state_channels: int = 1,
        spread: float = 0.5,
        clock: float = 1000.0,
    ):
        super().__init__()
        self.bf16, self.recompute, self.multiple = bf16, recompute, patch
        self.parametrisation = Preconditioned(spread, clock)
        self.patches = nn.Conv2d(state_channels + 3, dim, patch, patch)  # and the region, and two coordinates
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(DiTBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulate = nn.Sequential(nn.SiLU(), zeros(nn.Linear(dim, 2 * dim)))
        self.out = zeros(nn.Linear(dim, state_channels * patch**2))
        self.unfold = nn.PixelShuffle(patch)
        self.embed = ConditionEmbedder(findings, dim, dim, fields, views, text, bf16=bf16)

    def forward(
        self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition | Embedded
    ) -> Tensor:
        """Velocity at `x`, 0 outside the region; for the arguments see `VelocityField`."""
        told = self.embed(condition) if isinstance(condition, Condition) else condition
        terms = self.parametrisation(t)
        with autocast(x.device, self.bf16):
            grid = self.patches(torch.cat([x, region, coordinates], 1))
            _, dim, height, width = grid.shape
            tokens = grid.flatten(2).transpose(1, 2) + positions(height, width, dim, x.device)
            steer = self.time(waves(terms.time, dim)) + told.vector
            for block in self.blocks:
                if self.recompute and torch.is_grad_enabled():
                    tokens = checkpoint(block, tokens, steer, told.tokens, use_reentrant=False)
                else:
                    tokens = block(tokens, steer, told.tokens)
            shift, scale = self.modulate(steer)[:, None].chunk(2, -1)
            pixels = self.out(self.norm(tokens) * (1 + scale) + shift)
        out = self.unfold(pixels.float().transpose(1, 2).unflatten(2, (height, width)))
        return region * terms.velocity(x, out)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention and perceptron, each behind a norm that time and condition shift and scale.

    The gates, and the last layer of the cross-attention (which has no gate), start at 0: the block is the identity.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False) for _ in range(3))
        self.attention = Attention(dim, num_heads)
        self.cross = CrossAttention(dim, num_heads)
        self.mlp = MLP(dim)
        self.modulate = nn.Sequential(nn.SiLU(), zeros(nn.Linear(dim, 6 * dim)))

    def forward(self, x: Tensor, steer: Tensor, told: Tensor) -> Tensor:
        """Map image tokens `[B, N, D]`, steered by `[B, D]`, told the condition's tokens `[B, M, D]`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(steer)[:, None].chunk(6, -1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        x = x + self.cross(self.norm2(x), told)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


class CrossAttention(nn.Module):
    """Queries from the image, keys and values from the condition; its last layer starts at 0."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = zeros(nn.Linear(dim, dim))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` and `[B, M, D]` to `[B, N, D]`."""
        heads = (self.num_heads, x.shape[-1] // self.num_heads)
        query = self.query(x).unflatten(-1, heads).transpose(1, 2)
        key, value = (part.unflatten(-1, heads).transpose(1, 2) for part in self.key_value(told).chunk(2, -1))
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def waves(values: Tensor, dim: int, longest: float = 10000.0) -> Tensor:
    """Cosines and sines of values `[N]` at `dim / 2` frequencies from 1 to 1 / `longest`, `[N, dim]`.

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, without interleaving.
    """
    half = dim // 2
    frequencies = longest ** (-torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angle = values.float()[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], 1)


def positions(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Position of every patch of a `height` x `width` grid: half of the channels for its row, half for its column.

    Returns:
        float32 `[height * width, dim]`, in reading order.
    """
    rows, columns = (waves(torch.arange(n, device=device), dim // 2) for n in (height, width))
    grid = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(grid, -1).flatten(0, 1)


def zeros(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
