"""Mutated inputs of every kind: each must be read as valid or be refused by a `UserError`, quickly and in its folder.

python benchmarks/fuzz.py --cases 10000 > benchmarks/results/fuzz.txt

Valid files are broken by seeded mutations: bits, bytes, lengths, pieces of other files, fields of tables and DICOM
elements. A case fails when it crashes the process, takes over ten seconds of processor time or 4 GiB, raises other than
a `UserError`, or is accepted with values that its reader promises not to give. `--kind image --case 17` runs one again.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuzz_inputs import READERS, SHARES, write_originals
from fuzz_mutations import MUTATIONS

from cxrsynth.errors import UserError

SECONDS, MEMORY, BATCH = 10, 4 * 2**30, 100


class TooLongError(Exception):
    """A case ran longer than `SECONDS`."""


def one_case(originals: dict[str, list[Path]], folder: Path, kind: str, case: int, seed: int) -> tuple[str, str]:
    """Mutate and read once; the outcome ("accepted", "refused" or "failed") and what went wrong."""
    draw = random.Random(f"{seed}:{kind}:{case}")
    original = draw.choice(originals[kind])
    mutate: Callable[[bytes, random.Random, list[bytes]], bytes] = draw.choice(MUTATIONS[kind])
    others = [path.read_bytes() for path in originals[kind]]
    path = folder / f"case{original.suffix}"
    path.write_bytes(mutate(original.read_bytes(), draw, others))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        READERS[kind](path, original)
        return "accepted", ""
    except UserError as error:
        return ("refused", "") if 0 < len(str(error)) < 20_000 else ("failed", "a refusal without a sentence")
    except BaseException as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "cxrsynth" in f.filename or "fuzz" in f.filename
        ]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        text = (str(error).splitlines() or [""])[0][:100]
        return "failed", f"{type(error).__name__} at {where}: {text}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def batch(originals: dict[str, list[Path]], kind: str, cases: range, seed: int) -> list[tuple[int, str, str]]:
    """Run cases in a process of their own; one that dies is run again case by case."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, lambda *_: (_ for _ in ()).throw(TooLongError(f"{SECONDS} s")))
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        with tempfile.TemporaryDirectory() as folder, os.fdopen(writer, "w") as pipe:
            for case in cases:
                json.dump((case, *one_case(originals, Path(folder), kind, case, seed)), pipe)
                pipe.write("\n")
                pipe.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        done = [tuple(json.loads(line)) for line in pipe if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return done
    if len(cases) == 1:
        return [(cases[0], "failed", f"the process died (status {os.waitstatus_to_exitcode(status)})")]
    rest = range(cases[len(done)], cases[-1] + 1)
    died = batch(originals, kind, range(rest[0], rest[0] + 1), seed)
    return done + died + (batch(originals, kind, range(rest[0] + 1, rest[-1] + 1), seed) if len(rest) > 1 else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(READERS))
    parser.add_argument("--case", type=int, help="run this case alone, with its traceback")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        originals = write_originals(Path(folder))
        if options.case is not None:
            signal.signal(signal.SIGPROF, lambda *_: traceback.print_stack())
            print(one_case(originals, Path(folder), options.kind, options.case, options.seed))
            return
        failures: Counter[str] = Counter()
        print(f"{'kind':<14}{'cases':>8}{'accepted':>10}{'refused':>9}{'failed':>8}")
        total = Counter[str]()
        for kind in [options.kind] if options.kind else READERS:
            cases = round(options.cases * (1 if options.kind else SHARES[kind]))
            outcomes: Counter[str] = Counter()
            for start in range(0, cases, BATCH):
                for case, outcome, fault in batch(
                    originals, kind, range(start, min(start + BATCH, cases)), options.seed
                ):
                    outcomes[outcome] += 1
                    if fault:
                        failures[f"{kind}: {fault} (case {case})"] += 1
            counts = [outcomes[name] for name in ("accepted", "refused", "failed")]
            print(f"{kind:<14}{cases:>8}{counts[0]:>10}{counts[1]:>9}{counts[2]:>8}", flush=True)
            total.update(outcomes)
        counts = [total[name] for name in ("accepted", "refused", "failed")]
        print(f"{'all':<14}{sum(counts):>8}{counts[0]:>10}{counts[1]:>9}{counts[2]:>8}")
        for fault, _ in failures.most_common(60):
            print(f"  {fault}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
