"""The pytest plugin: conditions on runs as tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.gated_runs import write_gated_run

from posttrain.diagnose import gate

pytest_plugins = ("pytester",)
MET, NOT_MET, UNDECIDED = "pass@1>=0.2", "pass@1>=0.9", "pass@1>=0.5"
TEST = """
def test_gate(posttrain_gate):
    result = posttrain_gate({run!r}, {condition!r}{arguments})
    assert result.exit_code == 0
"""
Outcomes = Callable[..., dict[str, int]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run with pass@1 about .5."""
    written = write_gated_run(tmp_path / "run", {"sums": [8] * 8 + [4, 12] * 6})
    gate(written, [UNDECIDED])  # loads what pytester would forget and load anew, which numpy refuses
    return written


@pytest.fixture
def outcomes(pytester: pytest.Pytester, run: Path) -> Outcomes:
    """Return a function that runs a test with a condition and counts its outcomes."""

    def count(condition: str, *options: str, arguments: str = "") -> dict[str, int]:
        pytester.makepyfile(TEST.format(run=str(run), condition=condition, arguments=arguments))
        return count_outcomes(pytester, *options)

    return count


def count_outcomes(pytester: pytest.Pytester, *options: str) -> dict[str, int]:
    """Run pytest with the plugin and return how many tests had which outcome."""
    found = pytester.runpytest_inprocess("-p", "posttrain.pytest_plugin", *options).parseoutcomes()
    found.pop("warnings", None)  # pytest warns where the plugin was imported before
    return found


def test_a_condition_passes_fails_or_is_not_decided(outcomes: Outcomes) -> None:
    assert outcomes(MET) == {"passed": 1}
    assert outcomes(NOT_MET) == {"failed": 1}
    assert outcomes(UNDECIDED) == {"skipped": 1}
    assert outcomes(UNDECIDED, "--posttrain-undecided=xfail") == {"xfailed": 1}
    assert outcomes(UNDECIDED, "--posttrain-undecided=fail") == {"failed": 1}
    assert outcomes(UNDECIDED, "--posttrain-undecided=fail", arguments=", undecided='skip'") == {"skipped": 1}


def test_what_cannot_be_tested_fails(outcomes: Outcomes) -> None:
    assert outcomes("pass@1=0.5") == {"failed": 1}
    assert outcomes("pass@99999999>=0.5") == {"failed": 1}
    assert outcomes(MET, arguments=", undecided='pass'") == {"failed": 1}


def test_what_is_wrong_is_said_once(pytester: pytest.Pytester, run: Path) -> None:
    pytester.makepyfile(TEST.format(run=str(run), condition="pass@1=0.5", arguments=""))
    result = pytester.runpytest_inprocess("-p", "posttrain.pytest_plugin")
    result.stdout.fnmatch_lines(["condition: got 'pass@1=0.5', allowed is *"])
    result.stdout.no_fnmatch_line("*another exception occurred*")


def test_the_reason_is_one_line_per_condition(pytester: pytest.Pytester, run: Path) -> None:
    pytester.makepyfile(TEST.format(run=str(run), condition=NOT_MET, arguments=f", {MET!r}"))
    result = pytester.runpytest_inprocess("-p", "posttrain.pytest_plugin")
    result.stdout.fnmatch_lines(["*sums: pass@1 0.500 *>= 0.9: proven not met*"])
    result.stdout.no_fnmatch_line("*>= 0.2*")


def test_conditions_of_the_command_line_need_no_test_file(pytester: pytest.Pytester, run: Path) -> None:
    options = ["--posttrain-gate", str(run), MET, "--posttrain-gate", str(run), NOT_MET, "--posttrain-gate", str(run), UNDECIDED]
    assert count_outcomes(pytester, *options) == {"passed": 1, "failed": 1, "skipped": 1}
    assert pytester.runpytest_inprocess("-p", "posttrain.pytest_plugin").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_folder_that_holds_no_run_fails(pytester: pytest.Pytester) -> None:
    assert count_outcomes(pytester, "--posttrain-gate", "nowhere", MET) == {"failed": 1}
