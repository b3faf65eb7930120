"""Problems from parquet files that verl trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.problem_rows import read_problems
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, Split


def row(index: int, split: str = "test", **changes: Any) -> dict[str, Any]:
    return {
        "data_source": "sums",
        "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"{split} {index} + 1?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(index + 1)},
        "extra_info": {"split": split, "index": index, "answer": "so"},
    } | changes


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_a_test_file_is_measured_and_a_train_file_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", *(row(i) for i in range(6)))
    write(tmp_path / "train.parquet", *(row(i, "train") for i in range(4)))
    (tmp_path / "sums.yaml").write_text("problems: test.parquet\nsplit: {train: train.parquet, final: 0.3}\n")
    behavior = load_behavior(tmp_path / "sums.yaml")
    assert behavior.verifier.kind == "number"
    assert {problem.id for problem in behavior.split(Split.TRAIN)} == {f"train-{i}" for i in range(4)}
    assert len(behavior.split(Split.FINAL)) == 2
    (first,) = (problem for problem in behavior.problems if problem.id == "test-0")
    assert first.prompt == (Message("system", "Be short."), Message("user", "test 0 + 1?"))
    assert first.answer == "1"
    assert first.metadata == {"data_source": "sums", "ability": "math"}


def test_one_file_is_divided_by_the_split_of_the_behavior(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", *(row(i) for i in range(10)))
    (tmp_path / "sums.yaml").write_text("problems: all.parquet\nsplit: {train: 0.5, final: 0}\n")
    assert len(load_behavior(tmp_path / "sums.yaml").split(Split.TRAIN)) == 5


def test_ids_come_from_the_notes_or_the_place(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.parquet", *({k: v for k, v in row(i).items() if k != "extra_info"} for i in range(2)))
    assert [one.id for one in read_problems(bare).rows] == ["row-0", "row-1"]
    unsplit = write(tmp_path / "unsplit.parquet", row(7, extra_info={"index": 7}), row(8, extra_info={"index": 9}))
    assert [one.id for one in read_problems(unsplit).rows] == ["row-7", "row-9"]


@pytest.mark.parametrize(("truth", "answer"), [(72, "72"), (72.0, "72"), (0.5, "0.5"), ("1/2", "1/2")])
def test_numbers_are_written_as_texts(truth: Any, answer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", row(0, reward_model={"style": "rule", "ground_truth": truth}))
    assert read_problems(path).rows[0].answer == answer


def test_turns_may_have_empty_fields_beside_role_and_content(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "1 + 1?", "name": None}]
    assert read_problems(write(tmp_path / "rows.parquet", row(0, prompt=chat))).rows[0].prompt == (Message("user", "1 + 1?"),)


@pytest.mark.parametrize(
    ("rows", "code", "got"),
    [
        ([{"text": "1?", "label": "1"}], "unknown_columns", "columns text, label, none of which"),
        ([{"prompt": "1?"}], "missing_key", "no answer"),
        ([row(0, reward_model={"style": "rule", "ground_truth": None})], "invalid_row", "row 0: reward_model: got"),
        ([row(0, reward_model="12")], "invalid_row", "reward_model: got '12'"),
        ([row(0, reward_model={"ground_truth": ["1", "2"]})], "invalid_row", "ground_truth: got ['1', '2']"),
        ([row(0, reward_model={"ground_truth": True})], "invalid_row", "ground_truth: got True"),
        ([row(0, reward_model={"ground_truth": float("nan")})], "invalid_row", "ground_truth: got nan"),
        ([row(0, prompt=[{"role": "assistant", "content": "hi"}])], "invalid_row", "prompt: the last turn is"),
        ([row(0, prompt=[{"role": "robot", "content": "hi"}])], "unknown_role", "'robot'"),
        ([row(0, prompt=[])], "invalid_row", "prompt: got []"),
        (
            [row(0), row(1, extra_info={"split": "test", "index": 0, "answer": ""})],
            "duplicate_id",
            "row 1: id 'test-0'",
        ),
    ],
)
def test_odd_files_are_refused_in_one_line(rows: list[dict[str, Any]], code: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(BehaviorError) as refused:
        load_behavior(write(tmp_path / "rows.parquet", *rows))
    assert refused.value.code == code
    assert got in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BehaviorError) as excinfo:
        read_problems(tmp_path / "none.parquet")
    assert excinfo.value.code == "no_such_file"
    (tmp_path / "odd.parquet").write_text("{}")
    with pytest.raises(BehaviorError) as excinfo:
        read_problems(tmp_path / "odd.parquet")
    assert excinfo.value.code == "unreadable_file"
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.Table.from_pylist([row(0)]).slice(0, 0), empty)
    with pytest.raises(BehaviorError) as excinfo:
        read_problems(empty)
    assert excinfo.value.code == "empty_file"
