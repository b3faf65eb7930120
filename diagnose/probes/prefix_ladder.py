"""The prefix ladder: how much of a reference path a model must be given until it finds the rest by itself.

A problem out of reach may be so because its first moves are never made, or because nothing after them works either. Success from a
prefix of the path tells these apart (POPE, arXiv 2601.18779; BREAD, 2506.17211; Prefix-RFT, 2507.01679), and that is what guided
training needs. Prefixes are cut from the token ids of the whole path and end before the answer first appears. Rungs are chosen by
noisy bisection. Placebos, another problem's prefix and a wrong last step, tell knowledge of the path from a nudge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats import mean_interval
from posttrain.analysis.stats.noisy_bisection import RungPosterior, rung_posterior
from posttrain.diagnose.behaviors.answer_span import find_answer, prefix_texts, tokens_before_answer, tokens_before_word
from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import AvailableInputs, Finding, LabelEvidence, Note, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.thresholds import PrefixLadderThresholds, Thresholds
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, Problem, Reference, Rollout, SkipReason, Split

RUNGS = 8
"""Of one path at most: the place is then known to an eighth of what may be given, and bisection takes three looks."""
MOST_PROBLEMS = 24
"""Ladders of one behavior: a share over 24 problems is known to ± .2, about what naming a stage takes."""
FEWEST_PROBLEMS = 4
"""Ladders that are started however small the budget is: a share over fewer says nothing."""
BATCH = 4
"""Samples of one problem in one look: with fewer, looks are many and batches small; with more, a settled rung is sampled on."""
MOST_SAMPLES = 48
"""Samples of one ladder; what is open then lies at the threshold."""
EXPECTED_SAMPLES = 24
"""Samples that a ladder of eight rungs takes as a rule (simulated: 12 where nothing helps, 19 where a step decides, 35 where help is gradual)."""
BASELINE = 4
"""Fresh samples of each problem with nothing given: those that chose the problem are low by choice."""
PLACEBO_PROBLEMS = 6
PLACEBO_SAMPLES = 8
"""Of each of three conditions: its own prefix again (the samples that chose the rung are high by choice), and the two placebos."""
PLACEBO_SHARE = 1 / 3
"""Of the budget that is kept for placebos at most: a gain without them is no one."""
TOKEN_MARGIN = 1.5
"""How much longer than samples were so far a continuation is expected to be at most."""
MANY_SAMPLES = 32
"""Samples from which their mean length is known well enough for that margin."""

REFERENCE, OTHER, WRONG, AGAIN, NOTHING = (
    "reference",
    "other problem's prefix",
    "wrong step",
    "reference, drawn again",
    "nothing given",
)
"""Conditions, as the rows name them."""
_DRAWS = 4096


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
    drawn: int = 0
    """Samples from prefixes, missing ones counted in."""
    base: tuple[int, int] = (0, 0)
    """Samples, and right ones, with nothing given."""

    def __post_init__(self) -> None:
        """Start with empty counts."""
        self.num, self.right = np.zeros(len(self.rungs), np.int64), np.zeros(len(self.rungs), np.int64)

    @property
    def posterior(self) -> RungPosterior:
        """What the samples say."""
        return rung_posterior(self.num, self.right, sufficient=self.thresholds.sufficient)

    @property
    def needed(self) -> int:
        """The smallest rung that surely suffices, where there is one; else the first."""
        return self.posterior.smallest(self.thresholds.rung_confidence) or 0

    def next_rung(self) -> int | None:
        """The rung to sample next; None where every rung is decided."""
        return self.posterior.next_rung(self.num, self.thresholds.rung_confidence)

    @property
    def bayes_factor(self) -> float:
        """How many times as likely the samples are if some rung suffices as if none does."""
        after, nothing = self.posterior.anywhere, np.zeros(len(self.rungs), np.int64)
        before = rung_posterior(nothing, nothing, sufficient=self.thresholds.sufficient).anywhere
        return after / (1 - after + 1e-12) * (1 - before) / before

    def fraction(self, rung: int) -> float:
        """Of the path's tokens, the end token left out."""
        return self.rungs[rung].tokens / (len(self.texts) - 1)

    @property
    def status(self) -> str:
        """`found`, `not_found`, `inconclusive`, or `not_probed` where nothing was drawn."""
        if not self.num.sum():
            return "not_probed"
        posterior = self.posterior
        if posterior.smallest(self.thresholds.rung_confidence) is not None:
            return "found"
        return "not_found" if posterior.at.max() <= 1 - self.thresholds.rung_confidence else "inconclusive"

    def curve(self, fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[F] success rate at these fractions: the best rising curve through what was drawn, straight between its points.

        Rungs are drawn where they are in doubt, so plain averages over problems would leave out the easy ones late and the hard ones early.
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


@dataclass(frozen=True, kw_only=True)
class Placebo:
    """Success of one problem from a prefix that is not its own, beside its own."""

    ladder: Ladder
    fraction: float
    counts: Mapping[str, tuple[int, int]]
    """Condition → samples, right ones."""


class PrefixLadderOutcome(StrEnum):
    """Whether problems out of reach are solved from a prefix of a reference path."""

    REACHABLE = "reachable"
    """Surely most of them are, and no placebo helps as much."""
    PLACEBO_HELPS = "placebo_helps"
    """Surely most of them are, but a prefix that is not the problem's own helps as much."""
    UNREACHABLE = "unreachable"
    """Surely most of them are not."""
    UNDECIDED = "undecided"
    NOT_MEASURED = "not_measured"


class PrefixLadder:
    """Success from the first part of a reference path, for problems that are out of reach."""

    name = "prefix_ladder"
    question = QUESTIONS[name]

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        num = min(MOST_PROBLEMS, sum(bool(problem.references) for problem in behavior.split(split)))
        if not num:
            return ProbeCost(impossible=SkipReason.NO_REFERENCES)
        samples = num * (BASELINE + MOST_SAMPLES) + 3 * min(num, PLACEBO_PROBLEMS) * PLACEBO_SAMPLES
        return ProbeCost(
            generated_tokens=samples * behavior.sampling.max_tokens,
            when="where enough problems may be out of support",
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if not any(problem.references for problem in context.measured.problems):
            return SkipReason.NO_REFERENCES
        if context.measured.posterior.label is Bottleneck.MASTERED:
            return SkipReason.MASTERED
        share = float(context.measured.posterior.counts[:, 0].mean()) / max(1, len(context.measured.problems))
        if share < context.thresholds.prefix_ladder.share_out_of_support:
            return SkipReason.WITHIN_SUPPORT
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        candidates = _candidates(context, _generator(context, "problems"))
        building = _build(context, candidates)
        ladders: list[Ladder] = []
        tried = 0
        # In waves, as many at once as the budget is expected to settle: a few settled ladders say more than many begun.
        while num := min(MOST_PROBLEMS - len(ladders), max(_affordable(context), 0 if ladders else FEWEST_PROBLEMS)):
            wave: list[Ladder] = []
            for ladder in building:
                tried += 1
                if ladder is not None:
                    wave.append(ladder)
                if len(wave) == num:
                    break
            if not wave:
                break
            _draw_baseline(context, wave)
            _climb(context, wave)
            ladders += wave
        placebos = _draw_placebos(context, ladders, _generator(context, "placebos"))
        return _finding(context, ladders, len(candidates), tried - len(ladders), placebos)


# ------------------------------------------------------------------------------------------------------------------ building


def rungs_of(path: EncodedPath, allowed: int) -> tuple[Rung, ...]:
    """The prefixes to try: ends of steps where the path has steps and one of them may be given, else even parts of its tokens."""
    steps = path.token_steps
    starts = [t for t in range(1, allowed + 1) if steps[t] != steps[t - 1]]
    if starts:
        ends = [0, *starts]
        found = [Rung(end, int(steps[end]), ends[i]) for i, end in enumerate(starts)]
        return tuple(found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, min(RUNGS, len(found)))}))
    cuts = sorted({round(allowed * i / RUNGS) for i in range(RUNGS + 1)} | {0}) if allowed > 0 else [0]
    return tuple(Rung(end, None, start) for start, end in pairwise(cuts))


def _candidates(context: ProbeContext, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Problems in random order, with whether they are out of support: those that are first, then unreliable ones."""
    known = context.measured.posterior.mixture
    out = known.interval_probabilities((context.measured.behavior.measure.epsilon, context.thresholds.mastered))[:, 0] > 0.5
    mean, _, _ = known.problem_interval()
    order = [int(i) for i in rng.permutation(len(context.measured.problems))]
    order = [i for i in order if context.measured.problems[i].references]
    return [(i, True) for i in order if out[i]] + [
        (i, False) for i in order if not out[i] and mean[i] < context.thresholds.prefix_ladder.sufficient
    ]


def _build(context: ProbeContext, candidates: Sequence[tuple[int, bool]]) -> Iterator[Ladder | None]:
    """One ladder after the other; None for a problem that has no prefix to give."""
    for i, out_of_support in candidates:
        problem = context.measured.problems[i]
        for reference in _likeliest_first(context, problem):
            prompt = context.policy.codec.encode_prompt(problem.prompt, context.measured.behavior.prompt)
            path = context.policy.codec.encode_path(prompt, reference)
            texts = prefix_texts(path, reference)
            tried = (
                rungs_of(
                    path, tokens_before_answer(problem, texts, context.sampler.grade, context.measured.behavior.measure.success)
                )
                if len(texts) > 1
                else ()
            )
            rungs = tuple(rung for rung in tried if texts[rung.tokens].strip())
            if rungs:
                yield Ladder(
                    problem=problem,
                    group=context.measured.counts.groups[i],
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
    """The references of a problem, the one nearest to what the model does first."""
    nll = {}
    if context.measured.paths is not None:
        scored = zip(context.measured.paths.paths, context.measured.paths.nll_per_token, strict=True)
        nll = {path.reference_index: float(value) for path, value in scored if path.problem_id == problem.id}
    order = sorted(range(len(problem.references)), key=lambda i: nll.get(i, np.inf))
    return [problem.references[i] for i in order]


# ------------------------------------------------------------------------------------------------------------------- drawing


def _draw_baseline(context: ProbeContext, ladders: Sequence[Ladder]) -> None:
    few = _fitting(context, ladders, BASELINE, context.sampler.tokens_left)
    prompt_requests = [PromptRequest(ladder.problem, ladder.prompt_ids, BASELINE) for ladder in few]
    for ladder, rollouts in zip(few, _draw(context, prompt_requests, NOTHING), strict=True):
        ladder.base = context.measured.count_outcomes(rollouts)


def _climb(context: ProbeContext, ladders: Sequence[Ladder]) -> None:
    """Look after look until every rung of every ladder is settled, or nothing is left of the budget."""
    while True:
        looks: list[tuple[Ladder, int]] = []
        for ladder in ladders:
            rung = ladder.next_rung() if ladder.drawn < MOST_SAMPLES else None
            if rung is not None:
                looks.append((ladder, rung))
        looks = _fitting(context, looks, BATCH, context.sampler.tokens_left - _reserve(context))
        if not looks:
            return
        prompt_requests = [_given(ladder, ladder.rungs[rung].tokens, BATCH, first=ladder.drawn) for ladder, rung in looks]
        for (ladder, rung), rollouts in zip(looks, _draw(context, prompt_requests, REFERENCE), strict=True):
            known, right = context.measured.count_outcomes(rollouts)
            ladder.num[rung] += known
            ladder.right[rung] += right
            ladder.drawn += BATCH


def _draw_placebos(context: ProbeContext, ladders: Sequence[Ladder], rng: np.random.Generator) -> list[Placebo]:
    """The prefix that was found against two that are not the problem's own, for a few problems, those out of support first."""
    found = [ladder for ladder in ladders if ladder.status == "found"]
    order = [found[int(i)] for i in rng.permutation(len(found))]
    prepared: list[tuple[Ladder, Rung, dict[str, PromptRequest]]] = []
    for ladder in sorted(order, key=lambda ladder: not ladder.out_of_support):
        if len(prepared) == PLACEBO_PROBLEMS:
            break
        rung = ladder.rungs[ladder.needed]
        other = _other_prefix(context, ladder, rung, rng)
        wrong = _wrong_step(context, ladder, rung, rng)
        if other is not None and wrong is not None:
            again = _given(ladder, rung.tokens, PLACEBO_SAMPLES)
            prepared.append((ladder, rung, {AGAIN: again, OTHER: other, WRONG: wrong}))
    prepared = _fitting(context, prepared, 3 * PLACEBO_SAMPLES, context.sampler.tokens_left)
    counts: list[dict[str, tuple[int, int]]] = [{NOTHING: ladder.base} for ladder, _, _ in prepared]
    for condition in (AGAIN, OTHER, WRONG):
        for one, rollouts in zip(
            counts, _draw(context, [by_condition[condition] for *_, by_condition in prepared], condition), strict=True
        ):
            one[condition] = context.measured.count_outcomes(rollouts)
    return [
        Placebo(ladder=ladder, fraction=rung.tokens / (len(ladder.texts) - 1), counts=one)
        for (ladder, rung, _), one in zip(prepared, counts, strict=True)
    ]


def _draw(context: ProbeContext, prompt_requests: Sequence[PromptRequest], condition: str) -> list[list[Rollout]]:
    return context.sampler.sample(prompt_requests, condition=condition) if prompt_requests else []


def _given(ladder: Ladder, tokens: int, num: int, *, first: int = 0) -> PromptRequest:
    return PromptRequest(ladder.problem, ladder.prompt_ids, num, ladder.path.token_ids[:tokens], ladder.texts[tokens], first)


def _other_prefix(context: ProbeContext, ladder: Ladder, rung: Rung, rng: np.random.Generator) -> PromptRequest | None:
    """As many tokens of another problem's path; of fewer where no path is as long."""
    own = ladder.path.token_ids[: rung.tokens]
    for path, texts, allowed in _donors(context, ladder, rng, lambda path, allowed: allowed >= rung.tokens):
        tokens = min(rung.tokens, allowed)
        if path.token_ids[:tokens] != own and _is_innocent(context, ladder.problem, texts[tokens]):
            return PromptRequest(ladder.problem, ladder.prompt_ids, PLACEBO_SAMPLES, path.token_ids[:tokens], texts[tokens])
    return None


def _wrong_step(context: ProbeContext, ladder: Ladder, rung: Rung, rng: np.random.Generator) -> PromptRequest | None:
    """The same prefix, its last step (or piece) taken from another problem's path."""
    own = ladder.path.token_ids[rung.start : rung.tokens]
    kept = ladder.path.token_ids[: rung.start]

    def has_it(path: EncodedPath, allowed: int) -> bool:
        return allowed >= rung.tokens and (rung.step is None or path.token_steps[-1] >= rung.step)

    for path, texts, allowed in _donors(context, ladder, rng, has_it):
        start, end = rung.start, min(rung.tokens, allowed)
        if rung.step is not None and path.token_steps[-1] >= rung.step:
            # The step of the same number, however long it is there.
            steps = path.token_steps[:-1]
            start, end = (next((t for t, s in enumerate(steps) if s >= step), len(steps)) for step in (rung.step - 1, rung.step))
        ids, text = path.token_ids[start:end], ladder.texts[rung.start] + texts[end][len(texts[start]) :]
        if ids and ids != own and end <= allowed and _is_innocent(context, ladder.problem, text):
            return PromptRequest(ladder.problem, ladder.prompt_ids, PLACEBO_SAMPLES, (*kept, *ids), text)
    return None


def _donors(
    context: ProbeContext, ladder: Ladder, rng: np.random.Generator, fits: Callable[[EncodedPath, int], bool]
) -> Iterator[tuple[EncodedPath, tuple[str, ...], int]]:
    """Paths of other problems with another answer, in random order, those that fit first; with how many tokens stand before that answer."""
    others = [
        p for p in context.measured.problems if p.references and p.key != ladder.problem.key and p.answer != ladder.problem.answer
    ]
    late = []
    for i in rng.permutation(len(others))[:MOST_PROBLEMS]:
        problem = others[int(i)]
        reference = problem.references[0]
        path = context.policy.codec.encode_path(
            context.policy.codec.encode_prompt(problem.prompt, context.measured.behavior.prompt), reference
        )
        texts = prefix_texts(path, reference)
        donor = path, texts, tokens_before_word(problem, texts)
        if fits(path, donor[2]):
            yield donor
        elif donor[2]:
            late.append(donor)
    yield from late


def _is_innocent(context: ProbeContext, problem: Problem, text: str) -> bool:
    """Whether a prefix is more than blanks and does not give the problem's answer by chance."""
    if not text.strip() or find_answer(text, problem.answer) is not None:
        return False
    (grade,) = context.sampler.grade(problem, [text])
    return grade.score is None or grade.score < context.measured.behavior.measure.success


def _affordable(context: ProbeContext) -> int:
    """Ladders that are expected to be settled with what is left beside the placebos."""
    left = context.sampler.tokens_left - _reserve(context)
    return max(0, int(left / ((BASELINE + EXPECTED_SAMPLES) * _tokens_per_sample(context))))


def _reserve(context: ProbeContext) -> int:
    """Tokens that are kept for placebos."""
    return int(min(PLACEBO_SHARE * context.sampler.budget, 3 * PLACEBO_PROBLEMS * PLACEBO_SAMPLES * _tokens_per_sample(context)))


def _fitting(context: ProbeContext, todo: Sequence[Any], samples: int, tokens: int) -> list[Any]:
    """As many as are expected to fit into the tokens, the first ones."""
    return list(todo[: max(0, int(tokens / (samples * _tokens_per_sample(context))))])


def _tokens_per_sample(context: ProbeContext) -> float:
    """What a sample is expected to take, with a margin: as whole answers do, and as continuations do once some were drawn."""
    drawn, tokens = (
        int(context.measured.counts.num_samples.sum() + context.measured.counts.num_missing.sum()),
        int(context.measured.counts.num_tokens.sum()),
    )
    if context.sampler.samples >= MANY_SAMPLES:
        drawn, tokens = context.sampler.samples, context.sampler.generated_tokens
    longest = float(context.measured.behavior.sampling.max_tokens)
    return min(longest, max(1.0, TOKEN_MARGIN * tokens / drawn)) if drawn else longest


def _generator(context: ProbeContext, what: str) -> np.random.Generator:
    digest = hashlib.sha256(
        f"{context.seed}\x00{context.measured.behavior.name}\x00{context.sampler.probe}\x00{what}".encode()
    ).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


# ------------------------------------------------------------------------------------------------------------------ deciding


def _finding(
    context: ProbeContext, ladders: Sequence[Ladder], candidates: int, blocked: int, placebos: Sequence[Placebo]
) -> Finding:
    thresholds = context.thresholds.prefix_ladder
    probed = [ladder for ladder in ladders if ladder.status != "not_probed"]
    out = [ladder for ladder in probed if ladder.out_of_support]
    share, above_half = share_reachable([ladder.bayes_factor for ladder in out])
    chances = {
        condition: _gain_is_own(placebos, condition, thresholds.placebo_gain, _generator(context, condition))
        for condition in (OTHER, WRONG)
    }
    needed = _median([ladder.fraction(ladder.needed) for ladder in out or probed if ladder.status == "found"])
    numbers = {"share reachable with a prefix": share, "median fraction needed": needed, **_placebo_numbers(placebos, context)}
    because = _because(out, needed, placebos, thresholds.sufficient)
    confidence = above_half * min(chances.values())
    evidence: tuple[LabelEvidence, ...] = ()
    if placebos and confidence > context.thresholds.evidence and context.measured.behavior.sampling.samples_the_policy:
        evidence = (
            LabelEvidence(
                label=Bottleneck.GUIDED_ONLY,
                instead_of=(Bottleneck.MISSING_SUPPORT,),
                confidence=confidence,
                because=because,
            ),
        )
    return Finding(
        probe=context.sampler.probe,
        behavior=context.measured.behavior.name,
        outcome=_outcome(probed, evidence, above_half, min(chances.values()), context.thresholds),
        summary=_summary(probed, out, share, because, thresholds.sufficient),
        numbers={name: value for name, value in numbers.items() if np.isfinite(value.estimate)},
        rows=(*_reference_rows(probed, context), *_placebo_rows(placebos, context)),
        problems=_per_problem(context, ladders),
        evidence=evidence,
        notes=tuple(_notes(context, ladders, probed, candidates, blocked, placebos, chances)),
    )


def _outcome(
    probed: Sequence[Ladder], evidence: Sequence[LabelEvidence], above_half: float, own_gain: float, thresholds: Thresholds
) -> PrefixLadderOutcome:
    """Say whether problems out of reach are solved from a prefix.

    Args:
        probed: Ladders with samples.
        evidence: What the finding says to the verdict.
        above_half: Probability that more than half of the problems are reachable.
        own_gain: Probability that no placebo helps as much.
        thresholds: When that is sure.
    """
    sure = thresholds.confidence
    if not probed:
        return PrefixLadderOutcome.NOT_MEASURED
    if evidence and evidence[0].confidence >= sure:
        return PrefixLadderOutcome.REACHABLE
    if above_half >= sure and own_gain < 1 - sure:
        return PrefixLadderOutcome.PLACEBO_HELPS
    return PrefixLadderOutcome.UNREACHABLE if above_half <= 1 - sure else PrefixLadderOutcome.UNDECIDED


def share_reachable(bayes_factors: Sequence[float]) -> tuple[Estimate, float]:
    """Share of problems that a prefix makes reachable, and the probability that it is more than half.

    The share has a Jeffreys prior, and each probed problem is reachable with the share's probability: so what most ladders say also
    counts for those that are open. Simulated for this project (3,000 behaviors, 12 of 48 problems probed): where it gave the label a
    probability of .05–.2, .4–.6, .6–.8 and above .95, that was right in .08, .50, .71 and .995 of behaviors.

    Args:
        bayes_factors: Per probed problem, how many times as likely its samples are if some prefix suffices as if none does.
    """
    method = "posterior of the share, Jeffreys prior"
    if not bayes_factors:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method), 0.0
    shares = np.sin(np.pi / 2 * (np.arange(_DRAWS) + 0.5) / _DRAWS) ** 2  # of equal prior mass
    ratio = np.clip(np.array(bayes_factors), 1e-9, 1e9)[:, None]
    log_weight = np.log(shares * ratio / (1 + ratio) + (1 - shares) / (1 + ratio)).sum(axis=0)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    low, high = (float(shares[min(int(np.searchsorted(np.cumsum(weight), q)), _DRAWS - 1)]) for q in (0.025, 0.975))
    return Estimate(estimate=float(weight @ shares), low=low, high=high, method=method), float(weight[shares > 0.5].sum())


def _gain_is_own(placebos: Sequence[Placebo], condition: str, most: float, rng: np.random.Generator) -> float:
    """Probability that a placebo brings less than `PrefixLadderThresholds.placebo_gain` of what the path itself brings; 0 without placebos.

    Rates are drawn from the Jeffreys posterior of each problem, and problems by the Bayesian bootstrap (Rubin, Ann. Statist. 9, 1981).
    """
    if not placebos:
        return 0.0
    rates = {}
    for name in (NOTHING, AGAIN, condition):
        num, right = np.array([one.counts[name] for one in placebos]).T
        rates[name] = rng.beta(right + 0.5, num - right + 0.5, size=(_DRAWS, len(placebos)))
    weights = rng.dirichlet(np.ones(len(placebos)), size=_DRAWS)
    own = (weights * (rates[AGAIN] - rates[NOTHING])).sum(axis=1)
    placebo = (weights * (rates[condition] - rates[NOTHING])).sum(axis=1)
    return float(((own > 0) & (placebo < most * own)).mean())


def _median(values: Sequence[float]) -> Estimate:
    """The median, with the order statistics that hold the population's in 95 % of draws; all of the range where there are few."""
    method = "order statistics over problems"
    if not values:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method)
    ordered = sorted(values)
    edge = max(0, int(scipy.stats.binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return Estimate(estimate=float(np.median(ordered)), low=ordered[edge], high=ordered[-1 - edge], method=method)


def _placebo_numbers(placebos: Sequence[Placebo], context: ProbeContext) -> dict[str, Estimate]:
    names = {
        "success with nothing given": NOTHING,
        "success from the prefix that suffices": AGAIN,
        "success from another problem's prefix": OTHER,
        "success after a wrong step": WRONG,
    }
    return {name: _mean_rate(placebos, condition, context) for name, condition in names.items()} if placebos else {}


def _mean_rate(placebos: Sequence[Placebo], condition: str, context: ProbeContext) -> Estimate:
    rates = [right / num if num else np.nan for num, right in (one.counts[condition] for one in placebos)]
    interval = mean_interval(rates, [one.ladder.group for one in placebos], level=context.thresholds.level)
    return Estimate.of(interval)


def _reference_rows(probed: Sequence[Ladder], context: ProbeContext) -> list[dict[str, Any]]:
    """The mean of the problems' rising curves at eighths of the path, as far as half of the problems may be given."""
    if not probed:
        return []
    furthest = float(np.median([ladder.fraction(len(ladder.rungs) - 1) for ladder in probed]))
    fractions = np.array(sorted({*(i / RUNGS for i in range(RUNGS) if i / RUNGS < furthest - 0.02), furthest}))
    curves = np.stack([ladder.curve(fractions) for ladder in probed])
    groups = [ladder.group for ladder in probed]
    # Samples are told at the fraction that is nearest to where they were drawn.
    num, right = np.zeros(len(fractions), np.int64), np.zeros(len(fractions), np.int64)
    for ladder in probed:
        num[0] += ladder.base[0]
        right[0] += ladder.base[1]
        for rung in range(len(ladder.rungs)):
            nearest = int(np.abs(fractions - ladder.fraction(rung)).argmin())
            num[nearest] += ladder.num[rung]
            right[nearest] += ladder.right[rung]
    intervals = [mean_interval(column, groups, level=context.thresholds.level) for column in curves.T]
    return [
        _row(float(fraction), REFERENCE, int(n), int(c), interval.estimate, interval.low, interval.high)
        for fraction, n, c, interval in zip(fractions, num, right, intervals, strict=True)
    ]


def _placebo_rows(placebos: Sequence[Placebo], context: ProbeContext) -> list[dict[str, Any]]:
    """One row per condition, at the mean fraction that was given."""
    if not placebos:
        return []
    fraction = float(np.mean([one.fraction for one in placebos]))
    rows = []
    for condition in (AGAIN, OTHER, WRONG):
        num, right = np.array([one.counts[condition] for one in placebos]).sum(axis=0)
        rate = _mean_rate(placebos, condition, context)
        rows.append(_row(fraction, condition, int(num), int(right), rate.estimate, rate.low, rate.high))
    return rows


def _row(fraction: float, condition: str, n: int, c: int, rate: float, low: float, high: float) -> dict[str, Any]:
    return {"fraction": round(fraction, 4), "condition": condition, "n": n, "c": c, "rate": rate, "low": low, "high": high}


def _per_problem(context: ProbeContext, ladders: Sequence[Ladder]) -> dict[str, dict[str, Any]]:
    found = {ladder.problem.id: ladder for ladder in ladders}
    told: dict[str, dict[str, Any]] = {}
    for problem in context.measured.problems:
        needed: dict[str, Any] = {"status": "not_probed", "fraction": None, "tokens": None, "step": None}
        told[problem.id] = {"prefix_needed": needed}
        if (ladder := found.get(problem.id)) is None:
            continue
        needed["status"] = ladder.status
        if ladder.status == "found":
            rung = ladder.needed
            needed |= {"fraction": ladder.fraction(rung), "tokens": ladder.rungs[rung].tokens, "step": ladder.rungs[rung].step}
        told[problem.id]["ladder"] = [
            {"fraction": ladder.fraction(i), "tokens": rung.tokens, "n": int(ladder.num[i]), "c": int(ladder.right[i])}
            for i, rung in enumerate(ladder.rungs)
        ]
    return told


# --------------------------------------------------------------------------------------------------------------------- words


def _because(out: Sequence[Ladder], needed: Estimate, placebos: Sequence[Placebo], sufficient: float) -> str:
    num = sum(ladder.status == "found" for ladder in out)
    words = f"{num} of {len(out)} probed problems out of reach are solved at a rate of at least {sufficient:.0%} from a prefix of a reference path"
    if np.isfinite(needed.estimate):
        words += f" (half of them from {needed.estimate:.0%} of it or less)"
    if placebos:
        again, other, wrong = (_pooled(placebos, condition) for condition in (AGAIN, OTHER, WRONG))
        words += f"; success is {again:.0%} from a problem's own prefix, {other:.0%} from another problem's, {wrong:.0%} after a wrong step"
    return words


def _pooled(placebos: Sequence[Placebo], condition: str) -> float:
    num, right = np.array([one.counts[condition] for one in placebos]).sum(axis=0)
    return float(right / num) if num else np.nan


def _summary(probed: Sequence[Ladder], out: Sequence[Ladder], share: Estimate, because: str, sufficient: float) -> str:
    if not probed:
        return "No ladder was climbed: no problem had a prefix that may be given, or nothing was left of the budget."
    states = [ladder.status for ladder in probed]
    rest = (
        f"{states.count('not_found')} are not solved from any prefix before the answer, {states.count('inconclusive')} stay open"
    )
    if not out:
        return f"{states.count('found')} of {len(probed)} unreliable problems have a prefix from which they are solved at a rate of at least {sufficient:.0%}; {rest}."
    others = f"; of all {len(probed)} that were probed" if len(probed) > len(out) else ";"
    return f"{because[0].upper()}{because[1:]}. Share reachable {share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]{others} {rest}."


def _notes(
    context: ProbeContext,
    ladders: Sequence[Ladder],
    probed: Sequence[Ladder],
    candidates: int,
    blocked: int,
    placebos: Sequence[Placebo],
    chances: Mapping[str, float],
) -> list[Note]:
    notes = []
    if candidates > len(ladders) + blocked:
        limit = "the budget allows no more" if len(ladders) < MOST_PROBLEMS else "more would say little more"
        notes.append(
            Note(
                code="not_all_probed",
                text=f"Of {candidates} problems out of reach or unreliable {len(ladders)} were probed, chosen at random: {limit}.",
            )
        )
    if blocked:
        notes.append(
            Note(
                code="answer_at_the_start",
                text=f"{blocked} problems have no ladder: the answer stands at the start of each of their reference paths.",
            )
        )
    if len(probed) < len(ladders) or any(one.status == "inconclusive" and one.drawn < MOST_SAMPLES for one in probed):
        notes.append(Note(code="budget_ended", text="The budget ended before every ladder was settled."))
    if placebos:
        notes += [
            Note(
                code="placebo_helps",
                text=f"Not knowledge of the path: {'a prefix of another problem' if condition == OTHER else 'a prefix with a wrong last step'} helps at "
                f"least {context.thresholds.prefix_ladder.placebo_gain:.0%} as much as the right one ({_pooled(placebos, condition):.0%} against {_pooled(placebos, AGAIN):.0%} of "
                f"samples; the probability that it does not is {chance:.0%}).",
            )
            for condition, chance in chances.items()
            if chance < 0.5
        ]
    elif any(one.status == "found" for one in probed):
        notes.append(
            Note(
                code="no_placebo",
                text="No placebo was drawn (no other path to take one from, or no budget), so the gain is no evidence for a label.",
            )
        )
    if probed and not context.measured.behavior.sampling.samples_the_policy:
        notes.append(
            Note(
                code="deployment_policy",
                text="Drawn under a deployment policy, which says nothing about support; the gain is no evidence for a label.",
            )
        )
    return notes
