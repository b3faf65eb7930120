"""`posttrain import` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli.entry_point import app
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.importing.formats import FORMATS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [{"qid": i % 3, "ok": i % 2} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    app(["import", "--list"], standalone_mode=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FORMATS)


def test_several_columns_and_settings_stand_behind_one_option(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--columns", "problem=qid", "correct=ok", "--sampling", "temperature=1", "max_tokens=64", "--json", "--quiet"]
    app(["import", "table", str(table), "--out", str(tmp_path / "run"), *words], standalone_mode=False)
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["source"]["sampling"]["max_tokens"] == 64
    assert "sampling" not in settings["source"]["untold"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("tabel {table}", "unknown_format"),
        ("table {table}", "no_correct_column"),
        ("table {table} --columns ok", "not_a_pair"),
        ("table {table} --columns correct=ok --sampling temprature=1", "unknown_name"),
        ("table {table} --columns correct=ok --sampling temperature=warm", "not_a_number"),
        ("table {table} --columns correct=ok --split test", "unknown_split"),
        ("table {table} --columns correct=ok --filter none", "unused_option"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(table: Path, tmp_path: Path, words: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        app(["import", *words.format(table=table).split(), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
