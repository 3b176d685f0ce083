"""One row of the plan after another: map of the exemplar, transport, region, inpainting, paste at native size."""

from dataclasses import dataclass, fields
from typing import Any

import lightning as L
import numpy as np
import torch

from cxrsynth import __version__
from cxrsynth.anatomy.segmenter import SHIPPED
from cxrsynth.attention.region import DILATE, MASS, MIN_COMPONENT
from cxrsynth.attention.task import GLoRITask
from cxrsynth.checkpoints import check_finite
from cxrsynth.data.geometry import from_square
from cxrsynth.data.reading import StoredImage
from cxrsynth.data.sentences import write_sentence
from cxrsynth.errors import UserError, first_line
from cxrsynth.files import sha256_file
from cxrsynth.inpainting.condition import SEXES
from cxrsynth.inpainting.task import load_inpainter
from cxrsynth.inpainting.weights_file import find_inpainter
from cxrsynth.synthesis.carrying import Carried, Rules, carry_group, check_rules
from cxrsynth.synthesis.clock import Clock
from cxrsynth.synthesis.fields import FieldStore
from cxrsynth.synthesis.group import Group
from cxrsynth.synthesis.painting import paint_films
from cxrsynth.synthesis.provenance import recipe_hash

PLACES = ("attention", "inpainting", "cache", "_instantiator")  # where things lie changes no image


@dataclass(frozen=True)
class Made:
    """A finished image.

    Attributes:
        image: The source with its region painted, in stored values.
        region: bool `[H, W]`, where it was painted.
        map: uint8 `[H, W]`, the transported attention map, its largest value 255.
        record: Provenance.
    """

    image: StoredImage
    region: np.ndarray
    map: np.ndarray
    record: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A plan row that was not painted; `record["refused"]` says why."""

    record: dict[str, Any]


class SynthesisTask(L.LightningModule):
    """Predicts the images of a plan; nothing is trained.

    Args:
        attention: Checkpoint of the GLoRI task.
        inpainting: Checkpoint of the inpainting task.
        solver: Name of the ODE solver; None = the inpainter's own, as for `steps` and `guidance`.
        steps: Its steps.
        warp: Its time grid, finer towards the end above 1 (see `cxrsynth.inpainting.solver.integrate`).
        guidance: Weight w of classifier-free guidance, or one by field.
        baseline: What guidance moves away from: "unknown" (nothing known) or "none" (a healthy image).
        feather: Width over which the change fades in inside the region, in pixels of the working resolution.
        mass: Share of the map's mass that the region holds.
        min_component: Parts of the region below this share of its largest part are dropped.
        dilate: Pixels by which the region grows, on the attention task's square.
        limit: Where regions may lie: "none" (anywhere), "chest" (lungs, mediastinum and what lies between) or "lungs",
            as `cxrsynth.anatomy` finds them on the source. Sources without lungs are then refused.
        smallest: Regions below this share of the image are refused.
        largest: Regions above this share of the image are refused.
        min_ncc: Registrations with a lower normalised cross-correlation are refused, and the row's next exemplar is
            tried; likewise for the next two and for `smallest` and `largest`.
        min_jacobian: Fields whose smallest Jacobian determinant is not above this are refused; 0 = folds.
        min_dice: Registrations that bring the exemplar's lungs to a lower Dice with the source's; 0 = not looked at.
        pull: Where the source pulls in a registration: "all" or, as for `limit`, "chest" or "lungs".
        cache: Folder for registrations, so that a repainted run need not make them again; None = not kept.
        threads: CPU threads. Floating point depends on them, so give them where the same bytes are wanted on another
            machine or with another number of ranks; None = as torch has them.
    """

    def __init__(
        self,
        attention: str,
        inpainting: str,
        solver: str | None = None,
        steps: int | None = None,
        warp: float = 2.0,
        guidance: float | dict[str, float] | None = None,
        baseline: str = "unknown",
        feather: float = 2.0,
        mass: float = MASS,
        min_component: float = MIN_COMPONENT,
        dilate: int = DILATE,
        limit: str = "none",
        smallest: float = 0.002,
        largest: float = 0.4,
        min_ncc: float = 0.5,
        min_jacobian: float = 0.0,
        min_dice: float = 0.0,
        pull: str = "all",
        cache: str | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.rules = Rules(**{field.name: self.hparams[field.name] for field in fields(Rules)})
        check_rules(self.rules)
        if feather < 0:
            raise UserError(f"feather is {feather}; give a width in pixels, 0 or more")
        self.store = FieldStore(cache)
        self.clock = Clock()
        self.group_size = 1
        self.recipe = ""

    def load(self) -> None:
        """Read both networks, once; the datamodule's `setup` asks for it.

        Not in `__init__`: inside LightningCLI, modules made there would take this task's hyperparameters for their own.

        Raises:
            UserError: A checkpoint cannot be read, or the two know different findings.
        """
        if self.recipe:
            return
        if self.hparams["threads"] is not None:
            torch.set_num_threads(self.hparams["threads"])
        attention, inpainting = self.hparams["attention"], self.hparams["inpainting"]
        self.attention = load_attention(attention)
        self.inpainter = load_inpainter(inpainting)
        self.findings: list[str] = list(self.attention.findings)
        known = list(self.inpainter.hparams["findings"])
        if known != self.findings:
            raise UserError(
                f"attention {attention} knows {', '.join(self.findings)}, inpainting {inpainting} knows "
                f"{', '.join(known)}; train both for the same findings"
            )
        asked = {name: self.hparams[name] for name in ("solver", "steps", "warp", "guidance", "baseline")}
        own = {name: self.inpainter.hparams.get(name) for name in asked}
        self.sampling = {name: own[name] if value is None else value for name, value in asked.items()}
        self.image_size: int = self.attention.hparams["image_size"]
        self.checkpoints = {"attention": sha256_file(attention), "inpainting": sha256_file(find_inpainter(inpainting))}
        if self.rules.limit != "none" or self.rules.min_dice > 0 or self.rules.pull != "all":
            self.checkpoints["segmenter"] = sha256_file(SHIPPED)
        settings = {k: v for k, v in self.hparams.items() if k not in PLACES}
        self.recipe = recipe_hash({**settings, **self.checkpoints, "version": __version__})

    def prepare(self, batch: list[Group]) -> list[Carried]:
        """Carry the maps of some groups' exemplars into their sources; called in a thread, ahead of `predict_step`."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # a thread starts on the first one
        with self.clock("carrying"):
            return [
                carry_group(group, self.attention, self.rules, self.store, self.group_size, self.device)
                for group in batch
            ]

    @torch.no_grad()
    def predict_step(self, batch: list[Carried], batch_idx: int) -> list[Made | Refused]:
        """Paint prepared groups, each in one forward of the plan's shape."""
        return [item for carried in batch for item in self._make(carried)]

    def _make(self, carried: Carried) -> list[Made | Refused]:
        group = carried.group
        shapes = [(1, 1) if stored is None else stored.display().shape for stored in group.sources]
        regions = [(from_square(carried.region[i], shape) > 0.5).float()[None] for i, shape in enumerate(shapes)]
        wishes = [self._wishes(row, person) for row, person in zip(group.rows, group.people, strict=True)]
        films = [
            torch.zeros(1, 1, 1, 1) if s is None else torch.as_tensor(s.display())[None, None] for s in group.sources
        ]
        painted = paint_films(
            self.inpainter,
            films,
            regions,
            [self.inpainter.condition(1, **asked) for asked in wishes],
            [row["seed"] for row in group.rows],
            feather=self.hparams["feather"],
            together=self.group_size,
            device=self.device,
            clock=self.clock,
            **self.sampling,
        )

        made: list[Made | Refused] = []
        for i in range(len(group.rows)):
            record = self._record(carried, i, wishes[i])
            stored = group.sources[i]
            if carried.refused[i] is not None or stored is None:
                made.append(Refused({**record, "refused": carried.refused[i]}))
                continue
            region = regions[i][0, 0].numpy() > 0
            native_map = from_square(carried.map[i], shapes[i])[0]
            made.append(
                Made(
                    image=stored.paste(painted[i][0, 0].numpy(), region),
                    region=region,
                    map=(native_map / native_map.max().clamp_min(1e-12) * 255).round().clamp(0, 255).byte().numpy(),
                    record=record,
                )
            )
        return made

    def _wishes(self, row: dict[str, Any], person: dict[str, Any]) -> dict[str, Any]:
        """A row's findings, also in words, and who its source shows, as far as the inpainter reads such things."""
        fields, names = self.inpainter.hparams["fields"], row["findings"].split("|")
        wishes: dict[str, Any] = {"findings": names}
        if "text" in fields:
            words = np.random.default_rng(row["seed"])
            wishes["text"] = " ".join(write_sentence(name, True, words) for name in names)
        if "view" in fields and person["view"] in self.inpainter.teller.views:
            wishes["view"] = person["view"]
        if "sex" in fields and person["sex"] in SEXES:
            wishes["sex"] = person["sex"]
        if "age" in fields and 0 <= person["age"] <= 120:
            wishes["age"] = float(person["age"])
        return wishes

    def _record(self, carried: Carried, i: int, wishes: dict[str, Any]) -> dict[str, Any]:
        group, row = carried.group, carried.group.rows[i]
        used = carried.exemplars[i]
        planned = {} if used == row["exemplar_id"] else {"planned": {"exemplar_id": row["exemplar_id"]}}
        tried = {"tried": carried.tried[i]} if carried.tried[i] else {}
        return {
            **row,
            "exemplar_id": used,
            **planned,
            **tried,
            "source_path": group.source_paths[i],
            "condition": wishes,
            **self.sampling,
            "feather": self.hparams["feather"],
            "registration": carried.quality[i],
            "source_sha256": group.source_hashes[i],
            "checkpoints": self.checkpoints,
            "recipe": self.recipe,
            "version": __version__,
        }


def load_attention(path: str) -> GLoRITask:
    """A GLoRI task from its checkpoint, in eval mode.

    Raises:
        UserError: The file is missing or not such a checkpoint.
    """
    try:
        task = GLoRITask.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    except Exception as error:  # torch, pickle and Lightning raise many kinds on foreign files
        raise UserError(
            f"checkpoint {path} is not a GLoRI task's ({first_line(error)}); give the path of an attention.ckpt"
        ) from error
    check_finite(task, path)
    return task
