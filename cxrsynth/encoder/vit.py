"""The vision transformer of DINOv2 and CheXFound: cls, registers and patches through pre-norm blocks."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cxrsynth.encoder.layers import FFNS, Block
from cxrsynth.encoder.preprocess import CONTRASTS, normalise
from cxrsynth.errors import UserError

Features = list[tuple[Tensor, Tensor]]
"""`[(patch tokens [B, N, D], cls [B, D])]`, one pair per block, first block first."""


@dataclass(frozen=True)
class Tokens:
    """The last block's output after the final norm, split by kind."""

    cls: Tensor  # [B, D]
    registers: Tensor  # [B, R, D]
    patches: Tensor  # [B, N, D], rows of patches top to bottom


class ViT(nn.Module):
    """Vision transformer with LayerScale, SwiGLU or MLP (DINOv2, arXiv 2304.07193) and registers (arXiv 2309.16588).

    Parameter names are DINOv2's with unchunked blocks, so that published files load after renaming the chunks alone.

    Args:
        image_size: Side in pixels of the square that the position embedding stands for. Any other size is resized to.
        patch_size: Side of a patch in pixels. Input sides must be multiples of it.
        dim: Width of a token.
        depth: Number of blocks.
        num_heads: Attention heads; must divide `dim`.
        registers: Number of register tokens; they have no position embedding.
        ffn: "swiglu" or "mlp".
        ffn_hidden: Width inside the feed-forward; None takes the published rule (4 dim, times 2/3 for SwiGLU).
        layer_scale: Initial LayerScale, or None for none.
        attention_scale: Initial LayerScale of the attention branch, None for the same. A small one keeps patch tokens
            local at first, so that a head that is trained soon has to look at the lesion itself.
        drop_path: Probability that a sample skips a residual branch in training, the same in every block.
        interpolate_offset: DINOv2's offset when the position embedding is resized; 0 resizes to the exact size.
        interpolate_antialias: Whether that resize is antialiased.
        checkpointing: Recompute block activations in the backward pass, to save memory.
        contrast: What `forward` does to images before the fixed normalisation (see `preprocess.CONTRASTS`).
        position_init: "random" as published, or "sincos": the fixed embedding of sines and cosines to learn from, which
            small encoders that see few images need.

    Raises:
        UserError: Sizes that do not fit together.
    """

    def __init__(
        self,
        image_size: int = 512,
        patch_size: int = 16,
        dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        registers: int = 4,
        ffn: str = "swiglu",
        ffn_hidden: int | None = None,
        layer_scale: float | None = 1e-5,
        attention_scale: float | None = None,
        drop_path: float = 0.0,
        interpolate_offset: float = 0.1,
        interpolate_antialias: bool = False,
        checkpointing: bool = False,
        contrast: str = "plain",
        position_init: str = "random",
    ):
        super().__init__()
        if image_size % patch_size:
            raise UserError(
                f"image_size is {image_size}, which is no multiple of patch_size {patch_size}; choose one that is"
            )
        if dim % num_heads:
            raise UserError(
                f"num_heads is {num_heads}, which does not divide the width {dim}; give num_heads a divisor of {dim}"
            )
        if ffn not in FFNS:
            raise UserError(f"ffn is {ffn!r}; choose one of {', '.join(FFNS)}")
        if contrast not in CONTRASTS:
            raise UserError(f"contrast is {contrast!r}; choose one of {', '.join(CONTRASTS)}")
        if not 0 <= interpolate_offset < 1:
            raise UserError(f"interpolate_offset is {interpolate_offset}; give 0 (none), 0.1 as DINOv2, or below 1")
        if position_init not in ("random", "sincos") or (position_init == "sincos" and dim % 4):
            raise UserError(
                f"position_init is {position_init!r} at width {dim}; choose random, or sincos at a multiple of 4"
            )
        self.config: dict[str, Any] = {
            "image_size": image_size,
            "patch_size": patch_size,
            "dim": dim,
            "depth": depth,
            "num_heads": num_heads,
            "registers": registers,
            "ffn": ffn,
            "ffn_hidden": ffn_hidden,
            "layer_scale": layer_scale,
            "attention_scale": attention_scale,
            "drop_path": drop_path,
            "interpolate_offset": interpolate_offset,
            "interpolate_antialias": interpolate_antialias,
            "checkpointing": checkpointing,
            "contrast": contrast,
            "position_init": position_init,
        }
        self.patch_size = patch_size
        self.dim = dim
        self.interpolate_offset = interpolate_offset
        self.interpolate_antialias = interpolate_antialias
        self.checkpointing = checkpointing
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch_size, stride=patch_size)})
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, FFNS[ffn](dim, ffn_hidden), layer_scale, drop_path) for _ in range(depth)
        )
        if attention_scale is not None:
            if layer_scale is None:
                raise UserError("attention_scale needs LayerScale; give layer_scale as well")
            for block in self.blocks:
                block.ls1.gamma.data.fill_(attention_scale)  # type: ignore[union-attr, operator]
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.contrast = contrast
        self._initialise(position_init)

    def _initialise(self, position_init: str) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if position_init == "sincos":
            self.pos_embed.data[:, 1:] = sincos_position(math.isqrt(self.pos_embed.shape[1] - 1), self.dim)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an input of this size in pixels."""
        rows, columns = height // self.patch_size, width // self.patch_size
        if not rows or not columns or height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"the image is {height} x {width} pixels; its sides must be multiples of the patch size "
                f"{self.patch_size}: resize or pad it"
            )
        return rows, columns

    def position(self, rows: int, columns: int) -> Tensor:
        """Position embedding `[1, 1 + rows * columns, D]` for a grid of patches, DINOv2's resizing rule."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == columns == side:
            return self.pos_embed
        cls, patches = self.pos_embed.float().split([1, side * side], dim=1)
        size: dict[str, Any] = {"size": (rows, columns)}
        if self.interpolate_offset:
            # the sampling step follows the factor, not the size: without it published numbers are not reproduced
            size = {
                "scale_factor": (
                    (rows + self.interpolate_offset) / side,
                    (columns + self.interpolate_offset) / side,
                )
            }
        resized = F.interpolate(
            patches.reshape(1, side, side, -1).permute(0, 3, 1, 2),
            mode="bicubic",
            antialias=self.interpolate_antialias,
            **size,
        )
        assert resized.shape[-2:] == (rows, columns)
        return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1).to(self.pos_embed.dtype)

    def _embed(self, x: Tensor, masks: Tensor | None) -> Tensor:
        rows, columns = self.grid(*x.shape[-2:])
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        if masks is not None:
            patches = torch.where(masks.unsqueeze(-1), self.mask_token.to(patches.dtype), patches)
        batch = x.shape[0]
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), patches], dim=1) + self.position(rows, columns)
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(batch, -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def _run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)
        return block(tokens)

    def _split(self, tokens: Tensor) -> Tokens:
        tokens = self.norm(tokens)
        first = 1 + (0 if self.register_tokens is None else self.register_tokens.shape[1])
        return Tokens(tokens[:, 0], tokens[:, 1:first], tokens[:, first:])

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """All tokens of the last block after the final norm.

        Args:
            x: Normalised images, `[B, 3, H, W]`.
            masks: `[B, N]` bool, True where a patch is replaced by the mask token.
        """
        tokens = self._embed(x, masks)
        for block in self.blocks:
            tokens = self._run(block, tokens)
        return self._split(tokens)

    def intermediate(self, x: Tensor, n: int = 4) -> Features:
        """The last `n` blocks' tokens, each after the final norm.

        Args:
            x: Normalised images, `[B, 3, H, W]`.
            n: How many blocks; at most `depth`.

        Returns:
            `[(patch tokens [B, N, D], cls [B, D])]`, in order of depth, registers left out.
        """
        if not 1 <= n <= len(self.blocks):
            raise UserError(f"n is {n}; the encoder has {len(self.blocks)} blocks, so choose 1 to {len(self.blocks)}")
        tokens = self._embed(x, None)
        features: Features = []
        for index, block in enumerate(self.blocks):
            tokens = self._run(block, tokens)
            if index >= len(self.blocks) - n:
                split = self._split(tokens)
                features.append((split.patches, split.cls))
        return features

    def forward(self, image: Tensor, n: int = 4) -> Features:
        """Features of images `[B, 1, H, W]` in [0, 1], normalised inside (see `intermediate`)."""
        return self.intermediate(normalise(image, self.contrast), n)


def sincos_position(side: int, dim: int) -> Tensor:
    """Sines and cosines of row and column (MoCo v3, arXiv 2104.02057, sec. 4), `[side * side, dim]`."""
    frequency = 10000 ** (-torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
