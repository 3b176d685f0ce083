"""Start a training from the weights of an inpainter that may have known other findings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting.average import NAMES, AverageMaps
from cxrsynth.inpainting.embedder import ABSENT, UNKNOWN
from cxrsynth.inpainting.parametrisation import CLOCK, Preconditioned

PER_FINDING = "embed.states"  # `[C, 3, width]` of every velocity field
LEAST = 0.5  # of the weights must fit


@torch.no_grad()
def take_over(
    field: nn.Module, known: Mapping[str, Tensor], findings: Sequence[str], known_findings: Sequence[str]
) -> list[str]:
    """Copy the weights that agree by name and shape; those of findings by the findings' names.

    A new finding's tokens for absent and unknown start at 0: they say nothing, so that what was learned keeps its
    meaning. Its token for present keeps its random start: a low learning rate would not carry it far enough from 0.

    Args:
        field: The velocity field to be trained.
        known: State of the one that was trained.
        findings: Of `field`.
        known_findings: Of `known`.

    Returns:
        What starts fresh: names of weights and of findings.

    Raises:
        UserError: Less than half of the weights agree: another network.
    """
    fresh: list[str] = []
    taken = 0
    for name, weight in field.state_dict().items():
        old = known.get(name)
        if name == PER_FINDING and old is not None and old.shape[1:] == weight.shape[1:]:
            rows = [known_findings.index(f) if f in known_findings else None for f in findings]
            weight[:, [ABSENT, UNKNOWN]] = 0
            for new, row in enumerate(rows):
                if row is not None:
                    weight[new] = old[row]
            fresh += [f for f, row in zip(findings, rows, strict=True) if row is None]
        elif old is not None and old.shape == weight.shape:
            weight.copy_(old)
        else:
            fresh.append(name)
            continue
        taken += weight.numel()
    total = sum(weight.numel() for weight in field.state_dict().values())
    if taken < LEAST * total:
        raise UserError(
            f"start holds {taken / total:.0%} of this network's weights; give the settings of the network that it was "
            "trained with (`cxrsynth fit --print_config`), or leave start out"
        )
    return fresh


def take_over_maps(
    maps: AverageMaps, known: AverageMaps, findings: Sequence[str], known_findings: Sequence[str]
) -> None:
    """Average maps of the findings that both know."""
    for row, finding in enumerate(findings):
        if finding in known_findings:
            old = known_findings.index(finding)
            for name in NAMES:
                getattr(maps, name)[row] = getattr(known, name)[old]


def take_over_clock(fields: Iterable[nn.Module], own: Mapping[str, Any], known: Mapping[str, Any]) -> float:
    """Set the clock of fields (see `Preconditioned`): the one asked for, else that of the weights' training.

    Args:
        fields: UNets, transformers, or `FlowMap`s over them.
        own: Settings of their inpainter; its `clock` is the one asked for, or None.
        known: Settings of the inpainter that the weights are of.

    Returns:
        The clock.
    """
    clock = float(next((c for c in (own["clock"], known["clock"]) if c is not None), CLOCK))
    for field in fields:
        parametrisation = getattr(getattr(field, "field", field), "parametrisation", None)
        if isinstance(parametrisation, Preconditioned):
            parametrisation.clock = clock
    return clock
