"""A whole loop on tables of success rates: what it writes, and that a kill at any point changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.refusals import refused
from helpers.scripted_loop import Effect, ScriptedSteps, cut_after, write_behavior

from posttrain.cli import main
from posttrain.diagnose.comparison.loop_json import LoopEnd, LoopFile, RoundVerdict, StageOrigin
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.json_model import read_model
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopResult
from posttrain.trainers.diagnose_and_train.run_loop import run_rounds

EFFECTS: dict[str, Effect] = {
    "grpo": lambda before, request: {"new": 0.99, "old": 0.6},
    "replay": lambda before, request: {"old": 0.99},
}
"""The first stage masters the target and costs the other behavior, the second brings it back."""


@pytest.mark.slow
def test_a_loop_writes_what_each_round_did_and_goes_on_after_a_kill(tmp_path: Path, tiny_model: Path) -> None:
    files = [write_behavior(tmp_path, "new"), write_behavior(tmp_path, "old", purpose="retention")]
    out = tmp_path / "loop"

    def run() -> tuple[LoopResult, ScriptedSteps]:
        steps = ScriptedSteps(tmp_path, {"new": 0.3, "old": 0.99}, EFFECTS)
        request = LoopRequest(model=str(tiny_model), behaviors=files, out=out, pilot=False, rounds=4)
        return run_rounds(request, steps.steps, Reporter(quiet=True)), steps

    result, steps = run()
    assert [one.stage for one in result.rounds] == ["grpo", "replay"]
    assert steps.trained[1].earlier == str(tiny_model)
    assert steps.trained[1].model == str(out / "stage-1")
    assert result.ended is LoopEnd.MASTERED
    assert result.kept is result.rounds[1]
    assert result.transition is not None
    assert result.transition.after.path == out / "diagnosis-2"

    file = read_model(out / "loop.json", LoopFile)
    first, second = file.rounds
    assert file.ended is LoopEnd.MASTERED
    assert file.keep is not None
    assert (file.keep.round, file.keep.checkpoint) == (2, str(out / "stage-2"))
    assert (first.verdict, second.verdict, second.reason) == (RoundVerdict.HELPED, RoundVerdict.HELPED, StageOrigin.CONSOLIDATION)
    assert [point.round for point in file.behaviors[0].pass_at_1] == [0, 1, 2]
    new, old = first.changes
    assert (new.delta.estimate, old.delta.estimate) == (pytest.approx(0.69, abs=0.06), pytest.approx(-0.39, abs=0.06))
    assert second.changes[1].delta.estimate == pytest.approx(0.39, abs=0.06)
    assert second.changes[1].since_start.estimate == pytest.approx(0.0, abs=0.03)
    assert first.cost.trained_tokens == 100
    assert (first.retention.behaviors, first.retention.rows, first.retention.tokens) == (["old"], 5, 70)
    assert first.retention.share > 0
    assert second.retention.behaviors == ["new"], (
        "what is trained on is not retained as well, and the targets are not lost for it"
    )
    assert file.cost.generated_tokens == sum(
        diagnosis.cost.generated_tokens
        for run in (result.before, *(one.after for one in result.rounds))
        for diagnosis in run.diagnoses
    )

    cut_after(out, 1)
    again, steps = run()
    assert [request.stage for request in steps.trained] == ["replay"]
    assert [one.changes for one in again.rounds] == [one.changes for one in result.rounds]
    assert [one.verdict for one in again.rounds] == [one.verdict for one in result.rounds]

    marker = out / "stage-1.json"
    marker.write_text(marker.read_text().replace('"grpo"', '"sft"').replace('"checksum"', '"unread"'))
    with refused(RunError, "other_stage"):
        run()


@pytest.mark.slow
def test_two_rounds_of_a_model_from_the_command_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that says nothing right learns to repeat a letter; the second stage learns from its own right answers."""
    rows = [{"id": f"{c}{i}", "prompt": f"say {c} {i}:", "answer": c, "references": [c]} for c in "abcd" for i in range(6)]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "letters.yaml").write_text(
        "problems: letters.jsonl\nverifier: {kind: exact}\nprompt: {format: completion}\nsampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\n"
    )
    out = tmp_path / "loop"
    words = [
        "loop", tiny_model, tmp_path / "letters.yaml", "--out", out, "--stages", "sft,rft", "--set", "num_steps=30", "--set", "learning_rate=0.003",
        "--samples", "8", "--probes", "none", "--pilot", "off", "--budget-tokens", "1000000", "--quiet",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, words)])
    main()
    file = read_model(out / "loop.json", LoopFile)
    assert file.ended is LoopEnd.ROUNDS_DONE
    assert [(one.stage, one.reason, one.started_from) for one in file.rounds] == [("sft", "given", 0), ("rft", "given", 1)]
    assert file.rounds[0].moved
    assert file.rounds[1].verdict is not RoundVerdict.HELPED  # there is next to nothing left to learn
    assert [one.learning_rate for one in file.rounds] == [0.003, 0.003]
    assert file.rounds[0].verdict is RoundVerdict.HELPED
    assert file.rounds[0].changes[0].delta.estimate > 0.5
    assert file.cost.trained_tokens == sum(one.cost.trained_tokens for one in file.rounds) > 0
    assert file.keep is not None
    assert file.keep.checkpoint in capsys.readouterr().out
    assert (out / "figures" / "rounds" / "rounds.svg").exists()
