"""A Lightning project of its own that borrows from cxrsynth: the encoder with its disease queries, and warp.

    python examples/foreign_project.py --config examples/foreign_project.yaml --trainer.max_steps 5

Encoder and head come by class_path: the YAML builds them, or reads the authors' files. Nothing of cxrsynth's
datamodule, tasks or command line is needed; images are `[B, 1, H, W]` in [0, 1].
"""

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cxrsynth.attention import GLoRI
from cxrsynth.encoder import ViT
from cxrsynth.ops import warp


class BrightSpots(L.LightningDataModule):
    """Random squares, half of them with a bright spot somewhere: stands for your own data.

    Args:
        count: Number of images.
        size: Their side, pixels.
    """

    def __init__(self, count: int = 64, size: int = 64) -> None:
        super().__init__()
        self.count, self.size = count, size

    def train_dataloader(self) -> DataLoader:
        """Batches of `(image [B, 1, S, S], target [B, 1])`."""
        image = torch.rand(self.count, 1, self.size, self.size) * 0.3
        target = (torch.arange(self.count) % 2).float()[:, None]
        corner = torch.randint(0, self.size - 8, (self.count, 2))
        for index in target[:, 0].nonzero().flatten():
            y, x = corner[index]
            image[index, 0, y : y + 8, x : x + 8] = 1.0
        return DataLoader(TensorDataset(image, target), batch_size=8)


class SpotFinder(L.LightningModule):
    """Your own task: an encoder, disease queries on top of it, and elastic augmentation with `warp`.

    Args:
        encoder: Its `forward(image, n)` gives the last n blocks.
        head: Its logits are trained.
        lr: Learning rate.
    """

    def __init__(self, encoder: ViT, head: GLoRI, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["encoder", "head"])
        self.encoder, self.head = encoder, head

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, 1]`."""
        return self.head(self.encoder(image, self.head.blocks))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Binary cross-entropy on gently deformed images."""
        image, target = batch
        displacement = nn.functional.interpolate(
            2 * torch.randn(len(image), 2, 4, 4, device=image.device), image.shape[-2:], mode="bicubic"
        )
        loss = nn.functional.binary_cross_entropy_with_logits(self(warp(image, displacement)), target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"])


def build(arguments: list[str] | None = None) -> LightningCLI:
    """Trainer, task and data as the command line says; `arguments` stand for it."""
    return LightningCLI(SpotFinder, BrightSpots, run=False, args=arguments, save_config_callback=None)


def main(arguments: list[str] | None = None) -> LightningCLI:
    """Train."""
    cli = build(arguments)
    cli.trainer.fit(cli.model, cli.datamodule)
    return cli


if __name__ == "__main__":
    main()
