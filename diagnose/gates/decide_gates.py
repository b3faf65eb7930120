"""Gates: conditions on a measured run or on a comparison, each met, proven not met, or not decided.

    result = posttrain.diagnose.gate("runs/mine", ["pass@16>=0.5", "copy:greedy>=0.9"])
    result.outcome, result.exit_code

A condition reads `[behavior:]metric>=number` or `<=`. `>=` is met when the lower bound of the metric's 95 % interval is at or above the
number, `<=` when the upper bound is at or below it. In between it is not decided, and the effort that would decide it is reported.

**Several conditions.** All must hold. Claiming that they do needs no correction of the 95 % tests: if one of them is false, all of them pass
by mistake at most as often as that one does (intersection–union test, Berger 1982). Claiming that one of m fails picks the worst of m
intervals, so a condition is proven not met only if its interval at 1 − .05/m lies on the wrong side.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from posttrain.analysis.stats import Interval
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, CompareFile
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.garbage_collection import collector_paused
from posttrain.diagnose.gates.conditions import ALLOWED, Condition, parse_condition
from posttrain.diagnose.gates.gate_result import GatedCondition, GateResult, UndecidedGateReason
from posttrain.diagnose.gates.metrics import MeasuredEntry, estimate_metric
from posttrain.diagnose.gates.required_effort import required_effort
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.run_check import check_folder
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Check, Outcome, Purpose, Split, decide

LEVEL = 0.95


@collector_paused()
def gate(run: str | os.PathLike[str], conditions: str | Sequence[str]) -> GateResult:
    """Decide conditions on a finished run, or on a comparison of two.

    Args:
        run: The folder of a `posttrain diagnose` (or the run), or of a `posttrain compare` or `loop` for conditions on `delta pass@K`.
        conditions: One or several, all of which must hold; see the module docstring.

    Raises:
        SettingsError: A condition is malformed, or names a behavior that was not measured.
        RunError: The folder does not hold what the conditions are about.
    """
    if not conditions:
        raise SettingsError(f"condition: got none, give one or several {ALLOWED}", code="no_condition")
    parsed = [parse_condition(text) for text in ([conditions] if isinstance(conditions, str) else conditions)]
    if len({condition.of_comparison for condition in parsed}) > 1:
        raise SettingsError(
            "condition: got some on a run and some on a comparison (delta); gate the two folders one after the other",
            code="mixed_conditions",
        )
    path = Path(run)
    file = _read(path, of_comparison=parsed[0].of_comparison)
    check_folder(path, file.settings if isinstance(file, DiagnosisFile) else None)
    mastered = Thresholds.from_json(file.settings.get("thresholds", {})).mastered
    pairs = [
        (condition, MeasuredEntry(path=path, entry=entry, mastered=mastered))
        for condition in parsed
        for entry in _select_behaviors(path, file.behaviors, condition)
    ]
    level_against = 1.0 - (1.0 - LEVEL) / len(pairs)
    return GateResult(conditions=tuple(_decide(measured, condition, level_against) for condition, measured in pairs))


def _read(path: Path, *, of_comparison: bool) -> DiagnosisFile | CompareFile:
    """Read the file that the conditions are about."""
    name, other = ("compare.json", "diagnosis.json") if of_comparison else ("diagnosis.json", "compare.json")
    if not (path / name).is_file():
        if (path / other).is_file():
            code = "not_a_comparison" if of_comparison else "not_a_run"
            hint = (
                f"it holds a run; compare it with another: posttrain compare {path} OTHER --out DIR"
                if of_comparison
                else "it holds a comparison; use delta pass@K, or give the folder of the run after"
            )
        elif (path / "run.json").is_file():
            code, hint = "unfinished_run", "it is not measured to the end; run the same `posttrain diagnose` again to resume it"
        else:
            code = "no_run"
            hint = f"give the --out folder of a `posttrain {'compare' if of_comparison else 'diagnose'}`"
        raise RunError(f"gate {path}: no {name} there; {hint}", code=code)
    file = read_model(path / name, CompareFile) if of_comparison else read_model(path / name, DiagnosisFile)
    split = file.split if isinstance(file, CompareFile) else file.settings.get("split")
    if split == Split.TRAIN:
        raise RunError(
            f"gate {path}: it measured the train split, whose samples are for training and prove nothing; gate a run of the eval split",
            code="train_split",
        )
    return file


def _select_behaviors(
    path: Path, measured: Sequence[BehaviorEntry | BehaviorChangeEntry], condition: Condition
) -> Sequence[BehaviorEntry | BehaviorChangeEntry]:
    """Return the behaviors that a condition is about."""
    if condition.behavior is None:
        return [entry for entry in measured if entry.purpose is Purpose.TARGET] or measured
    found = [entry for entry in measured if entry.name == condition.behavior] or [
        entry for entry in measured if fnmatchcase(entry.name, condition.behavior)
    ]
    if not found:
        raise SettingsError(
            f"condition: got {condition.text!r}, {path} measured {', '.join(entry.name for entry in measured)}; name one of these, or "
            "leave the name out",
            code="unknown_behavior",
        )
    return found


def _decide(measured: MeasuredEntry, condition: Condition, level_against: float) -> GatedCondition:
    """Compare one metric of one behavior with its threshold."""
    entry = measured.entry
    invalid = isinstance(entry, BehaviorEntry) and entry.bottleneck is Bottleneck.INVALID
    if invalid or not entry.problems:
        interval, reason = Interval(math.nan, math.nan, math.nan, "not measured"), UndecidedGateReason.INVALID_MEASUREMENT
    else:
        interval, reason = estimate_metric(measured, condition, LEVEL), None
    outcome, level = decide(condition.op, interval.low, interval.high, condition.threshold), LEVEL
    if outcome is Outcome.NOT_MET:
        wider = estimate_metric(measured, condition, level_against)
        if decide(condition.op, wider.low, wider.high, condition.threshold) is not outcome:
            outcome, reason, level = Outcome.INCONCLUSIVE, UndecidedGateReason.WORST_OF_SEVERAL, level_against
            interval = Interval(interval.estimate, wider.low, wider.high, f"{wider.method}, {level_against:.3%}")
    settles = required_effort(measured, condition, interval, level) if outcome is Outcome.INCONCLUSIVE else None
    if outcome is Outcome.INCONCLUSIVE and settles is None and reason is None:
        unidentified = math.isnan(interval.estimate)
        reason = UndecidedGateReason.NOT_IDENTIFIED if unidentified else UndecidedGateReason.AT_THRESHOLD
    return GatedCondition(
        behavior=entry.name,
        check=_check(condition, interval, len(entry.problems), outcome),
        level=level,
        settles=settles,
        reason=reason,
    )


def _check(condition: Condition, interval: Interval, n: int, outcome: Outcome) -> Check:
    return Check(
        name=condition.metric, op=condition.op, estimate=interval.estimate, low=interval.low, high=interval.high,
        threshold=condition.threshold, n=n, method=interval.method, outcome=outcome, unit="problems",
    )  # fmt: skip
