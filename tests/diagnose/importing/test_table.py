"""Tables with one row per sample, and counts, as people have them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.refusals import refused
from helpers.rollout_files import read_rollouts, write_rows

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.column_names import GRADES
from posttrain.diagnose.errors import BehaviorError, SourceError
from posttrain.diagnose.importing.formats import FORMATS
from posttrain.diagnose.importing.imported import ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.types import StopReason


def read(path: Path | list[Path], format_name: str = "table", **options: Any) -> ImportedSamples:
    return FORMATS[format_name].read(path if isinstance(path, list) else [path], ReadOptions(**options))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outcomes(found: ImportedSamples) -> list[tuple[str, float | None]]:
    return [(sample.problem, sample.score) for sample in found.samples]


def code(*args: Any, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        read(*args, **options)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (True, False),
        (1, 0),
        (1.0, 0.0),
        ("true", "False"),
        ("1", "0"),
        ("yes", "no"),
        ("Correct", "incorrect"),
        ("PASS", "fail"),
        ("C", "I"),
    ],
)
def test_right_and_wrong_in_every_usual_form(tmp_path: Path, right: Any, wrong: Any) -> None:
    path = write(tmp_path / "x.jsonl", {"id": 1, "correct": right}, {"id": 1, "correct": wrong}, {"id": 2, "correct": None})
    assert outcomes(read(path)) == [("1", 1.0), ("1", 0.0), ("2", None)]


@pytest.mark.parametrize("column", GRADES)
def test_every_usual_name_of_a_grade_is_read_here_and_refused_among_problems(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "x.jsonl", *({"prompt": str(i), "response": "It is 1.", column: i % 2} for i in range(4)))
    assert [one.score for one in read(path).samples] == [0.0, 1.0, 0.0, 1.0]
    with refused(BehaviorError, "samples_no_problems"):
        load_behavior(path)


def test_an_advantage_is_no_grade(tmp_path: Path) -> None:
    assert code(write(tmp_path / "x.jsonl", {"prompt": "1", "response": "It is 1.", "advantage": 1.0})) == "no_correct_column"


def test_one_table_reads_alike_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [
        {"qid": 1, "is_right": True, "output": 'a, "b"'},
        {"qid": 1, "is_right": False, "output": "ü\nx"},
        {"qid": 2, "is_right": None, "output": ""},
    ]
    frame = pd.DataFrame(rows)
    paths = [
        write(tmp_path / "rows.jsonl", *rows),
        tmp_path / "rows.jsonl.gz",
        tmp_path / "rows.json",
        tmp_path / "rows.csv",
        tmp_path / "rows.parquet",
    ]
    paths[1].write_bytes(gzip.compress(paths[0].read_bytes()))
    paths[2].write_text(json.dumps(rows))
    frame.to_csv(paths[3], index=False)
    frame.to_parquet(paths[4])
    for path in paths:
        found = read(path)
        assert [(one.problem, one.score, one.text or "") for one in found.samples] == [
            ("1", 1.0, 'a, "b"'), ("1", 0.0, "ü\nx"), ("2", None, ""),
        ]  # fmt: skip
        assert {one.behavior for one in found.samples} == {"rows"}


def test_columns_are_those_that_the_user_names_and_else_the_usual_ones(tmp_path: Path) -> None:
    row = {"key": "a", "reward": 0.5, "score": 0.25, "response": "r", "gold": "g", "other": 1}
    path = write(tmp_path / "x.jsonl", row)
    found = read(path, columns={"problem": "key", "correct": "reward"})
    (sample,) = found.samples
    assert (sample.problem, sample.score, sample.text, sample.answer) == ("a", 0.5, "r", "g")
    (note,) = found.source.notes
    assert note.code == "columns"
    assert all(name in note.text for name in row)
    assert read(path, columns={"problem": "key"}, score="reward").samples[0].score == 0.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"columns": {"problem": "qidd"}}, "unknown_column"),
        ({"columns": {"promblem": "qid"}}, "unknown_name"),
        ({"filter": "x"}, "unused_option"),
        ({}, "no_correct_column"),
        ({"columns": {"correct": "ok"}}, "no_problem_column"),
        ({"columns": {"correct": "note", "problem": "key"}}, "not_a_score"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    assert code(write(tmp_path / "x.jsonl", {"key": 1, "ok": True, "note": "well"}), **options) == expected


def test_a_mistyped_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"qid": 1, "is_right": True})
    with pytest.raises(SourceError, match=r"did you mean 'is_right'"):
        read(path, columns={"correct": "is_rigt"})


def test_files_that_hold_nothing_or_are_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert code(tmp_path / "none.jsonl") == "no_such_file"
    assert code(tmp_path) == "no_source_files"
    (tmp_path / "empty.jsonl").write_text("")
    assert code(tmp_path / "empty.jsonl") == "no_samples"
    (tmp_path / "x.txt").write_text("1")
    assert code(tmp_path / "x.txt") == "unsupported_file"
    (tmp_path / "bad.jsonl").write_text('{"id": 1,\n')
    assert code(tmp_path / "bad.jsonl") == "invalid_json"


def test_a_question_without_an_id_is_its_own_problem(tmp_path: Path) -> None:
    rows = [
        {"problem": "What is 2+2?", "answer": 4, "correct": 1},
        {"problem": "What is 2+2?", "answer": 4, "correct": 0},
        {"problem": "What is 2+3?", "correct": 0},
    ]
    found = read(write(tmp_path / "x.jsonl", *rows))
    first, again, other = (one.problem for one in found.samples)
    assert first == again != other
    assert found.samples[0].prompt == "What is 2+2?"
    assert Untold.PROBLEM_IDS in found.source.untold


def test_two_problems_with_one_text_stay_two_where_they_have_ids(tmp_path: Path) -> None:
    rows = [{"id": i, "question": "again?", "correct": i} for i in range(2)]
    found = read(write(tmp_path / "x.jsonl", *rows))
    assert [one.problem for one in found.samples] == ["0", "1"]
    assert Untold.PROBLEM_IDS not in found.source.untold


def test_a_row_may_hold_several_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"id": "a", "correct": [True, False], "output": ["yes", "no"]}, {"id": "b", "correct": []})
    assert [(one.problem, one.score, one.text) for one in read(path).samples] == [("a", 1.0, "yes"), ("a", 0.0, "no")]
    assert code(write(tmp_path / "y.jsonl", {"id": "a", "correct": [1, 0], "output": ["x"]})) == "uneven_lists"


def test_samples_come_in_the_order_of_their_numbers_and_none_twice(tmp_path: Path) -> None:
    rows = [{"id": "a", "epoch": number, "correct": 0, "output": str(number)} for number in (10, 2, 1)]
    assert [one.text for one in read(write(tmp_path / "x.jsonl", *rows)).samples] == ["1", "2", "10"]
    assert code(write(tmp_path / "y.jsonl", *rows, rows[0])) == "duplicate_sample"


def test_why_samples_ended_and_how_long_they_are(tmp_path: Path) -> None:
    cells = [
        {"finish_reason": "length"},
        {"finish_reason": "stop"},
        {"finish_reason": "odd"},
        {"truncated": True},
        {"truncated": "no"},
    ]
    found = read(write(tmp_path / "x.jsonl", *({"id": 1, "correct": 0, "num_tokens": 7, **cell} for cell in cells)))
    ends = [StopReason.LENGTH, StopReason.EOS, StopReason.UNKNOWN, StopReason.LENGTH, StopReason.EOS]
    assert [one.stop for one in found.samples] == ends
    assert {one.num_tokens for one in found.samples} == {7}


def test_one_model_is_the_source_and_several_are_policies(tmp_path: Path) -> None:
    one = read(write(tmp_path / "x.jsonl", {"id": 1, "correct": 1, "model": "m"}))
    assert (one.source.model, one.samples[0].policy) == ("m", "")
    two = read(write(tmp_path / "y.jsonl", *({"id": 1, "correct": 1, "step": step} for step in (10, 20))))
    assert [sample.policy for sample in two.samples] == ["10", "20"]


def test_a_behavior_of_several_is_taken_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *({"id": 1, "correct": 1, "task": task} for task in ("gsm8k", "math")))
    assert [one.behavior for one in read(path).samples] == ["gsm8k", "math"]
    assert [one.behavior for one in read(path, behavior="math").samples] == ["math"]
    assert code(path, behavior="mat") == "unknown_behavior"


def test_two_files_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    paths = [tmp_path / name / "x.jsonl" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path, {"id": 1, "correct": 1})
    assert code(paths) == "same_name"
    assert len(read(paths, behavior="x").samples) == 2
    for path in paths:
        write(path, {"id": 1, "c": 1, "n": 2})
    assert code(paths, "counts") == "same_name"


def test_counts_become_samples_in_an_order_that_favors_none(tmp_path: Path) -> None:
    rows = [{"id": i, "c": 32, "n": 64} for i in range(200)]
    found = read(write(tmp_path / "x.jsonl", *rows), "counts")
    assert len(found.samples) == 200 * 64
    scores = pd.Series([one.score for one in found.samples]).to_numpy().reshape(200, 64)
    assert (scores.sum(axis=1) == 32).all()
    assert abs(scores[:, :16].mean() - 0.5) < 0.03  # the first samples are compared with those of a smaller run
    assert outcomes(read(tmp_path / "x.jsonl", "counts")) == outcomes(found)
    other = read(write(tmp_path / "y.jsonl", *rows, {"id": "z", "c": 0, "n": 1}), "counts")
    assert [one.score for one in other.samples[:64]] != [one.score for one in found.samples[:64]]


def test_wrong_counts_are_one_line(tmp_path: Path) -> None:
    assert code(write(tmp_path / "x.jsonl", {"id": 1, "c": 3, "n": 2}), "counts") == "invalid_counts"
    assert code(write(tmp_path / "x.jsonl", {"id": 1, "c": 1, "n": 2}), "counts", columns={"problem": "id"}) == "unused_option"


def test_nan_is_nothing_in_every_column(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [
        {"id": 1.0, "correct": 1.0, "output": "x", "question": "q", "answer": 2.0},
        {"id": 2.0, "correct": nan, "output": nan, "question": nan, "answer": nan},
    ]
    path = tmp_path / "x.parquet"
    pd.DataFrame(rows).to_parquet(path)
    first, second = read(path).samples
    assert (first.problem, first.score, first.text, first.prompt, first.answer) == ("1", 1.0, "x", "q", "2")
    assert (second.problem, second.score, second.text, second.prompt, second.answer) == ("2", None, None, None, "")


def test_ids_that_number_rows_are_no_problems(tmp_path: Path) -> None:
    rows = [{"id": i, "question": f"What is {i // 4}?", "correct": i % 2} for i in range(12)]
    path = write(tmp_path / "x.jsonl", *rows)
    assert code(path) == "ids_number_rows"
    assert len(set(outcomes(read(path, columns={"problem": ""})))) == 6
    assert [one.problem for one in read(path, columns={"problem": "id"}).samples] == [str(i) for i in range(12)]
    own = [{**row, "id": i // 4} for i, row in enumerate(rows)]
    assert [one.problem for one in read(write(tmp_path / "y.jsonl", *own)).samples] == [str(i // 4) for i in range(12)]


def test_a_column_that_was_guessed_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *({"id": 1, "correct": 1, "step": i} for i in range(3)))
    assert {one.policy for one in read(path).samples} == {"0", "1", "2"}
    assert {one.policy for one in read(path, columns={"policy": ""}).samples} == {""}


def test_what_stands_under_sample_may_be_its_text(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path / "x.jsonl", {"id": 1, "correct": 1, "sample": "It is 4."})).samples
    assert one.text == "It is 4."


def test_lists_say_what_they_say_of_each_sample(tmp_path: Path) -> None:
    row = {"id": 1, "correct": [1, 0], "output": ["a", "b"], "truncated": [True, False], "num_tokens": [5, "6"]}
    found = read(write(tmp_path / "x.jsonl", row, {"id": 2, "correct": []}))
    assert [(one.score, one.text, one.stop, one.num_tokens) for one in found.samples] == [
        (1.0, "a", StopReason.LENGTH, 5),
        (0.0, "b", StopReason.EOS, 6),
    ]
    assert "no_outcomes" in {note.code for note in found.source.notes}
    table = tmp_path / "x.csv"
    table.write_text('id,correct,output,num_tokens\n1,"[1, 0]","[""a"", ""b""]","[5, 6]"\n2,"[True, False]","[\'c\', \'d\']",7\n')
    assert [(one.score, one.text, one.num_tokens) for one in read(table).samples] == [
        (1.0, "a", 5),
        (0.0, "b", 6),
        (1.0, "c", 7),
        (0.0, "d", 7),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"correct": 0.5, "output": ["a", "b"]},
        {"correct": [1, 0], "output": "a"},
        {"correct": [1, 0], "output": ["a", "b"], "num_tokens": [1, 2, 3]},
    ],
)
def test_lists_that_do_not_belong_together_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    assert code(write(tmp_path / "x.jsonl", {"id": 1, **row})) == "uneven_lists"


def test_one_text_in_a_list_is_that_text(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path / "x.jsonl", {"id": 1, "correct": True, "response": ["It is 4."]})).samples
    assert one.text == "It is 4."


def test_chats_keep_the_texts_of_their_parts(tmp_path: Path) -> None:
    def said(role: str, text: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": [{"type": "text", "text": text}]}]

    rows = [{"prompt": said("user", f"q{i}"), "output": said("assistant", f"a{i}"), "correct": 1} for i in range(3)]
    found = read(write(tmp_path / "x.jsonl", *rows))
    assert [one.text for one in found.samples] == ["a0", "a1", "a2"]
    assert len({one.problem for one in found.samples}) == 3
    pd.DataFrame(rows).to_csv(tmp_path / "y.csv", index=False)  # writes lists as Python does
    assert [one.prompt for one in read(tmp_path / "y.csv").samples] == [one.prompt for one in found.samples]
    assert [one.text for one in read(tmp_path / "y.csv").samples] == ["a0", "a1", "a2"]


def test_a_list_of_answers_is_several(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path / "x.jsonl", {"id": 1, "correct": 1, "answer": ["4", "four"]})).samples
    assert (one.answer, one.answers) == ("4", ("four",))


@pytest.mark.parametrize("score", ["Infinity", "1" + "0" * 400, '"1e999"', '{"value": 1}'])
def test_a_score_is_finite(tmp_path: Path, score: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"id": 1, "score": {score}}}\n')
    assert code(tmp_path / "x.jsonl") == "not_a_score"


def test_a_text_in_another_encoding_is_refused_as_such(tmp_path: Path) -> None:
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "x.jsonl").write_text('{"id": 1, "correct": 1, "text": "é"}\n{"id": 2, "correct": 1}\n', encoding=encoding)
        assert code(tmp_path / "x.jsonl") == "unreadable_file"


def test_texts_that_a_parquet_file_holds_as_bytes(tmp_path: Path) -> None:
    rows = {"id": [b"a", b"b"], "correct": [1, 0], "output": ["It is é.".encode(), b"x"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet")
    assert [(one.problem, one.text) for one in found.samples] == [("a", "It is é."), ("b", "x")]


def test_more_samples_than_can_be_read_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"id": 1, "c": 1, "n": 10**11})
    assert code(path, "counts") == "too_many_samples"


def test_lists_of_samples_are_found_by_names_in_the_plural(tmp_path: Path) -> None:
    rows = [{"id": 1, "question": "2+2?", "Responses": ["4", "5"], "scores": [True, False]}]
    found = read_rollouts("table", write_rows(tmp_path / "mine.jsonl", rows))
    assert [(one.text, one.score) for one in found.samples] == [("4", 1.0), ("5", 0.0)]
    left_out = read_rollouts("table", write_rows(tmp_path / "mine.jsonl", rows), columns={"text": ""})
    assert [one.text for one in left_out.samples] == [None, None]
    one_outcome = [{"id": 1, "completions": ["4", "5"], "accuracy": 1.0}]
    assert len(read_rollouts("table", write_rows(tmp_path / "mine.jsonl", one_outcome)).samples) == 1
