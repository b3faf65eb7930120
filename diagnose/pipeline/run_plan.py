"""What a run would sample, what that would take at most, and what it could detect; said before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posttrain.diagnose.decide.power import PowerAnalysis, analyze_power
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.probes.base import AvailableInputs
from posttrain.diagnose.probes.runner import plan_lines
from posttrain.diagnose.report.words import describe_verifier
from posttrain.diagnose.types import Behavior


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run would take."""

    samples: int
    max_tokens: int
    """Upper bound of generated tokens: every sample at its limit."""
    reference_paths: int
    lines: tuple[str, ...]
    """The same for people, behavior by behavior, with what could be detected."""

    @property
    def all_lines(self) -> tuple[str, ...]:
        """Return the lines with the sum of all behaviors."""
        return (*self.lines, f"in all at most {self.samples:,} samples and {self.max_tokens:,} tokens")


def plan_run(request: DiagnoseRequest) -> RunPlan:
    """RunPlan what a request would sample, and what could be detected with it."""
    plans = [_plan_behavior(request, behavior) for behavior in request.loaded]
    samples, max_tokens = sum(plan.samples for plan in plans), sum(plan.max_tokens for plan in plans)
    if (total := request.goal.max_tokens) is not None:  # for all behaviors, and for their probes too
        samples, max_tokens = min(samples, total), total
    return RunPlan(
        samples=samples,
        max_tokens=max_tokens,
        reference_paths=sum(plan.reference_paths for plan in plans),
        lines=tuple(line for plan in plans for line in plan.lines),
    )


def _plan_behavior(request: DiagnoseRequest, behavior: Behavior) -> RunPlan:
    goal, rule, problems = request.goal, request.thresholds.sampling, behavior.split(request.split)
    most = goal.samples or rule.max_samples
    samples = len(problems) * (most + 1)
    tokens = samples * behavior.sampling.max_tokens
    ends = f"until the label is decided, {most} on average at most,"
    if goal.max_tokens is not None:
        samples = tokens = goal.max_tokens  # a sample has a token at least
        longest = len(request.loaded) * len(problems) * behavior.sampling.max_tokens
        most = min(most, max(1, goal.max_tokens // longest - 1))  # were all samples as long as may be
        ends = "until the label is decided or the budget of all behaviors is spent,"
    references = sum(len(problem.references) for problem in problems)
    how = f"{most} samples" if goal.samples else f"{rule.first_round} samples at first, then rounds {ends}"
    probe_lines, probe_tokens, _ = plan_lines(request.probes, behavior, request.split, AvailableInputs.of(request), tokens)
    epsilon = behavior.measure.epsilon
    line = (
        f"{behavior.name}: {len(problems)} {request.split} problems × ({how} + 1 greedy) = {'' if goal.samples else 'at most '}"
        f"{samples:,} samples, at most {tokens:,} tokens; {references} reference paths to score"
    )
    described = describe_verifier(behavior.verifier.kind, behavior.verifier.options, behavior.verifier_origin)
    detectable = "  " + _power_in_words(analyze_power(len(problems), most, epsilon), most, epsilon)
    return RunPlan(
        samples=samples,
        max_tokens=tokens + probe_tokens,
        reference_paths=references,
        lines=(line, f"  verifier: {described}", *(f"  {note}" for note in behavior.notes), detectable, *probe_lines),
    )


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
