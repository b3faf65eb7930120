"""A data set to train on is checked: what is learned of a row, token by token, and what may be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from transformers import AutoTokenizer

from posttrain.diagnose.behaviors.data_sets import RowKind
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.data.row_check import RowCheckFile, RowWarning, check_rows
from posttrain.trainers.data.row_check_words import token_line
from posttrain.trainers.training_types import RowRole

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}END{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
CHAT = [
    {"role": "user", "content": "1 plus 1"},
    {"role": "assistant", "content": "is 2"},
    {"role": "user", "content": "2 plus 2"},
    {"role": "assistant", "content": "is\n4"},
]


def with_template(model: Path, folder: Path, end: str) -> Path:
    """Return a model without weights whose template ends turns with a token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE.replace("END", end)
    tokenizer.save_pretrained(folder)
    shutil.copy(model / "config.json", folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_template(tiny_model, tmp_path_factory.mktemp("chat"), "</s>")


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def codes(check: RowCheckFile) -> dict[RowWarning, int]:
    return {warning.code: warning.num for warning in check.warnings}


def line(check: RowCheckFile, **settings: Any) -> str:
    return "".join(text for text, _ in token_line(check.shown[0].tokens, **settings)).replace("|", "")


def test_what_is_learned_of_a_chat(chat_model: Path, tmp_path: Path) -> None:
    check = check_rows(write(tmp_path / "rows.jsonl", {"messages": CHAT}), chat_model)
    assert line(check) == "u: 1 plus 1</s>a: [is 2</s>]u: 2 plus 2</s>a: [is\\n4</s>]"
    assert (check.row_kind, check.num_rows, check.num_texts, check.num_learned) == (RowKind.DEMONSTRATION, 1, 1, 10)
    assert check.num_tokens == check.lengths.max == len(check.shown[0].tokens)
    assert check.end is not None
    assert (check.end.token, check.end.num_learned, check.end.known) == ("</s>", 1, ["</s>"])
    assert codes(check) == {}
    assert RowCheckFile.model_validate(json.loads(json.dumps(check.to_json()))).to_json() == check.to_json()


def test_turns_that_are_shown_alone_are_not_learned(chat_model: Path, tmp_path: Path) -> None:
    shown = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    check = check_rows(write(tmp_path / "rows.jsonl", {"messages": CHAT}, {"messages": shown}), chat_model, row=1)
    assert line(check) == "u: 1 plus 1</s>a: is 2</s>u: 2 plus 2</s>a: [is\\n4</s>]"


def test_texts_and_pairs(tiny_model: Path, tmp_path: Path) -> None:
    text = check_rows(write(tmp_path / "text.jsonl", {"text": "abc"}), tiny_model)
    assert line(text) == "a[bc</s>]"  # nothing predicts the first token
    pair = check_rows(write(tmp_path / "pair.jsonl", {"prompt": "ab", "chosen": "c", "rejected": "de"}), tiny_model)
    assert (pair.num_rows, pair.num_texts) == (1, 2)
    assert [shown.role for shown in pair.shown] == [RowRole.CHOSEN, RowRole.REJECTED]


def test_an_end_of_turn_that_the_model_does_not_stop_at(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "odd", "<pad>")
    check = check_rows(write(tmp_path / "rows.jsonl", {"messages": CHAT}), model)
    assert check.end is not None
    assert (check.end.token, check.end.num_learned, check.end.known) == ("<pad>", 1, ["</s>"])
    assert codes(check) == {RowWarning.END_NOT_KNOWN: 1}


def test_what_may_be_wrong_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "ab", "completion": "cd", "id": 1},
        {"prompt": "ab", "completion": "cd", "tools": []},
        {"prompt": "ab", "completion": "c" * 20},
        {"prompt": "a" * 20, "completion": "cd"},
        {"prompt": "ab", "completion": "left out", "weight": 0},
    ]
    check = check_rows(write(tmp_path / "rows.jsonl", *rows), tiny_model, max_length=10)
    assert codes(check) == {
        RowWarning.TOO_LONG: 2,
        RowWarning.NOTHING_LEFT: 1,
        RowWarning.DUPLICATE_ROWS: 1,
        RowWarning.COLUMNS_PASSED_OVER: 1,
    }
    assert (check.num_without_weight, check.num_texts, check.lengths.limit) == (1, 4, 10)
    assert check_rows(tmp_path / "rows.jsonl", tiny_model).lengths.limit == 512
    little = check_rows(write(tmp_path / "little.jsonl", {"prompt": "a" * 200, "completion": "b"}), tiny_model)
    assert codes(little) == {RowWarning.LITTLE_LEARNED: 2}


def test_prompts_alone_teach_nothing(tiny_model: Path, tmp_path: Path) -> None:
    check = check_rows(write(tmp_path / "rows.jsonl", {"prompt": "ab"}, {"prompt": "cd"}), tiny_model)
    assert codes(check) == {RowWarning.NOTHING_LEARNED: 2}
    assert (check.end, check.shown) == (None, [])


def test_a_long_row_shows_where_learning_begins(tiny_model: Path, tmp_path: Path) -> None:
    check = check_rows(write(tmp_path / "rows.jsonl", {"prompt": "a" * 300, "completion": "b" * 150}), tiny_model)
    assert line(check, most=40) == "aaaaa … 290 tokens … aaaaa[" + "b" * 20 + "] … 126 tokens … [bbbb</s>]"


@pytest.mark.parametrize(
    ("settings", "code"), [({"row": 1}, "no_such_row"), ({"row": -1}, "no_such_row"), ({"max_length": 1}, "max_length")]
)
def test_wrong_settings_are_one_line(tiny_model: Path, tmp_path: Path, settings: dict[str, int], code: str) -> None:
    with refused(SettingsError, code):
        check_rows(write(tmp_path / "rows.jsonl", {"text": "abc"}), tiny_model, **settings)
