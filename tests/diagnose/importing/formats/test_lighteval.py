"""Details of lighteval: several samples of a document, metrics of all of them, options, both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.evaluation_logs import EVALUATIONS, codes
from helpers.rollout_files import by_problem, read_rollouts

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSamples
from posttrain.diagnose.types import Message

RUN = EVALUATIONS / "lighteval"
WHOLE_RUN = EVALUATIONS / "lighteval_run"
NEWEST = RUN / "details" / "own" / "tiny" / "2026-11-29T01-00-00.000000"


def file_of(task: str) -> Path:
    return next(NEWEST.glob(f"details_{task}_*"))


def read(*paths: Path, **options: Any) -> ImportedSamples:
    return read_rollouts("lighteval", *paths, **options)


def test_a_share_of_successes_is_counted():
    found = read(file_of("sums"))
    assert by_problem(found) == {"0": [1.0, 1.0, 1.0, 0.0], "1": [0.0] * 4, "2": [1.0] * 4}
    assert [one.text for one in found.samples[:5]] == [None, None, None, None, "41"]
    assert found.samples[5].num_tokens == 1
    assert found.samples[0].prompt == (Message("user", "What is 3 times 4?"),)
    assert found.samples[0].answer == "12"
    assert codes(found) == {"several_metrics", "shares_of_successes"}
    assert (found.source.model, found.source.sampling.temperature if found.source.sampling else None) == ("own/tiny", 1.0)


def test_a_metric_of_all_samples_grades_none():
    found = read(file_of("sums"), score="pass@k:k=4")
    assert {one.score for one in found.samples} == {None}
    assert [one.text for one in found.samples[:4]] == ["12", "so 12", "13", "12"]
    assert codes(found) == {"several_metrics", "graded_together"}
    with pytest.raises(SourceError) as refused:
        read(file_of("sums"), score="pass@k:k=8")
    assert refused.value.code == "unknown_score"


def test_of_a_folder_the_newest_details_are_taken():
    found = read(RUN)
    assert by_problem(read(file_of("greedy"))) == {"0": [1.0], "1": [0.0]}
    assert "older_files" in codes(found)
    assert len(found.samples) == 16


def test_options_are_answers_by_likelihood():
    found = read(file_of("facts"))
    assert [(one.text, one.answer, one.score) for one in found.samples] == [("Rome", "Paris", 0.0), ("four", "four", 1.0)]
    assert codes(found) == {"answers_by_likelihood"}


def test_the_layout_of_before(tmp_path: Path):
    table = pq.read_table(file_of("sums"))
    path = tmp_path / "details_sums_2026-01-01T00-00-00.000000.parquet"
    pq.write_table(table.rename_columns([f"__{name}__" for name in table.column_names]), path)
    assert by_problem(read(path)) == by_problem(read(file_of("sums")))


def test_another_table_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(SourceError) as refused:
        read(tmp_path / "rows.parquet")
    assert refused.value.code == "not_this_format"


def test_a_run_of_lighteval_gives_the_numbers_that_lighteval_reports():
    told = json.loads(next(WHOLE_RUN.rglob("results_*.json")).read_text())["results"]
    metrics = {"products|0": "em", "products_sampled|0": "avg@n:n=4", "options|0": "acc"}
    for task, metric in metrics.items():
        found = read(next(WHOLE_RUN.rglob(f"details_{task}_*")))
        scores = [score for of_problem in by_problem(found).values() for score in of_problem]
        assert len(by_problem(found)) == 6
        assert np.mean(scores) == pytest.approx(told[task][metric])
        assert found.source.model == "own/scripted"


def test_a_task_with_several_samples_keeps_every_text_of_a_lighteval_run_where_another_metric_is_taken():
    found = read(next(WHOLE_RUN.rglob("details_products_sampled|0_*")), score="pass@k:k=2&n=4")
    assert len(found.samples) == 24
    assert {one.score for one in found.samples} == {None}
    assert all(one.text for one in found.samples)


def test_null_texts_and_metrics_that_are_no_numbers(tmp_path: Path):
    document = {"query": "q", "choices": ["4"], "gold_index": 0, "id": "1", "task_name": "t"}
    rows = [
        {"doc": document, "model_response": {"text": [None], "output_tokens": None, "logprobs": None}, "metric": {"em": None}},
        {"doc": {**document, "id": "2"}, "model_response": {"text": ["4"], "output_tokens": [[5]], "logprobs": None}, "metric": {"em": None}},
        {"doc": {**document, "id": "3", "choices": ["a", "b"]}, "model_response": {"text": None, "output_tokens": None, "logprobs": [float("nan"), -1.0]}, "metric": {"em": None}},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = read(tmp_path / "rows.parquet")
    assert [(one.text, one.score, one.num_tokens) for one in found.samples] == [
        ("", None, None),
        ("4", None, 1),
        (None, None, None),
    ]


def flat_row(**changed: Any) -> dict[str, Any]:
    """Return a row as lighteval 0.9 wrote it."""
    row = {
        "example": "2+2?",
        "instruction": "",
        "full_prompt": "Question: 2+2?\nAnswer:",
        "predictions": ["4"],
        "cont_tokens": [[5, 2]],
        "gold": ["4"],
        "choices": [],
        "gold_index": [],
        "metrics": {"em": 1},
        "specifics": None,
    }
    return row | changed


def write_details(path: Path, rows: list[dict[str, Any]], *, printed: bool) -> Path:
    """Write rows of before 0.10; those of before 0.8 hold what Python prints."""
    table = [{key: str(value) for key, value in row.items()} for row in rows] if printed else rows
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


@pytest.mark.parametrize("printed", [True, False])
def test_details_with_a_column_for_each_field(tmp_path: Path, printed: bool):
    rows = [flat_row(), flat_row(example="3+3?", gold=["6", "six"], predictions=[""], metrics={"em": 0})]
    found = read(write_details(tmp_path / "details_sums_2024-01-01T00-00-00.000000.parquet", rows, printed=printed))
    assert [(one.text, one.score, one.answer, one.answers) for one in found.samples] == [
        ("4", 1.0, "4", ()),
        ("", 0.0, "6", ("six",)),
    ]
    assert (found.samples[0].prompt, found.samples[0].num_tokens) == ("Question: 2+2?\nAnswer:", 2)
    assert len(by_problem(found)) == 2


@pytest.mark.parametrize("printed", [True, False])
def test_options_with_a_column_for_each_field(tmp_path: Path, printed: bool):
    row = flat_row(predictions=[-2.5, -0.5], choices=[" A", " B"], gold_index=[1], gold=[], metrics={"acc": 1, "acc_norm": 0})
    found = read(write_details(tmp_path / "rows.parquet", [row], printed=printed))
    assert [(one.text, one.score, one.answer) for one in found.samples] == [(" B", 1.0, " B")]


@pytest.mark.parametrize("printed", [True, False])
def test_a_metric_of_the_first_samples_alone_is_no_share_of_all(tmp_path: Path, printed: bool):
    shares = {f"math_pass@1:{size}_samples": share for size, share in ((1, 1.0), (2, 0.5), (4, 0.25))}
    file = write_details(tmp_path / "rows.parquet", [flat_row(predictions=["4", "5", "6", "7"], metrics=shares)], printed=printed)
    assert list(by_problem(read(file)).values()) == [[1.0, 0.0, 0.0, 0.0]]
    assert list(by_problem(read(file, score="math_pass@1:1_samples")).values()) == [[None] * 4]


def test_a_metric_of_fewer_samples_than_there_are_grades_none(tmp_path: Path):
    document = {"query": "q", "choices": ["4"], "gold_index": 0, "id": "1", "task_name": "t"}
    row = {"doc": document, "model_response": {"text": ["4", "5", "6"]}, "metric": {"pass@k:k=1&n=1": 1.0}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert [one.score for one in read(tmp_path / "rows.parquet").samples] == [None] * 3


@pytest.mark.parametrize("printed", [True, False])
def test_a_document_with_a_row_for_each_kind_of_metric_counts_once(tmp_path: Path, printed: bool):
    options = {"choices": [" A", " B"], "gold_index": [1]}
    rows = [flat_row(**options), flat_row(predictions=["4", "5"], metrics={"maj@2": 0}, **options)]
    file = write_details(tmp_path / "rows.parquet", rows, printed=printed)
    assert [one.score for one in read(file).samples] == [1.0]
    assert len(read(file, score="maj@2").samples) == 2
    with pytest.raises(SourceError) as refused:
        read(file, score="f1")
    assert refused.value.code == "unknown_score"


def test_what_python_prints_of_numbers_of_numpy_and_of_nan(tmp_path: Path):
    rows = [flat_row(predictions=["1 (nan)"], metrics="{'em': nan, 'f1': np.float64(0.5)}"), flat_row()]
    found = read(write_details(tmp_path / "rows.parquet", rows, printed=True), score="em")
    assert [(one.text, one.score) for one in found.samples] == [("1 (nan)", None), ("4", 1.0)]
