"""Training the few-step student of an inpainter."""

import inspect
from collections.abc import Mapping
from contextvars import Context
from typing import Any, cast

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.distil.trajectories import Pool, Trajectories, draw_jumps, starts, teach, wishes
from cxrsynth.inpainting.examples import Examples
from cxrsynth.inpainting.flow_map import FlowMap, start_from
from cxrsynth.inpainting.guidance import Guided, check_guidance
from cxrsynth.inpainting.path import flow_loss
from cxrsynth.inpainting.solver import Solver, integrate
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.inpainting.velocity import VelocityField

WARP = 2.0  # of the time grid, as `inpaint` has it
BOOST = 2 / 3  # of the guidance; with guidance 2.5 a student then starts at half the distance from its teacher


class DistilTask(InpaintingTask):
    """Teaches a student to jump along its guided teacher's trajectories (see `FlowMap`).

    The teacher is followed for the images of a batch, what it passed is kept in a pool, and each step fits the
    student's mean velocity to jumps drawn from the pool. The checkpoint is an inpainter's: `load_inpainter` reads it,
    and it paints with the solver `jump`, in `steps` steps of one forward each, guidance included.

    Args:
        teacher: Checkpoint of a trained inpainter, whose settings the student takes over.
        steps: Steps of the student's finest time grid, a power of 2. It learns to paint in these and in half, a
            quarter, ... of them.
        every: The teacher is followed in every so many-th step; in the others the student learns from the pool alone.
        batch: Jumps of a training step.
        pool: Most trajectories kept; a training that was cut off and goes on fills it again.
        asked: Share of trajectories that show what a user may ask, not what the image shows (see `wishes`).
        led: Share of trajectories whose first steps the student takes itself.
        graded: Share of trajectories that start from the source mixed with noise (strength below 1).
        teacher_solver: How the teacher is followed; as is `fine`.
        fine: Its steps in each of the student's.
        teacher_guidance: Its guidance, with a part of which the student starts; None = the one in its checkpoint.
        lr: Peak learning rate.
        warmup: Steps.
        ema_decay: See `InpaintingTask`.
        seed: Of the draws of training.
        compile: See `InpaintingTask`.
    """

    def __init__(
        self,
        teacher: str,
        steps: int = 4,
        every: int = 3,
        batch: int = 16,
        pool: int = 512,
        asked: float = 0.7,
        led: float = 0.3,
        graded: float = 0.2,
        teacher_solver: Solver = "midpoint",
        fine: int = 1,
        teacher_guidance: float | dict[str, float] | None = None,
        lr: float = 5e-4,
        warmup: int = 20,
        ema_decay: float = 0.99,
        seed: int = 0,
        compile: bool = False,
    ):
        if steps < 1 or steps & (steps - 1):
            raise UserError(f"steps is {steps}; give a power of 2, for example 4")
        if teacher_solver in ("dopri5", "jump"):
            raise UserError(f"teacher_solver is {teacher_solver!r}; choose one of euler, midpoint, heun, rk4")
        # In a context of its own: made inside LightningCLI, it would take this task's hyperparameters for its own.
        trained = Context().run(load_inpainter, teacher)
        if trained.hparams["jumps"]:
            raise UserError(f"teacher {teacher} is a few-step student itself; give the inpainter it was made from")
        if trained.hparams["latent"] is not None:
            raise UserError(f"teacher {teacher} works on latents; only inpainters of pixels can be distilled so far")
        settings = {name: value for name, value in trained.hparams.items() if name in _SETTINGS}
        settings |= {"start": None, "jumps": True, "solver": "jump", "steps": steps, "guidance": 1.0}
        settings |= {"lr": lr, "warmup": warmup, "ema_decay": ema_decay, "seed": seed, "compile": compile}
        super().__init__(**settings)
        guidance = trained.hparams["guidance"] if teacher_guidance is None else teacher_guidance
        check_guidance(guidance)
        own = {
            "teacher": teacher,
            "every": every,
            "batch": batch,
            "pool": pool,
            "asked": asked,
            "led": led,
            "graded": graded,
        }
        own |= {"teacher_solver": teacher_solver, "fine": fine, "teacher_guidance": guidance}
        self.hparams.update({**settings, **own})  # LightningCLI gave this task's arguments alone
        boost = 1 + BOOST * ((guidance.get("findings", 1.0) if isinstance(guidance, Mapping) else guidance) - 1)
        for field in (self.velocity, self.painter):
            start_from(cast(FlowMap, field), cast(torch.nn.Module, trained.painter), boost)
        self.teller, self.patients = trained.teller, trained.patients
        self.average_maps.load(trained.average_maps.state())
        self._teacher = (trained.painter,)  # in a tuple: it is not part of the student
        self.kept = Pool(pool)

    @property
    def teacher(self) -> VelocityField:
        """The velocity field that is followed."""
        return self._teacher[0]

    def on_fit_start(self) -> None:
        """The teacher joins the student on its device."""
        super().on_fit_start()
        cast(torch.nn.Module, self.teacher).to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave only what an inpainter needs, so that the checkpoint is one.

        This task's own arguments stand beside it, under the name from which the command line makes the task that goes
        on with a training that was cut off.
        """
        super().on_save_checkpoint(checkpoint)
        hparams = dict(checkpoint["hyper_parameters"])
        checkpoint["hyper_parameters"] = {name: hparams[name] for name in _SETTINGS}
        checkpoint["arguments"] = {name: hparams[name] for name in _ARGUMENTS}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Follow the teacher for a batch of the datamodule, and fit jumps from the pool."""
        hp, chance = self.hparams, self.chance(batch_idx)
        if len(self.kept) < hp["batch"] or batch_idx % hp["every"] == 0:
            self._fill(batch, chance)
        jumps = draw_jumps(self.kept.draw(hp["batch"], chance), self.lengths, chance)
        mean = cast(FlowMap, self.velocity)(
            jumps.x, jumps.t, jumps.region, jumps.coordinates, jumps.condition, jumps.until
        )
        loss = flow_loss(mean, jumps.target, jumps.region, hp["balance"], jumps.weight)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(jumps.x))
        return loss

    def _fill(self, batch: Mapping[str, Any], chance: torch.Generator) -> None:
        """Follow the teacher for the images of a batch, and keep what it passed."""
        hp = self.hparams
        examples = self.draw(batch, chance, hp["jitter"], self.current_epoch)
        told = examples.condition  # fields are forgotten as in the teacher's training, but no wish is
        condition = wishes(told, told.dropped(0.0, hp["drop_each"], chance, hp["drop"]), hp["asked"], chance)
        led = int(torch.randint(1, hp["steps"], (1,), generator=chance)) if hp["steps"] > 1 else 0
        led = led if torch.rand(1, generator=chance) < hp["led"] else 0
        self.kept.add(self.follow(examples, condition, chance, starts(0.9, hp["graded"], chance), led))

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """How far the student ends from its teacher, from the same noise, in parts of the teacher's own spread."""
        chance = torch.Generator().manual_seed(batch_idx)
        examples = self.draw(batch, chance)
        told = examples.condition
        path = self.follow(examples, wishes(told, told, self.hparams["asked"], chance), chance)
        alone = Guided(self.painter, path.region, path.coordinates, path.condition)
        end, inside = path.states[:, -1:], path.region
        mean = (inside * end).sum() / inside.sum()
        spread = flow_loss(end, mean.expand_as(end), inside)
        for steps in self.lengths:
            reached = integrate(alone, path.states[:, :1], solver="jump", steps=steps, warp=WARP)
            distance = (flow_loss(reached, end, inside) / spread).sqrt()
            self.log(f"val/distance/{steps}", distance, batch_size=len(path), sync_dist=True)

    def follow(
        self, examples: Examples, condition: Condition, chance: torch.Generator, start: float = 0.0, led: int = 0
    ) -> Trajectories:
        """See `teach`, with this task's settings."""
        hp = self.hparams
        return teach(
            self.teacher,
            examples,
            condition,
            guidance=hp["teacher_guidance"],
            steps=hp["steps"],
            fine=hp["fine"],
            solver=hp["teacher_solver"],
            warp=WARP,
            start=start,
            generator=chance,
            student=cast(FlowMap, self.painter),
            led=led,
        )

    @property
    def lengths(self) -> dict[int, float]:
        """How often each length of a jump is drawn, in steps of the finest grid: 1 in half of the draws."""
        longer = [2**k for k in range(1, self.hparams["steps"].bit_length())]
        return {1: 1.0 if not longer else 0.5, **{length: 0.5 / len(longer) for length in longer}}


_SETTINGS = tuple(name for name in inspect.signature(InpaintingTask.__init__).parameters if name != "self")
_ARGUMENTS = tuple(name for name in inspect.signature(DistilTask.__init__).parameters if name != "self")
