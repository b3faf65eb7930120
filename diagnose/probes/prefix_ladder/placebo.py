"""Placebos: prefixes that are not the problem's own, which show whether the gain is knowledge of the path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.diagnose.behaviors.answer_span import find_answer, prefix_texts, tokens_before_word
from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.probes.base import ProbeContext, PromptRequest
from posttrain.diagnose.probes.prefix_ladder import search
from posttrain.diagnose.probes.prefix_ladder.ladder import Ladder, PrefixStatus, Rung
from posttrain.diagnose.types import Problem, reaches

_MOST_DONORS = 24
"""Other problems whose paths are tried as placebos of one problem."""
_NUM_DRAWS = 4096


@dataclass(frozen=True, kw_only=True)
class Placebo:
    """Success of one problem from a prefix that is not its own, beside its own."""

    ladder: Ladder
    fraction: float
    counts: Mapping[str, tuple[int, int]]
    """Condition → samples, right ones."""


def sample_placebos(context: ProbeContext, ladders: Sequence[Ladder], rng: np.random.Generator) -> list[Placebo]:
    """Sample the prefix that was found against two that are not the problem's own, for a few problems, those out of support first."""
    found = [ladder for ladder in ladders if ladder.status is PrefixStatus.FOUND]
    order = [found[int(i)] for i in rng.permutation(len(found))]
    prepared: list[tuple[Ladder, Rung, dict[str, PromptRequest]]] = []
    for ladder in sorted(order, key=lambda ladder: not ladder.out_of_support):
        if len(prepared) == search.PLACEBO_PROBLEMS:
            break
        rung = ladder.rungs[ladder.needed]
        other = _other_prefix(context, ladder, rung, rng)
        wrong = _wrong_step(context, ladder, rung, rng)
        if other is not None and wrong is not None:
            again = search.given_prefix(ladder, rung.tokens, search.PLACEBO_SAMPLES)
            prepared.append((ladder, rung, {search.AGAIN: again, search.OTHER: other, search.WRONG: wrong}))
    prepared = search.fitting(context, prepared, 3 * search.PLACEBO_SAMPLES, context.sampler.tokens_left)
    counts: list[dict[str, tuple[int, int]]] = [{search.NOTHING: ladder.base} for ladder, _, _ in prepared]
    for condition in (search.AGAIN, search.OTHER, search.WRONG):
        sampled = search.sample(context, [requests[condition] for *_, requests in prepared], condition)
        for one, rollouts in zip(counts, sampled, strict=True):
            one[condition] = context.count_outcomes(rollouts)
    return [
        Placebo(ladder=ladder, fraction=rung.tokens / (len(ladder.texts) - 1), counts=one)
        for (ladder, rung, _), one in zip(prepared, counts, strict=True)
    ]


def _other_prefix(context: ProbeContext, ladder: Ladder, rung: Rung, rng: np.random.Generator) -> PromptRequest | None:
    """Return as many tokens of another problem's path; of fewer where no path is as long."""
    own = ladder.path.token_ids[: rung.tokens]
    for path, texts, allowed in _donors(context, ladder, rng, lambda path, allowed: allowed >= rung.tokens):
        tokens = min(rung.tokens, allowed)
        if path.token_ids[:tokens] != own and _gives_nothing_away(context, ladder.problem, texts[tokens]):
            return PromptRequest(
                ladder.problem, ladder.prompt_ids, search.PLACEBO_SAMPLES, path.token_ids[:tokens], texts[tokens]
            )
    return None


def _wrong_step(context: ProbeContext, ladder: Ladder, rung: Rung, rng: np.random.Generator) -> PromptRequest | None:
    """Return the same prefix, its last step (or piece) taken from another problem's path."""
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
        if ids and ids != own and end <= allowed and _gives_nothing_away(context, ladder.problem, text):
            return PromptRequest(ladder.problem, ladder.prompt_ids, search.PLACEBO_SAMPLES, (*kept, *ids), text)
    return None


def _donors(
    context: ProbeContext, ladder: Ladder, rng: np.random.Generator, fits: Callable[[EncodedPath, int], bool]
) -> Iterator[tuple[EncodedPath, tuple[str, ...], int]]:
    """Yield paths of other problems with another answer, in random order, those that fit first; with the tokens that stand before it."""
    others = [p for p in context.problems if p.references and p.key != ladder.problem.key and p.answer != ladder.problem.answer]
    late = []
    for i in rng.permutation(len(others))[:_MOST_DONORS]:
        problem = others[int(i)]
        reference = problem.references[0]
        prompt = context.sampler.prompt(problem)
        path = context.policy.codec.encode_path(prompt, reference)
        texts = prefix_texts(path, reference)
        donor = path, texts, tokens_before_word(problem, texts)
        if fits(path, donor[2]):
            yield donor
        elif donor[2]:
            late.append(donor)
    yield from late


def _gives_nothing_away(context: ProbeContext, problem: Problem, text: str) -> bool:
    """Return whether a prefix is more than blanks and does not give the problem's answer by chance."""
    if not text.strip() or find_answer(text, problem.answer) is not None:
        return False
    (grade,) = context.sampler.grade(problem, [text])
    return grade.score is None or not reaches(grade.score, context.behavior.measure.success)


def gain_is_own(placebos: Sequence[Placebo], condition: str, most: float, rng: np.random.Generator) -> float:
    """Return the probability that a placebo brings less than `PrefixLadderThresholds.placebo_gain` of what the path itself brings; 0 without placebos.

    Rates are drawn from the Jeffreys posterior of each problem, and problems by the Bayesian bootstrap (Rubin, Ann. Statist. 9, 1981).
    """
    if not placebos:
        return 0.0
    rates = {}
    for name in (search.NOTHING, search.AGAIN, condition):
        num, right = np.array([one.counts[name] for one in placebos]).T
        rates[name] = rng.beta(right + 0.5, num - right + 0.5, size=(_NUM_DRAWS, len(placebos)))
    weights = rng.dirichlet(np.ones(len(placebos)), size=_NUM_DRAWS)
    own = (weights * (rates[search.AGAIN] - rates[search.NOTHING])).sum(axis=1)
    placebo = (weights * (rates[condition] - rates[search.NOTHING])).sum(axis=1)
    return float(((own > 0) & (placebo < most * own)).mean())
