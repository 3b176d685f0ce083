"""A whole study on a phantom archive that is short of disease: pipeline, arms, page.

    python benchmarks/study_phantom.py OUT            # lightning_configs/rare.yaml and study_quick.yaml, about an hour
    python benchmarks/study_phantom.py OUT --tiny     # trainings of seconds, for a machine that has little time

Prints the page's headline and tables as Markdown. Stopped, it goes on where it was.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import yaml

from cxrsynth.pipeline import run
from cxrsynth.study.study import study

CONFIGS = Path(__file__).resolve().parents[1] / "lightning_configs"
FEW = {"val_check_interval": 20, "check_val_every_n_epoch": None}


def tiny(pipeline: dict[str, Any], settings: dict[str, Any]) -> None:
    """Shrink both configurations to a few minutes of one core."""
    pipeline["findings"] = ["Effusion", "Cardiomegaly", "Pneumothorax"]
    pipeline["phantom"] |= {"count": 600, "size": 64, "healthy": 0.5, "severity": [0.6, 1.0]}
    pipeline["fractions"] = [0.4, 0.1, 0.5]
    pipeline["encoder"]["model"] |= {"image_size": 64, "local_size": 32, "prototypes": 16}
    pipeline["attention"]["model"] |= {"image_size": 64}
    pipeline["inpainting"]["model"] |= {"size": 32, "channels": [32, 48, 64]}
    for section in ("encoder", "attention", "inpainting", "classification"):
        pipeline[section]["data"] |= {"size": 64, "batch_size": 16}
    pipeline["encoder"]["trainer"] = {"max_steps": 10}
    pipeline["attention"]["trainer"] = {"max_steps": 100, **FEW}
    pipeline["inpainting"]["trainer"] = {"max_steps": 200, "limit_val_batches": 1, **FEW, "val_check_interval": 100}
    pipeline["classification"]["trainer"] = {"max_steps": 40, **FEW}
    pipeline["plan"] = {"count": 60, "group_size": 6}
    pipeline["synthesis"]["model"] |= {"steps": 4, "min_ncc": -1.0}
    settings |= {"arms": ["real", "duplicates", "synthetic", "oracle"], "draws": 500}
    settings["classification"]["trainer"] = {"max_steps": 60, **FEW}
    settings["classification"]["data"] |= {"size": 64, "batch_size": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    pipeline, settings = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("rare", "study_quick"))
    if options.tiny:
        tiny(pipeline, settings)
    folder = str(options.out / "run")
    start = time.monotonic()
    run(**{**pipeline, "run": folder, "threads": 1})
    made = time.monotonic()
    page = study(**{**settings, "run": folder, "pipeline": None, "out": str(options.out / "study"), "threads": 1})
    print(f"pipeline {made - start:.0f} s, study {time.monotonic() - made:.0f} s in this call\n")
    print(page.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
