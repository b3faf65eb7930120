"""Answers of either policy under both of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import Reference, Rollout, StopReason

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswers:
    """Some answers under both policies (arrays of length N)."""

    place: npt.NDArray[np.int64]
    """Index of the problem."""
    right: npt.NDArray[np.bool_]
    num_tokens: npt.NDArray[np.int64]
    before: Floats64
    """Summed natural log-probability under the earlier policy."""
    after: Floats64
    """The same under the policy."""
    same_tokens: bool
    """Whether both policies read the same tokens, so that a number per token means something."""


def first_rollouts(context: ProbeContext, table: RolloutTable, kept: npt.NDArray[np.bool_], most: int) -> list[Rollout]:
    """Return the first rollouts of each problem among those `kept` [R], at most `most` of one."""
    places = table.places([problem.id for problem in context.problems])
    rows = np.flatnonzero((places >= 0) & kept & (table.num_tokens > 0))
    rows = rows[np.argsort(places[rows], kind="stable")]
    ranks = np.arange(len(rows)) - np.searchsorted(places[rows], places[rows])
    return table.rows(rows[ranks < most])


def encode_rollouts(engine: Engine, context: ProbeContext, rollouts: Sequence[Rollout]) -> list[tuple[int, ...]]:
    """Return answers as an engine cuts them; a truncated answer has no end token."""
    prompts = {problem.id: context.sampler.prompt(problem, engine) for problem in context.problems}
    encoded = []
    for rollout in rollouts:
        path = engine.codec.encode_path(prompts[rollout.problem_id], Reference(steps=(rollout.text,))).token_ids
        encoded.append(path[:-1] or path if rollout.truncated else path)
    return encoded


def score_under_both(context: ProbeContext, earlier: Engine, rollouts: Sequence[Rollout], what: str) -> ScoredAnswers:
    """Score answers under both policies: their own tokens where both read the same, else each its own way to cut the text."""
    rollouts = [rollout for rollout in rollouts if rollout.token_ids and rollout.stop is not StopReason.ERROR]
    sides = [encode_rollouts(engine, context, rollouts) for engine in (earlier, context.policy)]
    if same := sides[0] == sides[1]:
        sides = [[rollout.token_ids for rollout in rollouts]] * 2
    before, after = (
        context.sampler.total_logprobs(rollouts, paths, engine=engine, what=f"{what} under {name}")
        for engine, paths, name in zip((earlier, context.policy), sides, ("the earlier policy", "the policy"), strict=True)
    )
    return gather_answers(context, rollouts, before, after, same)


def gather_answers(
    context: ProbeContext, rollouts: Sequence[Rollout], before: Floats64, after: Floats64, same: bool
) -> ScoredAnswers:
    """Return answers with their log-probabilities under both policies."""
    places = {problem.id: place for place, problem in enumerate(context.problems)}
    success = context.behavior.measure.success
    return ScoredAnswers(
        place=np.array([places[rollout.problem_id] for rollout in rollouts], dtype=np.int64),
        right=np.array([bool(rollout.succeeded(success)) for rollout in rollouts], dtype=np.bool_),
        num_tokens=np.array([len(rollout.token_ids) for rollout in rollouts], dtype=np.int64),
        before=before,
        after=after,
        same_tokens=same,
    )


def means_by_problem(place: npt.NDArray[np.int64], values: Floats64, weights: Floats64 | None, count: int) -> Floats64:
    """Return [P] sum of values over the sum of weights (their number where None), per problem; NaN where there is none."""
    totals = np.bincount(place, weights=values, minlength=count)
    sizes = np.bincount(place, weights=weights, minlength=count)
    return np.asarray(totals / np.where(sizes > 0, sizes, np.nan))
