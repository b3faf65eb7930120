"""Every recipe runs through the one loop; what a run leaves behind can be read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import grade_all, grade_parity, make_behavior, make_inputs, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.diagnose.errors import NonFiniteError, SettingsError, UserError
from posttrain.diagnose.types import Grade, GradeStatus
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.training.dev_evaluation import DevEvaluation
from posttrain.trainers.training.result import Ending, TrainingResult
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import MeasuredProblemError, TrainingSet

SETTINGS = {
    "sft": ["num_steps=2", "rows_per_batch=4"],
    "rft": ["num_steps=2", "rows_per_batch=4", "num_samples=4"],
    "grpo": ["num_steps=2", "problems_per_batch=3", "group_size=4"],
    "ppo": ["num_steps=2", "problems_per_batch=3", "group_size=4", "updates_per_batch=1"],
}


def train(name: str, model, tokenizer, out: Path, *more: str, grade=None, **arguments) -> TrainingResult:
    config = load_config(name, None, ["autocast=float32", "learning_rate=1e-2", *SETTINGS[name], *more])
    return run_recipe(name, make_inputs(model, tokenizer, grade=grade or grade_parity), config, out=out, **arguments)


def lines(result_log: Path) -> list[dict]:
    return [json.loads(line) for line in result_log.read_text().splitlines()]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_recipe_trains_logs_and_saves(name: str, model, tokenizer, tmp_path: Path) -> None:
    seen: list[object] = []
    before = model.lm_head.weight.detach().clone()
    result = train(name, model, tokenizer, tmp_path, on_step=seen.append)
    assert (result.num_steps, result.num_skipped, result.ending) == (2, 0, Ending.FINISHED)
    assert not torch.equal(model.lm_head.weight, before)
    logged = lines(result.log)
    assert [record["event"] for record in logged] == ["prepared", "step", "step", "movement"]
    assert len(seen) == 4
    assert sum(record["tokens"] for record in logged[1:3]) == result.trained_tokens > 0
    assert (result.generated_tokens > 0) == (name != "sft")
    loaded = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(result.checkpoint).eos_token == "t31"
    assert json.loads((result.checkpoint / "posttrain_config.json").read_text())["learning_rate"] == 1e-2
    assert name in (result.checkpoint / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "training_log.jsonl"]


def test_grpo_logs_what_one_needs_to_see(model, tokenizer, tmp_path: Path) -> None:
    step = lines(train("grpo", model, tokenizer, tmp_path).log)[1]
    assert {
        "loss",
        "grad_norm",
        "learning_rate",
        "tokens",
        "reward",
        "groups_without_signal",
        "clipped",
        "truncated",
        "sampled_length",
        "entropy",
        "seconds",
    } <= set(step)
    assert step["sampler_gap"] < 1e-4  # engine and trainer hold the same weights in the same precision


def test_dropout_is_off_whatever_mode_the_model_comes_in(tokenizer, tmp_path: Path) -> None:
    """With dropout the ratio to the policy that sampled would be noise, and so would the reference."""
    model = tiny_llama(attention_dropout=0.5).train()
    step = lines(train("grpo", model, tokenizer, tmp_path, "kl_weight=0.1").log)[1]
    assert not any(module.training for module in model.modules())
    assert step["sampler_gap"] < 1e-4
    assert step["kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_missing_grades_do_not_stop_a_run_with_a_divergence(name: str, model, tokenizer, tmp_path: Path) -> None:
    def grade(problem, texts):
        grades = grade_parity(problem, texts)
        return [Grade(status=GradeStatus.ERROR, score=None) if number % 3 == 0 else one for number, one in enumerate(grades)]

    result = train(name, model, tokenizer, tmp_path, "kl_weight=0.1", grade=grade)
    assert result.num_steps >= 2
    assert all(record["ungraded"] > 0 and math.isfinite(record["loss"]) for record in lines(result.log)[1:-1])


def test_runs_repeat_by_seed(tokenizer, tmp_path: Path) -> None:
    results = []
    for part, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = tiny_llama()
        train("grpo", model, tokenizer, tmp_path / part, f"seed={seed}")
        results.append(model.lm_head.weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", ["rft", "grpo"])
def test_without_signal_nothing_moves(name: str, model, tokenizer, tmp_path: Path) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    result = train(name, model, tokenizer, tmp_path, grade=grade_all(0.0))
    assert result.ending is Ending.NOTHING_TO_LEARN
    assert (result.num_steps, result.num_skipped) == (0, 2 if name == "grpo" else 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_nan_is_logged_and_stops(model, tokenizer, tmp_path: Path) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError):
        train("sft", model, tokenizer, tmp_path)
    last = lines(tmp_path / "training_log.jsonl")[-1]
    assert (last["step"], last["status"], last["loss"]) == (0, "non_finite", "nan")
    assert not (tmp_path / "checkpoint").exists()


def test_an_interrupt_keeps_the_steps_so_far(model, tokenizer, tmp_path: Path) -> None:
    def interrupt(record) -> None:
        if record.get("step") == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sft", model, tokenizer, tmp_path, "num_steps=5", on_step=interrupt)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_dev_evaluations_choose_the_checkpoint_and_stop_early(model, tokenizer, tmp_path: Path) -> None:
    scores = iter([0.7, 0.1, 0.5, 0.4, 0.3, 0.9])  # the first one is the start's, which is no candidate
    weights = []

    def evaluate(scorer: object) -> DevEvaluation:
        weights.append(model.lm_head.weight.detach().clone())
        return DevEvaluation(score=next(scores))

    result = train(
        "sft", model, tokenizer, tmp_path, "num_steps=9", "eval_every=1", "patience=2", "save_every=3", evaluate=evaluate
    )
    assert (result.ending, result.num_steps) == (Ending.STOPPED_EARLY, 4)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(result.checkpoint).lm_head.weight, weights[2])
    assert (tmp_path / "checkpoint-3").is_dir()


def test_bfloat16_checkpoint_leaves_the_model_in_float32(model, tokenizer, tmp_path: Path) -> None:
    result = train("sft", model, tokenizer, tmp_path, "checkpoint_dtype=bfloat16")
    assert AutoModelForCausalLM.from_pretrained(result.checkpoint, dtype="auto").dtype is torch.bfloat16
    assert model.dtype is torch.float32


def test_updates_per_batch_are_counted(model, tokenizer, tmp_path: Path) -> None:
    assert train("grpo", model, tokenizer, tmp_path, "updates_per_batch=2").num_steps == 4


def test_what_cannot_work_is_refused_before_it_starts(model, tokenizer, tmp_path: Path) -> None:
    graded, ungraded = make_inputs(model, tokenizer, grade=grade_parity), make_inputs(model, tokenizer)
    with pytest.raises(SettingsError) as refused:
        run_recipe("grpo", graded, load_config("sft"), out=tmp_path)
    assert refused.value.code == "other_recipes_config"
    with pytest.raises(SettingsError) as refused:
        run_recipe("grpo", ungraded, load_config("grpo"), out=tmp_path)
    assert refused.value.code == "missing_input"
    with pytest.raises(SettingsError) as refused:
        train("sft", model, tokenizer, tmp_path, "eval_every=1")
    assert refused.value.code == "missing_evaluation"


class Closed(TrainingSet):
    """A training set that was emptied after its problems were read: no row stems from it."""

    def require_train(self, rows) -> None:
        other = TrainingSet([replace(make_behavior(), name="others")])
        other.require_train(rows)


def test_the_loop_refuses_rows_that_a_source_should_not_have(model, tokenizer, tmp_path: Path) -> None:
    inputs = make_inputs(model, tokenizer, training_set=Closed([make_behavior()]))
    with pytest.raises(MeasuredProblemError):
        run_recipe("sft", inputs, load_config("sft", None, ["autocast=float32"]), out=tmp_path)


def test_sft_without_references_says_what_to_do(model, tokenizer, tmp_path: Path) -> None:
    behavior = make_behavior()
    bare = replace(behavior, problems=tuple(replace(problem, references=()) for problem in behavior.problems))
    inputs = make_inputs(model, tokenizer, training_set=TrainingSet([bare]))
    with pytest.raises(UserError) as caught:
        run_recipe("sft", inputs, load_config("sft"), out=tmp_path)
    assert caught.value.code == "missing_input"
    assert "references" in str(caught.value)
