"""Will a trainer that compares the samples of a group learn anything? The expected share of groups without signal, and what would raise it.

First comes what costs no training: grades that are missing, right answers that the verifier does not read, a token limit. Then the size of a group,
problems that no group reaches, and a choice of problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import (
    GROUP_SIZES,
    GroupOutcomes,
    GroupSignal,
    Interval,
    MixturePosterior,
    NoSignal,
    SignalShare,
    mean_interval,
    signal_curve,
)
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.storage.group_signal_json import (
    GroupSignalEntry,
    SelectionEntry,
    ShareEntry,
    SignalAdvice,
    SignalShareEntry,
)

MOST_SAMPLES = 1024
"""Largest group."""
PROMPTS_PER_STEP = 8
"""As `grpo` trains where nothing else is said."""
LEAST_SIGNAL = 0.5
"""Share of groups with signal from which a problem, or a behavior, is worth its samples."""
WORTH_FIXING = 0.05
"""Share of groups from which a cause is worth naming."""
WORTH_CHANGING = 0.1
"""By how much the share of groups must fall for a change of group size or of problems to be advised."""
UNCLEAR = 0.5
"""Width of the interval from which the samples do not tell."""
TOO_EASY = 0.2
"""Share of groups without a failure from which harder problems are advised."""
_FIXES = {
    NoSignal.MISSING_GRADE: SignalAdvice.FIX_GRADING,
    NoSignal.FORMAT: SignalAdvice.FIX_FORMAT,
    NoSignal.TRUNCATED: SignalAdvice.RAISE_TOKEN_LIMIT,
    NoSignal.UNREAD: SignalAdvice.FIX_READING,
}


def forecast_group_signal(
    outcomes: GroupOutcomes,
    names: Sequence[str],
    *,
    group_size: int,
    prompts_per_step: int = PROMPTS_PER_STEP,
    policy_sampled: bool = True,
    failures_told: bool = True,
    mixture: MixturePosterior | None = None,
    seed: int = 0,
) -> GroupSignalEntry | None:
    """Forecast the groups without signal of one behavior.

    Args:
        outcomes: What is known of its samples.
        names: [P] its problems.
        group_size: G, 2 to `MOST_SAMPLES`.
        prompts_per_step: B, at least 1.
        policy_sampled: Whether the samples come from the policy itself.
        failures_told: Whether it is known why samples failed.
        mixture: The fit of the successes where there is one already.
        seed: Random seed of the posterior.

    Returns:
        The forecast; None where no sample has a grade.

    Raises:
        SettingsError: A group size or a number of prompts out of range (`group_size`, `prompts_per_step`).
    """
    check_group(group_size, prompts_per_step)
    if not outcomes.num_samples.any():
        return None
    signal = GroupSignal(outcomes, seed=seed, mixture=mixture)
    curve = signal_curve(signal, (*GROUP_SIZES, group_size))
    here = next(share for share in curve if share.group_size == group_size)
    problem_shares = signal.problem_shares(group_size)
    selection = _select(outcomes, names, problem_shares)
    advice, larger = _advise(curve, here, selection if len(selection.kept) >= prompts_per_step else None)
    rates = outcomes.num_correct / np.maximum(outcomes.num_samples, 1)
    graded = outcomes.num_samples.sum() / (outcomes.num_samples + outcomes.num_missing).sum()
    success = mean_interval(np.where(outcomes.num_samples > 0, rates, np.nan), outcomes.groups)
    samples = group_size * prompts_per_step * float(graded)
    return GroupSignalEntry(
        group_size=group_size,
        prompts_per_step=prompts_per_step,
        num_problems=int((outcomes.num_samples > 0).sum()),
        shares=[_share_entry(share) for share in curve],
        successes_per_step=_entry(success, factor=samples),
        steps_without_signal=_entry(here.total, power=prompts_per_step),
        selection=selection,
        advice=advice,
        larger_group=larger,
        policy_sampled=policy_sampled,
        failures_told=failures_told,
        problem_shares={name: float(share) for name, share in zip(names, problem_shares, strict=True)},
    )


def check_group(group_size: int, prompts_per_step: int) -> None:
    """Refuse what no trainer samples.

    Raises:
        SettingsError: Code `group_size` or `prompts_per_step`.
    """
    if not 2 <= group_size <= MOST_SAMPLES:
        raise SettingsError(
            f"--group-size: got {group_size}; allowed: 2 to {MOST_SAMPLES} samples of one prompt, which are compared with each other",
            code="group_size",
        )
    if prompts_per_step < 1:
        raise SettingsError(f"--prompts-per-step: got {prompts_per_step}; allowed: 1 and more prompts", code="prompts_per_step")


def middle(share: Interval) -> float:
    """Return the estimate, or the middle of the bounds where the samples give no more."""
    return (share.low + share.high) / 2 if np.isnan(share.estimate) else share.estimate


def _advise(
    curve: Sequence[SignalShare], here: SignalShare, selection: SelectionEntry | None
) -> tuple[list[SignalAdvice], int | None]:
    """Return what to do, first things first, and the group size to take; a selection is None where it would not fill a step."""
    causes = {cause: middle(share) for cause, share in here.causes.items()}
    fixes = sorted((cause for cause in _FIXES if causes[cause] >= WORTH_FIXING), key=lambda cause: -causes[cause])
    advice, total = [_FIXES[cause] for cause in fixes], middle(here.total)
    if here.total.high - here.total.low >= UNCLEAR:
        return [*advice, SignalAdvice.SAMPLE_MORE], None
    if total <= 1.0 - LEAST_SIGNAL:
        return [*advice, SignalAdvice.START], None
    larger = next(
        (share for share in curve if share.group_size > here.group_size and middle(share.total) <= 1.0 - LEAST_SIGNAL), None
    )
    if larger is not None:
        advice.append(SignalAdvice.LARGER_GROUP)
    hard = causes[NoSignal.TOO_HARD]
    if middle(curve[-1].causes[NoSignal.TOO_HARD]) >= max(hard / 2, WORTH_CHANGING):
        advice.append(SignalAdvice.EXTEND_SUPPORT)
    if causes[NoSignal.TOO_EASY] >= TOO_EASY:
        advice.append(SignalAdvice.HARDER_PROBLEMS)
    if selection is not None and selection.without_signal <= total - WORTH_CHANGING:
        advice.append(SignalAdvice.DROP_PROBLEMS)
    return advice, larger.group_size if larger else None


def _select(outcomes: GroupOutcomes, names: Sequence[str], shares: npt.NDArray[np.float64]) -> SelectionEntry:
    """Keep the problems that are expected to give a signal often enough."""
    known = outcomes.num_samples > 0
    kept = known & (shares <= 1.0 - LEAST_SIGNAL)
    easy = known & ~kept & (2 * outcomes.num_correct > outcomes.num_samples)
    signal = np.where(known, 1.0 - shares, 0.0)
    return SelectionEntry(
        least_signal=LEAST_SIGNAL,
        kept=[name for name, keep in zip(names, kept, strict=True) if keep],
        num_too_hard=int((known & ~kept & ~easy).sum()),
        num_too_easy=int(easy.sum()),
        without_signal=float(shares[kept].mean()) if kept.any() else float("nan"),
        by_signal=float((signal * shares).sum() / signal.sum()) if signal.sum() > 0 else float("nan"),
    )


def _share_entry(share: SignalShare) -> SignalShareEntry:
    return SignalShareEntry(
        group_size=share.group_size,
        total=_entry(share.total),
        causes={cause: _entry(part) for cause, part in share.causes.items()},
        extrapolated=share.extrapolated,
    )


def _entry(value: Interval, *, factor: float = 1.0, power: int = 1) -> ShareEntry:
    ends = (float(end) ** power * factor for end in (value.estimate, value.low, value.high))
    estimate, low, high = ends
    return ShareEntry(estimate=estimate, low=low, high=high, method=value.method)
