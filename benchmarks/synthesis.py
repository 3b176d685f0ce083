"""Accepted images from a trained run: how long they take, and whether the asked finding rises, selected or not.

python benchmarks/synthesis.py runs/demo runs/more --accepted 638 >> benchmarks/results/synthesis.txt

The judge is the run's own classifier of real images, which neither chose an image nor saw one; on the phantom the
oracle as well. Intervals are over source patients. Started again, it goes on.
"""

import argparse
import resource
import time
from pathlib import Path

import pandas as pd

from cxrsynth.evaluation.effects import effects_table
from cxrsynth.evaluation.judges import score_effects
from cxrsynth.files import write_text
from cxrsynth.report.acceptance import acceptance, risen
from cxrsynth.report.collect import RunFolder
from cxrsynth.synthesis.scorer import check_independent
from cxrsynth.synthesize import open_trained, synthesize

JUDGED = "study/effects.csv"


def rise(row: pd.Series) -> str:
    interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{interval:<26} {row['risen']:7.1%}  {row['images']:5d} images of {row['patients']} patients"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder whose networks are trained")
    parser.add_argument("out", type=Path)
    parser.add_argument("--accepted", type=int, default=638, help="the paper's number of images")
    parser.add_argument("--max_per_source", type=int, help="images painted into one healthy image; default: the run's")
    options = parser.parse_args()
    begin, processor = time.monotonic(), time.process_time()
    limit = options.max_per_source
    synthesize(options.run, str(options.out), accepted=options.accepted, max_per_source=limit)
    seconds, processor = time.monotonic() - begin, time.process_time() - processor
    run = open_trained(options.run)
    judge = run.checkpoint("classification")
    check_independent(run.checkpoint("scorer"), judge)
    size = run.config["classification"]["data"]["size"]
    table = score_effects(options.out, run.manifest(), judge, size)
    write_text(options.out / JUDGED, table.to_csv(index=False, lineterminator="\n"))
    done = RunFolder(options.out)

    print(f"\n$ python benchmarks/synthesis.py {options.run} {options.out} --accepted {options.accepted}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threads = run.config["threads"]
    print(
        f"{seconds / 60:.1f} minutes, {processor / 60:.1f} of processors, {threads} threads, at most {memory:.0f} MiB"
    )
    print(f"\n{'finding':<16} {'planned':>8} {'painted':>8} {'accepted':>9} {'rate':>6}  refused because")
    for row in acceptance(done):
        reasons = "; ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
        numbers = f"{row['planned']:8d} {row['painted']:8d} {row['accepted']:9d} {row['rate']:6.1%}"
        print(f"{row['finding']:<16} {numbers}  {reasons}")
    print("\nrise of the asked finding's probability [95 % interval], share of images in which it rose")
    for row in risen(done):
        print(f"{row['scorer']:<11} {row['chosen']:<16} {rise(pd.Series(row))}")
    assert done.effects is not None
    own = done.effects[done.effects["scored"] == done.effects["finding"]]
    for _, line in effects_table(own).iterrows():
        print(f"{line['scorer']:<11} {line['finding']:<16} {rise(line)}")


if __name__ == "__main__":
    main()
