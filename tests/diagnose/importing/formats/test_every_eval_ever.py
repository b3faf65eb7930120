"""Records of Every Eval Ever: its own example, and what its converters make of logs of lm-eval and Inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_logs import EVALUATIONS, codes
from helpers.rollout_files import by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSamples, Untold
from posttrain.diagnose.types import StopReason

RECORDS = EVALUATIONS / "every_eval_ever"
OF_LM_EVAL, OF_INSPECT, OF_AGENT = (RECORDS / "converted" / f"{name}_samples.jsonl" for name in ("lm_eval", "inspect", "agent"))


def read(*paths: Path, **options: Any) -> ImportedSamples:
    return read_rollouts("every-eval-ever", *paths, **options)


def test_the_reference_record():
    found = read(RECORDS / "reference")
    (one,) = found.samples
    assert (one.behavior, one.problem, one.score, one.text, one.answer) == (
        "demo-source.demo_bench",
        "demo_0001",
        1.0,
        "The answer is 4.",
        "4",
    )
    assert (one.prompt, one.num_tokens) == ("Q: What is 2 + 2?\nA:", 5)
    assert one.metadata == {"subject": "arithmetic"}
    assert found.source.model == "demo-org/demo-model"
    assert found.source.untold == {Untold.LOGPROBS, Untold.STOP_REASONS, Untold.SAMPLING}


def test_records_of_lm_eval_have_the_problems_of_its_log_and_one_filter():
    found = read(OF_LM_EVAL)
    log = read_rollouts("lm-eval", next((EVALUATIONS / "lm_eval" / "own__scripted").glob("samples_two_filters*")))
    assert by_problem(found) == {name: [one for one in scores if one is not None] for name, scores in by_problem(log).items()}
    assert codes(found) == {"several_filters", "texts_filtered"}
    assert {one.behavior for one in found.samples} == {"two_filters"}
    assert len(read(OF_LM_EVAL, filter="maj@3").samples) == 4
    with pytest.raises(SourceError) as refused:
        read(OF_LM_EVAL, filter="maj")
    assert refused.value.code == "unknown_filter"


def test_records_of_inspect_hold_the_mean_over_epochs():
    """The log has first: right, right, wrong; 3: right, wrong, wrong; last: right, failed, wrong."""
    found = read(OF_INSPECT)
    assert by_problem(found) == {"3": [1.0, 0.0, 0.0], "first": [1.0, 1.0, 0.0], "last": [1.0, None, 0.0]}
    assert codes(found) == {"mean_over_epochs", "texts_extracted"}
    assert Untold.TEXTS in found.source.untold
    stops = [one.stop for one in found.samples if one.problem == "last"]
    assert stops == [StopReason.LENGTH, StopReason.ERROR, StopReason.EOS]


def test_a_mean_that_is_no_number_of_successes_is_not_told(tmp_path: Path):
    rows = [json.loads(line) for line in OF_INSPECT.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["evaluation"]["score"] = 0.55
    found = read(write_rows(tmp_path / "x_samples.jsonl", rows))
    assert {one.score for one in found.samples} == {None}
    assert "epochs_not_told" in codes(found)


def test_an_agent_keeps_its_turns():
    solved, stopped = read(OF_AGENT).samples
    assert (solved.num_turns, solved.text, solved.score) == (2, "It is 7", 1.0)
    assert [turn.role for turn in solved.turns] == ["assistant", "tool", "assistant"]
    assert stopped.score == 0.0


def test_the_results_of_the_run_name_the_sampler(tmp_path: Path):
    row = json.loads(next((RECORDS / "reference").glob("*_samples.jsonl")).read_text(encoding="utf-8"))
    path = write_rows(
        tmp_path / "a_samples.jsonl", [row, {**row, "sample_id": "2", "evaluation": {"score": 0.4, "is_correct": False}}]
    )
    run = {
        "eval_library": {"name": "helm", "version": "1"},
        "evaluation_results": [{"generation_config": {"generation_args": {"temperature": 1.0, "max_tokens": 64}}}],
    }
    (tmp_path / "a.json").write_text(json.dumps(run), encoding="utf-8")
    found = read(path)
    assert found.source.sampling is not None
    assert (found.source.sampling.temperature, found.source.sampling.max_tokens) == (1.0, 64)
    assert found.source.version == "helm 1"
    assert by_problem(found) == {"demo_0001": [1.0], "2": [0.4]}
    assert by_problem(read(path, score="is_correct")) == {"demo_0001": [1.0], "2": [0.0]}


def test_a_hard_file(tmp_path: Path):
    """Several responses under one score, an error, ids used twice, NaN."""
    row = json.loads(next((RECORDS / "reference").glob("*_samples.jsonl")).read_text(encoding="utf-8"))
    rows = [
        {**row, "output": {"raw": ["4", "5"]}},
        {**row, "sample_id": "2", "error": "timeout", "evaluation": {"score": 0.0, "is_correct": False}},
        {**row, "sample_id": "3", "evaluation": {"score": float("nan"), "is_correct": False}},
        {**row, "sample_id": "4"},
        {**row, "sample_id": "4", "input": {"raw": "What is 3 + 3?", "reference": ["6"]}},
    ]
    found = read(write_rows(tmp_path / "x_samples.jsonl", rows))
    assert list(by_problem(found).values()) == [[None], [None], [None], [1.0], [1.0]]
    assert codes(found) == {"graded_together", "ids_not_unique"}
    with pytest.raises(SourceError) as refused:
        read(write_rows(tmp_path / "y_samples.jsonl", [{"id": 1}]))
    assert refused.value.code == "not_this_format"
