"""`posttrain check` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from posttrain.cli import main


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"frage": f"{i}+1?", "wert": i + 1}) + "\n" for i in range(10)))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["posttrain", "check", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_file_is_checked_in_words_and_as_json(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rows.jsonl", "--map", "prompt=frage", "answer=wert", "--split-eval", "all", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["kind"], found["num_rows"], found["splits"]["eval"]) == (1, "problems", 10, 10)
    assert run(monkeypatch, "--map", "frage=prompt", "wert=answer", "rows.jsonl") == 0
    assert "frage → prompt, wert → answer" in capsys.readouterr().out


def test_what_cannot_be_guessed_is_one_line(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rows.jsonl") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "--map prompt=frage answer=wert" in said.err


def test_rows_to_train_on(
    tiny_model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.jsonl").write_text('{"text": "abc"}\n')
    assert run(monkeypatch, "--train", "text.jsonl", "--model", str(tiny_model), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["num_learned"]) == ("training_rows", 3)
    assert run(monkeypatch, "--train", "text.jsonl", "--model", str(tiny_model)) == 0
    assert "a[b|c|</s>]" in capsys.readouterr().out
    assert run(monkeypatch, "--train", "text.jsonl") == 2
    assert run(monkeypatch, "--train", "text.jsonl", "--model", str(tiny_model), "--verifier", "number") == 2
    Path("odd.jsonl").write_text('{"ask": "1+1?", "reply": "2"}\n')
    assert run(monkeypatch, "--train", "odd.jsonl", "--model", str(tiny_model)) == 2
    assert run(monkeypatch, "--train", "odd.jsonl", "--model", str(tiny_model), "--map", "prompt=ask", "completion=reply") == 0
    assert "--model" in capsys.readouterr().err


def test_a_model_and_options_that_say_nothing_of_it(
    tiny_model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(tiny_model), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["kind"], found["has_template"]) == (1, "model", False)
    assert "no_template" in {warning["code"] for warning in found["warnings"]}
    assert run(monkeypatch, str(tiny_model), "--verifier", "number") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(monkeypatch, "rows.jsonl", "--behavior", "sums") == 2
