"""Reading data sets that might be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.refusals import refused

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind, read_training_rows
from posttrain.diagnose.behaviors.row_files import RowError
from posttrain.diagnose.behaviors.row_sources import MappedRows, fingerprint_row_source
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

ASKED = [{"role": "user", "content": "2+2?"}]
SAID = [{"role": "assistant", "content": "4"}]
WRONG = [{"role": "assistant", "content": "5"}]
CHAT = (Message("user", "2+2?"),)

SHAPES: list[tuple[dict[str, Any], DataRow]] = [
    ({"text": "2+2 is 4"}, DataRow(index=0, kind=RowKind.TEXT, prompt=None, completion="2+2 is 4")),
    ({"prompt": "2+2?", "completion": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4")),
    ({"question": "2+2?", "answer": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4")),
    ({"prompt": ASKED, "completion": SAID}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=CHAT, completion="4")),
    ({"messages": [*ASKED, *SAID]}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=CHAT, completion="4")),
    (
        {"messages": [*ASKED, *WRONG, *ASKED, *SAID, *ASKED]},
        DataRow(
            index=0,
            kind=RowKind.DEMONSTRATION,
            prompt=(*CHAT, Message("assistant", "5"), *CHAT),
            completion="4",
            chat=(*CHAT, Message("assistant", "5"), *CHAT, Message("assistant", "4")),
        ),
    ),
    (
        {"messages": [*SAID, *ASKED, *SAID]},  # a greeting has no prompt, so there is one answer to learn
        DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=(Message("assistant", "4"), *CHAT), completion="4"),
    ),
    ({"prompt": "2+2?", "response": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4")),
    ({"problem": "2+2?", "solution": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4")),
    ({"query": "2+2?", "response": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4")),
    (
        {"instruction": "Add.", "input": "2+2", "output": "4"},  # Alpaca
        DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="Add.\n\n2+2", completion="4"),
    ),
    (
        {"instruction": "2+2?", "input": "", "output": "4"},
        DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt="2+2?", completion="4"),
    ),
    (
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},  # ShareGPT
        DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=CHAT, completion="4"),
    ),
    ({"prompt": ASKED, "response": "4"}, DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=CHAT, completion="4")),
    ({"prompt": "2+2?", "source": "me"}, DataRow(index=0, kind=RowKind.PROMPT, prompt="2+2?")),
    ({"prompt": ASKED}, DataRow(index=0, kind=RowKind.PROMPT, prompt=CHAT)),
    (
        {"chosen": "2 and 2 is 4", "rejected": "2 and 2 is 5"},
        DataRow(index=0, kind=RowKind.PAIR, prompt="2 and 2 is", chosen=" 4", rejected=" 5"),
    ),
    (
        {"chosen": "it is blue", "rejected": "it is blue and black"},
        DataRow(index=0, kind=RowKind.PAIR, prompt="it is", chosen=" blue", rejected=" blue and black"),
    ),
    (
        {"prompt": "2+2?", "chosen": [*ASKED, *SAID], "rejected": [*ASKED, *WRONG]},
        DataRow(index=0, kind=RowKind.PAIR, prompt=CHAT, chosen="4", rejected="5"),
    ),
    (
        {"prompt": "2+2?", "completions": ["2", "4"], "labels": [True, False]},
        DataRow(index=0, kind=RowKind.STEPS, prompt="2+2?", completion="2\n4", steps=("2\n", "4"), labels=(True, False)),
    ),
    (
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "source": "me"},
        DataRow(index=0, kind=RowKind.PAIR, prompt="2+2?", chosen="4", rejected="5"),
    ),
    (
        {"prompt": ASKED, "chosen": SAID, "rejected": WRONG},
        DataRow(index=0, kind=RowKind.PAIR, prompt=CHAT, chosen="4", rejected="5"),
    ),
    (
        {"chosen": [*ASKED, *SAID], "rejected": [*ASKED, *WRONG]},
        DataRow(index=0, kind=RowKind.PAIR, prompt=CHAT, chosen="4", rejected="5"),
    ),
    (
        {"system": "Be brief.", "prompt": "2+2?", "completion": "4"},
        DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=(Message("system", "Be brief."), *CHAT), completion="4"),
    ),
    (
        {"system": "Be brief.", "messages": [*ASKED, *WRONG, *ASKED, *SAID]},
        DataRow(
            index=0,
            kind=RowKind.DEMONSTRATION,
            prompt=(Message("system", "Be brief."), *CHAT, Message("assistant", "5"), *CHAT),
            completion="4",
            chat=(Message("system", "Be brief."), *CHAT, Message("assistant", "5"), *CHAT, Message("assistant", "4")),
        ),
    ),
    (
        {"system": "Be brief.", "chosen": [*ASKED, *SAID], "rejected": [*ASKED, *WRONG]},
        DataRow(index=0, kind=RowKind.PAIR, prompt=(Message("system", "Be brief."), *CHAT), chosen="4", rejected="5"),
    ),
    (
        {"prompt": "2+2?", "completion": "5", "label": False},
        DataRow(index=0, kind=RowKind.LABELLED, prompt="2+2?", completion="5", label=False),
    ),
]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize(("row", "expected"), SHAPES)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_shape_is_read(row: dict[str, Any], expected: DataRow, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        jsonl(path, row)
    assert read_training_rows(path) == (expected,)


def test_rows_are_numbered_and_empty_columns_are_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"prompt": f"{i}?", "completion": str(i), "label": None} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(k, pa.string()) for k in rows[0]])), path)
    found = read_training_rows(path)
    assert [row.index for row in found] == list(range(3000))
    assert {row.kind for row in found} == {RowKind.DEMONSTRATION}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_weights_and_margins_are_numbers_of_the_row(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1.5, "weight": 2},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": None, "weight": None},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.25, "weight": 0},
    ]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        jsonl(path, *rows)
    assert [(row.weight, row.margin) for row in read_training_rows(path)] == [(2.0, -1.5), (1.0, 0.0), (0.0, 0.25)]


BAD: list[tuple[str, str]] = [
    *(
        (f'{{"prompt": "a", "completion": "b", "weight": {value}}}\n', "weight: got")
        for value in ("-1", "true", '"much"', "[1]", "1e999")
    ),
    *(
        (f'{{"prompt": "a", "chosen": "b", "rejected": "c", "margin": {value}}}\n', "margin: got")
        for value in ("false", '"slightly better"', "-1e999")
    ),
    ('{"prompt": "a", "weight": 2}\n', "whose samples count alike"),
    ("", "holds no rows"),
    ("nonsense\n", ":1: not JSON"),
    ("[1, 2]\n", "a row is an object"),
    ('{"instructions": "a", "outputs": "b"}\n', "got the columns instructions, outputs; allowed are rows such as"),
    ('{"prompt": ""}\n', "prompt: got ''"),
    ('{"chosen": "a b", "rejected": "a b"}\n', "without a prompt"),
    ('{"chosen": "a b", "rejected": [{"role": "user", "content": "a"}]}\n', "got a text and a chat"),
    (
        '{"prompt": "b", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}',
        "do not begin with the prompt",
    ),
    (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [1]}]}',
        "tool_calls: got [1]; allowed: a list of objects",
    ),
    ('{"messages": [{"role": "assistant", "content": "a"}]}', "no turn of the assistant"),
    ('{"prompt": "a", "completions": [], "labels": []}', "completions: got []"),
    ('{"prompt": "a", "completions": ["b", ""], "labels": [true, true]}', "completions: got ['b', '']"),
    ('{"prompt": "a", "completions": ["b", "c"], "labels": [true]}', "true or false for each of the 2 steps"),
    ('{"prompt": "a", "completions": ["b"], "labels": ["yes"]}', "labels: got ['yes']"),
    ('{"prompt": "a", "completion": ""}\n', "completion: got ''"),
    ('{"prompt": "a", "completion": 4}\n', "completion: got 4"),
    ('{"prompt": 4, "completion": "a"}\n', "prompt: got 4"),
    ('{"chosen": "a", "rejected": "b"}\n', "without a prompt"),
    ('{"messages": [{"role": "user", "content": "a"}]}\n', "no turn of the assistant"),
    ('{"messages": [{"role": "user"}]}\n', "got the turn"),
    ('{"text": "a"}\n{"prompt": "a", "completion": "b"}\n', ":2: got a row of kind demonstration after rows of kind text"),
    (
        '{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "b"}]}',
        "do not begin with the same prompt",
    ),
    (
        '{"prompt": "a", "completion": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
        "an answer ends with the assistant",
    ),
    ('{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}', "an answer ends with the assistant"),
    (
        '{"prompt": "a", "chosen": [{"role": "tool", "content": "b"}], "rejected": [{"role": "assistant", "content": "b"}]}',
        "an answer ends with the assistant",
    ),
]


@pytest.mark.parametrize(
    ("row", "passed_over"),
    [
        ({"prompt": "a", "completion": "b", "weight": 0.5, "id": 3, "note": None}, {"id"}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.5}, set()),
        ({"prompt": "a", "completion": "b", "margin": 1.5}, {"margin"}),
        ({"text": "a", "tools": [{"name": "f"}], "weight": 2}, {"tools"}),
        ({"prompt": "2+2?", "chosen": ASKED + SAID, "rejected": ASKED + WRONG, "messages": ASKED}, {"messages"}),
        ({"messages": ASKED + SAID, "system": "s", "tools": [], "chat_template_kwargs": {}}, set()),
        ({"prompt": "a", "completion": "b", "label": "sums"}, {"label"}),
        ({"prompt": "a", "answer": "b"}, {"answer"}),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_that_are_not_read_are_known(row: dict[str, Any], passed_over: set[str], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        jsonl(path, row)
    else:  # parquet has no objects without a key
        pq.write_table(pa.Table.from_pylist([{key: value for key, value in row.items() if value != {}}]), path)
    assert read_training_rows(path)[0].passed_over == passed_over


@pytest.mark.parametrize(("text", "said"), BAD)
def test_bad_files_are_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(BehaviorError) as refused:
        read_training_rows(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_columns_of_other_names_are_mapped(suffix: str, tmp_path: Path) -> None:
    row = {"ask": "1+1?", "reply": "2", "good": True, "prompt": "not this"}
    columns = {"prompt": "ask", "reply": "completion", "label": "good"}
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        path.write_text("ask,reply,good,prompt\n1+1?,2,True,not this\n")
    else:
        path.write_text(json.dumps(row) + "\n")
    (found,) = read_training_rows(MappedRows(str(path), columns))
    assert (found.kind, found.prompt, found.completion, found.label) == (RowKind.LABELLED, "1+1?", "2", True)
    with refused(BehaviorError, "unknown_column") as caught:
        read_training_rows(MappedRows(str(path), {"prompt": "asks"}))
    assert "did you mean 'ask'?" in str(caught.value)
    others = [{"prompt": "ask", "completion": "reply"}, columns]
    assert len({fingerprint_row_source(source) for source in (path, *(MappedRows(str(path), one) for one in others))}) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"goal": "2+2?", "target": "4"}, "rename goal to prompt and target to completion"),
        (
            {"Problem": "2+2?", "final_answer": "4", "rationale": "Two and two."},
            "rename Problem to prompt and rationale to completion",
        ),
        ({"question": "2+2?", "q2": "?"}, "rename question to prompt and that of the answer to completion"),
        ({"x": "2+2?", "y": "4"}, "rename the column of what is asked to prompt and that of the answer to completion"),
    ],
)
def test_unknown_columns_are_told_their_names(row: dict[str, str], said: str, tmp_path: Path) -> None:
    with refused(BehaviorError, "unknown_columns") as caught:
        read_training_rows(jsonl(tmp_path / "rows.jsonl", row))
    assert f"; {said}, or say so: --data-map prompt=" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.txt", b"a\tb", "unsupported_file"),
        ("rows.parquet", b"PAR1 not", "unreadable_file"),
        ("rows.jsonl", b"\xff\xfe", "unreadable_file"),
    ],
)
def test_what_is_no_data_file_is_refused(name: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BehaviorError) as excinfo:
        read_training_rows(tmp_path / name)
    assert excinfo.value.code == code
    with pytest.raises(BehaviorError) as excinfo:
        read_training_rows(tmp_path / f"no_{name}")
    assert excinfo.value.code == "no_such_file"


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
IMITATES, PREFERS = frozenset({RowKind.DEMONSTRATION, RowKind.TEXT}), frozenset({RowKind.PAIR})
LABELS, PROMPTS = frozenset({RowKind.LABELLED, RowKind.PAIR}), frozenset({RowKind.PROMPT})
STEPS = {"prompt": "a", "completions": ["b"], "labels": [True]}


@pytest.mark.parametrize(
    ("row", "wanted", "kind"),
    [
        ({"prompt": "a", "completion": "b", "label": "sports"}, IMITATES, RowKind.DEMONSTRATION),
        ({"prompt": "a", "completion": "b", "label": 3}, IMITATES, RowKind.DEMONSTRATION),
        ({"prompt": "a", "completion": "b", "label": 0}, IMITATES, RowKind.DEMONSTRATION),
        ({"prompt": "a", "completion": "b", "label": True}, IMITATES, RowKind.DEMONSTRATION),
        ({"prompt": "a", "completion": "b", "label": ["x"]}, frozenset(), RowKind.DEMONSTRATION),
        ({"prompt": "a", "completion": "b", "label": 1}, LABELS, RowKind.LABELLED),
        ({"prompt": "a", "completion": "b", "label": True}, PREFERS, RowKind.LABELLED),
        ({"prompt": "a", "completion": "b", "label": "sports"}, PROMPTS, RowKind.PROMPT),
        ({**PAIR, "messages": CHAT}, IMITATES, RowKind.DEMONSTRATION),
        ({**PAIR, "messages": CHAT}, PREFERS, RowKind.PAIR),
        ({**PAIR, "messages": CHAT}, frozenset(), RowKind.PAIR),
        ({**PAIR, "completion": "b", "label": False}, LABELS, RowKind.PAIR),
        (PAIR, IMITATES, RowKind.PAIR),
        ({**STEPS, "completion": "b"}, IMITATES, RowKind.DEMONSTRATION),
        ({"text": "a", "label": "sports", "prompt": "a"}, IMITATES, RowKind.TEXT),
        ({"text": "a", "label": 1, "question": "a", "answer": "b"}, IMITATES, RowKind.DEMONSTRATION),
    ],
)
def test_the_shape_of_a_row_follows_what_the_stage_learns_from(
    row: dict[str, Any], wanted: frozenset[RowKind], kind: RowKind, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = read_training_rows(tmp_path / "rows.jsonl", wanted)
    assert found.kind is kind
    if kind is RowKind.DEMONSTRATION:
        assert found.completion == "b"


@pytest.mark.parametrize(("label", "wanted"), [("good", LABELS), (False, IMITATES)])
def test_a_label_that_does_not_fit_the_stage_is_refused(label: object, wanted: frozenset[RowKind], tmp_path: Path) -> None:
    """Answers that are called bad are not imitated; a category is no verdict."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "label": label}) + "\n")
    with pytest.raises(RowError):
        read_training_rows(tmp_path / "rows.jsonl", wanted)


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "text": "2+2 is 4"},
        {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, *ASKED, *SAID]},
        {"system": ["Be brief."], "prompt": "2+2?", "completion": "4"},
    ],
)
def test_a_system_message_that_has_no_place_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BehaviorError) as caught:
        read_training_rows(jsonl(tmp_path / "rows.jsonl", row))
    assert caught.value.code == "invalid_row"


def test_a_wrong_row_far_down_a_parquet_file_is_named_with_its_place(tmp_path: Path) -> None:
    texts = [{"text": "fine" if number != 1500 else " "} for number in range(1600)]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "rows.parquet")
    with pytest.raises(BehaviorError) as caught:
        read_training_rows(tmp_path / "rows.parquet")
    assert "row 1500:" in str(caught.value)
