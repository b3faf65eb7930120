"""What was measured: estimates, counts, likelihoods, and values held against thresholds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.types.rollout import PathScore

if TYPE_CHECKING:
    from posttrain.analysis.stats import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its interval; NaN where it is undefined."""

    estimate: float
    low: float
    high: float
    method: str
    """How it was got, in a few words."""

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """Return an interval of `analysis`."""
        return cls(estimate=float(interval.estimate), low=float(interval.low), high=float(interval.high), method=interval.method)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingMeasurement:
    """What the sampling probe counted, per problem (arrays of length P, in the order of `problem_ids`)."""

    problem_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each problem, its id where it has none."""
    num_samples: npt.NDArray[np.int64]
    """Samples with a known outcome."""
    num_correct: npt.NDArray[np.int64]
    num_missing: npt.NDArray[np.int64]
    num_unparsed: npt.NDArray[np.int64]
    num_truncated: npt.NDArray[np.int64]
    num_unfinished_thoughts: npt.NDArray[np.int64]
    """Samples whose thought was never closed; those that ran into the limit within it are truncated too."""
    num_lenient_correct: npt.NDArray[np.int64]
    """Successes under the lenient reading."""
    greedy_correct: npt.NDArray[np.float64]
    """1, 0, or NaN where the greedy sample is missing."""
    num_tokens: npt.NDArray[np.int64]
    """Generated tokens."""
    num_thought_tokens: npt.NDArray[np.int64]
    """Those of them that are thought, not answer; where the engine knows no tokens, none are counted."""

    @property
    def num_sampled(self) -> npt.NDArray[np.int64]:
        """Return samples, missing outcomes counted in."""
        return self.num_samples + self.num_missing

    @property
    def sampled_equally(self) -> bool:
        """Return whether every problem was sampled equally often; in rounds that depends on what the samples showed."""
        return bool((self.num_sampled == self.num_sampled[:1]).all())


@dataclass(frozen=True, kw_only=True, slots=True)
class PathLikelihoodMeasurement:
    """Reference paths under the policy, per problem with a reference."""

    paths: tuple[PathScore, ...]
    nll_per_token: npt.NDArray[np.float64]
    """[paths] mean negative log-likelihood, nats."""
    weakest_step: npt.NDArray[np.int64]
    """[paths] the step with the lowest probability."""
    first_improbable_step: npt.NDArray[np.int64]
    """[paths] the first step less likely than epsilon, −1 where there is none."""

    def share_above(self, probability: float) -> float:
        """Return the share of whole paths that are at least this likely."""
        sums = np.array([path.policy_logprobs.sum(dtype=np.float64) for path in self.paths])
        return float((sums >= np.log(probability)).mean())


class Outcome(StrEnum):
    """What a check says."""

    MET = "met"
    NOT_MET = "not_met"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A value held against a threshold: met when the whole interval is on the right side, not met when it is on the wrong one."""

    name: str
    op: str
    """`>=` or `<=`."""
    estimate: float
    low: float
    high: float
    threshold: float
    n: int
    """How many samples, problems or paths stand behind it."""
    method: str
    outcome: Outcome
    what: str = ""
    """One line for people: what the number is."""
    unit: str = ""
    """What `n` counts: `problems`, `samples`, `paths`, `texts`, ..."""


def decide(op: str, low: float, high: float, threshold: float) -> Outcome:
    """Hold an interval against a threshold. An undefined interval is inconclusive."""
    if np.isnan(low) or np.isnan(high):
        return Outcome.INCONCLUSIVE
    if op == ">=":
        return Outcome.MET if low >= threshold else Outcome.NOT_MET if high < threshold else Outcome.INCONCLUSIVE
    assert op == "<=", op
    return Outcome.MET if high <= threshold else Outcome.NOT_MET if low > threshold else Outcome.INCONCLUSIVE


def check_estimate(name: str, op: str, value: Estimate, threshold: float, *, n: int, what: str, unit: str = "problems") -> Check:
    """Return the check that holds an estimate against a threshold; the arguments are the fields of `Check`."""
    outcome = decide(op, value.low, value.high, threshold)
    return Check(name=name, op=op, threshold=threshold, n=n, outcome=outcome, what=what, unit=unit, **asdict(value))
