"""What a run is to draw: its behaviors, how many samples, and what that would take and could see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.diagnose.behaviors import load_behavior, load_behaviors
from posttrain.diagnose.decide.power import PowerAnalysis, analyze_power
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.probes.base import AvailableInputs
from posttrain.diagnose.probes.runner import AUTO, plan_lines
from posttrain.diagnose.sampling import stopping
from posttrain.diagnose.types import Behavior, Split

DEFAULT_SAMPLES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run would take, before a token is spent."""

    samples: int
    max_tokens: int
    """Upper bound of generated tokens: every sample at its limit."""
    reference_paths: int
    lines: tuple[str, ...]


def resolve_behaviors(behaviors: Sequence[str | Path | Behavior]) -> tuple[Behavior, ...]:
    """Load what is named, keep what is loaded, refuse duplicates."""
    names = [b for b in behaviors if not isinstance(b, Behavior)]
    if len(names) == len(behaviors):
        return load_behaviors([str(n) for n in names])
    loaded = tuple(b if isinstance(b, Behavior) else load_behavior(b) for b in behaviors)
    seen = [b.name for b in loaded]
    if len(set(seen)) < len(seen):
        raise SettingsError(f"behaviors: got the names {', '.join(seen)}; each may be given once")
    return loaded


def sampling_goal(
    samples: int | None, precision: float | None = None, max_tokens_total: int | None = None, states: float | None = None
) -> stopping.Goal:
    """What to draw samples for; refuses what measures nothing.

    Raises:
        SettingsError: a number out of range, or a fixed number of samples and rounds at once.
    """
    in_rounds = any(one is not None for one in (precision, max_tokens_total, states))
    if samples is not None and in_rounds:
        raise SettingsError(
            "--samples draws a fixed number, --precision, --states and --max-tokens-total draw in rounds; give one or the other"
        )
    if samples is not None and samples < 1:
        raise SettingsError(f"--samples: got {samples}, at least 1 is needed; 16 is the default")
    if precision is not None and not 0.0 < precision < 0.5:
        raise SettingsError(f"--precision: got {precision:g}, a half-width between 0 and .5 is needed, such as .05")
    if states is not None and not 0.0 < states <= 1.0:
        raise SettingsError(f"--states: got {states:g}, a share of the problems above 0 and at most 1 is needed, such as .9")
    if max_tokens_total is not None and max_tokens_total < 1:
        raise SettingsError(f"--max-tokens-total: got {max_tokens_total}, at least 1 is needed, such as 100000")
    if samples is None and not in_rounds:
        samples = DEFAULT_SAMPLES
    return stopping.Goal(samples=samples, precision=precision, problems=states, max_tokens=max_tokens_total)


def plan_run(
    behaviors: Sequence[str | Path | Behavior],
    *,
    samples: int | None = None,
    precision: float | None = None,
    max_tokens_total: int | None = None,
    states: float | None = None,
    probes: Sequence[str] = (AUTO,),
    available: AvailableInputs | None = None,
    split: Split = Split.EVAL,
) -> Plan:
    """What `run` with these arguments would draw, and what could be seen with it."""
    goal = sampling_goal(samples, precision, max_tokens_total, states)
    loaded = resolve_behaviors(behaviors)
    lines, total, bound, paths = [], 0, 0, 0
    for behavior in loaded:
        problems = behavior.split(split)
        most = goal.samples or stopping.MOST
        n = len(problems) * (most + 1)
        tokens = n * behavior.sampling.max_tokens
        ends = f"until the label is settled, {most} on average at most,"
        if goal.max_tokens is not None:
            n = tokens = goal.max_tokens  # a sample has a token at least
            longest = len(loaded) * max(1, len(problems)) * behavior.sampling.max_tokens
            most = min(most, max(1, goal.max_tokens // longest - 1))  # were all samples as long as may be
            ends = "until the label is settled or the budget of all behaviors is spent,"
        references = sum(len(p.references) for p in problems)
        how = f"{most} samples" if goal.samples else f"{stopping.FIRST} samples at first, then rounds {ends}"
        lines.append(
            f"{behavior.name}: {len(problems)} {split} problems × ({how} + 1 greedy) = {'' if goal.samples else 'at most '}{n:,} samples, "
            f"at most {tokens:,} tokens; {references} reference paths to score"
        )
        if problems:
            lines.append(
                "  "
                + _power_in_words(analyze_power(len(problems), most, behavior.measure.epsilon), most, behavior.measure.epsilon)
            )
        told, generated, _ = plan_lines(probes, behavior, split, available or AvailableInputs(), tokens)
        lines += told
        total, bound, paths = total + n, bound + tokens + generated, paths + references
    if goal.max_tokens is not None:  # for all behaviors, and for their probes too
        total, bound = min(total, goal.max_tokens), goal.max_tokens
    return Plan(samples=total, max_tokens=bound, reference_paths=paths, lines=tuple(lines))


def _power_in_words(seen: PowerAnalysis, most: int, epsilon: float) -> str:
    rise = (
        f"a single problem that rises from 0 to {seen.minimum_detectable_rise:.2f}"
        if not np.isnan(seen.minimum_detectable_rise)
        else "no rise of a single problem"
    )
    return (
        f"with {most} samples of each, were success rates spread evenly: pass@1 to ± {seen.half_width:.3f}; against a second such run a change of "
        f"pass@1 of {seen.minimum_detectable_change:.3f}, {rise} (80 % power); 0 of {most} rules out rates above {seen.resolved_rate:.3f} "
        f"(epsilon = {epsilon:.2g} takes {seen.needed_for_epsilon})"
    )
