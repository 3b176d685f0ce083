"""DINOv2 pretraining of the encoder."""

import copy
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from cxrsynth.chance import seed_place
from cxrsynth.encoder.callbacks import EncoderProbe
from cxrsynth.encoder.checkpoint import OWN_ENTRY, load_encoder
from cxrsynth.encoder.crops import CropPlan, image_generator, multi_crop, patch_masks
from cxrsynth.encoder.heads import ProjectionHead
from cxrsynth.encoder.losses import Centering, dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp
from cxrsynth.encoder.optimisation import parameter_groups, set_rates, update_average
from cxrsynth.encoder.preprocess import normalise
from cxrsynth.encoder.probe import summary_vector
from cxrsynth.encoder.schedules import cosine, linear
from cxrsynth.encoder.sharding import shard
from cxrsynth.encoder.vit import Features, ViT
from cxrsynth.errors import UserError


class DINOTask(L.LightningModule):
    """Self-supervised pretraining with DINO, iBOT and KoLeo losses (DINOv2, arXiv 2304.07193; CheXFound, 2502.05142).

    A student learns from crops what its moving average, the teacher, sees in the global ones. The checkpoint is an
    encoder file: `load_encoder` takes the teacher out of it. Labels are used in validation alone, by a probe.

    Args:
        image_size: Side in pixels of the global crops, for which the position embedding is learnt.
        patch_size: This and the next arguments up to `position_init` are `ViT`'s.
        dim: See `ViT`.
        depth: See `ViT`.
        num_heads: See `ViT`.
        registers: See `ViT`.
        ffn: See `ViT`.
        layer_scale: See `ViT`.
        attention_scale: See `ViT`.
        drop_path: See `ViT`; the student's only.
        checkpointing: See `ViT`.
        contrast: See `ViT`; applied to each crop.
        position_init: See `ViT`.
        init: Encoder file to continue from, at any image size; it must have the same architecture otherwise.
        local_size: Side of the local crops in pixels.
        local_crops: How many local crops.
        global_scale: Range of a global crop's share of the image's area.
        local_scale: The same of a local crop.
        flip: Probability of a left-right flip; 0, since a chest has a left and a right.
        prototypes: Outputs of each head.
        head_hidden: Width of the heads.
        bottleneck: Width before the prototypes.
        batch_norm: Whether the DINO head standardises over the batch (see `ProjectionHead`); small encoders need it.
        dino_weight: Weight of the DINO loss.
        ibot_weight: Weight of the iBOT loss, which has its own head.
        koleo_weight: Weight of the KoLeo loss.
        mask_probability: That a global crop is masked.
        mask_ratio: Range of the share of patches masked.
        centering: "sinkhorn" or "centre".
        lr: Peak learning rate at a batch of 1024; scaled by the square root of the batch.
        min_lr: Learning rate at the end.
        warmup: Share of the steps in which the learning rate rises.
        weight_decay: First and last weight decay, along a cosine.
        momentum: First and last momentum of the teacher, along a cosine.
        teacher_temperature: First and last temperature of the teacher, along a line.
        temperature_warmup: Share of the steps in which it rises.
        freeze_last_layer: Share of the steps in which the prototypes stay as they are.
        clip: Largest gradient norm of the encoder and of each head.
        patch_lr: Factor of the patch embedding's learning rate.
        layer_decay: Factor of the learning rate from block to block downwards.
        seed: Seed of crops and masks, which depend on it, the step and the image's id alone.

    Raises:
        UserError: Arguments that do not fit together.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        registers: int = 4,
        ffn: str = "swiglu",
        layer_scale: float | None = 1e-5,
        attention_scale: float | None = None,
        drop_path: float = 0.4,
        checkpointing: bool = False,
        contrast: str = "plain",
        position_init: str = "random",
        init: str | None = None,
        local_size: int = 96,
        local_crops: int = 8,
        global_scale: tuple[float, float] = (0.32, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.32),
        flip: float = 0.0,
        prototypes: int = 131072,
        head_hidden: int = 2048,
        bottleneck: int = 384,
        batch_norm: bool = False,
        dino_weight: float = 1.0,
        ibot_weight: float = 3.0,
        koleo_weight: float = 0.1,
        mask_probability: float = 0.5,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        centering: str = "sinkhorn",
        lr: float = 2e-4,
        min_lr: float = 1e-6,
        warmup: float = 0.1,
        weight_decay: tuple[float, float] = (0.04, 0.2),
        momentum: tuple[float, float] = (0.994, 1.0),
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup: float = 0.3,
        freeze_last_layer: float = 0.01,
        clip: float = 3.0,
        patch_lr: float = 0.2,
        layer_decay: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if centering not in ("sinkhorn", "centre"):
            raise UserError(f"centering is {centering!r}; choose sinkhorn or centre")
        if local_size % patch_size:
            raise UserError(f"local_size is {local_size}; give a multiple of patch_size {patch_size}")
        self.save_hyperparameters()
        config: dict[str, Any] = {
            "image_size": image_size,
            "patch_size": patch_size,
            "dim": dim,
            "depth": depth,
            "num_heads": num_heads,
            "registers": registers,
            "ffn": ffn,
            "layer_scale": layer_scale,
            "attention_scale": attention_scale,
            "drop_path": drop_path,
            "checkpointing": checkpointing,
            "contrast": contrast,
            "position_init": position_init,
        }
        self.crops = CropPlan(image_size, local_size, local_crops, global_scale, local_scale, flip=flip)
        heads = (prototypes, head_hidden, bottleneck)
        self.student = nn.ModuleDict(
            {
                "backbone": ViT(**config),
                "dino_head": ProjectionHead(dim, *heads, batch_norm),
                "ibot_head": ProjectionHead(dim, *heads),
            }
        )
        if init is not None:
            _continue_from(self._backbone(self.student), load_encoder(init), init)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        for block in self._backbone(self.teacher).blocks:
            block.drop_path = 0.0  # type: ignore[assignment]
        self._sharded = False
        self.centers = nn.ModuleDict({"dino": Centering(prototypes), "ibot": Centering(prototypes)})

    def setup(self, stage: str) -> None:
        """Refuse a strategy that would train other than asked."""
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise UserError(
                "trainer.strategy is fsdp, whose flat weights hide names and shapes, on which weight decay and rates "
                "depend; use lightning.pytorch.strategies.ModelParallelStrategy, which shards as well"
            )

    def configure_model(self) -> None:
        """Shard the weights over processes, block by block, where the strategy is a model-parallel one (FSDP2)."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        for network in (self.student, self.teacher):
            shard(network, mesh["data_parallel"])
        self._sharded = True

    @staticmethod
    def _backbone(network: nn.ModuleDict) -> ViT:
        backbone = network["backbone"]
        assert isinstance(backbone, ViT)
        return backbone

    def forward(self, image: Tensor, n: int = 1) -> Features:
        """The teacher's features of images `[B, 1, H, W]` in [0, 1] (see `ViT.intermediate`)."""
        return self._backbone(self.teacher)(image, n)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """The weighted sum of the three losses on crops of a batch."""
        p, step = self.hparams, self.global_step
        seed_place(p["seed"], step, batch_index, self.global_rank)  # of drop path
        generators = [image_generator(p["seed"], step, image_id) for image_id in batch["image_id"]]
        views, local = multi_crop(batch["image"], generators, self.crops)
        whole = normalise(views.flatten(0, 1), p["contrast"])
        rows = self.crops.global_size // p["patch_size"]
        draws = [generator for _ in range(2) for generator in generators]
        masks = patch_masks(draws, (rows, rows), p["mask_probability"], p["mask_ratio"]).to(whole.device)

        temperature = self._along("teacher_temperature", linear, p["temperature_warmup"])
        target_cls, target_patches = self._targets(whole, masks, temperature)
        tokens = self._backbone(self.student).tokens(whole, masks)
        seen = [tokens.cls]
        if local:
            seen.append(self._backbone(self.student).tokens(normalise(torch.cat(local), p["contrast"])).cls)
        logits = self.student["dino_head"](torch.cat(seen)).chunk(2 + len(local))
        losses = {
            "dino": dino_loss(logits, target_cls.chunk(2)),
            "ibot": ibot_loss(self.student["ibot_head"](tokens.patches[masks]), target_patches, masks),
            "koleo": sum((koleo_loss(one) for one in tokens.cls.chunk(2)), start=tokens.cls.new_zeros(())),
        }
        total = torch.stack([p[f"{name}_weight"] * loss for name, loss in losses.items()]).sum()
        size = len(batch["image"])
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, batch_size=size)
        self.log("train/loss", total, on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        return total

    def configure_callbacks(self) -> list[L.Callback]:
        """An `EncoderProbe`, unless the Trainer has one."""
        own = any(isinstance(callback, EncoderProbe) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if own else [EncoderProbe()]

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Tensor]:
        """The teacher's view of a batch, for the probe."""
        return {"features": summary_vector(self(batch["image"]))}

    @torch.no_grad()
    def _targets(self, whole: Tensor, masks: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        tokens = self._backbone(self.teacher).tokens(whole)
        cls, patches = self.teacher["dino_head"](tokens.cls), self.teacher["ibot_head"](tokens.patches[masks])
        if self.hparams["centering"] == "sinkhorn":
            return sinkhorn_knopp(cls, temperature), sinkhorn_knopp(patches, temperature)
        return self.centers["dino"](cls, temperature), self.centers["ibot"](patches, temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rates are set before each step."""
        heads = (self.student["dino_head"], self.student["ibot_head"])
        groups = parameter_groups(
            self._backbone(self.student), heads, self.hparams["layer_decay"], self.hparams["patch_lr"]
        )
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))

    def on_train_batch_start(self, batch: dict[str, Any], batch_index: int) -> None:
        """Set this step's learning rate and weight decay."""
        p, total = self.hparams, self._steps()
        everyone = len(batch["image"]) * self.trainer.world_size * self.trainer.accumulate_grad_batches
        peak = p["lr"] * (everyone / 1024) ** 0.5
        lr = cosine(self.global_step, total, peak, p["min_lr"], int(p["warmup"] * total))
        decay = self._along("weight_decay", cosine)
        optimizer = self.optimizers()
        assert isinstance(optimizer, L.pytorch.core.optimizer.LightningOptimizer)
        set_rates(optimizer.optimizer, lr, decay, self.global_step < p["freeze_last_layer"] * total)
        self.log("train/lr", lr)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the encoder and each head on its own."""
        for part in self.student.values():
            nn.utils.clip_grad_norm_(part.parameters(), self.hparams["clip"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the teacher."""
        momentum = self._along("momentum", cosine)
        super().optimizer_step(*args, **kwargs)
        update_average(self.teacher, self.student, momentum)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say where the encoder is, for `load_encoder`."""
        config = {**self._backbone(self.teacher).config, "drop_path": 0.0}
        checkpoint[OWN_ENTRY] = {"prefix": "teacher.backbone.", "config": config}

    def _steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def _along(self, name: str, schedule: Any, share: float = 1.0) -> float:
        first, last = self.hparams[name]
        return schedule(self.global_step, int(share * self._steps()), first, last)


def _continue_from(backbone: ViT, source: ViT, path: str) -> None:
    """Copy an encoder's weights; the position embedding is resized to the new image size."""
    fixed = ("patch_size", "dim", "depth", "num_heads", "registers", "ffn")
    differ = [key for key in fixed if source.config[key] != backbone.config[key]]
    if differ:
        told = ", ".join(f"{key}={source.config[key]}" for key in differ)
        raise UserError(f"init {path} has {told}; give the task the same values to continue from it")
    rows = backbone.config["image_size"] // backbone.patch_size
    state = source.state_dict()
    state["pos_embed"] = source.position(rows, rows).detach()
    backbone.load_state_dict(state)
