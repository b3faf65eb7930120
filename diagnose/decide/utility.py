"""What each stage is expected to bring: its gain on the target less what it costs retained behaviors, under the posterior of the label.

    U(stage) = Σ_label P(label) · (gain(label, stage) · (1 − pass@1) − λ · loss(label, stage))

Gains and losses are those of `stage_effects`, measured at equal cost; λ is `Thresholds.retention_weight`. Doing nothing has a utility of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.decide.stage_effects import METHOD, EffectKey, Effects, References, StageEffect
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.types import Bottleneck, Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a stage can be given, and which stages have no learning signal."""

    needs: frozenset[Need]
    num_references: int = 0
    """Train problems with a reference path."""
    retained: bool = False
    """Whether there are retention behaviors to mix in."""
    without_signal: Mapping[str, str] = field(default_factory=dict)
    """Stage → why it would learn nothing."""

    def allows(self, stage: str) -> bool:
        """Return whether a stage can run and learn."""
        return set(STAGES[stage].needs) <= self.needs and stage not in self.without_signal


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedStage:
    """What one stage is expected to bring."""

    name: str
    utilities: Mapping[Bottleneck, float]
    """Under each label."""
    expected: float
    """Under their posterior."""
    gain: Estimate
    """Of pass@1."""
    loss: Estimate
    """Of the retention behaviors' pass@1."""

    @property
    def words(self) -> str:
        """The prediction, for people."""
        gain, loss = self.gain, self.loss
        on_target = format_interval(gain.estimate, gain.low, gain.high, signed=True)
        on_retained = format_interval(-loss.estimate, -loss.high, -loss.low, signed=True)
        return f"predicted: pass@1 {on_target}, {on_retained} on retained behaviors (at equal cost, on planted behaviors)"


def expect(
    stages: Iterable[str],
    posterior: Mapping[Bottleneck, float],
    offer: Offer,
    pass_1: float,
    retention_weight: float,
    table: Effects,
) -> list[ExpectedStage]:
    """Return what stages are expected to bring, the best first; those of which nothing was measured are left out.

    Args:
        stages: Names, in order of preference where two are expected to bring the same.
        posterior: Probability of each label.
        offer: What stages can be given.
        pass_1: Of the behavior now.
        retention_weight: λ.
        table: What was measured.
    """
    found = []
    for name in stages:
        effects = {label: _effect(table, label, name, offer) for label in posterior}
        known = {label: effect for label, effect in effects.items() if effect is not None}
        if not offer.allows(name) or not known:
            continue
        gain = _mean({label: effect.gain for label, effect in known.items()}, posterior, 1.0 - pass_1)
        loss = _mean({label: effect.loss for label, effect in known.items()}, posterior, 1.0)
        utilities = {
            label: 0.0 if (one := known.get(label)) is None
            else one.gain.estimate * (1.0 - pass_1) - retention_weight * max(0.0, one.loss.estimate)
            for label in posterior
        }  # fmt: skip
        expected = sum(posterior[label] * value for label, value in utilities.items())
        found.append(ExpectedStage(name=name, utilities=utilities, expected=expected, gain=gain, loss=loss))
    return sorted(found, key=lambda stage: -stage.expected)


def expected_regret(named: ExpectedStage | None, stages: Iterable[ExpectedStage], posterior: Mapping[Bottleneck, float]) -> float:
    """Return the utility that knowing the label would add, in the mean over the posterior.

    Args:
        named: What is run without knowing it; None is doing nothing.
        stages: What could be run.
        posterior: Probability of each label.
    """
    return sum(
        share * (max([0.0, *(one.utilities[label] for one in stages)]) - (named.utilities[label] if named else 0.0))
        for label, share in posterior.items()
    )


def _effect(table: Effects, label: Bottleneck, stage: str, offer: Offer) -> StageEffect | None:
    """Return the measured effect of a stage, with retention rows where there are some to mix in and that was measured."""
    order = list(References)
    have = order.index(References.of(offer.num_references))
    if Need.REFERENCES in STAGES[stage].needs:
        classes = order[have:0:-1]  # where that number was not tried, the next smaller one stands for it
    else:
        classes = [order[have], *order]  # references make no difference
    keys = [EffectKey(label, one, stage, retained) for retained in dict.fromkeys((offer.retained, False)) for one in classes]
    return next((table[key] for key in keys if key in table), None)


def _mean(values: Mapping[Bottleneck, Estimate], posterior: Mapping[Bottleneck, float], factor: float) -> Estimate:
    """Return the mean over labels, times a factor; a label without a measurement counts as no change."""
    rows = np.array([[posterior[label] * part for part in (one.estimate, one.low, one.high)] for label, one in values.items()])
    estimate, low, high = factor * rows.sum(axis=0)
    return Estimate(estimate=float(estimate), low=float(low), high=float(high), method=METHOD)
