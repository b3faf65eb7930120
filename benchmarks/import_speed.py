"""Processor time and memory of an import of 10^5 rows, and of what is asked of the run then.

    python benchmarks/import_speed.py [--shared]

Two tables of 10^5 rows with texts of 1.5 kB: 1000 problems with 100 samples, and 10^5 problems with one. Each command runs in a process of its own, its start
included. Writes reports/benchmarks/import_speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "import_speed.md"
SHAPES = {"1,000 problems, 100 samples each": (1000, 100), "100,000 problems, 1 sample each": (100_000, 1)}
_TEXT = 1500
_POSTTRAIN = [sys.executable, "-m", "posttrain"]
_UNDECIDED = 3
"""Exit code of `gate`."""


def write_table(path: Path, num_problems: int, num_samples: int) -> None:
    """Write a table of samples."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("abcdefgh ,.") for _ in range(_TEXT)) for _ in range(50)]
    with path.open("w", encoding="utf-8") as file:
        for i in range(num_problems):
            rate = rng.choice((0.0, 0.1, 0.3, 0.9, 1.0))
            for _ in range(num_samples):
                row = {"qid": i, "question": f"What is {i} plus {i}?", "answer": str(2 * i), "is_right": rng.random() < rate}
                file.write(json.dumps({**row, "output": rng.choice(texts) + str(rng.random())}) + "\n")


def measure(*arguments: str) -> tuple[float, float]:
    """Run a command of ours.

    Returns:
        Processor seconds and peak memory in MB.

    Raises:
        RuntimeError: It fails.
    """
    process = subprocess.Popen([*_POSTTRAIN, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in (0, _UNDECIDED):
        raise RuntimeError(f"posttrain {' '.join(arguments)}: exit code {code}")
    process.returncode = code
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure each command, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", action="store_true", help="say on the page that other programs ran on the machine meanwhile")
    shared = parser.parse_args().shared
    rows = []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            table, run = Path(folder) / "table.jsonl", str(Path(folder) / "run")
            write_table(table, *shape)
            for verb, arguments in {
                "import": ("import", "table", str(table), "--out", run, "--quiet"),
                "gate": ("gate", run, "pass@1>=0.3"),
            }.items():
                seconds, megabytes = measure(*arguments)
                rows.append(f"| {name} | {verb} | {seconds:.1f} s | {megabytes:.0f} MB |")
                print(rows[-1], flush=True)
    conditions = "Other programs ran on the same processors meanwhile, which makes processor time longer." if shared else ""
    page = [
        "# Importing 100,000 rows\n",
        "    python benchmarks/import_speed.py" + (" --shared" if shared else "") + "\n",
        f"Python {platform.python_version()}, {os.cpu_count()} processors; one process for each command, its start and its figures included. {conditions}\n".replace(
            " \n", "\n"
        ),
        "| rows | command | processor time | peak memory |",
        "| --- | --- | ---: | ---: |",
        *rows,
    ]
    REPORT.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
