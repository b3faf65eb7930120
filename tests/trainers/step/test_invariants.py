"""How a batch is cut into forward passes never shows in its loss or gradient, whatever kinds of components a stage has; in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import build_stage, move_weights, plain_logprobs, random_pairs, random_rows, tiny_llama
from helpers.training import gradient as helper_gradient
from torch import Tensor

from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.policy_gradient import PolicyGradient, ShapedImitation
from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.objectives.reductions import row_mean, sequence_mean, step_mean, token_mean
from posttrain.trainers.objectives.reward_modelling import StepCorrectness
from posttrain.trainers.recipes.blocks import repeat_last_token
from posttrain.trainers.recipes.grpo import GrpoConfig
from posttrain.trainers.stage import Component, ForwardScores, FrozenModel, Level, Stage, TrainingInputs
from posttrain.trainers.step.forward_scores import ForwardScorer
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training_types import RowRole, TrainingRow

Make = Callable[..., tuple[Stage, Stepper]]


@dataclass(frozen=True)
class Case:
    """A stage, and rows that suit it."""

    make: Make
    """(model, **settings)"""
    rows: Callable[[Any], list[TrainingRow]]
    """()"""
    old: bool = False
    """Whether the policy has moved since the first step on the rows."""


# Rows.


def demonstrations() -> list[TrainingRow]:
    rows = [replace(row, role=RowRole.DEMONSTRATION, sampler_logprobs=None) for row in random_rows(num_groups=4)]
    # Some tokens count less, and one row not at all.
    weights = np.random.default_rng(0).random(len(rows[1].completion_ids)).astype(np.float32)
    rows[1] = replace(rows[1], token_weights=weights)
    rows[2] = replace(rows[2], token_weights=np.zeros(len(rows[2].completion_ids), dtype=np.float32))
    return rows


def samples() -> list[TrainingRow]:
    """Credit that changes from token to token, none for one group, none for one row of another."""
    rng, rows = np.random.default_rng(3), []
    for index, row in enumerate(random_rows(num_groups=4, group_size=4, longest=8)):
        size = len(row.completion_ids)
        advantages = np.zeros(size) if row.group_id == "g1" or index == 0 else rng.normal(size=size)
        rows.append(
            replace(
                row,
                advantages=advantages.astype(np.float32),
                sampler_logprobs=(-3 + rng.normal(size=size)).astype(np.float32),
                returns=rng.normal(size=size).astype(np.float32),
                old_values=rng.normal(size=size).astype(np.float32),
            )
        )
    return rows


def pairs() -> list[TrainingRow]:
    """Beside common ones, two pairs of one prompt, and a pair whose sides stand behind different prompts."""
    rows = random_pairs(6)
    for place in (4, 5):
        rows[place] = replace(rows[place], prompt_ids=rows[0].prompt_ids)
    rows[7] = replace(rows[7], prompt_ids=(3, *rows[7].prompt_ids))
    return [replace(row, baseline=0.3) for row in rows]


def readable_pairs() -> list[TrainingRow]:
    return [repeat_last_token(row) for row in pairs()]


def mixed() -> list[TrainingRow]:
    """Return samples, and a demonstration in each group."""
    return [replace(row, role=RowRole.DEMONSTRATION) if index % 4 == 3 else row for index, row in enumerate(samples())]


def everything() -> list[TrainingRow]:
    return [*mixed(), *(replace(row, group_id=f"pair {row.group_id}") for row in pairs())]


def taught() -> list[TrainingRow]:
    """Return rows of which some have a prompt of their own for the teacher, of another length."""
    rows = demonstrations()
    return [replace(row, teacher_prompt_ids=(7, 8, *row.prompt_ids, 9) if index % 3 else None) for index, row in enumerate(rows)]


def in_steps() -> list[TrainingRow]:
    rows = []
    for index, row in enumerate(random_rows(num_groups=4, longest=8)):
        last = len(row.completion_ids) - 1
        ends = (0, last) if last > 0 else (0,)
        ends = () if index == 4 else ends
        rows.append(repeat_last_token(replace(row, step_ends=ends, step_scores=tuple(float((index + end) % 2) for end in ends))))
    return rows


# Stages.


def recipe(name: str, *, teacher: bool = False, needs_data: Callable[[Any], list[TrainingRow]] | None = None, **own: Any) -> Make:
    def make(model: Any, **settings: Any) -> tuple[Stage, Stepper]:
        other = tiny_llama(seed=8, dtype=torch.float64) if teacher else None
        data = needs_data() if needs_data else ()
        return build_stage(name, model, teacher=other, data=data, **own, **settings)

    return make


def by_hand(*components: Component, teacher: bool = False, head: bool = False) -> Make:
    def make(model: Any, **settings: Any) -> tuple[Stage, Stepper]:
        other = tiny_llama(seed=8, dtype=torch.float64) if teacher else None
        stage = Stage(source=None, components=components, scalar_head=scalar_head(model) if head else None)
        inputs = TrainingInputs(
            engine=None, training_set=None, graders={}, model=model, tokenizer=None,
            teacher=other and FrozenModel(source="", fingerprint="", model=other, tokenizer=None, engine=None),
        )  # fmt: skip
        return stage, make_stepper(stage, inputs, GrpoConfig(**{"max_grad_norm": 1e9, "autocast": "float32", **settings}))

    return make


OWN, PATHS = frozenset({RowRole.SAMPLE}), frozenset({RowRole.DEMONSTRATION})
AT_ONCE = (
    Component(term=PolicyGradient(importance_cap=2.0), reduction=sequence_mean, roles=OWN, weight=0.5),
    Component(term=ShapedImitation(), reduction=sequence_mean, roles=PATHS, whole_batch=True),
    Component(term=TeacherDivergence(beta=0.3), reduction=token_mean, roles=frozenset({RowRole.SAMPLE, RowRole.CHOSEN})),
    Component(term=ReferenceMargin(), reduction=row_mean, weight=2.0),
    Component(term=Nll(), reduction=token_mean, roles=frozenset({RowRole.CHOSEN})),
)

CASES: dict[str, Case] = {
    "sft": Case(recipe("sft", needs_data=demonstrations), demonstrations),
    "dft": Case(recipe("dft", needs_data=demonstrations), demonstrations),
    "dpo": Case(recipe("dpo", needs_data=pairs), pairs),
    "ipo": Case(recipe("ipo", needs_data=pairs), pairs),
    "simpo": Case(recipe("simpo", needs_data=pairs), pairs),
    "orpo": Case(recipe("orpo", needs_data=pairs), pairs),
    "kto": Case(recipe("kto", needs_data=pairs), pairs),
    "grpo": Case(recipe("grpo", kl_weight=0.3), samples),
    "grpo, later update": Case(recipe("grpo", kl_weight=0.3), samples, old=True),
    "dr_grpo, later update": Case(recipe("dr_grpo"), samples, old=True),
    "gspo, later update": Case(recipe("gspo", eps_low=0.1, eps_high=0.1), samples, old=True),
    "rloo, later update": Case(recipe("rloo", kl_weight=0.1), samples, old=True),
    "cispo, later update": Case(recipe("cispo"), samples, old=True),
    "ppo": Case(recipe("ppo", kl_weight=0.1), samples, old=True),
    "luffy": Case(recipe("luffy"), mixed),
    "chord": Case(recipe("chord"), mixed),
    "hpt": Case(recipe("hpt"), mixed),
    "gkd": Case(recipe("gkd", teacher=True, on_policy=1.0), taught),
    "logit_kd": Case(recipe("logit_kd", teacher=True, temperature=2.0, needs_data=demonstrations), taught),
    "minillm": Case(recipe("minillm", teacher=True), samples, old=True),
    "reward_model": Case(recipe("reward_model", needs_data=pairs), readable_pairs),
    "process_reward_model": Case(by_hand(Component(term=StepCorrectness(), reduction=step_mean), head=True), in_steps),
    "everything at once": Case(by_hand(*AT_ONCE, teacher=True), everything),
}


@dataclass(frozen=True)
class Cut:
    """One way to run a batch."""

    micro_batch_tokens: int = 100_000
    share_prefixes: bool = True
    order: Callable[[int], Sequence[int]] = field(default=range)


def shuffled(num: int) -> list[int]:
    return np.random.default_rng(1).permutation(num).tolist()


CUTS: dict[str, Cut] = {
    "one micro-batch, prompts repeated": Cut(share_prefixes=False),
    "row by row": Cut(micro_batch_tokens=1),
    "row by row, prompts repeated": Cut(micro_batch_tokens=1, share_prefixes=False),
    "shuffled, a few at a time": Cut(micro_batch_tokens=60, order=shuffled),
    "shuffled, a few at a time, prompts repeated": Cut(micro_batch_tokens=60, order=shuffled, share_prefixes=False),
    "reversed": Cut(order=lambda num: range(num - 1, -1, -1)),
}


def run(case: Case, cut: Cut) -> tuple[StepOutcome, dict[str, Tensor]]:
    """Loss and gradient; the reference is another model than the policy."""
    model = tiny_llama(dtype=torch.float64)
    stage, stepper = case.make(model, micro_batch_tokens=cut.micro_batch_tokens, share_prefixes=cut.share_prefixes)
    move_weights(model)
    if stage.scalar_head is not None:
        move_weights(stage.scalar_head, size=1.0)
    given = case.rows()
    order = list(cut.order(len(given)))
    rng = np.random.default_rng(0)
    noise = [torch.from_numpy(rng.normal(scale=0.3, size=len(row.completion_ids))) for row in given]
    old = {}
    if case.old:
        old = {place: plain_logprobs(model, given[index]).detach() + noise[index] for place, index in enumerate(order)}
    outcome = stepper.accumulate([given[index] for index in order], old)
    gradient = helper_gradient(model)
    if stage.scalar_head is not None:
        gradient |= {f"head.{name}": value for name, value in helper_gradient(stage.scalar_head).items()}
    return outcome, gradient


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[StepOutcome, dict[str, Tensor]]]:
    """Every case in one micro-batch, made once."""
    return {}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cut", CUTS)
def test_cutting_order_padding_and_sharing_do_not_matter(plain: dict, case: str, cut: str) -> None:
    if case not in plain:
        plain[case] = run(CASES[case], Cut())
    wanted, gradient = plain[case]
    assert wanted.grad_norm > 1e-3
    outcome, got = run(CASES[case], CUTS[cut])
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-9)
    assert outcome.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-9)
    assert outcome.trained_tokens == wanted.trained_tokens
    assert got.keys() == gradient.keys()
    for name, value in got.items():
        torch.testing.assert_close(value, gradient[name], rtol=1e-9, atol=1e-9 * wanted.grad_norm)
    assert outcome.metrics.keys() == wanted.metrics.keys()
    for name, number in outcome.metrics.items():
        assert number == pytest.approx(wanted.metrics[name], rel=1e-6, abs=1e-9), name
    if not CUTS[cut].share_prefixes:
        assert outcome.input_tokens >= wanted.input_tokens


@pytest.mark.parametrize("case", ["grpo", "dpo", "luffy"])
def test_sharing_saves_tokens(case: str) -> None:
    """Otherwise the comparison above would compare nothing."""
    assert run(CASES[case], Cut())[0].input_tokens < run(CASES[case], Cut(share_prefixes=False))[0].input_tokens


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].rows in (pairs, readable_pairs, everything)])
@pytest.mark.parametrize("share", [True, False])
def test_a_pair_is_never_divided(monkeypatch: pytest.MonkeyPatch, case: str, share: bool) -> None:
    """Where a term applies to pairs, both sides stand in one micro-batch, however small that should be."""
    seen: list[tuple[TrainingRow, ...]] = []
    score = ForwardScorer.score

    def watch(self: ForwardScorer, *args: Any) -> ForwardScores:
        scores = score(self, *args)
        seen.append(scores.rows)
        return scores

    monkeypatch.setattr(ForwardScorer, "score", watch)
    run(CASES[case], Cut(micro_batch_tokens=1, share_prefixes=share, order=shuffled))
    stage, _ = CASES[case].make(tiny_llama(dtype=torch.float64))
    together = [{row.group_id for row in rows if row.role is RowRole.CHOSEN} == {row.group_id for row in rows if row.role is RowRole.REJECTED} for rows in seen]  # fmt: skip
    if any(component.term.level is Level.PAIR for component in stage.components):
        assert all(together)
        assert max(len({row.group_id for row in rows if row.role is RowRole.CHOSEN}) for rows in seen) == 1
    else:  # KTO's rows stand alone
        assert not all(together)
    assert sum(row.role is RowRole.CHOSEN for rows in seen for row in rows) == 6


def test_a_weight_of_zero_runs_nothing() -> None:
    """A component that does not count yet costs no forward pass; the others are as if it were not there."""
    later = Component(term=Nll(), reduction=token_mean, roles=PATHS, weight=lambda step: float(step > 0))
    own = Component(term=PolicyGradient(), reduction=sequence_mean, roles=OWN)
    both, alone = Case(by_hand(own, later), mixed), Case(by_hand(own), mixed)
    first, gradient = run(both, Cut())
    second, other = run(alone, Cut())
    assert first.trained_tokens == second.trained_tokens
    assert first.loss == second.loss
    assert all(torch.equal(value, other[name]) for name, value in gradient.items())


def test_pairs_may_share_the_denominator_of_the_whole_batch() -> None:
    """A pair's share stands at its chosen row then too."""
    own, whole = (
        Case(by_hand(Component(term=ReferenceMargin(), reduction=row_mean, whole_batch=flag)), pairs) for flag in (False, True)
    )
    first, gradient = run(own, Cut())
    second, other = run(whole, Cut())
    assert second.loss == pytest.approx(first.loss / 2, rel=1e-12)  # twelve rows, six pairs
    for name, value in other.items():
        torch.testing.assert_close(value, gradient[name] / 2, rtol=1e-9, atol=1e-12)


def advance(case: Case, cut: Cut, steps: int = 3) -> Mapping[str, Tensor]:
    model = tiny_llama(dtype=torch.float64)
    settings = {"micro_batch_tokens": cut.micro_batch_tokens, "share_prefixes": cut.share_prefixes, "learning_rate": 1e-2}
    _, stepper = case.make(model, **settings)
    given = case.rows()
    rows, old = [given[index] for index in cut.order(len(given))], {}
    for number in range(steps):
        stepper.step(rows, old, number)
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("case", ["grpo", "gspo, later update", "ppo", "dpo", "reward_model", "gkd"])
def test_several_updates_on_a_batch(case: str) -> None:
    """The log-probabilities before the first step are kept by row, so later ratios do not hang on the cut either."""
    wanted = advance(CASES[case], Cut())
    found = advance(CASES[case], Cut(micro_batch_tokens=60, order=shuffled, share_prefixes=False))
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-8)
