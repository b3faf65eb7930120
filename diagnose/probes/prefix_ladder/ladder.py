"""A ladder: the prefixes of one reference path that may be given, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.noisy_bisection import RungPosterior, rung_posterior
from posttrain.diagnose.behaviors.answer_span import prefix_texts, tokens_before_answer
from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.thresholds import PrefixLadderThresholds
from posttrain.diagnose.types import Problem, Reference

MAX_RUNGS = 8
"""Of one path: the place is then known to an eighth of what may be given, and bisection takes three rounds."""


class PrefixStatus(StrEnum):
    """What is known of the prefix that a problem needs."""

    NOT_PROBED = "not_probed"
    FOUND = "found"
    NOT_FOUND = "not_found"
    INCONCLUSIVE = "inconclusive"


class Rung(NamedTuple):
    """A prefix that may be given."""

    tokens: int
    step: int | None
    """Whole steps in it; None where the path is cut by tokens."""
    start: int
    """Token at which its last step (or piece) begins."""


@dataclass(kw_only=True)
class Ladder:
    """One problem with the prefixes that may be given, and what came of them."""

    problem: Problem
    group: str
    out_of_support: bool
    prompt_ids: tuple[int, ...]
    path: EncodedPath
    texts: tuple[str, ...]
    """[T + 1] text of the first t tokens."""
    rungs: tuple[Rung, ...]
    thresholds: PrefixLadderThresholds
    num: npt.NDArray[np.int64] = field(init=False)
    """[R] samples with a known outcome."""
    right: npt.NDArray[np.int64] = field(init=False)
    """[R]"""
    num_sampled: int = 0
    """Samples from prefixes, missing ones counted in."""
    base: tuple[int, int] = (0, 0)
    """Samples, and right ones, with nothing given."""

    def __post_init__(self) -> None:
        """Start with empty counts."""
        self.num, self.right = np.zeros(len(self.rungs), np.int64), np.zeros(len(self.rungs), np.int64)

    @property
    def posterior(self) -> RungPosterior:
        """Return what the samples say of the rungs."""
        return rung_posterior(self.num, self.right, sufficient=self.thresholds.sufficient)

    @property
    def needed(self) -> int:
        """Return the smallest rung that surely suffices, where there is one; else the first."""
        return self.posterior.smallest(self.thresholds.rung_confidence) or 0

    def next_rung(self) -> int | None:
        """Return the rung to sample next; None where every rung is decided."""
        return self.posterior.next_rung(self.num, self.thresholds.rung_confidence)

    @property
    def bayes_factor(self) -> float:
        """Return how many times as likely the samples are if some rung suffices as if none does."""
        after, nothing = self.posterior.anywhere, np.zeros(len(self.rungs), np.int64)
        before = rung_posterior(nothing, nothing, sufficient=self.thresholds.sufficient).anywhere
        return after / (1 - after + 1e-12) * (1 - before) / before

    def fraction(self, rung: int) -> float:
        """Return the share of the path's tokens that a rung gives, the end token left out."""
        return self.rungs[rung].tokens / (len(self.texts) - 1)

    @property
    def status(self) -> PrefixStatus:
        """Return whether a sufficient prefix was found."""
        if not self.num.sum():
            return PrefixStatus.NOT_PROBED
        posterior = self.posterior
        if posterior.smallest(self.thresholds.rung_confidence) is not None:
            return PrefixStatus.FOUND
        unlikely = posterior.at.max() <= 1 - self.thresholds.rung_confidence
        return PrefixStatus.NOT_FOUND if unlikely else PrefixStatus.INCONCLUSIVE

    def curve(self, fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the [F] success rates at these fractions: the best rising curve through the samples, straight between its points.

        Rungs are sampled where they are in doubt, so plain averages over problems would leave out the easy ones late and the hard ones early.
        """
        seen = np.flatnonzero(self.num)
        places = np.array([0.0, *(self.fraction(int(r)) for r in seen)])
        num = np.array([self.base[0], *self.num[seen]], dtype=np.float64)
        right = np.array([self.base[1], *self.right[seen]], dtype=np.float64)
        kept = num > 0
        if not kept.any():
            return np.full(len(fractions), np.nan)
        rising = scipy.optimize.isotonic_regression(right[kept] / num[kept], weights=num[kept]).x
        return np.asarray(np.interp(fractions, places[kept], rising))


def rungs_of(path: EncodedPath, allowed: int) -> tuple[Rung, ...]:
    """Return the prefixes to try: ends of steps where the path has steps and one of them may be given, else even parts of its tokens."""
    steps = path.token_steps
    starts = [t for t in range(1, allowed + 1) if steps[t] != steps[t - 1]]
    if starts:
        ends = [0, *starts]
        found = [Rung(end, int(steps[end]), ends[i]) for i, end in enumerate(starts)]
        return tuple(found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, min(MAX_RUNGS, len(found)))}))
    cuts = sorted({round(allowed * i / MAX_RUNGS) for i in range(MAX_RUNGS + 1)} | {0}) if allowed > 0 else [0]
    return tuple(Rung(end, None, start) for start, end in pairwise(cuts))


def candidate_problems(context: ProbeContext, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Return problems in random order, with whether they are out of support: those that are first, then unreliable ones."""
    known = context.posterior.mixture
    out = known.interval_probabilities((context.behavior.measure.epsilon, context.thresholds.mastered))[:, 0] > 0.5
    mean = known.problem_means()
    order = [int(i) for i in rng.permutation(len(context.problems))]
    order = [i for i in order if context.problems[i].references]
    return [(i, True) for i in order if out[i]] + [
        (i, False) for i in order if not out[i] and mean[i] < context.thresholds.prefix_ladder.sufficient
    ]


def build_ladders(context: ProbeContext, candidates: Sequence[tuple[int, bool]]) -> Iterator[Ladder | None]:
    """Yield one ladder after the other; None for a problem that has no prefix to give."""
    for i, out_of_support in candidates:
        problem = context.problems[i]
        for reference in _likeliest_first(context, problem):
            prompt = context.sampler.prompt(problem)
            path = context.policy.codec.encode_path(prompt, reference)
            texts = prefix_texts(path, reference)
            if len(texts) <= 1:
                continue
            allowed = tokens_before_answer(problem, texts, context.sampler.grade, context.behavior.measure.success)
            rungs = tuple(rung for rung in rungs_of(path, allowed) if texts[rung.tokens].strip())
            if rungs:
                yield Ladder(
                    problem=problem,
                    group=context.counts.groups[i],
                    out_of_support=out_of_support,
                    prompt_ids=prompt.token_ids,
                    path=path,
                    texts=texts,
                    rungs=rungs,
                    thresholds=context.thresholds.prefix_ladder,
                )
                break
        else:
            yield None


def _likeliest_first(context: ProbeContext, problem: Problem) -> list[Reference]:
    """Return the references of a problem, the one nearest to what the model does first."""
    nll = {}
    if context.paths is not None:
        scored = zip(context.paths.paths, context.paths.nll_per_token, strict=True)
        nll = {path.reference_index: float(value) for path, value in scored if path.problem_id == problem.id}
    order = sorted(range(len(problem.references)), key=lambda i: nll.get(i, np.inf))
    return [problem.references[i] for i in order]
