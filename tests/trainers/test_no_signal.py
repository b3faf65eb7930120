"""What is mastered stays as it is while nothing succeeds elsewhere, and nearly so while successes are rare."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import TinyEngine, make_behavior, make_inputs, make_problem, plain_logprobs, tiny_llama

from posttrain.diagnose.types import Grade, GradeStatus
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.training.result import TrainingResult
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import TrainingSet

PROBLEMS, STEPS = 8, 12


@pytest.fixture
def mastered(tokenizer, tmp_path: Path):
    """Return a model that has the sums."""
    model = tiny_llama()
    config = load_config("sft", None, ["learning_rate=1e-2", "num_steps=80", "rows_per_batch=8", "dev_share=0"])
    inputs = make_inputs(model, tokenizer, training_set=TrainingSet([make_behavior()], dev_share=0))
    run_recipe("sft", inputs, config, out=tmp_path / "sft")
    assert mastery(model) > 0.9
    return model


def mastery(model) -> float:
    """Mean probability of the right answers to the sums."""
    items = TrainingSet([make_behavior()], dev_share=0).train
    rows = encode_references(TinyEngine(model), items)
    with torch.no_grad():
        return float(torch.stack([plain_logprobs(model, row).sum().exp() for row in rows]).mean())


def reinforce(model, tokenizer, out: Path, batches: Collection[int], *more: str, steps: int = STEPS) -> TrainingResult:
    """GRPO on other problems; in the given batches one answer of one group is right, and nothing else ever is."""
    problems = tuple(make_problem(index) for index in range(40, 40 + PROBLEMS))
    behavior = replace(make_behavior(), name="others", problems=problems)
    config = load_config(
        "grpo", None, ["learning_rate=3e-2", f"num_steps={steps}", f"problems_per_batch={PROBLEMS}", "dev_share=0", *more]
    )
    grade = rarely_right(batches)
    inputs = make_inputs(model, tokenizer, grade=grade, training_set=TrainingSet([behavior], dev_share=0))
    return run_recipe("grpo", inputs, config, out=out)


def rarely_right(batches: Collection[int]) -> Callable:
    """Grades group after group, `PROBLEMS` of them a batch; what is right is a text that another sample of its group does not have."""
    calls = iter(range(STEPS * PROBLEMS))
    left = set(batches)

    def grade(problem, texts) -> list[Grade]:
        batch = next(calls) // PROBLEMS
        right = next((text for text in texts if text != texts[0]), None) if batch in left else None
        if right is not None:
            left.remove(batch)
        return [Grade(status=GradeStatus.SCORED, score=float(text == right)) for text in texts]

    return grade


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_what_never_succeeds_leaves_every_weight_as_it_is(mastered, tokenizer, tmp_path: Path) -> None:
    before = weights(mastered)
    result = reinforce(mastered, tokenizer, tmp_path / "grpo", ())
    assert (result.num_steps, result.num_skipped) == (0, STEPS)
    assert torch.equal(weights(mastered), before)


def test_after_a_success_momentum_does_not_go_on(mastered, tokenizer, tmp_path: Path) -> None:
    short = copy.deepcopy(mastered)
    before = weights(mastered)
    assert reinforce(mastered, tokenizer, tmp_path / "long", {0}).num_skipped == STEPS - 1
    assert reinforce(short, tokenizer, tmp_path / "short", {0}, steps=1).num_skipped == 0
    assert torch.equal(weights(mastered), weights(short))
    assert not torch.equal(weights(mastered), before)


def test_a_rare_success_moves_the_weights_by_its_share_of_the_groups(mastered, tokenizer, tmp_path: Path) -> None:
    before, moved, kept = weights(mastered), {}, {}
    for scaled in ("true", "false"):
        model = copy.deepcopy(mastered)
        result = reinforce(model, tokenizer, tmp_path / scaled, {2, 8}, f"signal_scaled={scaled}")
        assert result.num_steps == 2
        log = [json.loads(line) for line in result.log.read_text().splitlines()]
        assert [one["step"] for one in log if one.get("groups_without_signal", 1) < 1] == [2, 8]
        moved[scaled] = float((weights(model) - before).norm())
        kept[scaled] = mastery(model)
    # Adam's first steps are as long as the learning rate, whatever the gradient: one group of eight has a signal.
    assert 0 < moved["true"] < 0.2 * moved["false"]
    assert kept["true"] > kept["false"]
