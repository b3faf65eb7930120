"""What an evaluation on the dev slice measures, and what the loop makes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.training import TinyEngine, grade_parity, make_behavior, make_inputs, tiny_llama

from posttrain import trainers
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.sources.policy import RolloutSampler, sampler_of
from posttrain.trainers.step.forward_scores import ForwardScorer
from posttrain.trainers.training.dev_evaluation import DevEvaluation, DevEvaluator
from posttrain.trainers.training.dev_selection import DevSelection
from posttrain.trainers.training.preparation import make_scorer
from posttrain.trainers.training.result import Ending
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import TrainingSet


def train(model, tokenizer, out: Path, scores: Sequence[float], *more: str):
    config = load_config("sft", None, ["autocast=float32", "learning_rate=1e-2", "rows_per_batch=3", "eval_every=1", *more])
    given = iter(scores)

    def evaluate(scorer: object) -> DevEvaluation:
        passed = next(given)
        return DevEvaluation(score=passed, pass_at_1=passed, metrics={"pass_at_1": passed})

    return run_recipe("sft", make_inputs(model, tokenizer), config, out=out, evaluate=evaluate)


def test_an_evaluation_measures_what_it_says(tokenizer) -> None:
    model, start = tiny_llama(), tiny_llama()
    engine = TransformersEngine.from_model(model, tokenizer, sample_dtype="float32")
    tiny = TinyEngine(model)
    engine.sample, engine.codec = tiny.sample, tiny.codec
    training_set = TrainingSet([make_behavior(num_train=16)], dev_share=0.3)
    inputs = make_inputs(model, tokenizer, grade=grade_parity, engine=engine, training_set=training_set)
    evaluate = DevEvaluator(sampler_of(inputs), training_set, num_samples=3, seed=5)
    stage = find_recipe("sft").build(inputs, load_config("sft"))
    scorer = make_scorer(inputs, load_config("sft", None, ["autocast=float32", "eval_every=1"]), stage)
    assert evaluate(scorer).metrics["kl_to_start"] == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        model.lm_head.weight.add_(0.2 * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)))
    found = evaluate(scorer)
    assert evaluate(scorer) == found  # the same seeds

    sampler = RolloutSampler(engine=tiny, graders=inputs.graders)
    rows = sampler.sample_problems(training_set.dev, num_samples=3, seed="dev|5")
    entropies, divergences = [], []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        with torch.no_grad():
            p, q = (torch.log_softmax(m(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1], -1) for m in (model, start))
        entropies.append(-(p.exp() * p).sum(-1))
        divergences.append((p.exp() * (p - q)).sum(-1))
    expected = {
        "pass_at_1": sum(row.reward == 1.0 for row in rows) / len(rows),
        "truncated": sum(row.truncated for row in rows) / len(rows),
        "length": sum(len(row.completion_ids) for row in rows) / len(rows),
        "entropy": float(torch.cat(entropies).mean()),
        "kl_to_start": float(torch.cat(divergences).mean()),
    }
    assert expected["kl_to_start"] > 1e-3
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-5), name
    assert found.score == found.pass_at_1 == expected["pass_at_1"]
    ungraded = DevEvaluator(sampler_of(inputs, graded=False), training_set, num_samples=3, seed=5)(scorer)
    assert ungraded.pass_at_1 is None
    assert ungraded.score == found.metrics["reference_logprob"] < 0


def test_the_target_ends_the_run(model, tokenizer, tmp_path: Path) -> None:
    result = train(model, tokenizer, tmp_path / "a", [0.1, 0.3, 0.6, 0.9], "num_steps=5", "target=0.5")
    assert (result.ending, result.num_steps) == (Ending.TARGET_MET, 2)
    result = train(tiny_llama(), tokenizer, tmp_path / "b", [0.6], "num_steps=5", "target=0.5")
    assert (result.ending, result.num_steps) == (Ending.TARGET_MET, 0)
    assert (result.checkpoint / "config.json").exists()


def test_attrition_ends_the_run_and_the_best_checkpoint_stays(model, tokenizer, tmp_path: Path) -> None:
    result = train(model, tokenizer, tmp_path, [0.5, 0.45, 0.45, 0.3], "num_steps=9", "max_dev_loss=0.1")
    assert (result.ending, result.num_steps) == (Ending.ATTRITION, 3)
    card = (result.checkpoint / "README.md").read_text()
    assert "| pass@1 | 0.5 | 0.45 |" in card
    assert "1 optimizer steps" in card


def test_settings_that_need_an_evaluation_are_refused_without_one(model, tokenizer, tmp_path: Path) -> None:
    for setting in ("target=0.5", "max_dev_loss=0.1"):
        config = load_config("sft", None, [setting])
        with pytest.raises(SettingsError) as refused:
            run_recipe("sft", make_inputs(model, tokenizer), config, out=tmp_path)
        assert refused.value.code == "missing_eval_every"


def test_the_average_is_what_is_evaluated_and_saved(model, tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    weights, seen = [model.lm_head.weight.detach().clone()], []
    config = load_config(
        "sft",
        None,
        ["autocast=float32", "learning_rate=1e-2", "rows_per_batch=3", "num_steps=3", "eval_every=3", "ema_decay=0.7"],
    )

    def evaluate(scorer: ForwardScorer) -> DevEvaluation:
        seen.append(scorer.model.lm_head.weight.detach().clone())
        return DevEvaluation(score=0.0)

    def on_step(record) -> None:
        if record["event"] == "step":
            weights.append(model.lm_head.weight.detach().clone())

    result = run_recipe("sft", make_inputs(model, tokenizer), config, out=tmp_path, evaluate=evaluate, on_step=on_step)
    average = weights[0]
    for each in weights[1:]:
        average = 0.7 * average + 0.3 * each
    assert torch.equal(seen[0], weights[0])
    torch.testing.assert_close(seen[1], average)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(result.checkpoint).lm_head.weight, seen[1])
    assert torch.equal(model.lm_head.weight, weights[-1])
    assert not torch.allclose(average, weights[-1], atol=1e-4)


def test_the_model_returns_from_its_average_whatever_happens() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = EmaWeights([parameter], 0.9, ProcessGroup())
    with torch.no_grad():
        parameter.fill_(1 / 3)
    average.update()
    before = [parameter.detach().clone(), average.values[0].clone()]

    def stop() -> None:
        with average.swapped_in():
            assert torch.equal(parameter, before[1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop()
    assert torch.equal(parameter, before[0])
    assert torch.equal(average.values[0], before[1])


def test_the_command_evaluates_before_and_after(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    overrides = ["num_steps=2", "rows_per_batch=2", "eval_every=1", "dev_share=0.3", "eval_samples=2", "learning_rate=1e-3"]
    out = tmp_path / "ckpt"
    trainers.train("sft", tiny_model, [sums_file], out=out, overrides=overrides)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    evaluations = [record for record in log if record["event"] == "dev"]
    assert [record["step"] for record in evaluations] == [-1, 0, 1]
    wanted = {"dev_score", "pass_at_1", "truncated", "length", "entropy", "kl_to_start", "reference_logprob"}
    assert all(wanted <= set(record) for record in evaluations)
    assert evaluations[0]["kl_to_start"] == pytest.approx(0.0, abs=1e-5)
    assert evaluations[2]["kl_to_start"] > 0
    card = (out / "README.md").read_text()
    assert "| | before | after |" in card
    assert f"| log-probability of references, nats per token | {evaluations[0]['reference_logprob']:.4g} |" in card
    with pytest.raises(SettingsError) as refused:
        trainers.train("reward_model", tiny_model, [sums_file], out=tmp_path / "rm", overrides=["eval_every=1"])
    assert refused.value.code == "nothing_to_evaluate"


def test_an_evaluation_without_a_score_is_never_the_best() -> None:
    """Nothing compares with NaN: taken as the best once, it would stay the best."""
    selection = DevSelection(config=load_config("sft", None, ["eval_every=1", "patience=3"]))
    nan = float("nan")
    kept = [selection.add(DevEvaluation(score=score, pass_at_1=score), step) for step, score in enumerate([nan, 0.25, nan, 0.5])]
    assert kept == [False, True, False, True]
    assert selection.best_score == 0.5
