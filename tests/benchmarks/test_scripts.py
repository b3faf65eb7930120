"""Every benchmark can be started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv.pop(1))
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("vllm", "trl", "datasets"):
            raise
"""


def test_what_benchmarks_import_is_there() -> None:
    """The names that a benchmark takes from others and from the library exist; peers that are not installed may lack."""
    names = [".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in sorted(FOLDER.rglob("*.py"))]
    found = subprocess.run([sys.executable, "-c", IMPORT_ALL, str(FOLDER), *names], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
