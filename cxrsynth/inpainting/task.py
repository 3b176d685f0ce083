"""Training the velocity field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from cxrsynth.chance import place_seed
from cxrsynth.checkpoints import check_finite
from cxrsynth.data.datamodule import CXRDataModule
from cxrsynth.errors import UserError
from cxrsynth.inpainting.average import AverageMaps
from cxrsynth.inpainting.condition import Condition, check_fields
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.ema import ExponentialMovingAverage
from cxrsynth.inpainting.examples import Examples, draw_examples
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.guidance import check_guidance
from cxrsynth.inpainting.inpaint import inpaint, paint
from cxrsynth.inpainting.networks import build_field, build_text, pretrained_vocabulary
from cxrsynth.inpainting.optimisation import adamw
from cxrsynth.inpainting.path import flow_loss, straight_path
from cxrsynth.inpainting.published import read_unet
from cxrsynth.inpainting.regions import check_mix
from cxrsynth.inpainting.sensitivity import flipped, relative_change
from cxrsynth.inpainting.sharding import shard
from cxrsynth.inpainting.solver import Solver
from cxrsynth.inpainting.space import build_space
from cxrsynth.inpainting.telling import Teller, corpus, wish
from cxrsynth.inpainting.text import Vocabulary
from cxrsynth.inpainting.times import Times, draw_times
from cxrsynth.inpainting.velocity import VelocityField
from cxrsynth.inpainting.warm_start import take_over, take_over_clock, take_over_maps
from cxrsynth.inpainting.weights_file import SUFFIX, digests, find_inpainter, read_weights_file, refuse_leaks, take_up


class InpaintingTask(L.LightningModule):
    """Flow-matching inpainting conditioned on findings and, as `fields` says, on text, view, sex and age.

    Args:
        findings: Names of the findings, in the order of the batch's targets.
        size: Working resolution, pixels; a multiple of `patch`, for the UNet of `patch * 2 ** (levels - 1)`.
        network: The velocity field: `unet` (MONAI's diffusion UNet) or `dit` (a diffusion transformer).
        channels: Of the UNet: channels of each resolution level (see `VelocityUNet`, also for the next four).
        attention: For each level, whether its blocks attend.
        num_res_blocks: Residual blocks a level.
        head_channels: Channels of an attention head.
        norm_groups: Groups of the group norms.
        dim: Of the transformer: width of its tokens (see `VelocityDiT`, also for the next two).
        depth: Number of blocks.
        num_heads: Attention heads.
        patch: Side of the pixel blocks that the network sees as one position.
        clock: What the network is told at t = 1 (see `Preconditioned`); None = that of `start`, else 1000.
        bf16: Compute in bfloat16.
        recompute: Gradient checkpointing: less memory, slower steps.
        latent: An autoencoder's file, or `path` with `scale` or `norm_groups`: the flow then runs on its latents (see
            `Latents`). It travels with the checkpoint.
        pretrained: A published DiffusionModelUNet to adapt (see `read_unet`); the sizes of the UNet are then its own.
        tuning: What of it learns: full or lora (see `tune`).
        compile: Compile the velocity field for training.
        fields: What conditions the velocity besides the findings: any of text, view, sex, age.
        views: Names of the views, in the order that the checkpoint keeps.
        vocabulary: Most tokens of the byte-pair vocabulary, which is learned from the training reports.
        text_limit: Most tokens of a text; longer reports are cut in training.
        text_width: Width of our own text encoder, a multiple of 16.
        text_depth: Its number of layers.
        text_encoder: Folder of a Hugging Face encoder to use instead (see `PretrainedText`).
        text_tuning: How that one learns: frozen, lora or full.
        text_lr: Peak learning rate of that one's weights; None = `lr`.
        written: Probability that sentences written from the labels stand in for a report (see `Teller`).
        lr: Peak learning rate of AdamW, reached after `warmup` steps; then a cosine to 0 where the length is known.
        warmup: Steps.
        weight_decay: Of AdamW.
        ema_decay: Largest decay of the weight average; the average is what paints.
        drop_all: Probability that an image loses its whole condition in training.
        drop_each: Probability that a finding is forgotten on its own in training.
        drop: Probability that an image loses a field, by field: findings, text, view, sex, age; 0 where not named.
        regions: Weight of each kind of training region: attention, blob, box, average, lungs, full.
        share: Range of the share of a map's mass that its training region holds.
        context: Margin of the window, in parts of the region's extent.
        minimum: Smallest window, in parts of the image's longer side.
        jitter: Random change of training windows, in parts of their side.
        times: Distribution of the training times: uniform or logit_normal (see `draw_times`, also for the next two).
        time_mean: Of the logit.
        time_spread: Of the logit.
        balance: Weight of small regions in the loss (see `flow_loss`).
        seed: Of the draws of training: regions, noise, times, what is forgotten, sentences. They depend on it and on
            the step alone: a resumed training equals one that was not cut off (`average` regions: on one process).
        jumps: A few-step student (see `FlowMap`), which `DistilTask` trains.
        solver: Of `inpaint`; as are `steps` and `guidance`.
        steps: Of the solver.
        guidance: Weight of classifier-free guidance, or one by field.
        start: An inpainter to go on from, `phantom`, `nih` or a path: its averaged weights are taken over where name
            and shape agree, tokens and average maps by the names of the findings, its vocabulary as it is.
    """

    def __init__(
        self,
        findings: Sequence[str],
        size: int = 48,
        network: str = "unet",
        channels: Sequence[int] = (32, 48, 64),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        head_channels: int = 16,
        norm_groups: int = 8,
        dim: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        patch: int = 1,
        clock: float | None = None,
        bf16: bool = False,
        recompute: bool = False,
        latent: str | dict[str, Any] | None = None,
        pretrained: dict[str, Any] | None = None,
        tuning: str = "full",
        compile: bool = False,
        fields: Sequence[str] = (),
        views: Sequence[str] = ("PA", "AP"),
        vocabulary: int = 1000,
        text_limit: int = 64,
        text_width: int = 64,
        text_depth: int = 2,
        text_encoder: str | None = None,
        text_tuning: str = "frozen",
        text_lr: float | None = None,
        written: float = 0.5,
        lr: float = 1e-3,
        warmup: int = 50,
        weight_decay: float = 0.01,
        ema_decay: float = 0.995,
        drop_all: float = 0.1,
        drop_each: float = 0.1,
        drop: dict[str, float] | None = None,
        regions: dict[str, float] | None = None,
        share: Sequence[float] = (0.35, 0.7),
        context: float = 0.25,
        minimum: float = 0.375,
        jitter: float = 0.15,
        times: Times = "uniform",
        time_mean: float = 0.0,
        time_spread: float = 1.0,
        balance: float = 0.0,
        seed: int = 0,
        jumps: bool = False,
        solver: Solver = "midpoint",
        steps: int = 10,
        guidance: float | dict[str, float] = 2.0,
        start: str | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.regions = regions or {"attention": 0.6, "blob": 0.2, "box": 0.15, "full": 0.05}
        check_mix(self.regions)
        check_fields(drop or {}, "drop")
        check_guidance(guidance)
        draw_times(1, times, time_mean, time_spread)
        text = build_text(
            fields,
            text_encoder,
            vocabulary=vocabulary,
            width=text_width,
            depth=text_depth,
            limit=text_limit,
            tuning=text_tuning,
        )
        self.space = build_space(latent, bf16)
        self.hparams["latent"] = self.space.settings  # a checkpoint needs the file no more
        self.hparams["pretrained"], weights = read_unet(pretrained, self.space.channels)
        field = build_field(
            network,
            len(findings),
            size=size,
            channels=channels,
            attention=attention,
            num_res_blocks=num_res_blocks,
            head_channels=head_channels,
            norm_groups=norm_groups,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            patch=patch,
            clock=clock,
            bf16=bf16,
            fields=fields,
            views=len(views),
            text=text,
            recompute=recompute,
            space=self.space,
            pretrained=self.hparams["pretrained"],
            weights=weights,
            tuning=tuning,
        )
        self.velocity = FlowMap(field) if jumps else field
        self.average = ExponentialMovingAverage(self.velocity, ema_decay)
        self.average_maps = AverageMaps(len(findings))
        self.teller = Teller(tuple(findings), tuple(views), None, written, seed)
        self.patients: list[str] = []  # digests of all that it was trained on
        if text_encoder is not None:
            self.teller = replace(self.teller, vocabulary=pretrained_vocabulary(text_encoder, text_limit))

    def setup(self, stage: str) -> None:
        """Take over what `start` knows, and learn the vocabulary from the training reports unless there is one."""
        if stage != "fit":
            return
        module = getattr(self.trainer, "datamodule", None)
        data = module if isinstance(module, CXRDataModule) else None
        if self.hparams["start"] is not None:
            self._start(load_inpainter(self.hparams["start"]))
        if data is not None:
            refuse_leaks([*data.table("val")["patient_id"], *data.table("test")["patient_id"]], self.patients)
            self.patients = sorted({*self.patients, *digests(data.table("train")["patient_id"])})
        if "text" in self.hparams["fields"] and self.teller.vocabulary is None:
            reports = [] if data is None else data.table("train")["text"].tolist()
            texts = corpus(reports, self.teller.findings, self.teller.views)
            learned = Vocabulary.train(texts, self.hparams["vocabulary"], self.hparams["text_limit"])
            self.teller = replace(self.teller, vocabulary=learned)

    def _start(self, known: "InpaintingTask") -> None:
        names, old = self.teller.findings, known.teller.findings
        fresh = take_over(self.velocity, known.average.module.state_dict(), names, old)
        self.average.module.load_state_dict(self.velocity.state_dict())
        take_over_maps(self.average_maps, known.average_maps, names, old)
        self.hparams["clock"] = take_over_clock([self.velocity, self.average.module], self.hparams, known.hparams)
        self.patients = known.patients
        if "text" in self.hparams["fields"] and self.teller.vocabulary is None and known.teller.vocabulary is not None:
            self.teller = replace(self.teller, vocabulary=known.teller.vocabulary)
        rank_zero_info(f"starting from {self.hparams['start']}; fresh: {', '.join(fresh) or 'nothing'}")

    def configure_model(self) -> None:
        """Shard the weights over processes where the strategy is a model-parallel one (FSDP2)."""
        shard((self.velocity, self.average.module), self.device_mesh)

    def on_fit_start(self) -> None:
        """Compile, where asked for."""
        if self.hparams["compile"]:
            self.velocity.compile()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The vocabulary travels with the weights, as plain JSON, and so do average maps and training patients."""
        checkpoint["average_maps"] = self.average_maps.state()
        checkpoint["patients"] = self.patients
        if self.teller.vocabulary is not None:
            checkpoint["vocabulary"] = self.teller.vocabulary.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take all that up again."""
        self.patients = checkpoint.get("patients", self.patients)
        if "average_maps" in checkpoint:
            self.average_maps.load(checkpoint["average_maps"])
        if "vocabulary" in checkpoint:
            known = Vocabulary.from_json(checkpoint["vocabulary"], self.hparams["text_limit"])
            self.teller = replace(self.teller, vocabulary=known)

    @property
    def painter(self) -> VelocityField:
        """The averaged velocity field, which paints."""
        return cast(VelocityField, self.average.module)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch of the datamodule: `image`, `target`, `map`, `finding` and what `Teller` uses."""
        hp, generator = self.hparams, self.chance(batch_idx)
        examples = self.draw(batch, generator, hp["jitter"], self.current_epoch)
        self.average_maps.add(batch["map"], batch["finding"])
        condition = examples.condition.dropped(hp["drop_all"], hp["drop_each"], generator, hp["drop"])
        loss, _ = self._loss(self.velocity, examples, condition, generator)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(examples.image))
        return loss

    def chance(self, batch_idx: int) -> torch.Generator:
        """All chance of a training step: it comes from the seed and the place in the training."""
        seed = place_seed(self.hparams["seed"], self.current_epoch, batch_idx, self.global_rank)
        return torch.Generator().manual_seed(seed)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average after each step."""
        self.average.update(self.velocity)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss of the averaged field, and how far it listens to each field of the condition (see `sensitivity.py`).

        Regions, noise and times are the same in every epoch.
        """
        count = len(batch["image"])
        state = torch.Generator().manual_seed(batch_idx)
        examples = self.draw(batch, state)
        noise = state.get_state()
        loss, velocity = self._loss(self.painter, examples, examples.condition, state)
        self.log("val/loss", loss, prog_bar=True, batch_size=count, sync_dist=True)
        for field in ("findings", *self.hparams["fields"]):
            state.set_state(noise)
            changed = flipped(examples.condition, field, len(self.teller.views))
            other = self._loss(self.painter, examples, changed, state)[1]
            self.log(f"val/sensitivity/{field}", relative_change(velocity, other), batch_size=count, sync_dist=True)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Painted images of a batch with `image`, `region`, `findings [B, C]` and `seed` (list of int)."""
        return self.inpaint(batch["image"], batch["region"], Condition(batch["findings"]), seeds=batch["seed"])

    def inpaint(self, image: Tensor, region: Tensor, condition: Condition, **options: Any) -> Tensor:
        """`inpaint` with the averaged field and this task's settings; `options` (at least `seeds`) overrule them."""
        return inpaint(image, region, condition, **self._painting("size", "context", "minimum") | options)

    def paint(self, image: Tensor, region: Tensor, coordinates: Tensor, condition: Condition, **options: Any) -> Tensor:
        """`paint` with the averaged field and this task's settings; `options` (at least `seeds`) overrule them."""
        return paint(image, region, coordinates, condition, **self._painting() | options)

    def _painting(self, *names: str) -> dict[str, Any]:
        settings = {name: self.hparams[name] for name in ("solver", "steps", "guidance", *names)}
        return {"velocity": self.painter, "space": self.space, **settings}

    def condition(
        self,
        batch: int = 1,
        findings: Sequence[str] | None = None,
        text: str = "",
        view: str = "",
        sex: str = "",
        age: float = math.nan,
    ) -> Condition:
        """The same wish for each image of a batch (see `wish`), in this inpainter's words."""
        return wish(self.teller, self.hparams["fields"], batch, findings, text, view, sex, age)

    def draw(
        self, batch: Mapping[str, Any], generator: torch.Generator, jitter: float = 0.0, epoch: int = 0
    ) -> Examples:
        """Windows, regions and conditions of a batch, as training sees them (see `draw_examples`)."""
        hp = self.hparams
        return draw_examples(
            batch,
            self.teller,
            regions=self.regions,
            jitter=jitter,
            generator=generator,
            epoch=epoch,
            averages=self.average_maps.of_batch(batch["finding"]) if self.training else None,  # they grow
            **{name: hp[name] for name in ("size", "share", "context", "minimum")},
        )

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine (see `adamw`)."""
        hp, total = self.hparams, self.trainer.estimated_stepping_batches
        return adamw(self.velocity, hp["lr"], hp["text_lr"], hp["weight_decay"], hp["warmup"], total)

    def _loss(
        self, field: VelocityField, examples: Examples, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Loss and velocity at noise and times drawn from the generator."""
        hp = self.hparams
        scene = self.space.enter(examples.image, examples.region, examples.coordinates)
        state, region = scene.state, scene.region
        noise = torch.randn(state.shape, generator=generator).to(state.device)
        t = draw_times(len(state), hp["times"], hp["time_mean"], hp["time_spread"], generator).to(state.device)
        sample = straight_path(couple(state, region, noise), state, t)
        velocity = field(sample.x, t, region, scene.coordinates, condition)
        return flow_loss(velocity, sample.target, region, hp["balance"]), velocity


def load_inpainter(path: str | Path, device: str = "cpu") -> InpaintingTask:
    """An inpainter in eval mode; it paints with the averaged weights.

    Args:
        path: `nih` or `phantom`, which come with the package; a checkpoint written by Lightning; or a .safetensors file
            that `cxrsynth export` wrote.
        device: Where to put it.

    Raises:
        UserError: The file is missing, damaged or not an inpainter's, or its weights are not finite.
    """
    file = find_inpainter(path)
    try:
        if file.suffix == SUFFIX:
            task = _from_weights_file(file)
        else:
            task = InpaintingTask.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist; give nih, phantom or the path of an inpainter") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
        raise UserError(
            f"checkpoint {path} is not an inpainter's, or is damaged ({reason}); give nih, phantom or the path of an "
            "inpainter"
        ) from error
    check_finite(task, path)
    return task.eval().to(device)


def _from_weights_file(file: Path) -> InpaintingTask:
    content = read_weights_file(file)
    task = InpaintingTask(**content.settings)
    take_up(task, content)
    return task
