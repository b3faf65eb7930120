"""Turns of chats in data sets: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.diagnose.behaviors.data_sets import read_training_rows
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

ASKED, SAID = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(folder: Path, row: dict[str, Any]) -> BehaviorError:
    with pytest.raises(BehaviorError) as caught:
        read_training_rows(write(folder, row))
    assert "\n" not in str(caught.value)
    assert f"{folder / 'rows.jsonl'}:1" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("turn", [{"wieght": 0}, {"function_call": {}}, {"loss": 1}, {"from": "gpt"}])
def test_unknown_keys_of_a_turn_are_refused(turn: dict[str, Any], tmp_path: Path) -> None:
    assert refused(tmp_path, {"messages": [ASKED, SAID | turn]}).code == "unknown_turn_key"


@pytest.mark.parametrize(
    "turns",
    [
        [ASKED, SAID | {"weight": 0.5}],
        [ASKED, SAID | {"train": "yes"}],
        [ASKED, SAID | {"weight": 1, "train": False}],
        [ASKED | {"weight": 1}, SAID],
        [ASKED, SAID | {"weight": 0}],
        [SAID | {"train": True}, ASKED, SAID],
        [ASKED, SAID | {"tool_calls": "add"}],
        [ASKED, SAID | {"reasoning_content": 3}],
    ],
)
def test_flags_that_are_none_or_leave_nothing_to_learn_are_refused(turns: list[dict[str, Any]], tmp_path: Path) -> None:
    assert refused(tmp_path, {"messages": turns}).code == "invalid_row"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, {"role": "assistant", "content": " "}]},
        {"messages": [ASKED, {"role": "assistant", "content": ""}, ASKED, SAID]},
        {"prompt": [ASKED], "completion": [{"role": "assistant", "content": ""}]},
        {"prompt": [ASKED], "chosen": [SAID], "rejected": [{"role": "assistant", "content": ""}]},
        {"prompt": [ASKED], "completion": [{"role": "assistant", "content": []}], "label": True},
    ],
)
def test_an_empty_turn_is_learned_in_no_shape(row: dict[str, Any], tmp_path: Path) -> None:
    assert refused(tmp_path, row).code == "invalid_row"


def test_an_empty_turn_that_is_not_learned_may_stand(tmp_path: Path) -> None:
    (row,) = read_training_rows(
        write(tmp_path, {"messages": [ASKED, {"role": "assistant", "content": "", "weight": 0}, ASKED, SAID]})
    )
    assert row.completion == "b"


def test_parts_of_text_are_read_and_others_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "?"}]
    (row,) = read_training_rows(write(tmp_path, {"messages": [{"role": "user", "content": parts}, SAID]}))
    (turn,) = row.prompt or ()
    assert isinstance(turn, Message)
    assert (turn.content, turn.as_turn()["content"]) == ("a?", parts)
    image = [{"type": "image", "image": "x.png"}]
    assert refused(tmp_path, {"messages": [{"role": "user", "content": image}, SAID]}).code == "part_is_no_text"


def test_tool_calls_come_out_of_parquet_as_they_went_in(tmp_path: Path) -> None:
    turns = [ASKED, {"role": "assistant", "content": None, "tool_calls": CALLS}, {"role": "tool", "content": "1"}, SAID]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "rows.parquet")
    (row,) = read_training_rows(tmp_path / "rows.parquet")
    assert [turn.as_turn() for turn in row.chat] == turns


def test_keys_that_other_rows_of_a_parquet_file_hold_are_no_part_of_a_row(tmp_path: Path) -> None:
    """Parquet has every key of any row in each of them: null where a row holds nothing there."""

    def made(name: str, argument: str, value: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
        schema = {"name": name, "parameters": {"properties": {argument: {"type": "text"}}, "required": [argument]}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"messages": [ASKED, said], "tools": [{"type": "function", "function": schema}]}

    given = [made("add", "a", 1), made("say", "b", "so")]
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "rows.parquet")
    rows = read_training_rows(tmp_path / "rows.parquet")
    assert [list(row.tools) for row in rows] == [row["tools"] for row in given]
    assert [row.chat[-1].as_turn() for row in rows] == [row["messages"][-1] for row in given]


@pytest.mark.parametrize("text", ["\\ud83d", "a\\uDE00b"])
@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "X", "completion": "b"}',
        '{"messages": [{"role": "user", "content": "X"}, {"role": "assistant", "content": "b"}]}',
        '{"text": "X"}',
    ],
)
def test_half_a_surrogate_pair_is_refused_where_it_stands(text: str, row: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' + row.replace("X", text) + "\n")
    with pytest.raises(BehaviorError) as caught:
        read_training_rows(path)
    assert caught.value.code == "half_character"
    assert ":2" in str(caught.value)


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00"}\n')
    assert read_training_rows(path)[0].completion == "😀"


@pytest.mark.parametrize("more", [{"tools": "add"}, {"tools": ["add"]}, {"tools": 3}, {"chat_template_kwargs": "x"}])
def test_columns_for_the_template_are_checked(more: dict[str, Any], tmp_path: Path) -> None:
    assert refused(tmp_path, {"messages": [ASKED, SAID], **more}).code == "invalid_row"
