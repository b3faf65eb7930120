"""`train --retain` from the command to the checkpoint, on a model small enough to be retrained in a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from helpers.scripted_loop import Effect, ScriptedSteps, write_behavior
from typer.testing import CliRunner

from posttrain import trainers
from posttrain.cli import app
from posttrain.cli.options import repeat_option, retained_names
from posttrain.diagnose.comparison.loop_json import StageOrigin
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.types import Purpose
from posttrain.trainers.diagnose_and_train import LoopRequest
from posttrain.trainers.diagnose_and_train.choose_stage import StageChoice
from posttrain.trainers.diagnose_and_train.loop_result import RoundRetention
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan
from posttrain.trainers.diagnose_and_train.train_round import make_train_request, train_round

FEW = ["num_steps=2", "rows_per_batch=4", "learning_rate=1e-3"]


class Said(Reporter):
    """Keeps the lines for people."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_kept(folder: Path, name: str, pattern: str) -> Path:
    """Write a behavior that is right wherever a sample has what the pattern finds."""
    rows = [
        {"id": f"{name}{i}", "prompt": f"{name} {i}:", "answer": "a", "split": "train" if i < 8 else "eval"} for i in range(10)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"problems: {name}.jsonl\nverifier: {{kind: regex, pattern: '{pattern}', select: first}}\nprompt: {{format: completion}}\n"
        "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\npurpose: retention\n"
    )
    return path


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_the_command_retains_behaviors(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    kept = [write_kept(tmp_path, name, "(a)") for name in ("kept", "also")]
    out = tmp_path / "out"
    flags = [flag for setting in [*FEW, "retain_share=0.5", "retain_samples=16"] for flag in ("--set", setting)]
    arguments = ["train", "sft", tiny_model, sums_file, "--retain", *kept, "--out", out, *flags]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    prepared, *rest = log_of(out)
    steps = [record for record in rest if record["event"] == "step"]
    assert prepared["retained_samples/kept"] > 0
    assert prepared["retained_samples/also"] > 0
    assert [step["retained_rows"] for step in steps] == [4, 4]
    tokens = sum(step["retained_tokens"] for step in steps)
    assert f"retained: 8 rows, {tokens:.0f} tokens of {sum(step['tokens'] for step in steps)} trained" in result.stdout
    card = (out / "README.md").read_text()
    assert "- kept: retained" in card
    assert "- also: retained" in card
    assert json.loads((out / "posttrain_config.json").read_text())["retain_share"] == 0.5


def test_a_behavior_without_a_right_sample_is_named_and_training_goes_on(
    sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    behaviors, said = [write_kept(tmp_path, "kept", "(a)"), write_kept(tmp_path, "never", "(a)QQQQ")], Said()
    arguments: dict[str, Any] = {"overrides": [*FEW, "retain_samples=16"], "reporter": said}
    result = trainers.train("sft", tiny_model, [sums_file], out=tmp_path / "out", retain=behaviors, **arguments)
    assert log_of(tmp_path / "out")[0]["retained_samples/never"] == 0
    assert result.retained_rows == 2 * 1
    assert len([line for line in said.lines if "never" in line and "warning" in line]) == 1
    assert not [line for line in said.lines if "kept" in line and "warning" in line]


def loop_request(model: Path, behaviors: list[Path], out: Path, **options: Any) -> LoopRequest:
    return LoopRequest(model=str(model), behaviors=behaviors, out=out, **options)


def test_a_loop_retains_what_has_that_purpose_or_what_it_is_told(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    kept, also = (write_kept(tmp_path, name, "(a)") for name in ("kept", "also"))
    measured_only = write_kept(tmp_path, "watched", "(a)")
    rows = (tmp_path / "watched.jsonl").read_text().replace('"train"', '"eval"')
    (tmp_path / "watched.jsonl").write_text(rows)
    target = write_kept(tmp_path, "target", "(a)")
    target.write_text(target.read_text().replace("retention", "target"))
    for retain, expected in ((None, ("kept",)), ([], ()), ([also], ("also",)), ([kept, target], ("kept", "target"))):
        request = loop_request(tiny_model, [sums_file, kept, measured_only], tmp_path / "out", retain=retain)
        assert request.retained == expected
        again = replace(request, behaviors=request.loaded)
        assert (again.retained, again.loaded) == (request.retained, request.loaded)
        assert [one.purpose for one in request.loaded] == [Purpose.TARGET] + [Purpose.RETENTION] * (len(request.loaded) - 1)
        assert {one.name for one in request.retained_in("grpo", ["sums"])} == set(expected)
        assert not request.retained_in("merge", ["sums"])
        assert "kept" not in {one.name for one in request.retained_in("sft", ["kept"])}
        assert request.settings().get("retain", []) == list(expected)


def test_what_a_loop_cannot_retain_is_refused(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    kept = write_kept(tmp_path, "kept", "(a)")
    for retain, stages, code in (
        ([sums_file], [], "retained_is_trained"),
        ([kept], ["reward_model"], "stage_cannot_retain"),
    ):
        with refused(SettingsError, code):
            loop_request(tiny_model, [sums_file], tmp_path / "out", retain=retain, stages=stages)
    (tmp_path / "kept.jsonl").write_text((tmp_path / "kept.jsonl").read_text().replace('"train"', '"eval"'))
    with refused(SettingsError, "retained_without_train_problems"):
        loop_request(tiny_model, [sums_file], tmp_path / "out", retain=[kept])


def test_a_round_retains_what_it_does_not_train_on_and_its_summary_tells_it(tmp_path: Path, tiny_model: Path) -> None:
    behaviors = [write_behavior(tmp_path, "goal")]
    behaviors += [write_behavior(tmp_path, name, purpose="retention") for name in ("kept", "also")]
    unchanged: Effect = lambda rates, request: {}  # noqa: E731
    script = ScriptedSteps(tmp_path, {"goal": 0.0}, {"sft": unchanged, "replay": unchanged})
    for number, (stage, trained, settings, expected) in enumerate((
        ("sft", "goal", [], RoundRetention(behaviors=("kept", "also"), share=0.25, rows=10, tokens=140)),
        ("replay", "kept", ["retain_share=0.5"], RoundRetention(behaviors=("also",), share=0.5, rows=5, tokens=70)),
        ("sft", "goal", ["retain_share=0"], RoundRetention()),
    )):  # fmt: skip
        request = loop_request(tiny_model, behaviors, tmp_path / "loop", overrides=settings)
        choice = StageChoice(stage=stage, trained=(trained,), reason=StageOrigin.NAMED)
        plan = RoundPlan(choice=choice, started_from=0)
        make = partial(make_train_request, request, plan, str(tiny_model), str(tiny_model))
        for _ in range(2):  # the second time it is read from disk
            summary = train_round(tmp_path / f"stage-{number}", choice, make, script.train)
            assert RoundRetention.from_summary(summary) == expected
    assert len(script.trained) == 3
    assert RoundRetention.from_summary({"stage": "sft"}) == RoundRetention(), "written by an earlier version"


def test_names_up_to_the_next_option_belong_to_it() -> None:
    given = "sft demo a --retain b c.yaml --out x --retain=d e -q f"
    assert " ".join(repeat_option(given.split(), "--retain")) == (
        "sft demo a --retain b --retain c.yaml --out x --retain=d --retain e -q f"
    )
    assert repeat_option(["--retain"], "--retain") == ["--retain"]


@pytest.mark.parametrize(("given", "names"), [(None, None), ([], None), (["none"], []), (["a", "b"], ["a", "b"])])
def test_none_is_no_behavior(given: list[str] | None, names: list[str] | None) -> None:
    assert retained_names(given) == names
    with refused(SettingsError, "none_among_names"):
        retained_names(["a", "none"])
