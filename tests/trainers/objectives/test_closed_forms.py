"""Stages and credit against formulas written out here, in float64: losses of plain per-row log-probabilities, and autograd's gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import build_stage, move_weights, plain_logprobs, random_pairs, random_rows, tiny_llama
from helpers.training import gradient as helper_gradient
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.diagnose.types import Split
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.credit.reference_point import ReferencePoint
from posttrain.trainers.credit.steps import StepCredit
from posttrain.trainers.credit.teacher import TeacherCredit
from posttrain.trainers.credit.value import ValueCredit
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.policy_gradient import PolicyGradient, ShapedImitation, ValueLoss
from posttrain.trainers.objectives.preferences import Kto, LikelihoodMargin, OddsRatio, ReferenceMargin
from posttrain.trainers.objectives.reductions import row_mean, sequence_mean, step_mean, token_mean
from posttrain.trainers.objectives.reward_modelling import BradleyTerry, StepCorrectness
from posttrain.trainers.recipes.grpo import GrpoConfig
from posttrain.trainers.stage import Component, FrozenModel, Score, Stage, TrainingInputs
from posttrain.trainers.step.chunked_divergence import divergence
from posttrain.trainers.step.logprobs import States
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training_types import RowRole, TrainingRow


def stepper_of(model: Any, *components: Component, teacher: Any = None, head: Any = None, **settings: Any) -> Stepper:
    config = GrpoConfig(**{"max_grad_norm": 1e9, "autocast": "float32", "micro_batch_tokens": 60, **settings})
    other = teacher and FrozenModel(source="", fingerprint="", model=teacher, tokenizer=None, engine=None)
    inputs = TrainingInputs(engine=None, training_set=None, graders={}, model=model, teacher=other)
    return make_stepper(Stage(source=None, credit=NoCredit(), components=components, scalar_head=head), inputs, config)


def check(stepper: Stepper, rows: Sequence[TrainingRow], wanted: Tensor, old: Mapping[int, Tensor] | None = None) -> StepOutcome:
    """Loss and every gradient of a batch equal those of a formula."""
    model = stepper.model
    wanted.backward()
    gradient = helper_gradient(model)
    model.zero_grad()
    outcome = stepper.accumulate(rows, dict(old or {}))
    assert outcome.loss == pytest.approx(float(wanted.detach()), rel=1e-10, abs=1e-12)
    got = helper_gradient(model)
    for name, value in gradient.items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-11)
    return outcome


def logprobs(model: Any, rows: Sequence[TrainingRow]) -> list[Tensor]:
    """[T] of each row."""
    return [plain_logprobs(model, row) for row in rows]


def sums(model: Any, rows: Sequence[TrainingRow], role: RowRole | None = None) -> Tensor:
    return torch.stack([plain_logprobs(model, row).sum() for row in rows if role in (None, row.role)])


def means(model: Any, rows: Sequence[TrainingRow], role: RowRole | None = None) -> Tensor:
    return torch.stack([plain_logprobs(model, row).mean() for row in rows if role in (None, row.role)])


def with_advantages(*, seed: int = 1) -> list[TrainingRow]:
    return random_rows(num_groups=3, group_size=4, seed=seed, advantages=True)


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
@pytest.mark.parametrize("nll_weight", [0.0, 0.6])
def test_preferences_are_their_formulas(model64, term: Any, formula: Callable, nll_weight: float) -> None:
    """With and without the NLL of the better answers beside them."""
    rows = [replace(row, baseline=0.2) for row in random_pairs(4, seed=3)]
    start = copy.deepcopy(model64)
    imitation = Component(term=Nll(), reduction=token_mean, weight=nll_weight, roles=frozenset({RowRole.CHOSEN}))
    stepper = stepper_of(model64, Component(term=term, reduction=row_mean), imitation)
    move_weights(model64)
    nll = -torch.cat([plain_logprobs(model64, row) for row in rows if row.role is RowRole.CHOSEN]).mean()
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


# PPO.


def bare(length: int, **fields: Any) -> TrainingRow:
    """Return a row of which only the length and the given fields matter."""
    known = {"behavior": "b", "problem_id": "p", "split": Split.TRAIN, "group_id": "g", "prompt_ids": (1,)}
    return TrainingRow(**{**known, "completion_ids": (2,) * length, **fields})


def seen(values: Mapping[Score, Sequence[Sequence[float]]], asked: Sequence[TrainingRow]) -> Callable:
    """Return a scorer of rows that answers from a table, in the order of `asked`."""

    def score_rows(rows: Sequence[TrainingRow], score: Score) -> list[np.ndarray]:
        return [np.array(values[score][asked.index(row)], dtype=np.float32) for row in rows]

    return score_rows


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0)])
def test_value_credit_is_the_double_sum(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(0)
    lengths, rewards = [4, 1, 6], [1.0, 0.0, 0.25]
    rows = [bare(length, reward=reward, group_id=str(length)) for length, reward in zip(lengths, rewards, strict=True)]
    ungraded = bare(2)
    values = [rng.normal(size=length).astype(np.float32) for length in lengths]
    filled, _ = ValueCredit(gamma=gamma, lam=lam).assign([*rows, ungraded], seen({Score.VALUE: values}, rows))
    wanted = []
    for value, reward, length in zip(values, rewards, lengths, strict=True):
        after = [*value[1:], 0.0]
        delta = [(reward if t == length - 1 else 0.0) + gamma * after[t] - value[t] for t in range(length)]
        wanted.append([sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)])
    every = np.concatenate(wanted)
    for row, value, advantages in zip(filled, values, wanted, strict=False):
        np.testing.assert_allclose(row.advantages, (np.array(advantages) - every.mean()) / every.std(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row.returns, np.array(advantages) + value, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(row.old_values, value)
    assert not filled[-1].advantages.any()
    assert filled[-1].returns is None
    if lam == gamma == 1.0:  # then a return is the reward
        np.testing.assert_allclose(filled[2].returns, [0.25] * 6, atol=1e-5)


def test_equal_rewards_give_values_something_to_learn_and_the_policy_nothing() -> None:
    rows = [bare(3, reward=1.0), bare(2, reward=1.0)]
    filled, _ = ValueCredit().assign(rows, seen({Score.VALUE: [[0.1, 0.5, 0.2], [0.3, 0.4]]}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert all(row.returns is not None for row in filled)


def test_value_loss_by_hand(model64) -> None:
    """The larger of the two squares; beyond the clip, on the far side, there is no gradient."""
    rows = [bare(2, returns=np.array([1.0, 0.0]), old_values=np.array([0.5, 0.5])), bare(2, returns=np.array([1.0, 1.0]), old_values=np.zeros(2))]  # fmt: skip
    value = torch.tensor([0.9, 0.4, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    said = ValueLoss(clip=0.2).loss(SimpleNamespace(rows=rows, value=value))
    # V, V_old ± clip, R: (.9, .7, 1) the held one is worse; (.4, .4, 0); (.1, .1, 1); (3, .2, 1) the free one is.
    np.testing.assert_allclose(said.losses.detach(), [0.5 * 0.3**2, 0.5 * 0.4**2, 0.5 * 0.9**2, 0.5 * 2.0**2])
    said.losses.sum().backward()
    np.testing.assert_allclose(value.grad, [0.0, 0.4, -0.9, 2.0], atol=1e-12)


def random_head(model: Any, *, bias: bool) -> Any:
    head = scalar_head(model, bias=bias)
    generator = torch.Generator().manual_seed(4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return head


def hidden_states(model: Any, ids: Sequence[int]) -> Tensor:
    """[S, H] the last ones."""
    return model.model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]


def test_values_are_read_before_each_token(model64) -> None:
    """V_t is what the head says where token t is predicted, so it knows the prompt and the tokens before t."""
    rng = np.random.default_rng(1)
    rows = []
    for row in with_advantages():
        size = len(row.completion_ids)
        rows.append(replace(row, returns=rng.normal(size=size).astype(np.float32), old_values=rng.normal(size=size).astype(np.float32)))  # fmt: skip
    head = random_head(model64, bias=True)
    losses, tokens = [], 0
    for row in rows:
        value = head(hidden_states(model64, row.prompt_ids + row.completion_ids))[len(row.prompt_ids) - 1 : -1, 0]
        held = torch.from_numpy(row.old_values.astype(np.float64))
        held = held + (value - held).clamp(-0.5, 0.5)
        returns = torch.from_numpy(row.returns.astype(np.float64))
        losses.append(0.5 * torch.maximum((value - returns) ** 2, (held - returns) ** 2).sum())
        tokens += len(value)
    stepper = stepper_of(model64, Component(term=ValueLoss(clip=0.5), reduction=token_mean, weight=0.3), head=head)
    wanted = 0.3 * torch.stack(losses).sum() / tokens
    of_head = torch.autograd.grad(wanted, [head.weight, head.bias], retain_graph=True)
    head.zero_grad()
    check_head(stepper, rows, wanted, head, of_head)


def check_head(stepper: Stepper, rows: Sequence[TrainingRow], wanted: Tensor, head: Any, of_head: Sequence[Tensor]) -> None:
    wanted.backward()
    gradient = helper_gradient(stepper.model)
    stepper.optimizer.zero_grad()
    outcome = stepper.accumulate(rows, {})
    assert outcome.loss == pytest.approx(float(wanted.detach()), rel=1e-10)
    for name, value in helper_gradient(stepper.model).items():
        torch.testing.assert_close(value, gradient[name], rtol=1e-8, atol=1e-11)
    for parameter, value in zip(head.parameters(), of_head, strict=True):
        torch.testing.assert_close(parameter.grad, value, rtol=1e-8, atol=1e-11)


# Reward models.


@pytest.mark.parametrize("centering", [0.0, 0.1])
def test_bradley_terry_by_hand(model64, centering: float) -> None:
    """The reward stands behind the whole answer; the row's last token is there so that the one before it is read."""
    from posttrain.trainers.recipes.blocks import repeat_last_token

    pairs = random_pairs()
    head = random_head(model64, bias=False)
    rewards = {role: torch.stack([head(hidden_states(model64, row.prompt_ids + row.completion_ids))[-1, 0] for row in pairs if row.role is role])
               for role in (RowRole.CHOSEN, RowRole.REJECTED)}  # fmt: skip
    chosen, rejected = rewards[RowRole.CHOSEN], rewards[RowRole.REJECTED]
    wanted = (-torch.log(torch.sigmoid(chosen - rejected)) + centering * (chosen + rejected) ** 2).mean()
    of_head = torch.autograd.grad(wanted, [head.weight], retain_graph=True)
    stepper = stepper_of(model64, Component(term=BradleyTerry(centering=centering), reduction=row_mean), head=head)
    check_head(stepper, [repeat_last_token(row) for row in pairs], wanted, head, of_head)


def test_step_correctness_by_hand(model64) -> None:
    """Cross-entropy behind the last token of each step, all steps of the batch alike; rows without steps say nothing."""
    from posttrain.trainers.recipes.blocks import repeat_last_token

    plain = [row for row in random_rows(num_groups=4, longest=8, seed=2) if len(row.completion_ids) >= 3]
    rows = [
        replace(row, step_ends=(0, len(row.completion_ids) - 1), step_scores=(1.0, float(index % 2)))
        for index, row in enumerate(plain)
    ]
    rows[1] = replace(rows[1], step_ends=(), step_scores=())
    rows[2] = replace(rows[2], step_ends=(1,), step_scores=(0.0,))
    head = random_head(model64, bias=True)
    losses = []
    for row in rows:
        said = head(hidden_states(model64, row.prompt_ids + row.completion_ids))[len(row.prompt_ids) :, 0]
        for end, label in zip(row.step_ends, row.step_scores, strict=True):
            right = torch.sigmoid(said[end])
            losses.append(-torch.log(right if label == 1.0 else 1 - right))
    wanted = torch.stack(losses).mean()
    of_head = torch.autograd.grad(wanted, [head.weight, head.bias], retain_graph=True)
    stepper = stepper_of(model64, Component(term=StepCorrectness(), reduction=step_mean), head=head)
    check_head(stepper, [repeat_last_token(row) for row in rows], wanted, head, of_head)


# Credit.


def test_reference_point_is_the_mean_gain_of_mismatched_answers_or_zero() -> None:
    mismatched = [bare(2, role=RowRole.MISMATCHED), bare(3, role=RowRole.MISMATCHED)]
    labelled = [bare(1, role=RowRole.CHOSEN), bare(1, role=RowRole.REJECTED)]
    policy, start = [[-1.0, -2.0], [-0.5, -0.5, -0.5]], [[-1.5, -2.5], [-1.0, -1.0, -1.0]]
    score_rows = seen({Score.POLICY: policy, Score.REFERENCE: start}, mismatched)
    rows, metrics = ReferencePoint().assign([*labelled, *mismatched], score_rows)
    assert [row.role for row in rows] == [RowRole.CHOSEN, RowRole.REJECTED]
    assert [row.baseline for row in rows] == [1.25, 1.25]
    assert metrics["reference_kl"] == 1.25
    rows, _ = ReferencePoint().assign([*labelled, *mismatched], seen({Score.POLICY: start, Score.REFERENCE: policy}, mismatched))
    assert [row.baseline for row in rows] == [0.0, 0.0]
    rows, _ = ReferencePoint().assign(labelled, score_rows)
    assert [row.baseline for row in rows] == [0.0, 0.0]


def test_step_credit_is_the_worst_step_from_here_on() -> None:
    rows = [
        bare(6, reward=1.0, step_ends=(1, 3, 4), step_scores=(0.5, 0.25, 1.0)),
        bare(2, reward=0.0, step_ends=(1,), step_scores=(0.75,)),
        bare(3, reward=0.5, step_ends=(0, 2), step_scores=(1.0, 0.0)),
        bare(2, reward=1.0),  # no steps were found
        bare(2, step_ends=(1,), step_scores=(1.0,)),  # no grade
    ]
    filled, _ = StepCredit(outcome_weight=0.2).assign(rows, seen({}, rows))
    worst = [0.25, 0.75, 0.0]
    others = [(worst[1] + worst[2]) / 2, (worst[0] + worst[2]) / 2, (worst[0] + worst[1]) / 2]
    outcome = [0.2 * (1.0 - 0.25), 0.2 * (0.0 - 0.75), 0.2 * (0.5 - 0.5)]
    futures = [[0.25, 0.25, 0.25, 0.25, 1.0, 1.0], [0.75, 0.75], [0.0, 0.0, 0.0]]  # what follows the last step goes with it
    for row, future, other, extra in zip(filled, futures, others, outcome, strict=False):
        np.testing.assert_allclose(row.advantages, np.array(future) - other + extra, rtol=1e-6)
    assert not filled[3].advantages.any()
    assert not filled[4].advantages.any()


def test_step_credit_without_differences_is_no_signal() -> None:
    rows = [
        bare(2, reward=1.0, step_ends=(0, 1), step_scores=(0.5, 0.5)),
        bare(1, reward=1.0, step_ends=(0,), step_scores=(0.5,)),
    ]
    filled, metrics = StepCredit().assign(rows, seen({}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert metrics["groups_without_signal"] == 1.0


def test_teacher_credit_is_the_mean_log_ratio_of_what_follows() -> None:
    rows = [bare(4), bare(1)]
    teacher, policy = [[-1.0, -1.0, -2.0, -1.0], [-1.0]], [[-1.0, -2.0, -1.0, -3.0], [-0.5]]
    filled, metrics = TeacherCredit().assign(rows, seen({Score.TEACHER: teacher, Score.POLICY: policy}, rows))
    np.testing.assert_allclose(filled[0].advantages, [(1 - 1 + 2) / 3, (-1 + 2) / 2, 2.0, 0.0], rtol=1e-6)
    assert filled[1].advantages.tolist() == [0.0]
    assert metrics["teacher_log_ratio"] == pytest.approx((0 + 1 - 1 + 2 - 0.5) / 5)


# Teachers.


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teacher_that_is_the_policy_has_nothing_to_say(model64, beta: float, temperature: float) -> None:
    rows = random_rows()
    term = TeacherDivergence(beta=beta, temperature=temperature)
    stepper = stepper_of(model64, Component(term=term, reduction=token_mean), teacher=copy.deepcopy(model64))
    outcome = stepper.accumulate(rows, {})
    assert abs(outcome.loss) < 1e-14
    assert outcome.grad_norm < 1e-14
    move_weights(model64)
    assert stepper.accumulate(rows, {}).grad_norm > 1e-3


def test_a_teacher_may_read_another_prompt(model64) -> None:
    """Self-distillation: the teacher's distribution behind its own prompt, at the same completion tokens."""
    teacher = tiny_llama(seed=3, dtype=torch.float64)
    rows = [replace(row, teacher_prompt_ids=(9, *row.prompt_ids, 8, 7) if i % 2 else None) for i, row in enumerate(random_rows())]
    losses = []
    for row in rows:
        own = _distributions(model64, row.prompt_ids, row.completion_ids)
        other = _distributions(teacher, row.teacher_prompt_ids or row.prompt_ids, row.completion_ids).detach()
        losses.append((own.exp() * (own - other)).sum(-1))
    stepper = stepper_of(model64, Component(term=TeacherDivergence(beta=1.0), reduction=token_mean), teacher=teacher)
    check(stepper, rows, torch.cat(losses).mean())


def _distributions(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)


def made_states(width: int, *, seed: int, bias: bool, num: int = 7, vocabulary: int = 13) -> States:
    """Hidden states and a head of this width."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(width, vocabulary, bias=bias, dtype=torch.float64)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    hidden = torch.randn(num, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return States(hidden=hidden, logits=None, model=SimpleNamespace(get_output_embeddings=lambda: head), dtype=torch.float64)


def whole_divergence(policy: States, teacher: States, beta: float, temperature: float) -> Tensor:
    """[N] with both distributions in full."""
    p, t = (torch.softmax(torch.nn.functional.linear(each.hidden, *each.head) / temperature, -1) for each in (policy, teacher))
    t = t.detach()
    if beta == 0.0:
        return (t * torch.log(t / p)).sum(-1)
    if beta == 1.0:
        return (p * torch.log(p / t)).sum(-1)
    m = beta * t + (1 - beta) * p
    return beta * (t * torch.log(t / m)).sum(-1) + (1 - beta) * (p * torch.log(p / m)).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("temperature", "chunk_bytes"), [(1.0, 1), (1.0, 2**20), (0.7, 3 * 13 * 8), (2.5, 13 * 8)])
@pytest.mark.parametrize(("bias", "teacher_width"), [(False, 5), (True, 5), (True, 9)])
@pytest.mark.parametrize("how", ["chunked", "policy in full", "teacher in full"])
def test_divergence_is_that_of_the_whole_vocabulary(
    beta: float, temperature: float, chunk_bytes: int, bias: bool, teacher_width: int, how: str
) -> None:
    """Value and gradients, in chunks of any size, and where one of the two models does not allow chunks."""
    policy, teacher = made_states(5, seed=1, bias=bias), made_states(teacher_width, seed=2, bias=bias)
    leaves = [policy.hidden, *(each for each in policy.head if each is not None)]
    slopes = torch.linspace(-1, 2, len(policy.hidden), dtype=torch.float64)
    wanted = whole_divergence(policy, teacher, beta, temperature)
    gradient = torch.autograd.grad((wanted * slopes).sum(), leaves)
    if how == "policy in full":
        policy = replace(policy, logits=torch.nn.functional.linear(policy.hidden, *policy.head))
    elif how == "teacher in full":
        teacher = replace(teacher, logits=torch.nn.functional.linear(teacher.hidden, *teacher.head))
    found = divergence(policy, teacher, beta=beta, temperature=temperature, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    assert (found > 0).all()
    for got, value in zip(torch.autograd.grad((found * slopes).sum(), leaves), gradient, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-12)
