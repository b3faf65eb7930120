"""The GitHub Action for gates, its script run as a job would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.gated_runs import write_gated_run

ACTION = Path(__file__).resolve().parents[2] / ".github" / "actions" / "gate" / "action.yml"
MET, NOT_MET, UNDECIDED = "pass@1>=0.2", "pass@1>=0.9", "pass@1>=0.5"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    content: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    assert content["runs"]["using"] == "composite"
    found: list[dict[str, Any]] = content["runs"]["steps"]
    return found


def test_no_input_is_pasted_into_a_script(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        assert "${{" not in step["run"]
        assert all(re.fullmatch(r"\$\{\{ inputs\.\w+ \}\}", value) for value in step["env"].values())


def execute(
    steps: list[dict[str, Any]], folder: Path, runs: str, conditions: str, undecided: str = "fail"
) -> tuple[int, str, str]:
    """Return exit code, job summary and outputs of the last step."""
    command = folder / "bin" / "posttrain"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m posttrain "$@"\n')
    command.chmod(0o755)
    summary, output = folder / "summary.md", folder / "output.txt"
    for path in (summary, output):
        path.write_text("")
    environment = {
        **os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "RUNS": runs, "CONDITIONS": conditions, "UNDECIDED": undecided,
        "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", steps[-1]["run"]],
        env=environment, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, summary.read_text(), output.read_text()


@pytest.mark.slow
def test_the_job_fails_where_a_condition_is_proven_not_met_and_every_run_has_a_table(
    steps: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_gated_run(tmp_path / "good run", {"sums": [16] * 20})
    write_gated_run(tmp_path / "bad", {"sums": [8] * 8 + [4, 12] * 6})
    code, summary, output = execute(steps, tmp_path, "good run\n\nbad\r\n", f"{NOT_MET}\n{MET}\n")
    assert (code, output) == (1, "outcome=not_met\n")
    assert summary.count("**Gate on ") == 2
    assert execute(steps, tmp_path, "good run", MET)[::2] == (0, "outcome=met\n")


@pytest.mark.slow
def test_what_is_not_decided_fails_unless_it_may_pass_and_what_cannot_be_read_always_fails(
    steps: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_gated_run(tmp_path / "bad", {"sums": [8] * 8 + [4, 12] * 6})
    assert execute(steps, tmp_path, "bad", UNDECIDED)[::2] == (3, "outcome=inconclusive\n")
    assert execute(steps, tmp_path, "bad", UNDECIDED, "pass")[::2] == (0, "outcome=inconclusive\n")
    assert execute(steps, tmp_path, "nowhere", MET, "pass")[::2] == (2, "")
    assert execute(steps, tmp_path, "", MET)[0] == 2
    assert execute(steps, tmp_path, "bad", MET, "maybe")[0] == 2


def test_nothing_in_a_condition_is_run(steps: list[dict[str, Any]], tmp_path: Path) -> None:
    code, _, _ = execute(steps, tmp_path, "$(touch ran); `touch ran`", "$(touch ran)")
    assert code == 2
    assert not (tmp_path / "ran").exists()
