"""One row of the plan after another: map of the exemplar, transport, region, inpainting, paste at native size."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth import __version__
from cxrsynth.anatomy import LIMITS, allowed
from cxrsynth.anatomy.segmenter import SHIPPED
from cxrsynth.attention.region import region_from_map
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.geometry import from_square
from cxrsynth.data.reading import StoredImage
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.inpaint import paint
from cxrsynth.inpainting.task import load_inpainter
from cxrsynth.inpainting.window import windows_around
from cxrsynth.registration.transport import TransportResult, transport
from cxrsynth.synthesis.datamodule import Group
from cxrsynth.synthesis.provenance import recipe_hash


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
        solver: Name of the ODE solver.
        steps: Its steps.
        warp: Its time grid, finer towards the end above 1 (see `cxrsynth.inpainting.solver.integrate`).
        guidance: Weight w of classifier-free guidance.
        mass: Share of the map's mass that the region holds.
        min_component: Parts of the region below this share of its largest part are dropped.
        dilate: Pixels by which the region grows, on the attention task's square.
        limit: Where regions may lie: "none" (anywhere), "chest" (lungs, mediastinum and what lies between) or "lungs",
            as `cxrsynth.anatomy` finds them on the source. Sources without lungs are then refused.
        smallest: Regions below this share of the image are refused.
        largest: Regions above this share of the image are refused.
        min_ncc: Registrations with a lower normalised cross-correlation are refused.
    """

    def __init__(
        self,
        attention: str,
        inpainting: str,
        solver: str = "midpoint",
        steps: int = 10,
        warp: float = 2.0,
        guidance: float = 2.0,
        mass: float = 0.5,
        min_component: float = 0.5,
        dilate: int = 2,
        limit: str = "none",
        smallest: float = 0.002,
        largest: float = 0.4,
        min_ncc: float = 0.5,
    ) -> None:
        super().__init__()
        if limit not in LIMITS:
            raise UserError(f"limit is {limit!r}; choose one of {', '.join(LIMITS)}")
        self.save_hyperparameters()
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
        self.image_size: int = self.attention.hparams["image_size"]
        self.checkpoints = {"attention": sha256_file(attention), "inpainting": sha256_file(inpainting)}
        if self.hparams["limit"] != "none":
            self.checkpoints["segmenter"] = sha256_file(SHIPPED)
        settings = {k: v for k, v in self.hparams.items() if k not in ("attention", "inpainting", "_instantiator")}
        self.recipe = recipe_hash({**settings, **self.checkpoints, "version": __version__})

    @torch.no_grad()
    def predict_step(self, batch: list[Group], batch_idx: int) -> list[Made | Refused]:
        """Make the images of some groups, each group in one forward of the plan's shape."""
        return [item for group in batch for item in self._make(group)]

    def _make(self, group: Group) -> list[Made | Refused]:
        rows = group.rows
        carried = self._transport(group)
        maps = carried.map[: len(rows)].cpu()
        shape = {name: self.hparams[name] for name in ("mass", "min_component", "dilate")}
        limit = allowed(self._pad(group.source).to(self.device), self.hparams["limit"])
        squares = region_from_map(carried.map, **shape, limit=limit).cpu()
        lost = [limit is not None and not limit[i].any() for i in range(len(rows))]
        reasons = [self._refusal(group, squares[i], carried, i, lost[i]) for i in range(len(rows))]

        shapes = [(1, 1) if stored is None else stored.display().shape for stored in group.sources]
        regions = [(from_square(squares[i], shape) > 0.5).float()[None] for i, shape in enumerate(shapes)]
        painted = self._paint(group, regions, reasons)

        made: list[Made | Refused] = []
        for i in range(len(rows)):
            record = self._record(group, carried, i)
            stored = group.sources[i]
            if reasons[i] is not None or stored is None:
                made.append(Refused({**record, "refused": reasons[i]}))
                continue
            region = regions[i][0, 0].numpy() > 0
            native_map = from_square(maps[i], shapes[i])[0]
            made.append(
                Made(
                    image=stored.paste(painted[i][0, 0].numpy(), region),
                    region=region,
                    map=(native_map / native_map.max().clamp_min(1e-12) * 255).round().clamp(0, 255).byte().numpy(),
                    record=record,
                )
            )
        return made

    def _transport(self, group: Group) -> TransportResult:
        """The exemplars' attention maps, carried into the sources; all `[group_size, 1, S, S]`."""
        exemplar, source = (self._pad(x).to(self.device) for x in (group.exemplar, group.source))
        which = [self.findings.index(row["finding"]) for row in group.rows]
        maps = self.attention.maps(exemplar)
        chosen = maps[torch.arange(len(maps)), which + [which[-1]] * (len(maps) - len(which))][:, None]
        full = F.interpolate(chosen, exemplar.shape[-2:], mode="bilinear", align_corners=False)
        return transport(full, exemplar, source)

    def _refusal(self, group: Group, region: Tensor, carried: TransportResult, i: int, lost: bool) -> str | None:
        """Why a row cannot be painted, or None."""
        if group.broken[i] is not None:
            return group.broken[i]
        if lost:
            return "anatomy: no lungs were found on the source"
        ncc, jacobian, share = float(carried.ncc[i]), float(carried.min_jacobian[i]), float(region.mean())
        if not ncc >= self.hparams["min_ncc"]:
            return f"registration: correlation {ncc:.2f} is below {self.hparams['min_ncc']}"
        if not jacobian > 0:
            return f"registration: the field folds (smallest Jacobian {jacobian:.2f})"
        if not self.hparams["smallest"] <= share <= self.hparams["largest"]:
            low, high = self.hparams["smallest"], self.hparams["largest"]
            return f"region: {share:.2%} of the image is outside {low:.2%} to {high:.2%}"
        return None

    def _paint(self, group: Group, regions: list[Tensor], reasons: list[str | None]) -> list[Tensor]:
        """Paint every row's window at the working resolution in one forward and paste it at native size."""
        settings = self.inpainter.hparams
        size = settings["size"]
        sources = [
            torch.zeros(1, 1, 1, 1) if s is None else torch.as_tensor(s.display())[None, None] for s in group.sources
        ]
        windows = [windows_around(r, context=settings["context"], minimum=settings["minimum"]) for r in regions]
        crops = self._pad(torch.cat([w.crop(image, size) for w, image in zip(windows, sources, strict=True)]))
        inside = self._pad(torch.cat([w.crop_region(r, size) for w, r in zip(windows, regions, strict=True)]))
        coordinates = self._pad(torch.cat([w.coordinates(size) for w in windows]))
        asked = [[row["finding"]] for row in group.rows]
        condition = Condition(self._pad(Condition.from_names(asked, self.findings).findings))
        seeds = [row["seed"] for row in group.rows]
        painted = paint(
            crops.to(self.device),
            inside.to(self.device),
            coordinates.to(self.device),
            condition.to(self.device),
            velocity=self.inpainter.painter,
            seeds=seeds + [0] * (len(crops) - len(seeds)),
            solver=self.hparams["solver"],
            steps=self.hparams["steps"],
            warp=self.hparams["warp"],
            guidance=self.hparams["guidance"],
        ).cpu()
        return [w.paste(painted[i : i + 1], sources[i], regions[i]) for i, w in enumerate(windows)]

    def _pad(self, x: Tensor) -> Tensor:
        """Repeat the last row until the batch has the plan's shape."""
        missing = self.group_size - len(x)
        return x if missing <= 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])

    def _record(self, group: Group, carried: TransportResult, i: int) -> dict[str, Any]:
        row = group.rows[i]
        return {
            **row,
            "source_path": group.source_paths[i],
            "condition": {"findings": [row["finding"]]},
            "solver": self.hparams["solver"],
            "steps": self.hparams["steps"],
            "warp": self.hparams["warp"],
            "guidance": self.hparams["guidance"],
            "registration": {
                "ncc": round(float(carried.ncc[i]), 4),
                "min_jacobian": round(float(carried.min_jacobian[i]), 4),
            },
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
        return GLoRITask.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    except Exception as error:  # torch, pickle and Lightning raise many kinds on foreign files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"checkpoint {path} is not a GLoRI task's ({reason}); give the path of an attention.ckpt"
        ) from error
