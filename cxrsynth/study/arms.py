"""The arms of the study. An arm is a small class that says what its classifier is trained on; to add one, write one.

All arms take the same number of optimiser steps with the same augmentation, schedule and rule for choosing the network;
they differ in nothing but what stands here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrsynth.errors import UserError
from cxrsynth.inpainting.guidance import HEALTHY_GUIDANCE
from cxrsynth.study.images import copy_paste, inpaint_again, kept_by_scorer, rendered
from cxrsynth.study.material import Material

Copies = dict[str, int]

LARGEST_WEIGHT = 20.0  # of a present finding in the weighted loss; larger ones make training unstable


@dataclass(frozen=True)
class Recipe:
    """What one training sees.

    Attributes:
        extra: Manifest of images added to the real ones, or None.
        copies: How often an epoch shows an image, where it is not once; 0 = never.
        model: Arguments of `ClassificationTask` that differ from the study's.
        data: Arguments of `CXRDataModule` that differ.
        before: What the network is trained on in the first half of the steps, or None.
    """

    extra: Path | None = None
    copies: Copies = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    before: "Recipe | None" = None


class Arm:
    """One way to train.

    Attributes:
        name: Its key in the configuration.
        title: What it is, for the page.
        control: Whether it is a control that adds no new image: the strongest of these is what synthetic images must
            beat.
        needs: What must be there: "images" (synthetic ones), "regions" (of them, with source and exemplar),
            "inpainter", "scorer" or "phantom".
    """

    name: ClassVar[str]
    title: str
    control: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    def recipe(self, material: Material, seed: int) -> Recipe:
        """What the training with this seed sees."""
        raise NotImplementedError


class Real(Arm):
    """The images of the archive, each as often as the others."""

    name, title = "real", "real images only"

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(copies=material.left_out())


class Duplicates(Arm):
    """As many copies of real images, of the same findings, as there are synthetic ones."""

    name, title, control, needs = "duplicates", "as many duplicates of real images", True, ("images",)

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        copies = material.left_out()
        generator = np.random.default_rng([seed, 21])
        for finding, count in material.asked(seed).items():
            having = material.positives(finding)
            for image_id in generator.permutation(np.resize(having, count)) if having else ():
                copies[image_id] = copies.get(image_id, 1) + 1
        return Recipe(copies=copies)


class Oversampling(Arm):
    """Findings drawn evenly, healthy images half of the time."""

    name, title, control = "oversampling", "rare findings drawn as often as frequent ones", True

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        gone = material.left_out()
        return Recipe(copies=gone, data={"sampling": "balanced"})


class Reweighted(Arm):
    """Present findings weigh as much in the loss as absent ones."""

    name, title, control = "reweighted", "loss weighted by rarity", True

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        counts = [len(material.positives(finding)) for finding in material.findings]
        total = material.training_images
        weights = [min(LARGEST_WEIGHT, (total - count) / max(count, 1)) for count in counts]
        return Recipe(copies=material.left_out(), model={"pos_weight": weights})


class Focal(Arm):
    """Focal loss with the exponent of its paper."""

    name, title, control = "focal", "focal loss", True

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(copies=material.left_out(), model={"focal": 2.0})


class Mixup(Arm):
    """Mixup with the parameter of its paper."""

    name, title, control = "mixup", "mixup", True

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(copies=material.left_out(), model={"mixup": 0.2})


class CopyPaste(Arm):
    """The exemplars' own lesions, registered into the same sources and regions; no generator at all."""

    name, title, needs = "copy_paste", "real lesions pasted into the same regions", ("images", "regions")

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(copy_paste(material), material.left_out())


class RandomRegions(Arm):
    """The same findings painted at random places: does it matter where?"""

    name, title, needs = "random_regions", "painted in random regions", ("images", "regions", "inpainter")

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(inpaint_again(material, "random_regions"), material.left_out())


class NoChange(Arm):
    """The same regions painted as healthy tissue and labelled so: do traces of painting help by themselves?

    The text is gone too, and guidance is at most `HEALTHY_GUIDANCE`: more would make the region too dark.
    """

    name, needs = "no_change", ("images", "regions", "inpainter")
    title = f"painted as healthy: no finding, no text, guidance at most {HEALTHY_GUIDANCE}"

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(inpaint_again(material, "no_change"), material.left_out())


class Synthetic(Arm):
    """Real images and the synthetic ones, all or, as in `synthetic@0.5`, half as many as there are real ones."""

    name, title, needs = "synthetic", "real and synthetic images", ("images",)

    def __init__(self, ratio: float | None = None) -> None:
        self.ratio = ratio
        if ratio is not None:
            self.title = f"real and {ratio:g} times as many synthetic images"

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        extra = material.images(seed)
        copies = material.left_out()
        if self.ratio is not None:
            copies |= _subset(material, seed, self.ratio)
        return Recipe(extra, copies)


class Filtered(Arm):
    """Real images and those synthetic ones whose asked finding the scorer sees best."""

    name, title, needs = "filtered", "real and synthetic images, filtered by a scorer", ("images", "scorer")

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        kept = kept_by_scorer(material, seed)
        gone = {image_id: 0 for image_id in material.synthetic(seed).table.image_id if image_id not in kept}
        return Recipe(material.images(seed), material.left_out() | gone)


class SyntheticOnly(Arm):
    """Synthetic images and real healthy ones, but no real image with a finding."""

    name, title, needs = "synthetic_only", "no real image with a finding, only synthetic ones", ("images",)

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        diseased = {image_id: 0 for finding in material.findings for image_id in material.positives(finding)}
        return Recipe(material.images(seed), material.left_out() | diseased)


class Pretrain(Arm):
    """Half of the steps on real and synthetic images, the other half on real ones."""

    name, title, needs = "pretrain", "synthetic images first, then real ones", ("images",)

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        gone = material.left_out()
        return Recipe(copies=gone, before=Recipe(material.images(seed), gone))


class Oracle(Arm):
    """As many images of the same findings, rendered by the phantom itself: the best that a generator could do."""

    name, title, needs = "oracle", "images rendered by the phantom itself (upper bound)", ("images", "phantom")

    def recipe(self, material: Material, seed: int) -> Recipe:
        """See `Arm`."""
        return Recipe(rendered(material), material.left_out())


ARMS: dict[str, type[Arm]] = {
    arm.name: arm
    for arm in (
        *(Real, Duplicates, Oversampling, Reweighted, Focal, Mixup, CopyPaste, RandomRegions, NoChange),
        *(Synthetic, Filtered, SyntheticOnly, Pretrain, Oracle),
    )
}


def make_arm(name: str) -> Arm:
    """The arm of a name in the configuration.

    Raises:
        UserError: There is none.
    """
    key, _, ratio = name.partition("@")
    if key not in ARMS or (ratio and key != "synthetic"):
        raise UserError(f"arm {name!r} is unknown; choose from {', '.join(ARMS)} and synthetic@RATIO")
    if not ratio:
        return ARMS[key]()
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if not 0 < share <= 100:
        raise UserError(f"arm {name!r} has ratio {ratio!r}; give a number above 0, as in synthetic@0.5")
    return Synthetic(share)


def _subset(material: Material, seed: int, ratio: float) -> Copies:
    """Which synthetic images to leave out, or to show more than once, for `ratio` times as many as real ones."""
    ids = material.synthetic(seed).table.image_id.to_numpy()
    wanted = round(ratio * material.training_images)
    if wanted > len(ids):
        raise UserError(
            f"arm synthetic@{ratio:g} needs {wanted} synthetic images, but there are {len(ids)}; "
            "make more (plan.count), or leave the arm out"
        )
    kept = set(np.random.default_rng([seed, 22]).permutation(ids)[:wanted])
    return {image_id: 0 for image_id in ids if image_id not in kept}
