"""Settings of a behavior on the command line count as if its file said so."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain.cli import main
from posttrain.diagnose import load_behavior
from posttrain.diagnose.behaviors import BehaviorOptions
from posttrain.diagnose.behaviors.behavior_options import option_words, read_behavior_options
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.report.verdict_view import NextStart, next_command
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.types import Split

FILE = "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 8}\n"
RUN = "diagnose model.yaml good.yaml --engine scripted --out out --samples 16 --probes none --quiet"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1), "references": [str(i + 1)]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "good.yaml").write_text(FILE)
    (tmp_path / "model.yaml").write_text("success: 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    monkeypatch.setattr(sys, "argv", ["posttrain", *shlex.split(text)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_with_options_is_that_of_a_file_which_says_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = "--max-tokens 12 --temperature 0.5 --system 'Be brief.' --verifier number:tolerance=0.25 --limit 3"
    assert command(monkeypatch, f"{RUN} {given}") == 0
    record = json.loads((folder / "out" / "run.json").read_text())
    said = FILE.replace("{kind: number}", "{kind: number, tolerance: 0.25}").replace(
        "completion}", "completion, system: Be brief.}"
    )
    (folder / "said.yaml").write_text(f"name: good\n{said}".replace("max_tokens: 8", "max_tokens: 12, temperature: 0.5"))
    expected = load_behavior("said.yaml", BehaviorOptions(limit=3))
    assert record["settings"]["behaviors"] == {"good": expected.fingerprint}
    read = assemble("out")["good"]  # loads the behavior again
    assert (len(read.problems), read.behavior.sampling.max_tokens, read.behavior.sampling.temperature) == (3, 12, 0.5)
    entry = DiagnosisFile.model_validate_json((folder / "out" / "diagnosis.json").read_text())["good"]
    assert entry.options == expected.options | read.behavior.options
    assert option_words(entry.options) == shlex.split(given)


def test_the_named_command_carries_the_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, f"{RUN} --limit 8 --max-tokens 9 --split-eval 0.5") == 0
    entry = DiagnosisFile.model_validate_json((folder / "out" / "diagnosis.json").read_text())["good"]
    assert "--max-tokens 9 --limit 8 --split-eval 0.5" in str(next_command(entry, NextStart(model="m", run="out")))


def test_another_option_is_another_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, f"{RUN} --limit 4") == 0
    assert command(monkeypatch, f"{RUN} --limit 5") == 2
    assert command(monkeypatch, f"{RUN} --limit 4") == 0


def test_a_limit_chooses_of_each_split_and_a_smaller_one_is_part_of_a_larger_one(folder: Path) -> None:
    whole = load_behavior("good.yaml")

    def ids(limit: int, split: Split) -> set[str]:
        return {problem.id for problem in load_behavior("good.yaml", BehaviorOptions(limit=limit)).split(split)}

    for split in Split:
        assert len(ids(2, split)) == 2
        assert ids(2, split) < ids(5, split) < {problem.id for problem in whole.split(split)}
    first = {problem.id for problem in whole.split(Split.EVAL)[:5]}
    assert ids(5, Split.EVAL) != first  # a choice, not the head of the file
    assert load_behavior("good.yaml", BehaviorOptions(limit=60)).fingerprint == whole.fingerprint


def test_columns_and_the_share_of_eval_are_given_on_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": "no", "frage": f"{i} + 1 =", "wert": i + 1} for i in range(20)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--map frage=prompt answer=wert --split-eval all --limit 5"
    run = f"diagnose model.yaml {options} mine.jsonl --engine scripted --samples 2 --probes none --quiet"
    assert command(monkeypatch, f"{run} --dry-run") == 0  # --out is needed by what writes alone
    assert "all 5 problems are eval" in capsys.readouterr().out
    assert command(monkeypatch, run) == 2
    assert command(monkeypatch, f"{run} --out out") == 0
    assert len(assemble("out")["mine"].problems) == 5  # loads the behavior again
    entry = DiagnosisFile.model_validate_json((folder / "out" / "diagnosis.json").read_text())["mine"]
    assert option_words(entry.options) == ["--limit", "5", "--map", "frage=prompt", "answer=wert", "--split-eval", "all"]
    assert next_command(entry, NextStart(model="m", run="out")) is None  # nothing is left to train on
    assert "--split-eval all" in (folder / "out" / "report.md").read_text()


WRONG: list[dict[str, Any]] = [
    {"max_tokens": "0"}, {"max_tokens": "-3"}, {"max_tokens": "many"}, {"temperature": -1.0}, {"temperature": float("nan")},
    {"limit": 0}, {"verifier": "number:tolerance"}, {"verifier": "number:kind=exact"}, {"split_eval": "0"}, {"split_eval": "most"},
    {"columns": ["prompt"]}, {"columns": ["prompt="]}, {"columns": ["prompt=a", "prompt=b"]},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_a_wrong_option_is_refused(given: dict[str, Any]) -> None:
    with refused(SettingsError, "behavior_option"):
        read_behavior_options(**given)


def test_verifiers_are_written_with_their_options(folder: Path) -> None:
    cases = {
        "number": {"kind": "number"},
        "number:tolerance=0.01": {"kind": "number", "tolerance": 0.01},
        r"regex:pattern=answer is (\d+), (\d+)": {"kind": "regex", "pattern": r"answer is (\d+), (\d+)"},
        "regex:pattern=is: (.*)": {"kind": "regex", "pattern": "is: (.*)"},
        "python:function=rewards:score": {"kind": "python", "function": "rewards:score", "folder": str(folder)},
    }
    for text, expected in cases.items():
        assert read_behavior_options(verifier=text).verifier == expected
    with refused(BehaviorError, "unknown_verifier"):
        load_behavior("good.yaml", read_behavior_options(verifier="numbr"))
    with refused(BehaviorError, "invalid_setting"):
        load_behavior("good.yaml", read_behavior_options(verifier="number:tolerance=-1"))
