"""What the painted image shows: findings, free text, view, sex and age, each of which may be unknown."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cxrsynth.errors import UserError

FIELDS = ("view", "sex", "age", "findings", "text")  # from what is given to what is asked (see `guidance.py`)
SEXES = ("F", "M")
NOT_KNOWN = -1
NOT_GIVEN = torch.empty(0)  # stands for "unknown in every image"


@dataclass(frozen=True)
class Condition:
    """The condition of a batch. A field that is not given is unknown in every image.

    Attributes:
        findings: float32 `[B, C]`; 1 = present, 0 = absent, NaN = unknown.
        text: Token ids, int64 `[B, L]`, padded with -1; a row of -1 = no text (see `Vocabulary.ids`).
        view: Index into the inpainter's views, int64 `[B]`; -1 = unknown.
        sex: Index into `SEXES`, int64 `[B]`; -1 = unknown.
        age: Years, float32 `[B]`; NaN = unknown.
    """

    findings: Tensor
    text: Tensor = NOT_GIVEN
    view: Tensor = NOT_GIVEN
    sex: Tensor = NOT_GIVEN
    age: Tensor = NOT_GIVEN

    def __post_init__(self) -> None:
        batch, device = self.findings.shape[0], self.findings.device
        unknown = torch.full((batch,), NOT_KNOWN, device=device)
        blanks = {"text": unknown[:, None], "view": unknown, "sex": unknown, "age": unknown.float() * torch.nan}
        for name, blank in blanks.items():
            value = getattr(self, name)
            object.__setattr__(self, name, blank if value is NOT_GIVEN else value.to(device))
            assert getattr(self, name).shape[0] == batch, f"{name} is not of {batch} images"

    @classmethod
    def from_names(cls, asked: Sequence[Sequence[str]], findings: Sequence[str]) -> "Condition":
        """The named findings present, all others absent.

        Args:
            asked: For each image the names of the findings it shows; an empty list is a healthy image.
            findings: The vocabulary, in the order of the network's outputs.

        Raises:
            UserError: A name is not in the vocabulary.
        """
        table = torch.zeros(len(asked), len(findings))
        for row, names in enumerate(asked):
            for name in names:
                if name not in findings:
                    raise UserError(f"finding {name!r} is unknown to this inpainter; choose from {', '.join(findings)}")
                table[row, list(findings).index(name)] = 1.0
        return cls(table)

    @classmethod
    def none(cls, batch: int, findings: int) -> "Condition":
        """No finding: every one absent, a healthy image."""
        return cls(torch.zeros(batch, findings))

    @classmethod
    def unknown(cls, batch: int, findings: int) -> "Condition":
        """Nothing known: the unconditional branch of guidance."""
        return cls(torch.full((batch, findings), torch.nan))

    def __len__(self) -> int:
        return self.findings.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> "Condition":
        return Condition(**{name: value[rows] for name, value in self._values().items()})

    def to(self, device: torch.device | str) -> "Condition":
        """The same condition on a device."""
        return Condition(**{name: value.to(device) for name, value in self._values().items()})

    def known(self, field: str) -> Tensor:
        """In which images anything is known of a field, bool `[B]`."""
        value = self._values()[field]
        return ~value.isnan().flatten(1).all(1) if field == "findings" else _is_known(value)

    def without(self, forgotten: Collection[str] = FIELDS) -> "Condition":
        """These fields (of `FIELDS`) forgotten, the others as they are."""
        return self._masked({name: torch.ones(len(self), dtype=torch.bool) for name in forgotten})

    def as_unknown(self) -> "Condition":
        """Every field forgotten."""
        return self.without()

    def as_none(self) -> "Condition":
        """Every finding absent, and the text, which may say otherwise, forgotten; other fields as they are."""
        return replace(self.without(["text"]), findings=torch.zeros_like(self.findings))

    def where(self, rows: Tensor, other: "Condition") -> "Condition":
        """This condition in the chosen rows (bool `[B]`), in the rest the other one, whose texts are as long."""
        mine, theirs = self._values(), other._values()
        return Condition(
            **{
                name: torch.where(rows.to(value.device).view(-1, *[1] * (value.ndim - 1)), value, theirs[name])
                for name, value in mine.items()
            }
        )

    def dropped(
        self,
        whole: float,
        each: float,
        generator: torch.Generator | None = None,
        field: Mapping[str, float] | None = None,
    ) -> "Condition":
        """Forget at random, so that the velocity can be asked with any part of the condition missing.

        Args:
            whole: Probability that an image loses all of its condition (Ho & Salimans 2022, arXiv 2207.12598).
            each: Probability that a finding of an image is lost on its own.
            generator: Source of the draws, on the CPU.
            field: Probability that an image loses a field (of `FIELDS`), field by field; 0 where not named.
        """
        batch, findings = self.findings.shape
        everything = torch.rand(batch, generator=generator) < whole
        alone = torch.rand(batch, findings, generator=generator) < each
        rates = field or {}
        lost = {
            name: everything | (torch.rand(batch, generator=generator) < rates[name]) if name in rates else everything
            for name in FIELDS
        }
        less = self._masked(lost)
        return replace(less, findings=less.findings.masked_fill(alone.to(less.findings.device), torch.nan))

    @staticmethod
    def cat(conditions: Sequence["Condition"]) -> "Condition":
        """One batch after another."""
        longest = max(condition.text.shape[1] for condition in conditions)
        texts = [
            torch.nn.functional.pad(condition.text, (0, longest - condition.text.shape[1]), value=NOT_KNOWN)
            for condition in conditions
        ]
        joined = {
            name: torch.cat([condition._values()[name] for condition in conditions])
            for name in ("findings", "view", "sex", "age")
        }
        return Condition(**joined, text=torch.cat(texts))

    def _values(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _masked(self, lost: Mapping[str, Tensor]) -> "Condition":
        values = self._values()
        for name, rows in lost.items():
            value = values[name]
            rows = rows.to(value.device).view(-1, *[1] * (value.ndim - 1))
            values[name] = value.masked_fill(rows, torch.nan if value.is_floating_point() else NOT_KNOWN)
        return Condition(**values)


def check_fields(names: Collection[str], argument: str) -> None:
    """Raises `UserError` unless these are fields of a condition."""
    strange = sorted(set(names) - set(FIELDS))
    if strange:
        raise UserError(f"{argument} names {', '.join(strange)}; choose from {', '.join(FIELDS)}")


def index_of(names: Sequence[str], choices: Sequence[str]) -> Tensor:
    """Where each name stands in `choices`, int64 `[B]`; -1 for an empty or a foreign one."""
    return torch.tensor([choices.index(name) if name in choices else NOT_KNOWN for name in names], dtype=torch.long)


def _is_known(value: Tensor) -> Tensor:
    known = ~value.isnan() if value.is_floating_point() else value != NOT_KNOWN
    return known.flatten(1).any(1) if value.ndim > 1 else known
