"""Training of the GLoRI head, and maps and logits from a trained one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from cxrsynth.attention.cache import FeatureCache
from cxrsynth.attention.checkpoint import load_glori
from cxrsynth.attention.glori import GLoRI
from cxrsynth.attention.losses import LOSSES
from cxrsynth.attention.maps import averaged_maps, patch_maps
from cxrsynth.chance import seed_place
from cxrsynth.data.targets import FindingMetrics
from cxrsynth.encoder.checkpoint import OWN_ENTRY, load_encoder
from cxrsynth.encoder.lora import ALPHA, add_lora
from cxrsynth.encoder.schedules import cosine
from cxrsynth.encoder.vit import Features, ViT
from cxrsynth.errors import UserError

FINETUNE = ("none", "lora", "full")
ENCODER_OPTIONS = ("num_heads", "interpolate_offset", "interpolate_antialias", "contrast")


class GLoRITask(L.LightningModule):
    """A GLoRI head on an encoder that stays frozen or is trained along.

    The checkpoint holds the encoder's weights and sizes as well, so it needs no other file.

    Args:
        findings: Names of the outputs, in the order of the targets.
        encoder: File of a trained encoder (see `load_encoder`); None starts from random weights.
        encoder_options: What that file does not hold: `num_heads`, `interpolate_offset`, `interpolate_antialias` and
            `contrast` of `load_encoder`.
        architecture: `ViT` arguments of a random encoder; must be None when a file is given.
        head: The authors' file of a GLoRI head to start from or to use as it is (see `load_glori`); its sizes count
            instead of the next arguments', except `num_heads`, and `findings` are picked from its own by name.
        head_name: Which head, when that file holds several.
        image_size: Side in pixels of the square images.
        finetune: "none" freezes the encoder, "lora" trains low-rank changes of its attention, "full" all of it.
        lora_rank: Rank of those changes.
        blocks: How many of the encoder's last blocks the head sees.
        dim: Width of the head.
        num_heads: Attention heads of the head.
        ffn_hidden: Width inside the head's feed-forward.
        cat_cls: Whether the cls tokens join each finding's token before the logit.
        dropout: Dropout of the head in training.
        sharpness: See `GLoRI`.
        prior: See `GLoRI`.
        learning_rates: Peak learning rate; with several (encoder frozen) a head is trained with each, and the one with
            the best validation AUROC is used.
        encoder_lr: Peak learning rate of the encoder, when it is trained.
        weight_decay: Decoupled, on matrices only.
        warmup: Share of the steps in which the learning rates rise.
        loss: "bce" or "asymmetric"; unknown targets are left out of both.
        map_views: Shifts of the image along each axis whose maps are averaged (see `averaged_maps`); 1 as published.
        map_smooth: Standard deviation in patches of the Gaussian that smooths maps; 0 as published.
        cache: Folder in which a frozen encoder's features are kept (see `FeatureCache`); the images must not vary.
        cache_gib: Features that need more than this are computed anew each time instead, with a warning.
        seed: Seed of dropout, which depends on it, the epoch, the batch and the rank alone.

    Raises:
        UserError: Arguments that do not fit together.
    """

    def __init__(
        self,
        findings: list[str],
        encoder: str | None = None,
        encoder_options: dict[str, int | float | str | bool] | None = None,
        architecture: dict[str, int | float | str | bool | None] | None = None,
        head: str | None = None,
        head_name: str | None = None,
        image_size: int = 512,
        finetune: str = "none",
        lora_rank: int = 8,
        blocks: int = 4,
        dim: int = 768,
        num_heads: int = 8,
        ffn_hidden: int = 2048,
        cat_cls: bool = False,
        dropout: float = 0.1,
        sharpness: float = 1.0,
        prior: float = 0.5,
        learning_rates: list[float] | None = None,
        encoder_lr: float = 1e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        loss: str = "bce",
        map_views: int = 1,
        map_smooth: float = 0.0,
        cache: str | None = None,
        cache_gib: float = 50.0,
        seed: int = 0,
    ):
        super().__init__()
        rates = learning_rates or [1e-3]
        if not findings:
            raise UserError("findings is empty; name at least one finding to localise")
        if encoder is not None and architecture is not None:
            raise UserError(
                "encoder and architecture are both given; a file knows its architecture, so give one of them"
            )
        if finetune not in FINETUNE:
            raise UserError(f"finetune is {finetune!r}; choose one of {', '.join(FINETUNE)}")
        if loss not in LOSSES:
            raise UserError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)}")
        if finetune != "none" and len(rates) > 1:
            raise UserError(f"learning_rates has {len(rates)} values; with a trained encoder give one")
        if map_views < 1 or map_smooth < 0:
            raise UserError(f"map_views is {map_views} and map_smooth {map_smooth}; give at least 1 and 0")
        if cache is not None and finetune != "none":
            raise UserError(f"cache is given, but finetune={finetune} changes the features; leave one of them out")
        self.save_hyperparameters()
        self.findings = list(findings)
        self.encoder = _read_encoder(encoder, encoder_options) if encoder else ViT(**(architecture or {}))  # type: ignore[arg-type]
        self.encoder.grid(image_size, image_size)
        if self.encoder.patch_size % map_views:
            raise UserError(f"map_views is {map_views}; it must divide the patch size {self.encoder.patch_size}")
        sizes: dict[str, Any] = {
            "blocks": blocks,
            "dim": dim,
            "num_heads": num_heads,
            "ffn_hidden": ffn_hidden,
            "cat_cls": cat_cls,
        }
        given = _read_head(head, head_name, findings, num_heads, self.encoder.dim) if head else None
        if given is not None:
            sizes = {name: given.config[name] for name in sizes}
        # from here on the checkpoint alone is enough: it must load where the files are gone
        self.hparams.update(
            encoder=None, encoder_options=None, architecture=dict(self.encoder.config), head=None, head_name=None
        )
        self.hparams.update(sizes, learning_rates=rates)
        self.encoder.requires_grad_(finetune == "full").train(finetune == "full")
        self.encoder.mask_token.requires_grad_(False)
        if finetune == "lora":
            add_lora(self.encoder, lora_rank, ALPHA)
        self.heads = nn.ModuleList(
            GLoRI(len(findings), self.encoder.dim, **sizes, dropout=dropout, sharpness=sharpness, prior=prior)
            for _ in rates
        )
        for one in self.heads if given is not None else ():
            one.load_state_dict(given.state_dict())  # type: ignore[union-attr]
        self.best: Tensor
        self.register_buffer("best", torch.tensor(0))
        self._cache: FeatureCache | None = None
        self.metrics = nn.ModuleList(FindingMetrics(len(findings)) for _ in rates)

    @property
    def head(self) -> GLoRI:
        """The head whose learning rate did best in the last validation."""
        head = self.heads[int(self.best)]
        assert isinstance(head, GLoRI)
        return head

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, C]` of images `[B, 1, S, S]` in [0, 1], always as in eval mode."""
        with self._evaluating():
            return self.head(self.encoder(image, self.hparams["blocks"]))

    def maps(self, image: Tensor, findings: Sequence[str] | None = None, per_head: bool = False) -> Tensor:
        """Where the head looks in images `[B, 1, S, S]`, always as in eval mode.

        Args:
            image: In [0, 1].
            findings: Those whose maps are wanted, the only ones computed; None is all.
            per_head: Whether the heads' own maps are wanted rather than their mean.

        Returns:
            Attention `[B, C, h, w]`, per head `[B, heads, C, h, w]`; each map sums to 1.
        """
        chosen = None if findings is None else [self._position(finding) for finding in findings]

        def plain(view: Tensor) -> Tensor:
            attention = self.head.attention(self.encoder(view, self.hparams["blocks"]), chosen)
            return patch_maps(attention, self.encoder.grid(*view.shape[-2:]), per_head)

        with self._evaluating():
            maps = averaged_maps(
                plain, image, self.encoder.patch_size, self.hparams["map_views"], self.hparams["map_smooth"]
            )
        return maps.unflatten(1, (self.hparams["num_heads"], -1)) if per_head else maps

    def _position(self, finding: str) -> int:
        if finding not in self.findings:
            raise UserError(f"finding {finding!r} is unknown to this task, which knows {', '.join(self.findings)}")
        return self.findings.index(finding)

    def on_fit_start(self) -> None:
        """Open the cache of features, if there is to be one and it fits."""
        if self.hparams["cache"] is None:
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and data.hparams.get("augment"):
            raise UserError("cache is given, but the data are augmented, so no image is seen twice; set augment to 0")
        source = [str(data.hparams.get(name)) for name in ("manifest", "square")] if data is not None else []
        sizes = (self.hparams["blocks"], self.hparams["image_size"])
        cache = FeatureCache(self.hparams["cache"], self.encoder, *sizes, source)
        images = sum(len(data.table(split)) for split in ("train", "val")) if data is not None else 0
        size = images * cache.bytes_per_image / 2**30
        rank_zero_info(f"features of {images} images: {size:.2f} GiB in {cache.folder}")
        if size <= self.hparams["cache_gib"]:
            self._cache = cache
        else:
            rank_zero_warn(f"that is above cache_gib={self.hparams['cache_gib']}; they are computed on the fly instead")

    def _features(self, batch: dict[str, Any]) -> Features:
        if self._cache is not None:
            return self._cache.features(batch["image"], batch["image_id"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.hparams["finetune"] != "none"):
            return self.encoder(batch["image"], self.hparams["blocks"])

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of a batch, the sum over the heads that are trained side by side."""
        seed_place(self.hparams["seed"], self.current_epoch, batch_index, self.global_rank)  # of dropout
        features = self._features(batch)
        losses = [self._loss(head(features), batch["target"]) for head in self.heads]
        self.log(
            "train/loss", losses[int(self.best)], on_step=False, on_epoch=True, prog_bar=True, batch_size=_size(batch)
        )
        return torch.stack(losses).sum()

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Add a batch to the validation loss and metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Add a batch to the test loss and metrics."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Choose the best head and log `val/auroc`, `val/auprc` and `val/auroc/<finding>`."""
        scores = torch.stack([metric.compute()["auroc"].nanmean() for metric in self.metrics])  # type: ignore[operator]
        self.best.fill_(int(scores.nan_to_num(-1).argmax()))
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log `test/auroc`, `test/auprc` and `test/auroc/<finding>`."""
        self._log_metrics("test")

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Any]:
        """Logits `[B, C]` of a batch; `MapWriter` asks for the maps that it writes."""
        return {"image_id": batch["image_id"], "logits": self(batch["image"])}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say where the encoder is, for `load_encoder`."""
        entry: dict[str, Any] = {"prefix": "encoder.", "config": dict(self.encoder.config)}
        if self.hparams["finetune"] == "lora":
            entry["lora"] = {"alpha": ALPHA, "rank": self.hparams["lora_rank"]}
        checkpoint[OWN_ENTRY] = entry

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine; no weight decay on vectors."""
        groups = []
        parts: list[tuple[nn.Module, float]] = list(zip(self.heads, self.hparams["learning_rates"], strict=True))
        parts.append((self.encoder, self.hparams["encoder_lr"]))
        for part, rate in parts:
            trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
            for matrices, decay in ((True, self.hparams["weight_decay"]), (False, 0.0)):
                chosen = [parameter for parameter in trained if (parameter.ndim > 1) is matrices]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        optimizer = torch.optim.AdamW(groups)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = int(self.hparams["warmup"] * total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, total, 1.0, 0.01, warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.hparams["loss"]](logits.float(), target)

    def _evaluate(self, split: str, batch: dict[str, Any]) -> None:
        features = self._features(batch)
        logits = [head(features) for head in self.heads]
        for metric, values in zip(self.metrics, logits, strict=True):
            metric.update(values, batch["target"])  # type: ignore[operator]
        loss = self._loss(logits[int(self.best)], batch["target"])
        self.log(f"{split}/loss", loss, prog_bar=True, batch_size=_size(batch), sync_dist=True)

    def _log_metrics(self, split: str) -> None:
        values = self.metrics[int(self.best)].compute()  # type: ignore[operator]
        for metric in self.metrics:
            metric.reset()  # type: ignore[operator]
        self.log(f"{split}/auroc", values["auroc"].nanmean(), prog_bar=True)
        self.log(f"{split}/auprc", values["auprc"].nanmean())
        self.log_dict(
            {f"{split}/auroc/{name}": value for name, value in zip(self.findings, values["auroc"], strict=True)}
        )


def _read_encoder(file: str, options: Mapping[str, Any] | None) -> ViT:
    if strange := sorted(set(options or {}) - set(ENCODER_OPTIONS)):
        raise UserError(f"encoder_options has {', '.join(strange)}; choose from {', '.join(ENCODER_OPTIONS)}")
    return load_encoder(file, **(options or {}))


def _read_head(file: str, name: str | None, findings: Sequence[str], num_heads: int, encoder_dim: int) -> GLoRI:
    """The head of these findings; where the file's outputs have no names, they are taken to be the findings."""
    head = load_glori(file, name=name, num_heads=num_heads)
    if head.classes is None:
        head = load_glori(file, name=name, num_heads=num_heads, findings=findings)
    if head.config["encoder_dim"] != encoder_dim:
        raise UserError(
            f"head {file} takes tokens of width {head.config['encoder_dim']}, the encoder's have {encoder_dim}; "
            "give the encoder that the head was trained on"
        )
    return head.pick(findings)


def _size(batch: dict[str, Any]) -> int:
    return len(batch["image"])
