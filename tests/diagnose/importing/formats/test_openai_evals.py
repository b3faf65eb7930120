"""Records of OpenAI evals, written by its own recorder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_logs import EVALUATIONS, codes
from helpers.rollout_files import by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSamples, Untold
from posttrain.diagnose.types import Message, StopReason

RECORD, METRICS = (EVALUATIONS / "openai_evals" / f"{name}.jsonl" for name in ("record", "metrics"))


def read(*paths: Path, **options: Any) -> ImportedSamples:
    return read_rollouts("openai-evals", *paths, **options)


def test_matches_are_grades_and_samplings_texts():
    found = read(RECORD)
    scores = {"sums.test.0": [1.0], "sums.test.1": [0.0], "sums.test.2": [0.0], "sums.test.3": [None], "sums.test.4": [1.0, 0.0]}
    assert by_problem(found) == scores
    assert [one.text for one in found.samples] == ["12", "so 42", "13", "2", "25", "24"]
    first, second = found.samples[:2]
    assert first.prompt == (Message("system", "Give a number."), Message("user", "What is 3 times 4?"))
    assert (second.answer, second.answers) == ("42", ("42.0",))
    assert found.samples[3].stop is StopReason.ERROR
    assert (found.source.model, first.behavior) == ("gpt-4", "sums.test.v0")
    assert not codes(found)
    assert Untold.COMPLETENESS not in found.source.untold


def test_metrics_are_grades_where_nothing_is_matched_and_a_run_may_not_have_finished():
    found = read(METRICS)
    assert by_problem(found) == {"judged.test.0": [1.0], "judged.test.1": [0.0]}
    assert codes(found) == {"unfinished_log"}
    assert Untold.COMPLETENESS in found.source.untold
    assert by_problem(read(METRICS, score="length")) == {"judged.test.0": [7.0], "judged.test.1": [7.0]}
    with pytest.raises(SourceError) as refused:
        read(METRICS, score="lenght")
    assert refused.value.code == "unknown_score"


def test_another_file_is_refused(tmp_path: Path):
    with pytest.raises(SourceError) as refused:
        read(write_rows(tmp_path / "rows.jsonl", [{"input": "What is 3 times 4?", "ideal": "12"}]))
    assert refused.value.code == "not_this_format"


def event(number: int, kind: str, **data: Any) -> dict[str, Any]:
    return {"run_id": "r", "event_id": number, "sample_id": "poem.0", "type": kind, "data": data}


def test_what_a_grading_model_said_is_no_text_of_the_model(tmp_path: Path):
    spec = {"spec": {"completion_fns": ["small", "judge"], "eval_name": "poems.dev.v0"}}
    policy = event(0, "sampling", prompt=[{"role": "user", "content": "Write a poem."}], sampled=["Roses are red."])
    judge = event(1, "sampling", prompt=[{"role": "user", "content": "Is it a poem?"}], sampled=["Yes"])
    grade = event(2, "metrics", choice="Yes", score=1.0)
    (sample,) = read(write_rows(tmp_path / "a.jsonl", [spec, policy, judge, grade])).samples
    assert (sample.text, sample.prompt, sample.score) == ("Roses are red.", (Message("user", "Write a poem."),), 1.0)
    # the model's words stood in the data set
    (alone,) = read(write_rows(tmp_path / "b.jsonl", [spec, judge, grade])).samples
    assert (alone.text, alone.prompt, alone.score) == (None, None, 1.0)
