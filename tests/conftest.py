from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and golden values that stands beside the checkout on some machines."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "cxr" / "metadata.csv").exists():
        pytest.skip("needs the real images in ../shared, which are not part of the project")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
