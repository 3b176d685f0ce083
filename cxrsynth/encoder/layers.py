"""What a block of the vision transformer is made of; names follow DINOv2's files."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with biases, through `scaled_dot_product_attention`."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` to `[B, N, D]`."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(batch, length, dim))


class MLP(nn.Module):
    """Two linear layers around a GELU; hidden width 4 `dim` unless given."""

    def __init__(self, dim: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or 4 * dim
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[..., D]` to `[..., D]`."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """`w3(silu(a) * b)` with `a, b = w12(x)`; the hidden width is 2/3 of 4 `dim`, rounded up to a multiple of 8."""

    def __init__(self, dim: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[..., D]` to `[..., D]`."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


FFNS: dict[str, Callable[[int, int | None], nn.Module]] = {"swiglu": SwiGLU, "mlp": MLP}


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale tokens `[..., D]`."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale and stochastic depth."""

    def __init__(self, dim: int, num_heads: int, ffn: nn.Module, layer_scale: float | None, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ffn
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` to `[B, N, D]`."""
        x = self._residual(x, lambda t: self.ls1(self.attn(self.norm1(t))))
        return self._residual(x, lambda t: self.ls2(self.mlp(self.norm2(t))))

    def _residual(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.training or self.drop_path == 0:
            return x + branch(x)
        # DINOv2's form: the branch runs only on the samples that keep it, so dropping saves time as well
        batch = x.shape[0]
        kept = max(1, round(batch * (1 - self.drop_path)))
        chosen = torch.randperm(batch, device=x.device)[:kept]
        update = branch(x[chosen]).to(x.dtype) * (batch / kept)
        return x.index_add(0, chosen, update)
