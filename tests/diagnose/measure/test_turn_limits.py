"""pass@(k, T): samples that succeed within T turns of the model, by T."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import write_rows

from posttrain.analysis.stats import pass_at_k
from posttrain.diagnose.measure.turn_limits import choose_limits
from posttrain.diagnose.pipeline.read_and_import import import_samples
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Bottleneck

Sample = tuple[int, float | None]
"""Turns of the model, and the reward."""


def episode(problem: int, turns: int, reward: float | None, **others: Any) -> dict[str, Any]:
    """Return a row of verifiers in which the model calls a tool in every turn but the last."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
    said = [call, {"role": "tool", "content": "nothing"}] * (turns - 1) + [{"role": "assistant", "content": f"answer {turns}"}]
    row = {"example_id": problem, "prompt": [{"role": "user", "content": f"question {problem}"}], "completion": said}
    return {**row, "reward": reward, "is_truncated": False, **others}


def run_of(folder: Path, problems: Sequence[Sequence[Sample]]) -> DiagnosedRun:
    rows = [episode(i, turns, reward) for i, samples in enumerate(problems) for turns, reward in samples]
    return import_samples("verifiers", write_rows(folder / "results.jsonl", rows), out=folder / "run")


def test_counts_by_turns_are_those_of_the_samples(tmp_path: Path):
    problems: list[list[Sample]] = [[(1, 1.0), (2, 1.0), (3, 0.0), (3, 1.0)], [(1, 0.0), (2, 0.0), (3, 1.0), (1, 0.0)]] * 10
    limits = run_of(tmp_path, problems).behaviors[0].turn_limits
    assert [(limit.turns, limit.num_correct, limit.num_samples) for limit in limits] == [(1, 10, 80), (2, 20, 80), (3, 40, 80)]
    for limit, (first, second) in zip(limits, ((1, 0), (2, 0), (3, 1)), strict=True):
        ones = limit.pass_at_k[0]
        assert (ones.k, ones.extrapolated) == (1, False)
        assert ones.value.estimate == pytest.approx(pass_at_k([4, 4], [first, second], 1).mean())
        assert ones.value.low < ones.value.estimate < ones.value.high
    assert [limit.pass_at_k[1].k for limit in limits] == [4, 4, 4]
    estimates = [limit.pass_at_k[1].value.estimate for limit in limits]
    assert all(before <= after for before, after in pairwise(estimates))


def test_a_behavior_out_of_reach_in_one_turn_is_mastered_in_two(tmp_path: Path):
    limits = run_of(tmp_path, [[(2, 1.0)] * 64] * 12).behaviors[0].turn_limits
    assert [limit.bottleneck for limit in limits] == [Bottleneck.MISSING_SUPPORT, Bottleneck.MASTERED]


def test_a_missing_grade_counts_at_no_limit(tmp_path: Path):
    limits = run_of(tmp_path, [[(1, None), (2, 1.0), (2, 0.0)]] * 4).behaviors[0].turn_limits
    assert [(limit.num_correct, limit.num_samples) for limit in limits] == [(0, 8), (4, 8)]


def test_samples_of_one_turn_have_no_table(tmp_path: Path):
    run = run_of(tmp_path, [[(1, 1.0), (1, 0.0)]] * 4)
    assert run.behaviors[0].turn_limits == ()
    assert "pass@(" not in (run.path / "report.md").read_text()


def test_the_report_and_the_file_have_the_table(tmp_path: Path):
    run = run_of(tmp_path, [[(1, 1.0), (2, 1.0), (3, 0.0)]] * 6)
    assert "pass@(1, T)" in (run.path / "report.md").read_text()
    assert "pass@(1, T)" in run.report_html.read_text()
    from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile

    entry = DiagnosisFile.model_validate_json((run.path / "diagnosis.json").read_text()).behaviors[0]
    assert [(limit.turns, limit.num_correct) for limit in entry.turn_limits] == [(1, 6), (2, 12), (3, 12)]


@pytest.mark.parametrize(
    ("most", "limits"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (20, [1, 2, 4, 8, 16, 20]), (500, [1, 2, 4, 8, 16, 32, 64, 500])]
)
def test_few_limits_are_shown_whatever_the_turns(most: int, limits: list[int]):
    assert list(choose_limits(most)) == limits
