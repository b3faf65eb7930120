"""What a run would sample, what that would take at most, and what it could detect; said before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.diagnose.decide.power import PowerAnalysis, analyze_power
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.probes.base import AvailableInputs
from posttrain.diagnose.probes.runner import plan_lines
from posttrain.diagnose.report.words import describe_limit, describe_verifier
from posttrain.diagnose.sampling import token_limit
from posttrain.diagnose.sampling.token_limit import recorded_limit
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior, LimitSource, Split


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
        total = f"in all at most {self.samples:,} samples and {self.max_tokens:,} tokens"
        return (*self.lines, f"{total}; --limit takes fewer problems, --samples fewer samples of each")


def plan_run(request: DiagnoseRequest) -> RunPlan:
    """RunPlan what a request would sample, and what could be detected with it."""
    plans = [_plan_behavior(request, _bound_limit(request, behavior)) for behavior in request.loaded]
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
    limit = _limit_in_words(request, behavior)
    described = describe_verifier(behavior.verifier.kind, behavior.verifier.options, behavior.verifier_origin)
    detectable = "  " + _power_in_words(analyze_power(len(problems), most, epsilon), most, epsilon)
    return RunPlan(
        samples=samples,
        max_tokens=tokens + probe_tokens,
        reference_paths=references,
        lines=(
            line,
            f"  {_splits_in_words(behavior)}",
            f"  verifier: {described}",
            f"  longest sample: {limit}",
            *(f"  {note}" for note in behavior.notes),
            detectable,
            *probe_lines,
        ),
    )


def _splits_in_words(behavior: Behavior) -> str:
    """Return how many problems are in which split."""
    counts = {split: len(behavior.split(split)) for split in (Split.EVAL, Split.TRAIN, Split.FINAL)}
    listed = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    total = len(behavior.problems)
    if counts[Split.EVAL] == total:
        return f"splits: all {total} problems are eval, none is left to train on"
    return f"splits: {listed} of {total} problems; --split-eval all measures all of them"


def _bound_limit(request: DiagnoseRequest, behavior: Behavior) -> Behavior:
    """Return a behavior with the limit that a run knows already; else, as no tokenizer is open, with a bound of the one that will be found."""
    for path in (request.out, request.before):
        if path is not None and RunDirectory(Path(path)).run_json.exists():
            behavior = recorded_limit(behavior, RunDirectory(Path(path)).read_json())
    if behavior.limit_source is not LimitSource.AUTO:
        return behavior
    longest = max((len(one.text.encode()) for problem in behavior.problems for one in problem.references), default=0)
    bound = -(-2 * longest // token_limit.LEAST) * token_limit.LEAST  # a token is a byte at least
    return token_limit.with_limit(
        behavior, bound or (token_limit.MOST if request.pilot else token_limit.DEFAULT), LimitSource.AUTO
    )


def _limit_in_words(request: DiagnoseRequest, behavior: Behavior) -> str:
    """Return how long a sample may be, and why."""
    limit = behavior.sampling.max_tokens
    if behavior.limit_source is not LimitSource.AUTO:
        return describe_limit(limit, behavior.limit_source)
    more = f"; doubled, up to {token_limit.MOST:,}, while more than one in eight of the first greedy samples needs more"
    if behavior.has_references:
        return f"twice the longest reference path, {limit:,} tokens at most{more if request.pilot else ''}"
    if not request.pilot:
        return describe_limit(limit, LimitSource.DEFAULT)
    return (
        f"as many tokens as the first greedy samples need, {token_limit.LEAST} to {limit:,} "
        f"({token_limit.MOST_THOUGHT:,} where they end within a thought)"
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
