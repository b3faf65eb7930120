"""Gates: conditions on a measured run or on a comparison, each met, proven not met, or not decided.

    result = posttrain.diagnose.gate("runs/mine", ["pass@16>=0.5", "copy:greedy>=0.9"])
    result.outcome, result.exit_code

A condition reads `[behavior:]metric>=number` or `<=`. `>=` is met when the lower bound of the metric's 95 % interval is at or above the
number, `<=` when the upper bound is at or below it. Between the two it is not decided, and what would decide it is said.

**Several conditions.** All must hold. To claim that they do, each is tested at 95 % and no correction is due: if one of them is false, all
of them pass by mistake at most as often as that one does (intersection–union test, Berger 1982). To claim that one of m fails, the worst
of m intervals is picked, so a condition counts as proven not met only when its interval at 1 − .05/m is on the wrong side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import (
    Interval,
    fit_mixture,
    mean_interval,
    paired_delta_interval,
    pass_at_k,
    problems_for_half_width,
    samples_for_half_width,
    variance_components,
)
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.gates.conditions import ALLOWED, SHARES, Condition, parse_condition
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Bottleneck, Check, Outcome, Purpose, Split, decide

if TYPE_CHECKING:
    from posttrain.diagnose.pipeline.diagnosed_run import DiagnosedRun

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Settles:
    """What is expected to decide a condition if today's estimate is right; None where more of it would not."""

    samples: int | None
    """More samples in all, of the same problems."""
    tokens: int | None
    """What they cost."""
    problems: int | None
    """Or problems in all, each sampled as often as today."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCondition:
    """A condition on one behavior, decided."""

    behavior: str
    check: Check
    settles: Settles | None
    """None where it is decided."""
    reason: str
    """Why it is not decided, in words; empty where the interval says it all."""

    @property
    def line(self) -> str:
        """For people: estimate, interval, threshold, outcome, and what would settle it."""
        c = self.check
        number = "+.3f" if c.name.startswith("delta") else ".3f"
        values = (
            f"{c.estimate:{number}} [{c.low:{number}}, {c.high:{number}}]" if not math.isnan(c.estimate) else _bounds(c, number)
        )
        words = {Outcome.MET: "met", Outcome.NOT_MET: "proven not met", Outcome.INCONCLUSIVE: "not decided"}[c.outcome]
        text = f"{self.behavior}: {c.name} {values} {c.op} {c.threshold:g}: {words}"
        if self.reason:
            text += f" ({self.reason})"
        if self.settles:
            text += f"; {_settles_words(self.settles)}"
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """All conditions, decided."""

    conditions: tuple[GatedCondition, ...]

    @property
    def outcome(self) -> Outcome:
        """Not met where one is proven not met, met where all are met, else inconclusive."""
        outcomes = {c.check.outcome for c in self.conditions}
        if Outcome.NOT_MET in outcomes:
            return Outcome.NOT_MET
        return Outcome.MET if outcomes == {Outcome.MET} else Outcome.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        """0 met, 1 proven not met, 3 not decided."""
        return {Outcome.MET: 0, Outcome.NOT_MET: 1, Outcome.INCONCLUSIVE: 3}[self.outcome]


def _bounds(check: Check, number: str) -> str:
    """What is said of a number that the samples do not identify."""
    return "–" if math.isnan(check.low) else f"not identified [{check.low:{number}}, {check.high:{number}}]"


def gate(run: str | Path | DiagnosedRun, conditions: Sequence[str]) -> GateResult:
    """Decide conditions on a finished run, or on a comparison of two.

    Args:
        run: The folder of a `posttrain diagnose` (or the run), or of a `posttrain compare` or `loop` for conditions on `delta pass@K`.
        conditions: One or several, all of which must hold; see the module.

    Raises:
        SettingsError: a condition is malformed, or names a behavior that was not measured.
        RunError: the folder does not hold what the conditions speak of.
    """
    if not conditions:
        raise SettingsError(f"condition: got none, give one or several {ALLOWED}")
    parsed = [parse_condition(text) for text in conditions]
    path = Path(run) if isinstance(run, str | Path) else run.path
    if len({c.of_comparison for c in parsed}) > 1:
        raise SettingsError(
            "condition: got some on a run and some on a comparison (delta); gate the two folders one after the other"
        )
    data = _read(path, of_comparison=parsed[0].of_comparison)
    pairs = [(condition, behavior) for condition in parsed for behavior in _behaviors(path, data, condition)]
    level_against = 1.0 - (1.0 - LEVEL) / len(pairs)
    return GateResult(conditions=tuple(_decide(path, data, behavior, condition, level_against) for condition, behavior in pairs))


def gate_to_json(result: GateResult) -> dict[str, Any]:
    """What `posttrain gate --json` prints."""
    return {
        "schema": 1,
        "outcome": result.outcome.value,
        "conditions": [
            {
                "behavior": c.behavior,
                "metric": c.check.name,
                "op": c.check.op,
                "threshold": c.check.threshold,
                "estimate": _finite(c.check.estimate),
                "low": _finite(c.check.low),
                "high": _finite(c.check.high),
                "n": c.check.n,
                "method": c.check.method,
                "outcome": c.check.outcome.value,
                "reason": c.reason or None,
                "settles_with": None
                if c.settles is None
                else {"samples": c.settles.samples, "tokens": c.settles.tokens, "problems": c.settles.problems},
            }
            for c in result.conditions
        ],
    }


# -------------------------------------------------------------------------------------------------------------------- reading


def _read(path: Path, *, of_comparison: bool) -> dict[str, Any]:
    file, other = ("compare.json", "diagnosis.json") if of_comparison else ("diagnosis.json", "compare.json")
    if not (path / file).is_file():
        if (path / other).is_file():
            hint = (
                f"it holds a run; compare it with another: posttrain compare {path} OTHER --out DIR"
                if of_comparison
                else "it holds a comparison; ask for delta pass@K, or give the folder of the run after"
            )
        elif (path / "run.json").is_file():
            hint = "it is not measured to the end; run the same `posttrain diagnose` again to resume it"
        else:
            hint = f"give the --out folder of a `posttrain {'compare' if of_comparison else 'diagnose'}`"
        raise RunError(f"gate {path}: no {file} there; {hint}")
    try:
        data: dict[str, Any] = json.loads((path / file).read_text())
        assert data["schema"] == 1
        assert all(isinstance(row["num_samples"], int) for behavior in data["behaviors"] for row in behavior["problems"])
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise RunError(
            f"gate {path}: its {file} cannot be read ({' '.join(str(error).split())[:80]}); write it again with posttrain "
            f"{'compare' if of_comparison else f'report {path}'}"
        ) from error
    if data.get("settings", {}).get("split") == Split.TRAIN:
        raise RunError(
            f"gate {path}: it measured the train split, whose samples are there to learn from and prove nothing; gate a run of the eval split"
        )
    return data


def _behaviors(path: Path, data: Mapping[str, Any], condition: Condition) -> list[Mapping[str, Any]]:
    measured: list[Mapping[str, Any]] = data["behaviors"]
    if condition.behavior is None:
        found = [b for b in measured if b.get("purpose") == Purpose.TARGET]
        return found or measured
    found = [b for b in measured if b["name"] == condition.behavior] or [
        b for b in measured if fnmatchcase(b["name"], condition.behavior)
    ]
    if not found:
        raise SettingsError(
            f"condition: got {condition.text!r}, {path} measured {', '.join(b['name'] for b in measured)}; name one of these, or "
            "leave the name out"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """What a run drew of one behavior."""

    n: npt.NDArray[np.int64]
    correct: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]
    groups: tuple[str, ...]


def _outcomes(behavior: Mapping[str, Any]) -> _Outcomes:
    rows = behavior["problems"]
    n, correct, missing = (
        np.array([row[key] for row in rows], dtype=np.int64) for key in ("num_samples", "num_correct", "num_missing")
    )
    return _Outcomes(n, correct, missing, tuple(row.get("group") or row["id"] for row in rows))


# ------------------------------------------------------------------------------------------------------------------- deciding


def _decide(
    path: Path, data: Mapping[str, Any], behavior: Mapping[str, Any], condition: Condition, level_against: float
) -> GatedCondition:
    """Hold one metric of one behavior against its threshold."""
    name, rows = str(behavior["name"]), behavior["problems"]
    if behavior.get("bottleneck") == Bottleneck.INVALID or not rows:
        undefined = Interval(math.nan, math.nan, math.nan, "not measured")
        check = _check(condition, undefined, len(rows), Outcome.INCONCLUSIVE)
        return GatedCondition(
            behavior=name,
            check=check,
            settles=None,
            reason="its measurement is invalid, so no number of it counts; see the report",
        )
    interval = _metric(path, data, behavior, condition, LEVEL)
    outcome, reason = decide(condition.op, interval.low, interval.high, condition.threshold), ""
    if outcome is Outcome.NOT_MET:
        wider = _metric(path, data, behavior, condition, level_against)
        if decide(condition.op, wider.low, wider.high, condition.threshold) is not outcome:
            outcome = Outcome.INCONCLUSIVE
            reason = f"not met at 95 % alone, not at the {level_against:.3%} that picking the worst of several conditions takes"
            interval = Interval(interval.estimate, wider.low, wider.high, f"{wider.method}, {level_against:.3%}")
    check = _check(condition, interval, len(rows), outcome)
    settles = _settles(behavior, condition, interval) if outcome is Outcome.INCONCLUSIVE else None
    if outcome is Outcome.INCONCLUSIVE and settles is None:
        reason = reason or (
            "the samples bound it and do not identify it; draw at least as many samples of every problem as its k"
            if math.isnan(interval.estimate)
            else "the estimate lies at the threshold, so more of the same is not expected to decide"
        )
    return GatedCondition(behavior=name, check=check, settles=settles, reason=reason)


def _check(condition: Condition, interval: Interval, n: int, outcome: Outcome) -> Check:
    return Check(
        name=condition.metric, op=condition.op, estimate=interval.estimate, low=interval.low, high=interval.high,
        threshold=condition.threshold, n=n, method=interval.method, outcome=outcome, unit="problems",
    )  # fmt: skip


def _metric(path: Path, data: Mapping[str, Any], behavior: Mapping[str, Any], condition: Condition, level: float) -> Interval:
    """The value of a metric. Missing samples count as failures below and as successes above."""
    if condition.of_comparison:
        return _delta(path, behavior, condition, level)
    if condition.metric == "greedy":
        return _greedy(path, behavior, level)
    outcomes = _outcomes(behavior)
    total = outcomes.n + outcomes.missing

    def value(n: npt.NDArray[np.int64], correct: npt.NDArray[np.int64]) -> Interval:
        if condition.metric in SHARES:
            thresholds = data["settings"]["thresholds"]
            edges = (behavior["measure"]["epsilon"], thresholds["mastered"])
            return _share(n, correct, outcomes.groups, edges, condition.metric, level)
        return _pass_at_k(n, correct, outcomes.groups, condition.k, level)

    known = value(outcomes.n, outcomes.correct)
    if not outcomes.missing.any():
        return known
    bounds = [value(total, outcomes.correct), value(total, outcomes.correct + outcomes.missing)]
    return Interval(
        known.estimate,
        min(b.low for b in bounds),
        max(b.high for b in bounds),
        f"{known.method}, missing samples as failures and as successes",
    )


def _pass_at_k(n: npt.NDArray[np.int64], correct: npt.NDArray[np.int64], groups: Sequence[str], k: int, level: float) -> Interval:
    """Mean pass@k over problems.

    Unequal numbers of samples may have been chosen by looking, and k may exceed them: then the fitted mixture speaks, whose
    likelihood does not mind (arXiv 2510.05197).
    """
    if k <= n.min() and n.min() == n.max():
        return mean_interval(pass_at_k(n, correct, k), groups, level=level)
    return fit_mixture(n, correct, groups=groups).pass_at_k(k, level=level)


def _share(
    n: npt.NDArray[np.int64],
    correct: npt.NDArray[np.int64],
    groups: Sequence[str],
    edges: tuple[float, float],
    metric: str,
    level: float,
) -> Interval:
    """Share of *these* problems in a state, from the fitted mixture."""
    mixture = fit_mixture(n, correct, marks=edges, groups=groups)
    counts, _ = mixture.draw_interval_counts(edges, rng=np.random.default_rng(0), num_draws=2000)
    below, between, above = counts.T / n.size
    draws = {
        "share_within_support": between + above,
        "share_missing_support": below,
        "share_poor_choice": between,
        "share_mastered": above,
    }[metric]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws.mean()), float(low), float(high), "posterior of the fitted mixture, these problems")


def _greedy(path: Path, behavior: Mapping[str, Any], level: float) -> Interval:
    table = RunDirectory(path).rollout_table(behavior["name"])
    rows = behavior["problems"]
    places = table.places([row["id"] for row in rows])
    known = table.greedy & (places >= 0)
    success = np.full(len(rows), np.nan)
    outcome = np.where(table.missing, np.nan, table.succeeded(behavior["measure"]["success"]))
    success[places[known]] = outcome[known]
    groups = _outcomes(behavior).groups
    value = mean_interval(success, groups, level=level)
    if not np.isnan(success).any():
        return value
    bounds = [mean_interval(np.nan_to_num(success, nan=worst), groups, level=level) for worst in (0.0, 1.0)]
    return Interval(value.estimate, bounds[0].low, bounds[1].high, f"{value.method}, missing ones as failures and as successes")


def _delta(path: Path, behavior: Mapping[str, Any], condition: Condition, level: float) -> Interval:
    """Mean paired change of pass@k: one k, chosen in advance by whoever wrote the condition."""
    curves, groups = _sides(behavior, condition.k)
    if np.isnan(curves).any():
        fewest = min(row["num_samples"] for row in behavior["problems"])
        raise SettingsError(
            f"condition: got {condition.text!r}, {path} compares {fewest} samples of each problem of {behavior['name']}; "
            f"give a k of at most {fewest}"
        )
    return paired_delta_interval(curves[0], curves[1], groups, level=level)


def _sides(behavior: Mapping[str, Any], k: int) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """[2, P] pass@k of each problem before and after, and the groups."""
    rows = behavior["problems"]
    n = np.array([row["num_samples"] for row in rows], dtype=np.int64)
    counts = [np.rint(n * np.array([row[side] for row in rows])).astype(np.int64) for side in ("before", "after")]
    return np.stack([pass_at_k(n, c, k) for c in counts]), tuple(row.get("group") or row["id"] for row in rows)


# ------------------------------------------------------------------------------------------------------------- what would settle


def _settles(behavior: Mapping[str, Any], condition: Condition, interval: Interval) -> Settles | None:
    """The effort that brings the bound in question to the threshold, if the estimate stays; None where it lies on it."""
    distance = abs(interval.estimate - condition.threshold)
    right_side = (interval.estimate > condition.threshold) == (condition.op == ">=")
    upwards = (condition.op == ">=") != right_side
    reach = (interval.high - interval.estimate) if upwards else (interval.estimate - interval.low)
    if math.isnan(distance) or distance < 1e-3:
        return None
    rows = behavior["problems"]
    # A problem more than the formula says: intervals of few problems are a little wider than a normal one.
    growth = max(1.0, (reach / distance) ** 2)
    problems: int | None = math.ceil(len(rows) * growth) + 1
    samples: int | None = None
    n = float(np.mean([row["num_samples"] for row in rows]))
    if condition.metric in SHARES:
        samples, problems = math.ceil(len(rows) * n * (growth - 1)), None
    elif condition.metric == "pass@1":
        outcomes = _outcomes(behavior)
        between, within = variance_components(outcomes.n, outcomes.correct)
        if not math.isnan(between):
            shape = {"between_variance": between, "within_variance": within}
            needed = samples_for_half_width(distance, num_problems=len(rows), **shape)
            samples = math.ceil(len(rows) * max(1.0, needed - n)) if math.isfinite(needed) else None
            problems = max(len(rows) + 1, problems_for_half_width(distance, num_samples=max(1, int(n)), **shape))
    cost = behavior.get("cost") or {}
    per_sample = cost["generated_tokens"] / cost["samples"] if cost.get("samples") else None
    return Settles(
        samples=samples,
        tokens=math.ceil(samples * per_sample) if samples is not None and per_sample else None,
        problems=problems,
    )


def _settles_words(settles: Settles) -> str:
    ways = []
    if settles.samples is not None:
        tokens = f" (about {settles.tokens:,} tokens)" if settles.tokens else ""
        ways.append(f"about {settles.samples:,} more samples{tokens}")
    if settles.problems is not None:
        ways.append(f"about {settles.problems:,} problems in all")
    return "what would settle it, if the estimate stays: " + ", or ".join(ways)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
