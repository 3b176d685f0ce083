"""Carries the exemplars' maps into the sources of a group, trying a row's next exemplar where one does not fit."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy import LIMITS, allowed, segment
from cxrsynth.attention.region import region_from_map
from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.registration.transport import Alignment, align_patients, carry, working_size
from cxrsynth.synthesis.fields import FieldStore, pair_key, settled
from cxrsynth.synthesis.group import Group, exemplars_of, read_square

PULLS = ("all", "chest", "lungs")


@dataclass(frozen=True)
class Rules:
    """How regions are made of maps, and what is refused; see `cxrsynth.synthesis.task.SynthesisTask`."""

    mass: float
    min_component: float
    dilate: int
    limit: str
    smallest: float
    largest: float
    min_ncc: float
    min_jacobian: float
    min_dice: float
    pull: str


@dataclass
class Carried:
    """A group whose regions are ready to be painted.

    Attributes:
        group: The rows and their sources.
        map: `[n, 1, S, S]` on the CPU, the brightest of the asked findings' maps.
        region: `[n, 1, S, S]` in {0, 1} on the CPU, the union of their regions.
        exemplars: For each row the exemplar it took, or the last that was refused.
        quality: For each row what is measured of the registration.
        tried: For each row the exemplars that were refused before, with the reason.
        refused: For each row why it cannot be painted, or None.
    """

    group: Group
    map: Tensor
    region: Tensor
    exemplars: list[str]
    quality: list[dict[str, float]]
    tried: list[list[dict[str, str]]]
    refused: list[str | None]


class MakesMaps(Protocol):
    """A GLoRI task, as far as it is needed here."""

    findings: list[str]

    def maps(self, image: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` of images `[B, 1, S, S]`."""
        ...


@torch.no_grad()
def carry_group(
    group: Group, attention: MakesMaps, rules: Rules, store: FieldStore, group_size: int, device: torch.device
) -> Carried:
    """Register, carry and judge, all rows at once; rows that are refused go on with their next exemplar.

    Attention maps come from forwards of the plan's shape, each row at its own place, and registrations do not depend on
    the batch: what a row gets depends on its group alone.
    """
    rows, count = group.rows, len(group.rows)
    source = padded(group.source, group_size).to(device)
    limit = allowed(source[:count], rules.limit)
    lungs = segment(source[:count]) if rules.min_dice > 0 else None
    exemplar, hashes = group.exemplar.clone(), list(group.exemplar_hashes)
    queues = [exemplars_of(row) for row in rows]
    asked = [[attention.findings.index(f) for f in row["findings"].split("|")] for row in rows]
    done = Carried(
        group=group,
        map=torch.zeros_like(group.source),
        region=torch.zeros_like(group.source),
        exemplars=[queue[0] for queue in queues],
        quality=[{} for _ in rows],
        tried=[[] for _ in rows],
        refused=[f"unreadable: {fault}" if fault else None for fault in group.source_faults],
    )
    faults = list(group.exemplar_faults)
    pending = [i for i in range(count) if done.refused[i] is None]
    attempt = 0
    while pending:
        maps = _asked_maps(attention, padded(exemplar, group_size).to(device), asked)
        alignment = _align(group, source[:count], exemplar.to(device), hashes, pending, store, rules.pull)
        carried = carry(maps[pending], alignment)
        here = None if limit is None else limit[pending]
        regions = torch.stack([_regions(carried.map[:, k : k + 1], rules, here) for k in range(maps.shape[1])])
        region, overlap = regions.amax(0), _overlap(lungs, exemplar.to(device), carried.displacement, pending)
        open_again = []
        for place, i in enumerate(pending):
            quality = {"ncc": carried.ncc[place].item(), "min_jacobian": carried.min_jacobian[place].item()}
            quality |= {} if overlap is None else {"lung_dice": overlap[place]}
            lost = here is not None and not here[place].any()
            reason = f"unreadable: {faults[i]}" if faults[i] else _refusal(quality, region[place], lost, rules)
            done.exemplars[i], done.refused[i] = queues[i][attempt], reason
            done.quality[i] = {name: round(value, 4) for name, value in quality.items()}
            done.map[i] = _brightest(carried.map[place]).cpu()
            done.region[i] = region[place].cpu()
            if reason is not None and not lost and attempt + 1 < len(queues[i]):
                done.tried[i].append({"exemplar_id": queues[i][attempt], "refused": reason})
                open_again.append(i)
        attempt += 1
        pending = open_again
        for i in pending:
            exemplar[i], hashes[i], faults[i] = read_square(group.paths.get(queues[i][attempt]), exemplar.shape[-1])
    return done


def padded(x: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size`."""
    missing = size - len(x)
    return x if missing <= 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])


def _asked_maps(attention: MakesMaps, exemplar: Tensor, asked: list[list[int]]) -> Tensor:
    """Maps `[n, K, S, S]` of each row's asked findings; rows that ask fewer than K have their first one again."""
    maps = attention.maps(exemplar)
    most = max(len(which) for which in asked)
    chosen = torch.stack([maps[i, which + which[:1] * (most - len(which))] for i, which in enumerate(asked)])
    return F.interpolate(chosen, exemplar.shape[-2:], mode="bilinear", align_corners=False)


def _align(
    group: Group,
    source: Tensor,
    exemplar: Tensor,
    hashes: list[str],
    pending: list[int],
    store: FieldStore,
    pull: str,
) -> Alignment:
    """Alignments of the pending rows, out of the store or registered now, all that are missing in one batch."""
    size = source.shape[-1]
    keys = {i: pair_key(group.source_hashes[i], hashes[i], size, pull) for i in pending}
    found = {i: store.get(key, working_size(size, size)) for i, key in keys.items()}
    missing = [i for i in pending if found[i] is None]
    if missing:
        # one by one, so that what is kept does not depend on the batch
        where = [allowed(source[i : i + 1], pull) for i in missing] if pull != "all" else []
        mask = torch.cat([one for one in where if one is not None]) if where else None
        new = settled(align_patients(exemplar[missing], source[missing], mask=mask))
        for place, i in enumerate(missing):
            field, ncc = new.field[place].cpu(), new.ncc[place].item()
            store.put(keys[i], field, ncc)
            found[i] = field, ncc
    pairs = [pair for i in pending if (pair := found[i]) is not None]
    fields = torch.stack([field for field, _ in pairs]).to(source)
    return Alignment(fields, torch.tensor([ncc for _, ncc in pairs]))


def _regions(map: Tensor, rules: Rules, limit: Tensor | None) -> Tensor:
    return region_from_map(map, rules.mass, rules.min_component, rules.dilate, limit)


def _brightest(maps: Tensor) -> Tensor:
    """The largest of maps `[K, S, S]`, each scaled by its own largest value if there are several; `[1, S, S]`."""
    if len(maps) > 1:
        maps = maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)
    return maps.amax(0, keepdim=True)


def _overlap(lungs: Tensor | None, exemplar: Tensor, displacement: Tensor, pending: list[int]) -> list[float] | None:
    """Dice of the source's lungs and the exemplar's, warped; None where it is not asked for."""
    if lungs is None:
        return None
    moved = warp(segment(exemplar[pending]).float(), displacement, mode="nearest") > 0.5
    fixed = lungs[pending]
    both, either = (moved & fixed).flatten(1).sum(1), moved.flatten(1).sum(1) + fixed.flatten(1).sum(1)
    return (2 * both / either.clamp_min(1)).tolist()


def _refusal(quality: dict[str, float], region: Tensor, lost: bool, rules: Rules) -> str | None:
    """Why a row cannot be painted, or None."""
    if lost:
        return "anatomy: no lungs were found on the source"
    if not quality["ncc"] >= rules.min_ncc:
        return f"registration: correlation {quality['ncc']:.2f} is below {rules.min_ncc}"
    if not quality["min_jacobian"] > rules.min_jacobian:
        return f"registration: the field folds (smallest Jacobian {quality['min_jacobian']:.2f})"
    if not quality.get("lung_dice", 1.0) >= rules.min_dice:
        return f"registration: the lungs' Dice {quality['lung_dice']:.2f} is below {rules.min_dice}"
    share = float(region.mean())
    if not rules.smallest <= share <= rules.largest:
        return f"region: {share:.2%} of the image is outside {rules.smallest:.2%} to {rules.largest:.2%}"
    return None


def check_rules(rules: Rules) -> None:
    """Refuse rules that make no sense.

    Raises:
        UserError: An unknown limit or pull.
    """
    for name, value, choices in (("limit", rules.limit, LIMITS), ("pull", rules.pull, PULLS)):
        if value not in choices:
            raise UserError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
