"""Verbs that take a finished run, from the command line: forecast and regrade."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, SampleSource
from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return an imported run of four problems; half of the texts of each state its answer, and were graded as wrong."""
    samples = [
        ImportedSample(
            behavior="sums", problem=f"p{i}", score=0.0, text=f"It is {i if k % 2 else 99}.", prompt=f"{i}+0", answer=str(i)
        )
        for i in range(4)
        for k in range(8)
    ]
    source = SampleSource(format="table", model="m")
    store_run(ImportedSamples(source=source, samples=samples), ImportSettings(out=tmp_path / "run"))
    return tmp_path / "run"


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_forecast_is_printed_and_given_as_json(run: Path, monkeypatch: Any, capsys: Any) -> None:
    code, words, _ = call(monkeypatch, capsys, "forecast", run, "--group-size", 4)
    assert code == 0
    assert words.startswith("sums: GRPO at G=4: 100 % [")
    code, text, _ = call(monkeypatch, capsys, "forecast", run, "--group-size", 4, "--json")
    (entry,) = json.loads(text)["behaviors"]
    assert entry["group_signal"]["shares"][2]["causes"]["too_hard"]["estimate"] == 1.0
    assert entry["group_signal"]["policy_sampled"] is False
    code, _, error = call(monkeypatch, capsys, "forecast", run, "--group-size", 1)
    assert (code, len(error.splitlines())) == (2, 1)


def test_texts_are_graded_again(run: Path, monkeypatch: Any, capsys: Any) -> None:
    words = ("regrade", run, "--verifier", "number", "--option", "tolerance=0.01", "--quiet")
    code, printed, _ = call(monkeypatch, capsys, *words)
    assert code == 0, printed
    assert "16 wrong to right" in printed
    file = json.loads((run.parent / "run-regraded" / "regrade.json").read_text())
    assert file["behaviors"][0]["changes"] == {"wrong_to_right": 16, "wrong_to_wrong": 16}
    assert file["behaviors"][0]["verifier_after"]["options"] == {"tolerance": 0.01}
    code, _, error = call(monkeypatch, capsys, "regrade", run, "--option", "tolerance=1")
    assert (code, len(error.splitlines())) == (2, 1)


def test_a_run_is_checked_in_words_and_as_json(run: Path, monkeypatch: Any, capsys: Any) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    code, text, _ = call(monkeypatch, capsys, "check", run, "--json")
    found = json.loads(text)
    (behavior,) = found["behaviors"]
    assert (code, found["kind"], behavior["num_problems"], behavior["num_samples"]) == (0, "run", 4, 32)
    assert (behavior["failure_codes"], behavior["checks"][0]["n"]) == ([], 32)
    code, words, _ = call(monkeypatch, capsys, "check", run)
    assert code == 0
    assert all(caveat in words for caveat in behavior["caveats"])
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    code, _, error = call(monkeypatch, capsys, "check", run, "--verifier", "number")
    assert (code, len(error.splitlines())) == (2, 1)


def test_a_run_whose_files_are_damaged_is_refused(run: Path, monkeypatch: Any, capsys: Any) -> None:
    (shard,) = (run / "rollouts").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    code, text, error = call(monkeypatch, capsys, "check", run)
    assert (code, text, len(error.splitlines())) == (2, "", 1)
    assert str(shard) in error


def test_an_export_of_counts_says_which_samples_it_leaves_out(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    scores = {"a": [1.0, None], "b": [0.0, 1.0], "c": [None, None]}
    samples = [
        ImportedSample(behavior="sums", problem=name, score=score, text=f"It is {k}.", prompt=name, answer="1")
        for name, found in scores.items()
        for k, score in enumerate(found)
    ]
    store_run(ImportedSamples(source=SampleSource(format="table"), samples=samples), ImportSettings(out=tmp_path / "run"))
    code, printed, said = call(monkeypatch, capsys, "export", tmp_path / "run", "--to", "counts", "--out", tmp_path / "c.jsonl")
    assert (code, printed[:6]) == (0, "2 rows")
    (line,) = said.splitlines()
    assert all(part in line for part in ("3 of 6 samples", "1 of 3 problems", "(c)"))


def test_an_export_of_counts_without_such_samples_says_nothing(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    code, _, said = call(monkeypatch, capsys, "export", run, "--to", "counts", "--out", tmp_path / "c.jsonl")
    assert (code, said) == (0, "")
