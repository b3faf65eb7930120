"""Run the truth benchmark, in order, and write its page.

    python benchmarks/truth/run.py [--quick] [--jobs N]

Checkpoints are trained once, plants measured, diagnosed blind through the command line, and every stage is trained on them at equal cost. Each
unit of work has a file in build/truth: a stopped run goes on where it was. `--quick` is a smoke test of all parts in a few minutes. Exit code 1
where a part failed; what was found has no bearing on it.
"""

from __future__ import annotations

import argparse
import shutil
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

from truth import labels
from truth.families import FAMILIES
from truth.page import write_page
from truth.regret_plants import BUILD, Plant, Unit, open_checkpoint, unfinished
from truth.regret_results import FRESH, SEEDS, TUNING, all_plants, diagnose, diagnosis_runs, measure_truth, truth_path, units_of
from truth.regret_runs import baseline_path, run_baseline, run_unit

T = TypeVar("T")
PARTS = ("labels", "regret")


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


QUICK_STAGES = frozenset({"sft", "rft", "grpo"})
"""Beside doing nothing."""


def regret_units(plants: Sequence[Plant], seeds: Sequence[int]) -> list[Unit]:
    """Return the runs that are not finished: with --retain for all seeds of training; without for the first one, where checkpoints have such runs."""
    modes = [(True, seeds), (False, seeds[:1])]
    return unfinished(
        [
            unit
            for plant in plants
            for retained, some in modes
            if retained or plant.seed != TUNING[-1]
            for unit in units_of(plant, retained=retained, seeds=some)
        ]
    )


def run_regret(plants: Sequence[Plant], seeds: Sequence[int], jobs: int, *, quick: bool = False) -> int:
    """Measure what stages gain and cost; return how many units of work failed."""
    failed = work("checkpoints", make, sorted({(plant.family, plant.seed) for plant in plants}), jobs)
    failed += work("baselines", run_baseline, missing(plants, baseline_path), jobs)
    failed += work("truths", measure_truth, missing(plants, truth_path), jobs)
    for some in (seeds[:1], seeds):
        units = regret_units(plants, some)
        if quick:
            units = [unit for unit in units if unit.retained and unit.stage in QUICK_STAGES]
        failed += work("runs", run_unit, units, jobs)
        # What was run until here does not hang on what is named; what is named is run with all seeds.
        failed += work("diagnoses", diagnose, [run for run in diagnosis_runs(plants) if not run.is_finished], jobs)
    return failed


def run_labels(design: labels.Design, jobs: int) -> None:
    """Compare verdicts with the truth."""
    verdicts = labels.run(design, jobs, lambda line: print(f"labels: {line}", file=sys.stderr, flush=True))
    (design.folder / "labels.md").write_text(labels.labels_markdown(verdicts))


def main() -> None:
    """Do what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one family, three plants, four stages, one seed; writes no page")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes of one core each (default: 2)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="seeds of training (default: 3)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), help="those whose stages are run (default: all)")
    parser.add_argument(
        "--rediagnose", action="store_true", help="diagnose the plants of the regret again; trained stages are kept"
    )
    parser.add_argument("--part", choices=PARTS, help="labels: are verdicts right; regret: what stages are worth (default: both)")
    options = parser.parse_args()
    parts, failed = [options.part] if options.part else PARTS, 0
    if options.rediagnose:
        shutil.rmtree(BUILD / "diagnoses", ignore_errors=True)
    design = labels.quick_design() if options.quick else labels.Design()
    if "labels" in parts:
        run_labels(design, options.jobs)
    if "regret" in parts and options.quick:
        failed = run_regret(quick_plants(), SEEDS[:1], options.jobs, quick=True)
    elif "regret" in parts:
        # What stages bring is measured with one seed of training on the checkpoints that advice may know, and all seeds on fresh ones.
        for checkpoints, seeds in ((TUNING, SEEDS[:1]), (FRESH, SEEDS[: options.seeds])):
            plants = [plant for plant in all_plants(checkpoints) if plant.family in (options.families or FAMILIES)]
            failed += run_regret(plants, seeds, options.jobs)
    if not options.quick:
        print(write_page())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
