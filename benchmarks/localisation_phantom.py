"""Do the demo's attention maps find lesions better than maps that have not seen the image?

python benchmarks/localisation_phantom.py runs/localisation_phantom > benchmarks/results/localisation_phantom.txt

Encoder and GLoRI are trained as lightning_configs/quickstart.yaml says, by the stages of `cxrsynth run`; what is asked
about are the films of another phantom archive, of other patients, made with another seed. Beside the maps stand the
middle of the image and the finding's average training map; regions of all three have the same area. Started again, it
goes on where it stopped.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from cxrsynth.attention.localisation import METHODS, localise
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data import CXRDataModule
from cxrsynth.data.phantom import write_phantom
from cxrsynth.evaluation.bootstrap import Interval
from cxrsynth.evaluation.localisation import MEASURES, localisation_table
from cxrsynth.run_folder import Run
from cxrsynth.stages import STAGES

CONFIG = Path(__file__).resolve().parents[1] / "lightning_configs" / "quickstart.yaml"
UP_TO = "localisation"


def train(folder: Path, config: dict[str, Any]) -> tuple[Run, float]:
    """The run folder after the stages up to the maps, and the CPU minutes that those of training took just now."""
    run, minutes = Run(folder, config), 0.0
    for stage in STAGES[: 1 + [stage.name for stage in STAGES].index(UP_TO)]:
        if not all(path.is_file() for path in stage.outputs(run)) or not stage.outputs(run):
            start = time.process_time()
            stage.run(run, "benchmark")
            minutes += (time.process_time() - start) / 60 * (stage.name in ("encoder", "attention"))
    return run, minutes


def shown(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=600, help="films that are asked about")
    parser.add_argument("--seed", type=int, help="seed of their archive; one more than that of the config's")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the config, such as attention.model.dim=32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(CONFIG.read_text()) | {"manifest": str(options.folder / "phantom" / "metadata.csv")}
    config = dict.fromkeys(("views", "sites", "fractions", "limit")) | config
    for change in options.set:
        path, value = change.split("=", 1)
        *parents, last = path.split(".")
        part = config
        for parent in parents:
            part = part[parent]
        part[last] = yaml.safe_load(value)
    run, minutes = train(options.folder, config)
    task = GLoRITask.load_from_checkpoint(run.checkpoint("attention"), map_location="cpu", weights_only=True).eval()

    seed = config["phantom"]["seed"] + 1 if options.seed is None else options.seed
    if seed == config["phantom"]["seed"]:
        parser.error(f"--seed {seed} is that of the training patients; give another")
    fresh = {**config["phantom"], "count": options.films, "seed": seed}
    asked = write_phantom(options.folder / f"asked_{seed}", **fresh)
    data = CXRDataModule(str(asked), size=config["attention"]["data"]["size"], findings=run.findings, batch_size=32)
    rows = localise(task, data, run.maps_file, split="all")
    patients = dict(zip(data.split_table["image_id"], data.split_table["patient_id"], strict=True))
    table = localisation_table(rows, patients)

    print(
        f"quickstart.yaml: {config['phantom']['count']} phantom films of seed {config['phantom']['seed']}, "
        f"{sum(p.numel() for p in task.parameters())} parameters, {minutes:.1f} CPU minutes of training on one core; "
        f"asked about {options.films} films of seed {seed} [95 % interval over patients]"
    )
    print(f"{'finding':14s} {'lesions':>7s} {'map':12s} " + " ".join(f"{measure:20s}" for measure in MEASURES))
    for row in table:
        for method in METHODS:
            cells = " ".join(f"{shown(row[measure][method]):20s}" for measure in MEASURES)
            print(f"{row['finding']:14s} {row['lesions']:7d} {method:12s} {cells}")
    print(f"a random point would lie in the lesion with a probability of {table[-1]['chance']:.3f}")
    for method in METHODS[1:]:
        apart = {m: table[-1][m]["attention"].low > table[-1][m][method].high for m in MEASURES}
        gains = ", ".join(f"{m} {shown(table[-1][m][f'gain over {method}'])}" for m in MEASURES[:2])
        print(
            f"paired gain over {method}: {gains}; "
            f"intervals apart: {', '.join(m for m in MEASURES if apart[m]) or 'none'}"
        )


if __name__ == "__main__":
    main()
