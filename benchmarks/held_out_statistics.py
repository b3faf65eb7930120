"""Coverage, false gates, calibration of labels and of roles, and nulls, on difficulty distributions that nothing was tuned on.

    python benchmarks/held_out_statistics.py                 # all cells, about 25 minutes on one core
    python benchmarks/held_out_statistics.py --quick         # a small part, in under a minute
    python benchmarks/held_out_statistics.py --show 'run|beta|60|16' --seed 3

A cell is a family of `held_out_rates.py` with a number of problems and of samples. Every cell is run as often as `RUNS` says, to screen it; a cell
in which something looks worse than it should is run again `--confirm` times with fresh seeds, and only these runs count for it then. So what
made a cell conspicuous does not count against it, and no cell is judged by chance. Results are cached by the content of the library's
statistics: a stopped run resumes, and changed code starts afresh. Writes reports/benchmarks/statistics.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import held_out_changes as changes
import held_out_measures as measures
from held_out_library import BORDERLINE, Record
from held_out_page import page, suspicious
from held_out_rates import CHANGES, FAMILIES

import posttrain.diagnose

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
PROBLEMS, SAMPLES = (8, 20, 60, 300), (4, 16, 64)
RUNS: dict[str, tuple[Callable[[str, int, int, int], Record], int]] = {
    "means": (measures.means_run, 250),
    "run": (measures.one_run, 24),
    "adaptive": (measures.adaptive_run, 24),
    "clusters": (measures.clustered_run, 80),
    "missing": (measures.missing_run, 24),
    "settles": (measures.settles_run, 24),
    "deltas": (changes.deltas_run, 250),
    "change": (changes.change_run, 12),
    "null": (changes.null_run, 100),
    "adaptive change": (changes.adaptive_change_run, 20),
    "missing change": (changes.missing_change_run, 100),
}
"""By part: what makes one run of a cell from family, problems, samples and seed; and how many runs screen a cell."""
NUM_BORDERLINE = 120
FRESH = 10**6
"""First seed of the runs that confirm."""
BLOCK = 10
SKIPPED_SEEDS = 5
"""Most seeds of misses that are kept, by quantity and cell."""


def cells(quick: bool) -> Iterator[tuple[str, str, int, int]]:
    """Yield part, family, problems and samples of every cell; samples are 0 where rounds choose them."""
    problems, samples = ((20,), (16,)) if quick else (PROBLEMS, SAMPLES)
    for family in FAMILIES:
        yield from ((part, family, p, n) for part in ("means", "run") for p in problems for n in samples)
        yield from (("adaptive", family, p, 0) for p in ((20,) if quick else (8, 60)))
        yield "missing", family, 60, 16
        yield "settles", family, 60, 16
    yield from (("adaptive", BORDERLINE, p, 0) for p in ((20,) if quick else (8, 20, 60)))
    for groups in (5, 15):
        yield from (("clusters", f"{groups} groups", p, n) for p in problems if p > 8 for n in samples)
    for change in CHANGES:
        yield from (("deltas", change, p, n) for p in problems for n in samples)
        yield from (("null" if change == "unchanged" else "change", change, p, n) for p in problems for n in samples)
        yield from (("adaptive change", change, p, 0) for p in ((20,) if quick else (8, 60)))
        yield "missing change", change, 60, 16


def wanted_runs(part: str, family: str, quick: bool, scale: float) -> int:
    """Return how often a cell is run to screen it."""
    if quick:
        return 3
    return max(4, round((NUM_BORDERLINE if family == BORDERLINE else RUNS[part][1]) * scale))


def fingerprint() -> str:
    """Return a hash of the code whose results are cached."""
    diagnose = Path(posttrain.diagnose.__file__).resolve().parent
    folders = [
        diagnose.parent / "analysis" / "stats",
        *(diagnose / name for name in ("measure", "sampling", "gates", "comparison", "decide")),
    ]
    mine = [Path(__file__).parent / f"held_out_{name}.py" for name in ("rates", "library", "measures", "changes")]
    files = [*sorted(file for folder in folders for file in folder.glob("*.py")), diagnose / "thresholds.py", *mine]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def add_to(total: dict[str, Any], record: Record, seed: int) -> None:
    """Add one run to the sums of a cell."""
    total["runs"] = total.get("runs", 0) + 1
    for kind, values in (("intervals", record.intervals), ("gates", record.gates), ("rates", record.rates)):
        sums = total.setdefault(kind, {})
        for name, row in values.items():
            numbers = [float(value) for value in row]
            sums[name] = numbers if name not in sums else [a + b for a, b in zip(sums[name], numbers, strict=True)]
    for name, row in record.intervals.items():
        missed = total.setdefault("missed", {}).setdefault(name, [])
        if row[0] == 1 and not row[2] + row[3] and len(missed) < SKIPPED_SEEDS:
            missed.append(seed)
    total.setdefault("labels", []).extend([label, confidence, bool(right), seed] for label, confidence, right in record.labels)
    if record.gates:
        wrong = max(sum(values) for values in record.gates.values())
        total["a gate is false"] = total.get("a gate is false", 0) + int(wrong > 0)


class Results:
    """Sums of every cell, kept in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.cells: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self.saved = time.monotonic()

    def run(self, cell: tuple[str, str, int, int], number: int, *, fresh: bool = False) -> dict[str, Any]:
        """Run a cell until it has a number of runs; return its sums."""
        part, family, problems, samples = cell
        key = "|".join(map(str, cell)) + ("|fresh" if fresh else "")
        total = self.cells.setdefault(key, {"runs": 0, "seconds": 0.0})
        while total["runs"] < number:
            start = time.process_time()
            for _ in range(min(BLOCK, number - total["runs"])):
                seed = total["runs"] + (FRESH if fresh else 0)
                add_to(total, RUNS[part][0](family, problems, samples, seed), seed)
            total["seconds"] += time.process_time() - start
            if time.monotonic() - self.saved > 20:
                self.save()
        return total

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.cells, default=float))
        temporary.replace(self.path)
        self.saved = time.monotonic()


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="20 problems and 16 samples only, three runs of a cell, printed and not written"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the runs of every cell")
    parser.add_argument("--confirm", type=int, default=200, help="fresh runs of a cell that looks worse than it should")
    parser.add_argument("--parts", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/statistics.md"))
    parser.add_argument("--cache", type=Path, default=None, help="file of the results")
    parser.add_argument("--show", help="run this cell once, with --seed, and print what it found")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Run the cells that are not cached and write the page."""
    options = parse_options()
    if options.show:
        part, family, problems, samples = options.show.split("|")[:4]
        record = RUNS[part][0](family, int(problems), int(samples), options.seed)
        for kind, values in vars(record).items():
            print(f"{kind}:", values)
        return
    results = Results(options.cache or CACHE / f"held_out_statistics-{fingerprint()}.json")
    chosen = [cell for cell in cells(options.quick) if cell[0] in options.parts]
    start = time.monotonic()
    for i, cell in enumerate(chosen):
        results.run(cell, wanted_runs(cell[0], cell[1], options.quick, options.scale))
        if i % 10 == 9:
            print(f"{i + 1} of {len(chosen)} cells, {time.monotonic() - start:.0f} s", flush=True)
    doubtful = [cell for cell in chosen if suspicious(results.cells["|".join(map(str, cell))])] if not options.quick else []
    for i, cell in enumerate(doubtful if options.confirm else []):
        results.run(cell, options.confirm, fresh=True)
        print(f"{i + 1} of {len(doubtful)} cells confirmed, {time.monotonic() - start:.0f} s", flush=True)
    results.save()
    judged = {}
    for cell in chosen:
        key = "|".join(map(str, cell))
        judged[key] = results.cells.get(f"{key}|fresh" if options.confirm and cell in doubtful else key, results.cells[key])
    command = "python benchmarks/held_out_statistics.py" + (f" --scale {options.scale:g}" if options.scale != 1.0 else "")
    text = page(judged, command, len(doubtful) if options.confirm else 0)
    if options.quick:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
        print(f"{options.out}: {sum(cell['runs'] for cell in judged.values()):,} runs")


if __name__ == "__main__":
    main()
