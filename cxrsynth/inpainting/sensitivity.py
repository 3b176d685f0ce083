"""How much the velocity listens to each field of its condition."""

from dataclasses import replace

from torch import Tensor

from cxrsynth.inpainting.condition import NOT_KNOWN, SEXES, Condition


def flipped(condition: Condition, field: str, views: int = 2) -> Condition:
    """The same condition but for one field, which says something else wherever it says anything.

    Findings present become absent and the reverse, the view becomes the next one, the sex the other, the age
    `110 - age`, and each image gets the text of the one before it.

    Args:
        condition: Of a batch.
        field: Of `FIELDS`.
        views: Number of views.
    """
    if field == "findings":
        return replace(condition, findings=1 - condition.findings)
    if field == "age":
        return replace(condition, age=110 - condition.age)
    if field == "text":
        return replace(condition, text=condition.text.roll(1, 0))
    known, count = (condition.view, views) if field == "view" else (condition.sex, len(SEXES))
    changed = ((known + 1) % count).where(known != NOT_KNOWN, known)
    return replace(condition, view=changed) if field == "view" else replace(condition, sex=changed)


def relative_change(velocity: Tensor, other: Tensor) -> Tensor:
    """`|v' - v| / |v|` over the batch, a scalar; both are 0 outside the region."""
    return (other - velocity).square().sum().sqrt() / velocity.square().sum().sqrt().clamp_min(1e-12)
