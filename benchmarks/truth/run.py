"""Run the truth benchmark, in order, and write its page.

    python benchmarks/truth/run.py [--quick] [--jobs N]

Checkpoints are trained once, plants measured, diagnosed blind through the command line, and every stage is trained on them at equal cost. Each
unit of work has a file in build/truth: a stopped run goes on where it was. `--quick` is a smoke test of all parts in a few minutes. Exit code 1
where a part failed; what was found has no bearing on it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from truth.families import FAMILIES
from truth.regret_plants import Plant, Unit, open_checkpoint
from truth.regret_results import SEEDS, all_plants, diagnose, diagnosis_path, units_of
from truth.regret_runs import baseline_path, run_baseline, run_unit, unfinished

T = TypeVar("T")


def start_worker() -> None:
    """Use one core, as every other worker does."""
    torch.set_num_threads(1)


def make(checkpoint: tuple[str, int]) -> None:
    """Train a checkpoint where it is not there yet."""
    open_checkpoint(*checkpoint)


def work(what: str, do: Callable[[T], object], items: Sequence[T], jobs: int) -> int:
    """Do independent units of work in several processes, with a line of progress each; return how many failed."""
    if not items:
        return 0
    begun, failed = time.monotonic(), 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=start_worker) as pool:
        futures = {pool.submit(do, item): item for item in items}
        for number, future in enumerate(as_completed(futures), 1):
            if error := future.exception():
                failed += 1
                print(f"{what}: {futures[future]} failed", file=sys.stderr)
                traceback.print_exception(error)
            passed = time.monotonic() - begun
            left = passed / number * (len(items) - number)
            print(f"{what}: {number} of {len(items)}, {passed:.0f} s, {left / 60:.1f} min left", file=sys.stderr, flush=True)
    return failed


def missing(items: Iterable[Plant], path: Callable[[Plant], Path]) -> list[Plant]:
    """Return one plant of each file that is not there yet."""
    return list({path(item): item for item in items if not path(item).exists()}.values())


def quick_plants() -> list[Plant]:
    """Return three plants of one family."""
    family = next(iter(FAMILIES))
    return [Plant(family, 0, "missing_support", 160), Plant(family, 0, "poor_choice", 0), Plant(family, 0, "mastered", 16)]


QUICK_STAGES = ("sft", "rft", "grpo")


def regret_units(plants: Sequence[Plant], seeds: Sequence[int], *, retained: bool) -> list[Unit]:
    """Return the runs that are not finished, all plants with the first seed before any with the second."""
    return unfinished([unit for plant in plants for unit in units_of(plant, retained=retained, seeds=seeds)])


def main() -> None:
    """Do what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one family, three plants, four stages, one seed; writes no page")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes of one core each (default: 2)")
    parser.add_argument(
        "--retain", action="store_true", help="train each stage with rows of the retention behavior mixed in, too"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="seeds of training (default: 3)")
    options = parser.parse_args()
    plants, seeds = (quick_plants(), SEEDS[:1]) if options.quick else (all_plants(), SEEDS[: options.seeds])
    jobs = options.jobs
    checkpoints = sorted({(plant.family, plant.seed) for plant in plants})
    failed = work("checkpoints", make, checkpoints, jobs)
    failed += work("baselines", run_baseline, missing(plants, baseline_path), jobs)
    failed += work("diagnoses", diagnose, missing(plants, diagnosis_path), jobs)
    for retained in (False, True) if options.retain else (False,):
        units = regret_units(plants, seeds, retained=retained)
        if options.quick:
            units = [unit for unit in units if unit.stage in QUICK_STAGES]
        failed += work("runs with --retain" if retained else "runs", run_unit, units, jobs)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
