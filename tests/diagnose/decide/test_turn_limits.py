"""pass@(k, T): samples that succeed within T turns of the model, by T."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import write_rows

from posttrain.analysis.stats import pass_at_k
from posttrain.diagnose.decide.turn_limits import choose_limits
from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run
from posttrain.diagnose.pipeline.read_and_import import import_samples, read_samples
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
    """Return a run that is stored and decided, without a report."""
    return store_run(read_samples("verifiers", rows_of(folder, problems)), ImportSettings(out=folder / "run"))


def rows_of(folder: Path, problems: Sequence[Sequence[Sample]]) -> Path:
    rows = [episode(i, turns, reward) for i, samples in enumerate(problems) for turns, reward in samples]
    return write_rows(folder / "results.jsonl", rows)


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


def test_the_label_at_most_turns_is_that_of_the_verdict_and_is_open_for_the_same_reasons(tmp_path: Path):
    mastered = run_of(tmp_path / "a", [[(2, 1.0)] * 64] * 12).behaviors[0]
    first, last = mastered.turn_limits
    assert (last.bottleneck, mastered.diagnosis.bottleneck) == (Bottleneck.MASTERED, Bottleneck.MASTERED)
    # Nothing is right in one turn, and the source does not tell the sampler: that says nothing about support.
    assert (first.bottleneck, first.leans_to) == (Bottleneck.INCONCLUSIVE, Bottleneck.MISSING_SUPPORT)
    few = run_of(tmp_path / "b", [[(2, 1.0), (1, 0.0)] * 8] * 2).behaviors[0]
    assert (few.turn_limits[-1].bottleneck, few.diagnosis.bottleneck) == (Bottleneck.INCONCLUSIVE, Bottleneck.INCONCLUSIVE)
    assert few.turn_limits[-1].leans_to == few.diagnosis.leans_to


def test_a_policy_that_was_sampled_as_it_is_has_a_label_at_every_limit(tmp_path: Path):
    (tmp_path / "metadata.json").write_text(
        '{"env_id": "maze", "model": "m", "sampling_args": {"temperature": 1.0, "max_tokens": 64}}'
    )
    limits = run_of(tmp_path, [[(2, 1.0)] * 64] * 12).behaviors[0].turn_limits
    assert [limit.bottleneck for limit in limits] == [Bottleneck.MISSING_SUPPORT, Bottleneck.MASTERED]


def test_a_missing_grade_counts_at_no_limit(tmp_path: Path):
    limits = run_of(tmp_path, [[(1, None), (2, 1.0), (2, 0.0)]] * 4).behaviors[0].turn_limits
    assert [(limit.num_correct, limit.num_samples) for limit in limits] == [(0, 8), (4, 8)]


def test_samples_of_one_turn_have_no_table(tmp_path: Path):
    assert run_of(tmp_path, [[(1, 1.0), (1, 0.0)]] * 4).behaviors[0].turn_limits == ()


def test_the_report_and_the_file_have_the_table(tmp_path: Path):
    run = import_samples("verifiers", rows_of(tmp_path, [[(1, 1.0), (2, 1.0), (3, 0.0)]] * 6), out=tmp_path / "run")
    assert "pass@(1, T)" in (run.path / "report.md").read_text()
    assert "pass@(1, T)" in run.report_html.read_text()
    (figure,) = (run.path / "figures").glob("*/pass_at_k_by_turns.svg")
    assert (run.path / "report.md").read_text().count("pass_at_k_by_turns.svg") == 1
    assert [row["turns"] for row in csv.DictReader(figure.with_suffix(".csv").read_text().splitlines())] == [
        "1",
        "1",
        "2",
        "2",
        "3",
        "3",
    ]  # k = 1 and 3
    from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile

    entry = DiagnosisFile.model_validate_json((run.path / "diagnosis.json").read_text()).behaviors[0]
    assert [(limit.turns, limit.num_correct) for limit in entry.turn_limits] == [(1, 6), (2, 12), (3, 12)]


@pytest.mark.parametrize(
    ("most", "limits"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (20, [1, 2, 4, 8, 16, 20]), (500, [1, 2, 4, 8, 16, 32, 64, 500])]
)
def test_few_limits_are_shown_whatever_the_turns(most: int, limits: list[int]):
    assert list(choose_limits(most)) == limits
