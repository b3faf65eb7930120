"""Measure how long an import of 10^5 rows takes, and how much memory: `python -m benchmarks.import_speed`.

Two tables of 10^5 rows with texts of 1.5 kB: 1000 problems with 100 samples, and 10^5 problems with one. Each import runs in a process of its own.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {"1000 problems x 100 samples": (1000, 100), "100000 problems x 1 sample": (100_000, 1)}
_TEXT = 1500
_IMPORT = "import sys; from posttrain.diagnose import import_samples; import_samples('table', sys.argv[1], out=sys.argv[2])"


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


def main() -> None:
    """Print seconds and memory of each import."""
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "table.jsonl"
            write_table(table, *shape)
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", _IMPORT, str(table), str(Path(folder) / "run")], check=True)
            seconds, most = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            print(
                f"{name}: {seconds:.1f} s, {most.ru_utime:.1f} s of CPU so far, at most {most.ru_maxrss / 1024:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
