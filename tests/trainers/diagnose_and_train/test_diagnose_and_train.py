"""The loop end to end on a tiny model, and that nothing measured is ever trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain import trainers
from posttrain.diagnose import load_behavior
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.types import Split
from posttrain.trainers.step.optimizer_step import Stepper


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every row that reaches an optimizer step."""
    rows: list[Any] = []
    step = Stepper.step

    def watched(self: Stepper, batch: Sequence[Any], *args: Any) -> Any:
        rows.extend(batch)
        return step(self, batch, *args)

    monkeypatch.setattr(Stepper, "step", watched)
    return rows


def test_a_loop_measures_trains_and_measures_again(sums_file: Path, tiny_model: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "loop"
    arguments: dict[str, Any] = {
        "out": out,
        "stages": ["sft"],
        "samples": 4,
        "pilot": False,
        "overrides": ["num_steps=3", "rows_per_batch=2"],
    }
    result = trainers.loop(tiny_model, [sums_file], **arguments)
    assert [r.stage for r in result.rounds] == ["sft"]
    for name in ("run.json", "loop.json", "compare.json", "report.html", "report.md", "stage-1/config.json"):
        assert (out / name).exists(), name
    assert json.loads((out / "run.json").read_text())["state"] == "done"
    assert result.final is not None
    behavior = load_behavior(sums_file)
    measured = {p.id for p in behavior.problems if p.split is not Split.TRAIN}
    assert seen
    assert not {row.problem_id for row in seen} & measured
    assert {p.id for p in result.rounds[0].after.diagnoses[0].problems} <= measured
    # Neither does the text of a measured reference path, whichever id it came under.
    tokenizer_texts = {row.text for row in seen if row.text}
    assert not tokenizer_texts & {r.text for p in behavior.problems if p.id in measured for r in p.references}

    num_rows = len(seen)
    again = trainers.loop(tiny_model, [sums_file], **arguments)
    assert len(seen) == num_rows, "a finished loop was trained again"
    assert again.rounds[0].checkpoint == result.rounds[0].checkpoint
    with pytest.raises(RunError) as caught:
        trainers.loop(tiny_model, [sums_file], **(arguments | {"samples": 5}))
    assert caught.value.code == "other_settings"
    assert "samples:" in str(caught.value)


def test_an_interrupted_loop_goes_on_where_it_was(
    sums_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "stages": ["sft"],
        "samples": 4,
        "pilot": False,
        "overrides": ["num_steps=2", "rows_per_batch=2"],
    }
    whole = trainers.loop(tiny_model, [sums_file], out=tmp_path / "whole", **arguments)

    def stopped(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            trainers.loop(tiny_model, [sums_file], out=tmp_path / "cut", **arguments)
    assert (tmp_path / "cut" / "diagnosis-0" / "diagnosis.json").exists()
    resumed = trainers.loop(tiny_model, [sums_file], out=tmp_path / "cut", **arguments)
    assert resumed.transition is not None
    assert whole.transition is not None
    assert resumed.transition.behaviors[0].delta == whole.transition.behaviors[0].delta


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_stage_is_named_and_the_stage_can_be_trained_again(
    sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "loop"
    arguments: dict[str, Any] = {
        "out": out,
        "stages": ["sft"],
        "samples": 2,
        "pilot": False,
        "probes": [],
        "overrides": ["num_steps=1"],
    }
    trainers.loop(tiny_model, [sums_file], **arguments)
    weights, marker = out / "stage-1" / "model.safetensors", out / "stage-1.json"
    whole = weights.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-4], None):
        if content is None:
            weights.unlink()
        else:
            weights.write_bytes(content)
        with refused(RunError, "damaged_checkpoint") as caught:
            trainers.loop(tiny_model, [sums_file], **arguments)
        assert str(weights) in str(caught.value)
        assert str(marker) in str(caught.value)
    marker.unlink()
    trainers.loop(tiny_model, [sums_file], **arguments)
    assert weights.read_bytes() == whole
    (out / "stage-1" / "README.md").write_text("my notes")
    trainers.loop(tiny_model, [sums_file], **arguments)


def test_nothing_to_train_ends_with_the_diagnosis(tiny_model: Path, tmp_path: Path) -> None:
    """Without references or successes the diagnosis names no stage that trains."""
    rows = [{"id": f"p{i}", "prompt": f"what is word {i}?", "answer": f"unreachable{i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.yaml").write_text(
        "problems: rows.jsonl\nverifier: {kind: exact}\nprompt: {format: completion}\nsampling: {max_tokens: 16, stop: ['a']}\n"
    )
    result = trainers.loop(tiny_model, [tmp_path / "b.yaml"], out=tmp_path / "loop", samples=16, pilot=False)
    assert result.rounds == ()
    assert result.transition is None
    assert result.report_html.exists()


def test_a_stage_stopped_half_way_goes_on_from_there(
    sums_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "stages": ["sft"],
        "samples": 4,
        "pilot": False,
        "overrides": ["num_steps=3", "rows_per_batch=2"],
    }
    whole = trainers.train("sft", tiny_model, [sums_file], out=tmp_path / "whole", overrides=arguments["overrides"], seed=0)
    step = Stepper.step
    calls: list[int] = []

    def counted(self: Stepper, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Stepper, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        trainers.loop(tiny_model, [sums_file], out=tmp_path / "cut", **arguments)
    assert not (tmp_path / "cut" / "stage-1.json").exists()
    result = trainers.loop(tiny_model, [sums_file], out=tmp_path / "cut", **arguments)
    assert len(calls) == 2 + 2, "the first step was taken again"
    assert json.loads((tmp_path / "cut" / "stage-1.json").read_text())["optimizer_steps"] == 3
    weights = [folder / "model.safetensors" for folder in (whole.checkpoint, result.rounds[0].checkpoint)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "cut" / ".stage-1.work").exists()


def test_a_behavior_that_is_measured_elsewhere_is_not_trained_on(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = sums_file.with_name("others.yaml")
    other.write_text(sums_file.read_text().replace("final: 0.2", "final: 0.2, seed: 9"))
    with pytest.raises(SettingsError) as caught:
        trainers.loop(tiny_model, [sums_file, other], out=tmp_path / "loop", samples=2)
    assert caught.value.code == "measured_problems"
    with pytest.raises(SettingsError) as caught:
        trainers.train("sft", tiny_model, [sums_file, other], out=tmp_path / "ckpt")
    assert caught.value.code == "measured_problems"
    assert not (tmp_path / "loop").exists()


def test_a_behavior_without_samples_does_not_end_the_loop(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Its verifier fails the self-test, so it is not sampled; the other one is trained and compared."""
    broken = tmp_path / "broken.yaml"
    rows = [{"id": f"w{i}", "prompt": f"word {i}", "answer": f"w{i}", "references": [f"the word is w{i}"]} for i in range(12)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken.write_text("problems: words.jsonl\nverifier: {kind: exact}\nprompt: {format: completion}\npurpose: retention\n")
    result = trainers.loop(
        tiny_model, [sums_file, broken], out=tmp_path / "loop", stages=["sft"], samples=2, pilot=False, overrides=["num_steps=1"]
    )
    assert result.transition is not None
    assert [b.name for b in result.transition.behaviors] == ["sums"]
    assert result.before["broken"].diagnosis.bottleneck == "invalid"


def test_a_config_file_needs_a_named_stage(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        trainers.loop(tiny_model, [sums_file], out=tmp_path / "loop", config=tmp_path / "missing.yaml")
    assert caught.value.code == "config_without_stages"
    assert not (tmp_path / "loop").exists()
