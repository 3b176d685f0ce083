"""GLoRI: one frozen query per finding looks over the encoder's patches (CheXFound, arXiv 2502.05142)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.encoder.vit import Features
from cxrsynth.errors import UserError


class GLoRI(nn.Module):
    """Global and local representations integration: logits and attention maps from frozen or trained features.

    The last blocks' patch tokens are concatenated and projected; one decoder layer without self-attention lets each
    finding's query attend to them; a linear unit per finding gives its logit.

    Args:
        findings: How many findings, C.
        encoder_dim: Width D of the encoder's tokens.
        blocks: How many of the encoder's last blocks are used.
        dim: Width inside the head.
        num_heads: Attention heads; must divide `dim`.
        ffn_hidden: Width inside the feed-forward.
        cat_cls: Whether the cls tokens of the same blocks join each finding's token before the logit.
        dropout: Dropout in training, on attention weights as well.
        sharpness: Factor of the first query and key weights: above 1 attention starts out choosing patches rather than
            averaging all of them, in which small lesions drown. 1 as published.
        prior: Probability of every finding that an untrained head gives; 0.5 as published.
        classes: Names of the findings, by which maps can be asked for; None leaves them without.

    Raises:
        UserError: Sizes that do not fit together.
    """

    def __init__(
        self,
        findings: int,
        encoder_dim: int = 1024,
        blocks: int = 4,
        dim: int = 768,
        num_heads: int = 8,
        ffn_hidden: int = 2048,
        cat_cls: bool = False,
        dropout: float = 0.1,
        sharpness: float = 1.0,
        prior: float = 0.5,
        classes: Sequence[str] | None = None,
    ):
        super().__init__()
        if classes is not None and (len(classes) != findings or len(set(classes)) != findings):
            raise UserError(f"the head has {findings} findings; give as many different names (received {len(classes)})")
        if not 0 < prior < 1:
            raise UserError(f"prior is {prior}; give a probability between 0 and 1, both excluded")
        if dim % num_heads:
            raise UserError(f"num_heads is {num_heads}, which does not divide the head's width {dim}; choose a divisor")
        self.config: dict[str, Any] = {
            "findings": findings,
            "encoder_dim": encoder_dim,
            "blocks": blocks,
            "dim": dim,
            "num_heads": num_heads,
            "ffn_hidden": ffn_hidden,
            "cat_cls": cat_cls,
            "dropout": dropout,
            "sharpness": sharpness,
            "prior": prior,
        }
        self.classes = None if classes is None else tuple(classes)
        self.blocks = blocks
        self.cat_cls = cat_cls
        self.embed = nn.Linear(blocks * encoder_dim, dim)
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="relu")
        nn.init.zeros_(self.embed.bias)
        # random and never trained, so they are saved but get no gradient
        self.queries = nn.Parameter(torch.randn(findings, dim), requires_grad=False)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_hidden)
        self.linear2 = nn.Linear(ffn_hidden, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(findings, dim + (blocks * encoder_dim if cat_cls else 0)))
        self.bias = nn.Parameter(torch.full((findings,), math.log(prior / (1 - prior))))
        nn.init.xavier_normal_(self.weight)
        self.cross_attention.in_proj_weight.data[: 2 * dim] *= sharpness

    def _index(self, finding: int | str) -> int:
        if isinstance(finding, str):
            if self.classes is None or finding not in self.classes:
                known = ", ".join(self.classes or ()) or "no names: give findings when the head is loaded"
                raise UserError(f"finding {finding!r} is unknown to this head, which knows {known}")
            return self.classes.index(finding)
        return finding

    def pick(self, findings: Sequence[str]) -> "GLoRI":
        """A head of these findings alone, with this one's weights; no finding's output depends on the others.

        Raises:
            UserError: A finding that this head does not know, or one named twice.
        """
        rows = [self._index(finding) for finding in findings]
        head = GLoRI(**{**self.config, "findings": len(rows)}, classes=findings)
        own = {name: self.state_dict()[name][rows] for name in ("queries", "weight", "bias")}
        head.load_state_dict(self.state_dict() | own)
        return head.train(self.training)

    def attend(self, features: Features, chosen: Sequence[int | str] | None = None) -> tuple[Tensor, Tensor]:
        """Tokens and attention of the findings.

        Args:
            features: The encoder's last `blocks` (or more) blocks, as `ViT.intermediate` returns them.
            chosen: Indices or names of the findings wanted; None is all.

        Returns:
            Tokens `[B, C, dim]` and attention `[B, heads, C, N]`, whose rows sum to 1 in eval mode.
        """
        if len(features) < self.blocks:
            raise UserError(f"features has {len(features)} blocks; this head uses {self.blocks}: ask for as many")
        memory = F.relu(self.embed(torch.cat([patches for patches, _ in features[-self.blocks :]], dim=-1)))
        queries = self.queries if chosen is None else self.queries[[self._index(one) for one in chosen]]
        token = queries.unsqueeze(0).expand(memory.shape[0], -1, -1)
        token = self.norm1(token + self.dropout(token))
        context, attention = self.cross_attention(token, memory, memory, average_attn_weights=False)
        token = self.norm2(token + self.dropout(context))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(token))))
        return self.norm3(token + self.dropout(hidden)), attention

    def logits(self, token: Tensor, features: Features) -> Tensor:
        """Logits `[B, C]` of all findings from their tokens `[B, C, dim]`."""
        if self.cat_cls:
            cls = torch.cat([cls for _, cls in features[-self.blocks :]], dim=-1)
            token = torch.cat([cls.unsqueeze(1).expand(-1, token.shape[1], -1), token], dim=-1)
        return (token * self.weight).sum(-1) + self.bias

    def forward(self, features: Features) -> Tensor:
        """Logits `[B, C]` from the encoder's features (see `attend`)."""
        return self.logits(self.attend(features)[0], features)

    def attention(self, features: Features, chosen: Sequence[int | str] | None = None) -> Tensor:
        """Cross-attention `[B, heads, C, N]`, of the chosen findings alone when given.

        Raises:
            UserError: The head is in training mode, where dropout removes a tenth of the attention.
        """
        if self.training:
            raise UserError(
                "attention was asked for in training mode, where dropout removes some; call head.eval() first"
            )
        return self.attend(features, chosen)[1]
