"""What scored answers say in numbers: support, loss, gradient, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import mean_interval, t_interval
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.probes.data.answers import CHOSEN, REJECTED, Floats64, ScoredAnswer
from posttrain.diagnose.thresholds import DataThresholds
from posttrain.diagnose.types import Estimate

_NUM_DRAWS = 1000
"""Bootstrap draws of rows for the interval of a ratio."""


class DataOutcome(StrEnum):
    """What training on a data set would do."""

    EXPANDS = "expands"
    RESHAPES = "reshapes"
    BOTH = "both"
    UNKNOWN = "unknown"
    """No answer to be imitated was scored, or none of them gives a gradient."""


def limit_of_support(worst_of_own: Sequence[float], epsilon: float, thresholds: DataThresholds) -> float:
    """Return nats of the least likely token from which on an answer is out of support.

    Args:
        worst_of_own: −log p of the least likely token of each of the policy's own answers.
        epsilon: Probability under which a token is out of support, unless the policy's own answers hold less likely ones.
        thresholds: Which share of the own answers the limit admits, and how many there must be.

    Returns:
        −log ε, or more: the value that 95 % of the own answers do not exceed, where there are enough of them.
    """
    limit = -float(np.log(epsilon))
    if len(worst_of_own) < thresholds.fewest_own:
        return limit
    return max(limit, float(np.quantile(np.asarray(worst_of_own), thresholds.own_within, method="higher")))


def ratio_of_sums(parts: npt.ArrayLike, wholes: npt.ArrayLike, level: float, method: str) -> Estimate:
    """Return a ratio of two sums over rows, with a bootstrap over rows; NaN where the whole is nothing."""
    values = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)])
    if not values[1].sum() > 0:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method)
    picks = np.random.default_rng(0).integers(values.shape[1], size=(_NUM_DRAWS, values.shape[1]))
    drawn = values[:, picks].sum(axis=2)
    ratios = drawn[0][drawn[1] > 0] / drawn[1][drawn[1] > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(estimate=float(values[0].sum() / values[1].sum()), low=float(low), high=float(high), method=method)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPairs:
    """Pairs of which both sides were scored whole (arrays of length N)."""

    rows: tuple[int, ...]
    margin: Floats64
    """log π(chosen) − log π(rejected), nats."""
    per_token: Floats64
    """The same of means over tokens."""
    longer: Floats64
    """Tokens by which the chosen answer is longer."""


def pair_answers(answers: Sequence[ScoredAnswer]) -> ScoredPairs:
    """Return the pairs of which both sides were scored whole."""
    sides = {(answer.row, answer.side): answer for answer in answers if not answer.cut}
    both = [
        (row, answer, sides[row, REJECTED])
        for (row, side), answer in sides.items()
        if side == CHOSEN and row is not None and (row, REJECTED) in sides
    ]
    return ScoredPairs(
        rows=tuple(row for row, _, _ in both),
        margin=np.array([bad.total - good.total for _, good, bad in both]),
        per_token=np.array([bad.per_token - good.per_token for _, good, bad in both]),
        longer=np.array([float(good.nats.size - bad.nats.size) for _, good, bad in both]),
    )


def _wins(values: Floats64) -> Floats64:
    """Return [N] 1 where above zero, ½ at zero, 0 below."""
    return (np.sign(values) + 1) / 2


def summarize_answers(
    context: ProbeContext,
    learned: Sequence[ScoredAnswer],
    avoided: Sequence[ScoredAnswer],
    own: Sequence[ScoredAnswer],
    pairs: ScoredPairs,
    limit: float,
) -> dict[str, Estimate]:
    """Return every number of the finding by its name.

    Args:
        context: Of the probe.
        learned: Answers to be imitated.
        avoided: Rejected or bad answers.
        own: Answers of the policy.
        pairs: Both sides of pairs.
        limit: As from `limit_of_support`.
    """
    level, epsilon = context.thresholds.level, context.behavior.measure.epsilon

    def share(values: npt.ArrayLike, method: str = "t over rows") -> Estimate:
        found = Estimate.of(mean_interval(np.asarray(values, dtype=np.float64), level=level))
        return Estimate(estimate=found.estimate, low=found.low, high=found.high, method=method)

    def mean(values: Sequence[float] | Floats64, method: str) -> Estimate:
        return Estimate.of(t_interval(values, level=level, method=f"t over {method}"))

    numbers: dict[str, Estimate] = {}
    if learned:
        outside = np.array([answer.worst > limit for answer in learned])
        loss = np.array([answer.total for answer in learned])
        gradient = [-np.expm1(-answer.nats) for answer in learned]
        improbable = [part[answer.nats > limit].sum() for part, answer in zip(gradient, learned, strict=True)]
        numbers["share within support"] = share(~outside)
        numbers["share of the loss in rows out of support"] = ratio_of_sums(outside * loss, loss, level, "bootstrap over rows")
        numbers["share of the gradient from tokens out of support"] = ratio_of_sums(
            improbable, [part.sum() for part in gradient], level, "bootstrap over rows"
        )
        numbers["share as likely as epsilon on the whole"] = share(loss <= -np.log(epsilon))
        numbers["nats per token"] = mean([answer.per_token for answer in learned], "rows")
    if own:
        per_token = [answer.per_token for answer in own]
        numbers["nats per token, own samples"] = Estimate.of(t_interval(per_token, [answer.group for answer in own], level=level))
    if avoided:
        numbers["share of rejected answers within support"] = share([answer.worst <= limit for answer in avoided])
    if pairs.rows:
        numbers["share of pairs ranked right"] = share(_wins(pairs.margin))
        numbers["share of pairs ranked right per token"] = share(_wins(pairs.per_token))
        numbers["share of pairs that length alone ranks right"] = share(_wins(-pairs.longer))
        numbers["margin"] = mean(pairs.margin, "pairs")
        numbers["margin per token"] = mean(pairs.per_token, "pairs")
        numbers["tokens by which the chosen is longer"] = mean(pairs.longer, "pairs")
    return numbers


def _outcome(numbers: Mapping[str, Estimate], majority: float) -> DataOutcome:
    """Say what training would do: where most of the gradient, or of the loss, comes from."""
    gradient = numbers.get("share of the gradient from tokens out of support")
    if gradient is None or np.isnan(gradient.estimate):
        return DataOutcome.UNKNOWN
    if gradient.low > majority:
        return DataOutcome.EXPANDS
    loss = numbers["share of the loss in rows out of support"]
    return DataOutcome.RESHAPES if max(gradient.high, loss.high) < majority else DataOutcome.BOTH
