"""The gradient of a step is the formula's, whatever the batching; a step without signal or with NaN leaves the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training import gradient, plain_logprobs, random_rows, tiny_llama
from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.divergences import KlToReference
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import sequence_mean, token_mean
from posttrain.trainers.recipes.grpo import GrpoConfig
from posttrain.trainers.stage import Component, Reduction, Score, Stage, Term, TrainingInputs
from posttrain.trainers.step.optimizer import make_optimizer
from posttrain.trainers.step.optimizer_step import Stepper, StepStatus
from posttrain.trainers.training.preparation import make_stepper as stepper_of


def make_stepper(
    model, terms: Sequence[Term], reduction: Reduction = token_mean, *, kl_weight: float = 0.1, **settings
) -> Stepper:
    config = GrpoConfig(**{"max_grad_norm": 1e9, "learning_rate": 1e-2, "autocast": "float32", **settings})
    components = tuple(
        Component(term=term, reduction=reduction, weight=kl_weight if isinstance(term, KlToReference) else 1.0) for term in terms
    )
    stage = Stage(source=None, components=components)
    return stepper_of(stage, TrainingInputs(engine=None, training_set=None, graders={}, model=model, tokenizer=None), config)


def assign(credit: GroupCredit, rows):
    return credit.assign(rows, lambda rows, score: [])


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_sft_loss_and_gradient_are_the_mean_nll_in_float64(model64) -> None:
    rows = random_rows()
    expected = -torch.cat([plain_logprobs(model64, row) for row in rows]).mean()
    expected.backward()
    wanted = gradient(model64)
    model64.zero_grad()
    outcome = make_stepper(model64, [Nll()], micro_batch_tokens=20).accumulate(rows, {})
    assert outcome.loss == pytest.approx(float(expected.detach()), rel=1e-12)
    assert outcome.trained_tokens == sum(len(row.completion_ids) for row in rows)
    for name, value in gradient(model64).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-12)


def test_grpo_on_policy_is_reinforce_with_a_group_baseline_in_float64(model64) -> None:
    rows, _ = assign(GroupCredit(eps=0.0), random_rows(num_groups=4, group_size=5, seed=1))
    wanted_loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        group = [other.reward for other in rows if other.group_id == row.group_id]
        spread = np.std(group, ddof=1)
        advantage = (row.reward - np.mean(group)) / spread if spread > 0 else 0.0
        wanted_loss = wanted_loss - np.float32(advantage) * plain_logprobs(model64, row).mean() / len(rows)
    wanted_loss.backward()
    wanted = gradient(model64)
    model64.zero_grad()
    outcome = make_stepper(model64, [PolicyGradient()], sequence_mean, micro_batch_tokens=30).accumulate(rows, {})
    assert outcome.metrics["clipped"] == 0.0
    for name, value in gradient(model64).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_equal_rewards_make_no_step_even_with_momentum(model, kl_weight: float) -> None:
    terms = [PolicyGradient(), *([KlToReference()] if kl_weight else [])]
    stepper = make_stepper(model, terms, sequence_mean)
    rows, _ = assign(GroupCredit(), [replace(row, reward=float(i % 2)) for i, row in enumerate(random_rows())])
    assert stepper.step(rows, {}).status is StepStatus.UPDATED
    before = weights(model)
    without_signal, metrics = assign(GroupCredit(), [replace(row, reward=1 / 3) for row in rows])
    assert metrics["groups_without_signal"] == 1.0
    assert stepper.step(without_signal, {}).status is StepStatus.NO_SIGNAL
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_groups_without_signal_stay_in_the_denominator_but_are_not_run(model64) -> None:
    rows, _ = assign(GroupCredit(), [replace(row, reward=float(i % 3 == 0 and i < 3)) for i, row in enumerate(random_rows())])
    outcome = make_stepper(model64, [PolicyGradient()], sequence_mean).accumulate(rows, {})
    assert outcome.trained_tokens == sum(len(row.completion_ids) for row in rows[:3])
    (wanted,) = torch.autograd.grad(
        -sum(float(row.advantages[0]) * plain_logprobs(model64, row).mean() for row in rows) / len(rows),
        [model64.model.norm.weight],
    )
    torch.testing.assert_close(model64.model.norm.weight.grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("terms", [[Nll()], [PolicyGradient(), KlToReference()]])
def test_accumulation_row_order_and_sharing_do_not_matter(terms) -> None:
    rows = random_rows(num_groups=4, group_size=2, advantages=True)
    results = []
    for settings, order in (
        ({"micro_batch_tokens": 10_000}, slice(None)),
        ({"micro_batch_tokens": 1}, slice(None)),
        ({"micro_batch_tokens": 1, "share_prefixes": False}, slice(None, None, -1)),
        ({"micro_batch_tokens": 40}, slice(None, None, -1)),
    ):
        model = tiny_llama(dtype=torch.float64)
        stepper = make_stepper(model, terms, sequence_mean, **settings)
        for _ in range(3):
            stepper.step(rows[order], {})
        results.append(weights(model))
    for other in results[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, results[0][name], rtol=1e-7, atol=1e-9)


def test_later_updates_on_a_batch_are_measured_against_its_first_policy(model) -> None:
    stepper = make_stepper(model, [PolicyGradient(eps_low=0.01, eps_high=0.01)], sequence_mean, learning_rate=0.05)
    rows, old = random_rows(advantages=True), {}
    assert stepper.step(rows, old).metrics["clipped"] == 0
    kept = {index: values.clone() for index, values in old.items()}
    assert stepper.step(rows, old).metrics["clipped"] > 0
    assert all(torch.equal(values, old[index]) for index, values in kept.items())


def test_nan_stops_before_the_weights(model) -> None:
    stepper = make_stepper(model, [PolicyGradient()], sequence_mean)
    rows = random_rows(advantages=True)
    rows[-1] = replace(rows[-1], advantages=np.full(len(rows[-1].completion_ids), np.nan, dtype=np.float32))
    before = weights(model)
    assert stepper.step(rows, {}).status is StepStatus.NON_FINITE
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_infinite_gradient_stops_before_the_weights(model) -> None:
    model.model.norm.weight.register_hook(lambda slope: slope * float("inf"))
    before = weights(model)
    assert make_stepper(model, [Nll()]).step(random_rows(), {}).status is StepStatus.NON_FINITE
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_the_reference_stays_where_the_policy_started_in_bfloat16() -> None:
    wide = LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(wide).eval()
    scorer, rows = make_stepper(model, [Nll(), KlToReference()], autocast="bfloat16").scorer, random_rows()
    before = {score: scorer.score_rows(rows, score) for score in (Score.POLICY, Score.REFERENCE)}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    after = {score: scorer.score_rows(rows, score) for score in before}
    assert max(abs(a - b).max() for a, b in zip(before[Score.POLICY], after[Score.POLICY], strict=True)) > 0.1
    for a, b in zip(before[Score.REFERENCE], after[Score.REFERENCE], strict=True):
        np.testing.assert_array_equal(a, b)


def test_biases_of_experts_do_not_decay() -> None:
    """They are one matrix, a row for each expert."""
    config = GptOssConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    model = GptOssForCausalLM(config)
    optimizer = make_optimizer(model, GrpoConfig(weight_decay=0.1))
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    decaying = {name for name, each in model.named_parameters() if decay[id(each)]}
    assert len(decay) == len(list(model.parameters()))
    assert {name.rpartition(".")[2] for name in decaying} == {"weight", "gate_up_proj", "down_proj"}
    assert not any("norm" in name or "bias" in name for name in decaying)


def test_steps_far_below_the_precision_of_bfloat16_move_the_weights() -> None:
    """The forward pass may be bfloat16; weights of 1 change by a learning rate of 1e-6."""
    model = tiny_llama()
    before = weights(model)
    stepper = make_stepper(model, [Nll()], autocast="bfloat16", learning_rate=1e-6)
    for _ in range(3):
        assert stepper.step(random_rows(), {}).status is StepStatus.UPDATED
    after = weights(model)
    norm = "model.norm.weight"
    assert torch.equal(before[norm], torch.ones_like(before[norm]))
    moved = (after[norm] - before[norm]).abs()
    assert float(moved.max()) == pytest.approx(3e-6, rel=0.1)
    assert all(value.dtype is torch.float32 for value in after.values())
