"""Help pages, lists and wrong input are answered before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli.entry_point import VERBS

HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "ray",
    "scipy.stats",
    "scipy.optimize",
    "matplotlib",
    "pandas",
    "pyarrow",
    "reasoning_gym",
)
"""Each of these takes a tenth of a second or more to import; all together took up to five seconds."""

RUN = f"""
import sys
from posttrain.cli import main
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
else:
    code = 0
print("code", code, "heavy", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def run(*arguments: str) -> str:
    """Run a command in a process of its own; return the last line of stderr: its exit code and the heavy modules it imported."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb: str) -> None:
    assert run(verb, "--help") == "code 0 heavy []"


@pytest.mark.parametrize("verb", ["stages", "behaviors", "probes", "figures"])
def test_lists_import_nothing_heavy(verb: str) -> None:
    assert run(verb) == "code 0 heavy []"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["dignose"], ["diagnose", "demo", "sums"]])
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert run(*arguments) in ("code 0 heavy []", "code 2 heavy []")


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnose", "no/such/model", "sums", "--out", "run"],
        ["diagnose", "no/such/model", "sums", "--out", "run", "--engine", "vlm"],
        ["diagnose", "demo", "sums", "--out", "run", "--teacher", "no/such/model"],
        ["train", "grpo", "no/such/model", "sums", "--out", "run"],
        ["loop", "no/such/model", "sums", "--out", "run"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_a_wrong_model_imports_nothing_heavy(arguments: list[str]) -> None:
    assert run(*arguments) == "code 2 heavy []"
