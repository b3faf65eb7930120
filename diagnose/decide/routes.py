"""Which stage to run next: the one with the highest expected utility, or the first of a bottleneck's route where nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posttrain.diagnose.decide.stage_effects import LEAST, Effects, References, measured_effects
from posttrain.diagnose.decide.utility import ExpectedStage, Offer, expect, expected_regret
from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.stage_catalogue import STAGES, Need, StageDescription
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Estimate, Role, StageAdvice

_ROUTES: dict[Bottleneck, tuple[str, ...]] = {
    # In order of preference where no stage was measured; the last one is advice for where none can run.
    Bottleneck.MISSING_SUPPORT: ("sft", "seq_kd", "opd", "guided_grpo", "luffy", "hpt", "collect_references"),
    Bottleneck.GUIDED_ONLY: ("guided_grpo", "luffy", "hpt", "opd", "sft", "seq_kd", "collect_references"),
    Bottleneck.MIXED: ("hpt", "luffy", "sft", "opd", "seq_kd", "rft", "grpo", "collect_references"),
    Bottleneck.POOR_CHOICE: ("grpo", "rft", "opd", "hpt", "process", "dpo", "sft", "collect_verifier"),
    Bottleneck.ATTRITION: ("replay", "opd", "merge", "rft", "grpo", "sft", "collect_references"),
    Bottleneck.SCAFFOLD_BOUND: ("self_distill", "rft", "grpo", "sft", "hpt", "collect_references"),
    Bottleneck.FORMAT: ("rft", "sft", "grpo", "hpt", "collect_references"),
    Bottleneck.DECODING: ("change_decoding", "grpo", "rft"),
    Bottleneck.MASTERED: ("none",),
    Bottleneck.INVALID: ("fix_setup",),
    Bottleneck.INCONCLUSIVE: ("sample_more",),
}

ROLE_OF: dict[Bottleneck, Role | None] = {
    Bottleneck.MISSING_SUPPORT: Role.SUPPORT_EXPANSION,
    Bottleneck.GUIDED_ONLY: Role.SUPPORT_EXPANSION,
    Bottleneck.MIXED: None,
    Bottleneck.POOR_CHOICE: Role.POLICY_RESHAPING,
    Bottleneck.FORMAT: Role.POLICY_RESHAPING,
    Bottleneck.ATTRITION: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.SCAFFOLD_BOUND: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.DECODING: None,
    Bottleneck.MASTERED: None,
    Bottleneck.INVALID: None,
    Bottleneck.INCONCLUSIVE: None,
}

CHANGE_DECODING = "change_decoding"
LEAST_SIGNAL = 0.05
"""Share of training groups with a learning signal from which a stage that learns from the policy's own successes is named: the share that
defines epsilon."""
_LEAST_SHARE = 0.01
"""Posterior probability below which a label plays no part in the choice."""
_LEAST_UTILITY = 0.01
"""Expected utility from which a stage is worth running: less is within what another seed of training changes."""
_WORTH_COLLECTING = 0.1
"""Gain in expected utility from which references, or a retention behavior, are worth their trouble, beside a stage that can run without them."""

_MIX_IN = "mix in rows of a behavior that must not be lost (--retain), as where this was measured: without them it cost too much of what was mastered"


@dataclass(frozen=True, slots=True)
class LearningSignal:
    """The share of training groups that hold a success and a failure, as graded strictly."""

    share: Estimate
    group_size: int

    @property
    def words(self) -> str:
        """The number, for people."""
        value = f"{self.share.estimate:.0%} [{self.share.low:.0%}, {self.share.high:.0%}]"
        return f"a group of {self.group_size} samples holds a success and a failure in {value} of cases"


def learning_signal(posterior: LabelPosterior, group_size: int, level: float) -> LearningSignal:
    """Estimate how often a training group on these problems has a learning signal: the mean of 1 − p^G − (1−p)^G.

    Args:
        posterior: Of the success rates.
        group_size: G.
        level: Of the interval.
    """
    rates = posterior.mixture.draws[1]
    both = posterior.mixture.expectations((1.0 - rates**group_size - (1.0 - rates) ** group_size)[:, :, None])[:, :, 0]
    draws = both @ posterior.mixture.repeats / max(1, int(posterior.mixture.repeats.sum()))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    share = Estimate(estimate=float(draws.mean()), low=float(low), high=float(high), method="posterior of these problems")
    return LearningSignal(share, group_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What is known when a stage is chosen."""

    label: Bottleneck
    posterior: Mapping[Bottleneck, float] = field(default_factory=dict)
    """Probability of each label as far as stages are concerned; empty where no stage is to be chosen by it."""
    pass_1: float = 0.0
    greedy_gain: float = 0.0
    """By how much greedy decoding is better than that."""
    offer: Offer
    measured: Mapping[str, str] = field(default_factory=dict)
    """Stage → what a probe found out about it."""
    effects: Effects = field(default_factory=measured_effects)
    """What stages did to behaviors whose label was known."""


def name_stage(situation: Situation, thresholds: Thresholds) -> StageAdvice:
    """Return the stage to run next, with what it is expected to bring; the alternatives say what they would need.

    The stage with the highest expected utility is named, and of those within `Thresholds.open_regret` of it the first of the route; also where
    the label is open: `sample_more` only where the stage would lose more than that against knowing the label. Where no retention behavior is
    given and mixing one in is worth it, the stage is named on that condition.

    Args:
        situation: What is known.
        thresholds: How much may be lost, and what retention counts.
    """
    label, offer = situation.label, situation.offer
    posterior = {one: share for one, share in situation.posterior.items() if share >= _LEAST_SHARE}
    measured = [key.stage for key in situation.effects if key.label in posterior and key.stage in STAGES]
    names = dict.fromkeys([*(name for one in posterior or {label: 1.0} for name in _ROUTES[one]), *measured])
    trained = [name for name in names if STAGES[name].trains]
    expected = expect(trained, posterior, offer, situation.pass_1, thresholds.retention_weight, situation.effects)
    if Bottleneck.DECODING in posterior:
        expected = sorted([_change_of_decoding(situation, posterior), *expected], key=lambda one: -one.expected)
    best = _choose(expected, [CHANGE_DECODING, *trained], thresholds.open_regret)
    if not measured or label in (Bottleneck.DECODING, Bottleneck.MASTERED, Bottleneck.INVALID):
        return _advice(_first_possible(label, offer), situation, _ROUTES[label], expected)
    regret = expected_regret(best, expected, posterior)
    if label is Bottleneck.INCONCLUSIVE and regret > thresholds.open_regret:
        return _undecided(situation, expected, posterior, regret)
    if not offer.retained and (mixing_in := _on_condition_of_retention(situation, posterior, [*names], best, thresholds)):
        return mixing_in
    if best is None:
        likeliest = max(posterior, key=lambda one: posterior[one])
        first = _first_possible(likeliest, offer)
        untried = first.trains and first.name not in {one.name for one in expected}
        return _advice(first if untried else _advice_of(likeliest), situation, [*names], expected)
    return _advice(STAGES[best.name], situation, [*names], expected)


def _on_condition_of_retention(
    situation: Situation,
    posterior: Mapping[Bottleneck, float],
    names: Sequence[str],
    best: ExpectedStage | None,
    thresholds: Thresholds,
) -> StageAdvice | None:
    """Return the stage that is best where rows of a retention behavior are mixed in, if it is so much better that one should be given."""
    with_rows = replace(situation, offer=replace(situation.offer, retained=True))
    trained = [name for name in names if STAGES[name].trains]
    weight = thresholds.retention_weight
    expected = expect(trained, posterior, with_rows.offer, situation.pass_1, weight, situation.effects)
    better = _choose(expected, trained, thresholds.open_regret)
    if better is None or better.expected <= (best.expected if best else 0.0) + _WORTH_COLLECTING:
        return None
    advice = _advice(STAGES[better.name], with_rows, names, expected)
    return replace(advice, needs=(*advice.needs, Need.RETENTION.value), why=f"{advice.why}; {_MIX_IN}")


def _change_of_decoding(situation: Situation, posterior: Mapping[Bottleneck, float]) -> ExpectedStage:
    """Return what greedy decoding brings, which was measured on this very behavior and costs nothing."""
    value = situation.greedy_gain
    gain = Estimate(estimate=value, low=value, high=value, method="greedy samples of these problems")
    none = Estimate(estimate=0.0, low=0.0, high=0.0, method="no training")
    return ExpectedStage(name=CHANGE_DECODING, utilities=dict.fromkeys(posterior, value), expected=value, gain=gain, loss=none)


def _choose(expected: Sequence[ExpectedStage], order: Sequence[str], margin: float) -> ExpectedStage | None:
    """Return the first stage in order of preference that is expected to bring nearly as much as the best; None where none is worth its cost.

    Effects are known to a few tenths: smaller differences are no reason against what the literature prefers.
    """
    worth = [one for one in expected if one.expected > max(_LEAST_UTILITY, expected[0].expected - margin)]
    return min(worth, key=lambda one: order.index(one.name), default=None)


def _first_possible(label: Bottleneck, offer: Offer) -> StageDescription:
    """Return the first stage of a route that can run and learn, else its advice."""
    return next((STAGES[name] for name in _ROUTES[label] if offer.allows(name)), _advice_of(label))


def _advice_of(label: Bottleneck) -> StageDescription:
    """Return what to do where no stage that trains is worth it."""
    return STAGES[_ROUTES[label][-1]]


def _advice(
    chosen: StageDescription, situation: Situation, names: Sequence[str], expected: Sequence[ExpectedStage]
) -> StageAdvice:
    """Return a stage as advice, with the others as alternatives."""
    of = {one.name: one for one in expected}
    best = of.get(chosen.name)
    others = [*(name for name in of if name != chosen.name), *(name for name in names if name not in of and name != chosen.name)]
    alternatives = tuple(
        (name, _alternative(STAGES[name], situation, of.get(name))) for name in others if STAGES[name].trains or name == names[0]
    )
    return StageAdvice(
        name=chosen.name,
        provenance=chosen.provenance,
        interface=chosen.interface,
        why="; ".join([_why(chosen, situation), *([best.words] if best else []), *_worth_collecting(situation, best)]),
        needs=tuple(need.value for need in chosen.needs),
        alternatives=alternatives,
        predicted_gain=best.gain if best else None,
        predicted_loss=best.loss if best else None,
    )


def _undecided(
    situation: Situation, expected: Sequence[ExpectedStage], posterior: Mapping[Bottleneck, float], regret: float
) -> StageAdvice:
    """Return that more samples are needed, because the stage hangs on the label."""
    best = {
        label: max(expected, key=lambda one: one.utilities[label]).name
        for label in posterior
        if any(one.utilities[label] > 0 for one in expected)
    }
    by_label = ", ".join(f"{name} if it is {label}" for label, name in best.items())
    advice = _advice(STAGES["sample_more"], situation, [one.name for one in expected], expected)
    why = f"the stage hangs on the label ({by_label}); choosing now would cost {regret:.2f} of pass@1 in the mean"
    return replace(advice, why=why)


def _why(stage: StageDescription, situation: Situation) -> str:
    return stage.right_when + (f"; measured: {situation.measured[stage.name]}" if stage.name in situation.measured else "")


def _alternative(stage: StageDescription, situation: Situation, expected: ExpectedStage | None) -> str:
    """Return when another stage is right, and what it needs or lacks."""
    offer = situation.offer
    parts = [f"right when {_why(stage, situation)}"]
    if missing := [need.value for need in stage.needs if need not in offer.needs]:
        parts.append(f"needs {', '.join(missing)}")
    if stage.name in offer.without_signal:
        parts.append(offer.without_signal[stage.name])
    return "; ".join([*parts, *([expected.words] if expected else [])])


def _worth_collecting(situation: Situation, best: ExpectedStage | None) -> list[str]:
    """Return, in words, what more references would bring, where that is much more than what can be run now."""
    gains = {
        key.references: effect.gain.estimate * (1.0 - situation.pass_1)
        for key, effect in situation.effects.items()
        if key.label is situation.label and key.stage == "sft" and key.retained is situation.offer.retained
    }
    now, have = best.expected if best else 0.0, References.of(situation.offer.num_references)
    more = [one for one in gains if LEAST[one] > LEAST[have] and gains[one] > now + _WORTH_COLLECTING]
    if not more:
        return []
    fewest = min(more, key=lambda one: LEAST[one])
    return [f"with {LEAST[fewest]} or more references sft is expected to bring {gains[fewest]:+.2f}"]
