"""From the names in a published file to `ViT`'s, by one rule for the whole file."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_PARTS = ("module.", "teacher.", "backbone.")
_HEADS = re.compile(r"^(?:module\.)?(?:teacher\.)?(?:dino_head|ibot_head)\.")
_BLOCK = re.compile(r"^blocks\.(?:(?P<chunk>\d+)\.)?(?P<index>\d+)\.(?P<rest>\D.*)$")
_WRAPPERS = re.compile(r"(^|\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)(?=\.)")


@dataclass(frozen=True)
class Naming:
    """What a file puts before every name, and into which chunk of `block_chunks` it puts each block.

    Attributes:
        prefix: For example "backbone.".
        chunks: Chunk by block; empty where blocks are flat. The authors count blocks over all chunks.
    """

    prefix: str = ""
    chunks: dict[int, int] = field(default_factory=dict)

    def theirs(self, key: str) -> str:
        """A name of `ViT` as the file spells it."""
        block = _BLOCK.match(key)
        if block and int(block["index"]) in self.chunks:
            key = f"blocks.{self.chunks[int(block['index'])]}.{block['index']}.{block['rest']}"
        return self.prefix + key

    def ours(self, name: str) -> str:
        """A name of the file as `ViT` spells it; in angle brackets, which no encoder has, where it breaks the rule."""
        key = name.removeprefix(self.prefix)
        if block := _BLOCK.match(key):
            key = f"blocks.{block['index']}.{block['rest']}"
        return key if self.theirs(key) == name else f"<{name}>"


def plain(name: str) -> str:
    """A name without what FSDP, activation checkpointing and `torch.compile` put into it."""
    return _WRAPPERS.sub("", name).removeprefix(".")


def is_head(name: str) -> bool:
    """Whether a name belongs to the heads of pretraining, which published files may hold."""
    return _HEADS.match(name) is not None


def find_naming(names: Iterable[str]) -> Naming:
    """The rule that most of a file's names follow."""
    names = list(names)
    prefix = ""
    for part in _PARTS:
        if 2 * sum(name.startswith(prefix + part) for name in names) > len(names):
            prefix += part
    votes: dict[int, Counter[int]] = {}
    flat = 0
    for name in names:
        block = _BLOCK.match(name.removeprefix(prefix))
        if block and block["chunk"] is not None:
            votes.setdefault(int(block["index"]), Counter())[int(block["chunk"])] += 1
        else:
            flat += block is not None
    if flat > sum(sum(votes_of.values()) for votes_of in votes.values()):
        return Naming(prefix)
    return Naming(prefix, {index: votes_of.most_common(1)[0][0] for index, votes_of in votes.items()})
