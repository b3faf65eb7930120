"""Losses against formulas written out here, in float64: plain per-row log-probabilities, and autograd's gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.closed_forms import check, learned_logprobs, logprobs, means, of_several_turns, stepper_of, sums, with_advantages
from helpers.training import build_stage, move_weights, plain_logprobs, random_pairs, random_rows, tiny_llama
from helpers.training import gradient as helper_gradient
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.policy_gradient import PolicyGradient, ShapedImitation
from posttrain.trainers.objectives.preferences import Kto, LikelihoodMargin, OddsRatio, ReferenceMargin
from posttrain.trainers.objectives.reductions import row_mean, sequence_mean, token_mean
from posttrain.trainers.stage import Component
from posttrain.trainers.training_types import RowRole, TrainingRow

# Preferences.


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_at_the_reference_dpo_is_log_2_ipo_a_quarter_over_beta_squared_and_kto_one_half(model64, beta: float) -> None:
    pairs = random_pairs()

    def loss(term: Any, rows: Sequence[TrainingRow]) -> float:
        return stepper_of(model64, Component(term=term, reduction=row_mean)).accumulate(rows, {}).loss

    assert loss(ReferenceMargin(beta=beta), pairs) == pytest.approx(math.log(2), rel=1e-12)
    assert loss(ReferenceMargin(beta=beta, shape="squared"), pairs) == pytest.approx(1 / (4 * beta**2), rel=1e-12)
    assert loss(Kto(beta=beta), pairs) == pytest.approx(0.5, rel=1e-12)


def dpo(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    margin = _gains(model, start, rows, sums)
    return -logsigmoid(0.3 * margin).mean()


def ipo(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    return ((_gains(model, start, rows, means) - 1 / 0.6) ** 2).mean()


def _gains(model: Any, start: Any, rows: Sequence[TrainingRow], over: Callable) -> Tensor:
    gains = {role: over(model, rows, role) - over(start, rows, role).detach() for role in (RowRole.CHOSEN, RowRole.REJECTED)}
    return gains[RowRole.CHOSEN] - gains[RowRole.REJECTED]


def kto(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    good = sums(model, rows, RowRole.CHOSEN) - sums(start, rows, RowRole.CHOSEN).detach()
    bad = sums(model, rows, RowRole.REJECTED) - sums(start, rows, RowRole.REJECTED).detach()
    return torch.cat([1.5 * (1 - torch.sigmoid(0.3 * (good - 0.2))), 0.5 * (1 - torch.sigmoid(0.3 * (0.2 - bad)))]).mean()


def simpo(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    margin = means(model, rows, RowRole.CHOSEN) - means(model, rows, RowRole.REJECTED)
    return -logsigmoid(2.0 * margin - 0.7).mean()


def cpo(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    margin = sums(model, rows, RowRole.CHOSEN) - sums(model, rows, RowRole.REJECTED)
    return -logsigmoid(0.3 * margin).mean()


def orpo(model: Any, start: Any, rows: Sequence[TrainingRow]) -> Tensor:
    odds = {}
    for role in (RowRole.CHOSEN, RowRole.REJECTED):
        probability = means(model, rows, role).exp()
        odds[role] = probability / (1 - probability)
    return -torch.log(torch.sigmoid(torch.log(odds[RowRole.CHOSEN] / odds[RowRole.REJECTED]))).mean()


@pytest.mark.parametrize(
    ("term", "formula"),
    [
        (ReferenceMargin(beta=0.3), dpo),
        (ReferenceMargin(beta=0.3, shape="squared"), ipo),
        (Kto(beta=0.3, good_weight=1.5, bad_weight=0.5), kto),
        (LikelihoodMargin(beta=2.0, gamma=0.7, per_token=True), simpo),
        (LikelihoodMargin(beta=0.3), cpo),
        (OddsRatio(), orpo),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("nll_weight", [0.0, 0.6])
def test_preferences_are_their_formulas(model64, term: Any, formula: Callable, nll_weight: float, several: bool) -> None:
    """With and without the NLL of the better answers beside them, and turns of others in them, which are not learned."""
    rows = [replace(row, baseline=0.2) for row in random_pairs(4, seed=3)]
    rows = of_several_turns(rows) if several else rows
    start = copy.deepcopy(model64)
    imitation = Component(term=Nll(), reduction=token_mean, weight=nll_weight, roles=frozenset({RowRole.CHOSEN}))
    stepper = stepper_of(model64, Component(term=term, reduction=row_mean), imitation)
    move_weights(model64)
    nll = -torch.cat([learned_logprobs(model64, row) for row in rows if row.role is RowRole.CHOSEN]).mean()
    check(stepper, rows, formula(model64, start, rows) + nll_weight * nll)


def test_odds_ratio_of_an_answer_that_is_certain_is_finite() -> None:
    from posttrain.trainers.objectives.preferences import _log1mexp

    values = torch.tensor([0.0, -1e-20, -1e-3, -0.5, -1.0, -50.0], dtype=torch.float64, requires_grad=True)
    found = _log1mexp(values)
    assert found.isfinite().all()
    found.sum().backward()
    assert values.grad.isfinite().all()
    np.testing.assert_allclose(found[2:].detach(), [*np.log(-np.expm1([-1e-3, -0.5, -1.0])), -np.exp(-50)], rtol=1e-12)


# Imitation.


@pytest.mark.parametrize(
    ("kind", "weight"), [("one", lambda p: 1.0), ("probability", lambda p: p), ("doubt", lambda p: p * (1 - p))]
)
def test_nll_weights(model64, kind: str, weight: Callable[[Tensor], Tensor]) -> None:
    rows = random_rows()
    every = torch.cat(logprobs(model64, rows))
    stepper = stepper_of(model64, Component(term=Nll(token_weight=kind), reduction=token_mean))
    check(stepper, rows, -(weight(every.detach().exp()) * every).mean())


def test_dft_has_the_gradient_of_the_probability_itself(model64) -> None:
    rows = random_rows()
    every = torch.cat(logprobs(model64, rows))
    (-every.exp().mean()).backward()
    wanted = helper_gradient(model64)
    model64.zero_grad()
    stepper_of(model64, Component(term=Nll(token_weight="probability"), reduction=token_mean)).accumulate(rows, {})
    for name, value in helper_gradient(model64).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-11)


def test_shaped_imitation_beside_samples_shares_their_denominator(model64) -> None:
    """LUFFY: one mean over the rows of both kinds; −A π/(π + γ) on the reference paths."""
    gamma = 0.3
    rows = [replace(row, role=RowRole.DEMONSTRATION if i % 4 == 0 else RowRole.SAMPLE) for i, row in enumerate(with_advantages())]
    wanted = torch.zeros((), dtype=torch.float64)
    for row, values in zip(rows, logprobs(model64, rows), strict=True):
        probability = values.exp()
        shaped = probability / (probability + gamma) if row.role is RowRole.DEMONSTRATION else (values - values.detach()).exp()
        wanted = wanted - float(row.advantages[0]) * shaped.mean() / len(rows)
    stepper = stepper_of(
        model64,
        Component(term=PolicyGradient(), reduction=sequence_mean, roles=frozenset({RowRole.SAMPLE}), whole_batch=True),
        Component(
            term=ShapedImitation(gamma=gamma), reduction=sequence_mean, roles=frozenset({RowRole.DEMONSTRATION}), whole_batch=True
        ),
    )
    check(stepper, rows, wanted)


def test_components_of_parts_have_denominators_of_their_own(model64) -> None:
    """CHORD: (1 − µ) times the mean over samples and µ times the mean over the tokens of reference paths; µ changes with the step."""
    rows = [replace(row, role=RowRole.DEMONSTRATION if i % 3 == 0 else RowRole.SAMPLE) for i, row in enumerate(with_advantages())]
    own = [row for row in rows if row.role is RowRole.SAMPLE]
    paths = [row for row in rows if row.role is RowRole.DEMONSTRATION]
    reinforced = -torch.stack([float(row.advantages[0]) * plain_logprobs(model64, row).mean() for row in own]).mean()
    every = torch.cat(logprobs(model64, paths))
    doubt = every.detach().exp() * (1 - every.detach().exp())
    (0.25 * reinforced - 0.75 * (doubt * every).mean()).backward()
    wanted = helper_gradient(model64)
    model64.zero_grad()
    stepper = stepper_of(
        model64,
        Component(
            term=PolicyGradient(), reduction=sequence_mean, weight=lambda step: 0.25 if step == 3 else 1.0, roles=frozenset({RowRole.SAMPLE})
        ),
        Component(
            term=Nll(token_weight="doubt"), reduction=token_mean, weight=lambda step: 0.25 * step, roles=frozenset({RowRole.DEMONSTRATION})
        ),
    )  # fmt: skip
    stepper.accumulate(rows, {}, 3)
    for name, value in helper_gradient(model64).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-11)


# Policy gradients.


def accumulated(name: str, rows: Sequence[TrainingRow], old: Mapping[int, Tensor] | None = None, **settings: Any) -> tuple:
    """Loss and gradient of a recipe."""
    model = tiny_llama(dtype=torch.float64)
    _, stepper = build_stage(name, model, importance_cap=None, **settings)
    outcome = stepper.accumulate(rows, dict(old or {}))
    return outcome, helper_gradient(model)


def off_policy(rows: Sequence[TrainingRow], size: float) -> dict[int, Tensor]:
    """Log-probabilities of a policy some way off the model's own."""
    model, rng = tiny_llama(dtype=torch.float64), np.random.default_rng(0)
    return {
        index: values.detach() + torch.from_numpy(rng.normal(scale=size, size=len(values)))
        for index, values in enumerate(logprobs(model, rows))
    }


def test_dapo_with_equal_clips_is_grpo_under_token_mean() -> None:
    rows = with_advantages()
    old = off_policy(rows, 0.4)
    first, gradient = accumulated("dapo", rows, old, eps_low=0.2, eps_high=0.2, max_resamples=0)
    second, other = accumulated("grpo", rows, old, reduction="token_mean")
    assert first.metrics["clipped"] > 0.1
    assert first.loss == second.loss
    assert all(torch.equal(value, other[name]) for name, value in gradient.items())
    third, _ = accumulated("dapo", rows, old)  # its own clips differ
    assert third.loss != first.loss


def test_with_one_update_cispo_has_the_gradient_of_dapo() -> None:
    rows = with_advantages()
    _, gradient = accumulated("cispo", rows)
    _, other = accumulated("dapo", rows)
    for name, value in gradient.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "over"), [("gspo", Tensor.mean), ("rloo", Tensor.sum)])
def test_at_ratio_one_sequence_ratios_are_reinforce(name: str, over: Callable[[Tensor], Tensor]) -> None:
    """GSPO's gradient is that of the mean log-probability of a row, RLOO's that of the sum."""
    rows = with_advantages()
    _, gradient = accumulated(name, rows)
    model = tiny_llama(dtype=torch.float64)
    wanted = [float(row.advantages[0]) * over(values) for row, values in zip(rows, logprobs(model, rows), strict=True)]
    (-torch.stack(wanted).mean()).backward()
    for found, value in helper_gradient(model).items():
        torch.testing.assert_close(gradient[found], value, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("ratio", "over"), [("sequence_mean", lambda value: value.mean()), ("sequence", lambda value: value.sum())]
)
def test_sequence_ratios_off_policy(model64, ratio: str, over: Callable[[Tensor], Tensor]) -> None:
    """One ratio a row, one clip a row, and the capped correction for the sampler at the same level."""
    rows = with_advantages()
    old = off_policy(rows, 0.2)
    rng = np.random.default_rng(1)
    rows = [
        replace(row, sampler_logprobs=(old[index].numpy() + rng.normal(scale=1.2, size=len(old[index]))).astype(np.float32))
        for index, row in enumerate(rows)
    ]
    losses = []
    for index, (row, values) in enumerate(zip(rows, logprobs(model64, rows), strict=True)):
        advantage, found = float(row.advantages[0]), over(values - old[index]).exp()
        weight = over(old[index] - torch.from_numpy(row.sampler_logprobs.astype(np.float64))).exp().clamp(max=1.5)
        losses.append(-torch.minimum(found * advantage, found.clamp(0.9, 1.2) * advantage) * weight)
    term = PolicyGradient(eps_low=0.1, eps_high=0.2, ratio=ratio, importance_cap=1.5)
    outcome = check(stepper_of(model64, Component(term=term, reduction=sequence_mean)), rows, torch.stack(losses).mean(), old)
    assert 0 < outcome.metrics["clipped"] < 1
    assert 0 < outcome.metrics["importance_capped"] < 1
