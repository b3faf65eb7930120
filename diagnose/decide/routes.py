"""Which stage a bottleneck is sent to, given what is available."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.types import Bottleneck, Estimate, Role, StageAdvice

_ROUTES: dict[Bottleneck, tuple[str, ...]] = {
    # In order of preference; the first one whose needs are met is named, the others are alternatives.
    Bottleneck.MISSING_SUPPORT: ("sft", "seq_kd", "guided_grpo", "luffy", "collect_references"),
    Bottleneck.GUIDED_ONLY: ("guided_grpo", "luffy", "sft", "collect_references"),
    Bottleneck.POOR_CHOICE: ("grpo", "rft", "opd", "dpo", "sft", "collect_verifier"),
    Bottleneck.ATTRITION: ("replay", "merge", "opd", "rft", "sft", "collect_references"),
    Bottleneck.SCAFFOLD_BOUND: ("self_distill", "rft", "sft", "collect_references"),
    Bottleneck.FORMAT: ("rft", "sft", "grpo", "collect_references"),
    Bottleneck.DECODING: ("change_decoding", "grpo", "rft"),
    Bottleneck.MASTERED: ("none",),
    Bottleneck.INVALID: ("fix_setup",),
    Bottleneck.INCONCLUSIVE: ("sample_more",),
}

ROLE_OF: dict[Bottleneck, Role | None] = {
    Bottleneck.MISSING_SUPPORT: Role.SUPPORT_EXPANSION,
    Bottleneck.GUIDED_ONLY: Role.SUPPORT_EXPANSION,
    Bottleneck.POOR_CHOICE: Role.POLICY_RESHAPING,
    Bottleneck.FORMAT: Role.POLICY_RESHAPING,
    Bottleneck.ATTRITION: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.SCAFFOLD_BOUND: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.DECODING: None,
    Bottleneck.MASTERED: None,
    Bottleneck.INVALID: None,
    Bottleneck.INCONCLUSIVE: None,
}


LEAST_SIGNAL = 0.05
"""Share of training groups with a learning signal from which a stage that learns from the policy's own successes is named: the share that
defines epsilon."""


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


def name_stage(
    bottleneck: Bottleneck,
    available: frozenset[Need],
    measured: Mapping[str, str] = MappingProxyType({}),
    signal: LearningSignal | None = None,
) -> StageAdvice:
    """Return the stage for a bottleneck, given what is available; the alternatives say what they would need.

    Args:
        bottleneck: What binds.
        available: What stages can be given.
        measured: Stage → what a probe found out about it.
        signal: How often a training group has a learning signal; a stage that needs one is not named where there is none.
    """
    stages = [STAGES[name] for name in _ROUTES[bottleneck]]
    measured = dict(measured)
    if signal is not None:
        for stage in stages:
            if stage.learns_from_successes:
                measured[stage.name] = "; ".join([*([measured[stage.name]] if stage.name in measured else []), signal.words])
    silent = signal is not None and signal.share.estimate < LEAST_SIGNAL
    why = {s.name: s.right_when + (f"; measured: {measured[s.name]}" if s.name in measured else "") for s in stages}
    possible = [s for s in stages if set(s.needs) <= available and not (silent and s.learns_from_successes)]
    chosen = possible[0] if possible else stages[-1]
    alternatives = []
    for stage in stages:
        if stage is chosen or (not stage.trains and stage is not stages[0]):
            continue
        missing = [need.value for need in stage.needs if need not in available]
        caveat = f"; needs {', '.join(missing)}" if missing else ""
        caveat += "; too seldom to learn from" if silent and stage.learns_from_successes else ""
        alternatives.append((stage.name, f"right when {why[stage.name]}{caveat}"))
    return StageAdvice(
        name=chosen.name,
        provenance=chosen.provenance,
        interface=chosen.interface,
        why=why[chosen.name],
        needs=tuple(need.value for need in chosen.needs),
        alternatives=tuple(alternatives),
    )
