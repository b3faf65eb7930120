"""The pilot: what does not fit is told after eight samples, and what fits costs nothing more."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.token_counter import TokenCounter

from posttrain import diagnose
from posttrain.cli import main
from posttrain.diagnose import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure.truncation import is_looping
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.pilot import judge_pilot
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.rollout_table import GREEDY
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Bottleneck,
    Grade,
    GradeStatus,
    PathScore,
    Rollout,
    Split,
    StopReason,
    ValidityCode,
)

LONG = "first " + ", then ".join(f"step {i}" for i in range(40))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1), "split": "eval"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, more in {"short": "sampling: {max_tokens: 32}", "asked": "sampling: {max_tokens: 100}"}.items():
        template = 'template: "Q: {question}\\nA:"' if name == "asked" else "template: '{question}'"
        text = f"name: {name}\nproblems: rows.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion, {template}}}\n{more}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_model(wrong: str, success: float = 0.1) -> None:
    Path("model.yaml").write_text(json.dumps({"success": success, "wrong": wrong}))


def command(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[int, Any]:
    monkeypatch.setattr(sys, "argv", ["posttrain", *shlex.split(text)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0), stop.__context__
    return 0, None


RUN = "diagnose model.yaml {} --engine scripted --out out --samples 16 --probes none --quiet"
FAULTS = {
    "truncated": ("short", LONG, ValidityCode.TRUNCATED, "max_tokens: 128"),
    "loops": ("short", "so " * 100, ValidityCode.NO_END, "stop:"),
    "asks on": ("asked", "7\nQ: 5 + 5 =\nA: 10\nQ: what is the next one here? " + LONG, ValidityCode.NO_END, 'stop: ["Q:'),
    "unread": ("short", "I would rather not", ValidityCode.UNREAD, "verifier:"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_that_does_not_fit_ends_after_eight_samples(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    behavior, wrong, code, repair = FAULTS[name]
    write_model(wrong)
    status, error = command(monkeypatch, RUN.format(f"{behavior}.yaml"))
    assert (status, error.code) == (2, "pilot_stopped")
    assert repair in str(error)
    assert "\n" not in str(error)
    entry = DiagnosisFile.model_validate_json((folder / "out" / "diagnosis.json").read_text())[behavior]
    assert entry.bottleneck is Bottleneck.INVALID
    assert entry.stage is None or entry.stage.name == "fix_setup"
    assert (entry.sampling.ended_code, list(entry.sampling.pilot.codes)) == ("pilot_stopped", [code])
    assert entry.cost.samples == entry.sampling.pilot.num_samples == 8
    assert (folder / "out" / "report.html").exists()
    assert command(monkeypatch, RUN.format(f"{behavior}.yaml"))[0] == 2  # and nothing more is sampled
    assert RunDirectory(folder / "out").rollout_table(behavior).num_tokens.size == 8


def test_without_a_pilot_a_stopped_run_goes_on_with_its_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(LONG)
    assert command(monkeypatch, RUN.format("short.yaml"))[0] == 2
    shard = next((folder / "out" / "rollouts").glob(f"*{GREEDY}*"))
    before = shard.stat().st_mtime_ns
    assert command(monkeypatch, RUN.format("short.yaml") + " --pilot off") == (0, None)
    assert shard.stat().st_mtime_ns == before
    assert assemble("out")["short"].validity.failures  # too many samples are truncated all the same
    assert RunDirectory(folder / "out").rollout_table("short").num_tokens.size == 20 * 17
    code, error = command(monkeypatch, RUN.format("short.yaml") + " --pilot maybe")
    assert (code, error.code) == (2, "not_on_or_off")


def test_a_run_whose_setup_is_wrong_ends_before_it_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier accepts every number; with a pilot or without, nothing is sampled, and the command says so with its exit code."""
    Path("short.yaml").write_text(Path("short.yaml").read_text().replace("{kind: number}", "{kind: number, tolerance: 1e9}"))
    write_model("7")
    for more in ("", " --pilot off"):
        status, error = command(monkeypatch, RUN.format("short.yaml") + more)
        assert (status, error.code) == (2, "setup_failed")
        assert "\n" not in str(error)
        entry = DiagnosisFile.model_validate_json((folder / "out" / "diagnosis.json").read_text())["short"]
        assert (entry.bottleneck, entry.sampling.ended_code, entry.cost.samples) == (Bottleneck.INVALID, "setup_failed", 0)
        assert list(entry.validity.failure_codes) == [ValidityCode.ACCEPTS_WRONG_ANSWERS]


def test_the_samples_of_a_pilot_are_the_greedy_samples(folder: Path) -> None:
    behaviors = [load_behavior("short.yaml")]
    TokenCounter.tokens = 0
    run = diagnose.run("m", behaviors, out="on", engine=TokenCounter.for_behaviors(behaviors, 0.9), samples=4, probes=["none"])
    with_pilot = TokenCounter.tokens
    entry = run["short"].plan.pilot
    assert (entry.num_samples, entry.num_truncated, entry.num_unread, list(entry.codes)) == (8, 0, 0, [])
    engine = TokenCounter.for_behaviors(behaviors, 0.9)
    other = diagnose.run("m", behaviors, out="off", engine=engine, samples=4, probes=["none"], pilot=False)
    assert TokenCounter.tokens == 2 * with_pilot
    texts = [
        [(one.problem_id, one.decoding, one.sample_index, one.text) for one in each["short"].rollouts] for each in (run, other)
    ]
    assert texts[0] == texts[1]


def test_the_other_behaviors_are_measured(folder: Path) -> None:
    behaviors = [load_behavior("short.yaml"), load_behavior("asked.yaml")]
    engine = ScriptedEngine.for_behaviors(behaviors, 0.1, wrong=LONG[:60])
    run = diagnose.run("m", behaviors, out="out", engine=engine, samples=16, probes=["none"])
    assert run["short"].diagnosis.bottleneck is Bottleneck.INVALID
    assert run["asked"].table.num_tokens.size == 20 * 17


def test_a_model_that_often_fails_and_stops_is_measured(folder: Path) -> None:
    behaviors = [load_behavior("short.yaml")]
    engine = ScriptedEngine.for_behaviors(behaviors, 0.02)
    run = diagnose.run("m", behaviors, out="out", engine=engine, samples=64, probes=["none"])
    assert run["short"].diagnosis.bottleneck is not Bottleneck.INVALID


@pytest.mark.parametrize(("ending", "codes"), [(0.05, []), (0.001, [ValidityCode.NO_END])])
def test_greedy_loops_stop_no_behavior_whose_answers_the_model_ends(
    folder: Path, ending: float, codes: list[ValidityCode]
) -> None:
    """In sampled text what loops in greedy decoding may come to an end."""
    behavior = load_behavior("short.yaml")
    loop = Rollout(
        behavior="short", problem_id="p0", split=Split.EVAL, sample_index=0, decoding=GREEDY, token_ids=(7, 8) * 16, policy_logprobs=None,
        sampler_logprobs=None, stop=StopReason.LENGTH, text="so " * 16, grade=Grade(status=GradeStatus.SCORED, score=0.0), engine="e",
    )  # fmt: skip
    path = PathScore(
        behavior="short", problem_id="p0", split=Split.EVAL, reference_index=0, token_ids=(5, 0), token_texts=("1", ""), engine="e",
        token_steps=np.zeros(2, dtype=np.int32), policy_logprobs=np.log([0.5, ending]), ranks=np.zeros(2, dtype=np.int32),
    )  # fmt: skip
    engine = ScriptedEngine.for_behaviors([behavior], 0.1)
    found = judge_pilot(behavior, engine, [loop] * 8, Thresholds(), lambda: [path])
    assert (found.entry.num_truncated, list(found.entry.codes), bool(found.checked)) == (8, codes, bool(codes))


def test_loops_are_told_from_long_texts() -> None:
    assert is_looping([5] * 32)
    assert is_looping([9, 8, 7, *[1, 2, 3] * 20])
    assert not is_looping(list(range(64)))
    assert not is_looping([1, 2, 3, 4, 5, 6])
    assert not is_looping([1, 2, 1, 3] * 8 + list(range(40)))
