"""The diversity probe: in how many ways the policy is right, how many answers it spreads over, and what guessing would explain.

It reads samples that are there already. Every number would grow with the number of samples by itself, so it is corrected for that:

* *Paths*: right samples that differ as texts (case and spacing aside), rarefied: how many there would be among m right ones of the
  problem, Σ_path 1 − C(N − N_path, m)/C(N, m) (Hurlbert, Ecology 52, 1971). Texts that say one thing in other words are counted as several.
* *Answers*: exp of the entropy of the answers that were read, with the correction (A − 1)/(2n) for A answers in n samples (Miller, 1955).
  Of answers, because the entropy of tokens can rise while this one falls (arXiv 2507.14843).
* *Guessing*: how often an answer that the policy gave to some *other* problem is right here. It knows nothing of the question, only
  what answers look like; where it reaches what pass@k reaches, pass@k is about the size of the answer space (arXiv 2510.08325).

* *Along a reference path*: where references have steps, the share of right samples that contain every step of one of them, in order. The others
  are right by a wrong step or by another way; which of the two, only a reader or a step verifier can tell (arXiv 2506.14245).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from posttrain.analysis.stats import answer_entropy, mean_interval, pass_at_k, t_interval
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Note, Probe, ProbeContext, ProbeCost
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, LabelEvidence, Problem, SkipReason, Split

_SIZES = (16, 8, 4, 2)
"""Numbers of right samples to which paths are rarefied: the greatest that half of the solved problems have; below 2 nothing can differ."""
_SOLVED_HALF = 0.5


Floats64 = npt.NDArray[np.float64]
ALONG = "right answers along a reference path"
_MOSTLY_ALONG = 0.9
"""Share of right answers along a reference path below which it is said."""


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What the samples of one problem were."""

    num_known: int = 0
    """Samples with a known outcome."""
    paths: Counter[str] = field(default_factory=Counter)
    """Right samples by normalised text."""
    answers: Counter[str] = field(default_factory=Counter)
    """Samples by the answer that was read."""
    right_answers: set[str] = field(default_factory=set)
    num_along: int = 0
    """Right samples that go along a reference path."""

    @property
    def num_right(self) -> int:
        """Return right samples."""
        return self.paths.total()


class DiversityOutcome(StrEnum):
    """Whether guessing explains how often the policy is right."""

    GUESSING_EXPLAINS = "guessing_explains"
    GUESSING_DOES_NOT_EXPLAIN = "guessing_does_not_explain"
    UNKNOWN = "unknown"
    """No answer was read."""


class Diversity(Probe):
    """Counts paths and answers, and holds pass@k against guessing."""

    name = "diversity"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`; it costs no tokens."""
        return ProbeCost(when="always; it reads the samples that are there")

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`; it needs samples, and nothing else."""
        return None if context.counts.num_samples.any() else SkipReason.NO_SAMPLES

    def run(self, context: ProbeContext) -> Finding:
        """Read every sample once."""
        seen = self._read(context)
        size = common_size([one.num_right for one in seen])
        paths = np.array([rarefied(list(one.paths.values()), size) if size else np.nan for one in seen])
        answers = np.array([effective_number(list(one.answers.values())) for one in seen])
        guess = guessing_chances(
            [one.answers for one in seen],
            [one.right_answers | {problem.answer} for one, problem in zip(seen, context.problems, strict=True)],
        )
        numbers, k = self._numbers(context, seen, paths, answers, guess)
        rows = tuple(
            {
                "id": problem.id,
                "samples": one.num_known,
                "right": one.num_right,
                "distinct_right": len(one.paths),
                "paths": _json(paths[i]),
                "answers": _json(answers[i]),
                "guess": _json(guess[i]),
            }
            for i, (problem, one) in enumerate(zip(context.problems, seen, strict=True))
        )
        return Finding(
            outcome=_outcome(numbers, seen, k, context.thresholds.diversity.explained),
            summary=_summary(numbers, seen, size, k),
            numbers=numbers,
            rows=rows,
            problems={str(row["id"]): {key: row[key] for key in ("paths", "answers", "guess")} for row in rows},
            notes=Note.all(_notes(context, numbers, seen, size, k)),
            of_stages={"process": _words_along(numbers[ALONG])} if leaves_references(numbers) else {},
            evidence=_evidence(numbers, k, context.thresholds.diversity.explained),
        )

    def _read(self, context: ProbeContext) -> list[_Seen]:
        seen = {problem.id: _Seen() for problem in context.problems}
        steps = {problem.id: stepped_references(problem) for problem in context.problems}
        greedy = context.rollouts.greedy
        for row, rollout in enumerate(context.rollouts.all_rows()):
            one = seen.get(rollout.problem_id)
            right = rollout.succeeded(context.behavior.measure.success)
            if one is None or greedy[row] or right is None:
                continue
            one.num_known += 1
            if rollout.grade.extracted is not None:
                one.answers[rollout.grade.extracted] += 1
            if not right:
                continue
            text = _normalised(rollout.text)
            one.paths[text] += 1
            one.num_along += any(goes_along(text, path) for path in steps[rollout.problem_id])
            if rollout.grade.extracted is not None:
                one.right_answers.add(rollout.grade.extracted)
        return list(seen.values())

    def _numbers(
        self, context: ProbeContext, seen: Sequence[_Seen], paths: Floats64, answers: Floats64, guess: Floats64
    ) -> tuple[dict[str, Estimate], int]:
        """Return everything by name, and the k of pass@k: the primary one."""
        groups, level, k = context.counts.groups, context.thresholds.level, context.behavior.measure.primary_k
        known = np.array([one.num_known for one in seen], dtype=np.int64)
        right = np.array([one.num_right for one in seen], dtype=np.int64)
        single = np.where(np.isnan(paths), np.nan, np.array([len(one.paths) == 1 for one in seen]))
        numbers = {
            "right paths": Estimate.of(t_interval(paths, groups, level=level, method="rarefied, t over problems")),
            "share of problems with a single right path": Estimate.of(mean_interval(single, groups, level=level)),
            "effective answers": Estimate.of(
                t_interval(answers, groups, level=level, method="exp of corrected entropy, t over problems")
            ),
        }
        ks = tuple(dict.fromkeys((1, k)))
        equally = context.counts.sampled_equally
        reached = estimate_pass_at_k(known, right, groups, ks, level=level, equally=equally)
        for attempts, interval in zip(ks, reached, strict=True):
            numbers[f"pass@{attempts}"] = Estimate.of(interval)
            guessed = 1.0 - (1.0 - guess) ** attempts
            numbers[f"pass@{attempts} of guessing"] = Estimate.of(mean_interval(guessed, groups, level=level))
        stepped = np.array([bool(stepped_references(problem)) for problem in context.problems])
        along = np.array([one.num_along / one.num_right if one.num_right else np.nan for one in seen])
        if np.isfinite(along[stepped]).any():
            numbers[ALONG] = Estimate.of(mean_interval(np.where(stepped, along, np.nan), groups, level=level))
        return numbers, k


# ------------------------------------------------------------------------------------------------------------------- numbers


def stepped_references(problem: Problem) -> list[tuple[str, ...]]:
    """Return the steps of each reference path that has more than one, normalised."""
    found = [tuple(filter(None, map(_normalised, reference.steps))) for reference in problem.references]
    return [steps for steps in found if len(steps) > 1]


def goes_along(text: str, steps: Sequence[str]) -> bool:
    """Return whether a normalised text contains these steps one behind the other; others may stand between them."""
    place = 0
    for step in steps:
        place = text.find(step, place)
        if place < 0:
            return False
        place += len(step)
    return True


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def common_size(num_right: Sequence[int]) -> int:
    """Return to how many right samples the problems' paths are rarefied; 0 where no problem has two.

    Args:
        num_right: [P] right samples of each problem.

    Returns:
        The greatest of 16, 8, 4 and 2 that at least half of the problems with a right sample have.
    """
    solved = [num for num in num_right if num > 0]
    return next((size for size in _SIZES if sum(num >= size for num in solved) >= max(1, _SOLVED_HALF * len(solved))), 0)


def rarefied(counts: Sequence[int], size: int) -> float:
    """Return how many different kinds there would be among `size` samples drawn from these without putting back.

    Args:
        counts: Samples of each kind.
        size: At least 1.

    Returns:
        A number between 1 and `size`; NaN where there are fewer samples than that.

    Source: Hurlbert, Ecology 52 (1971). That a kind is among them has the formula of pass@k.
    """
    total = sum(counts)
    if total < size:
        return float("nan")
    return float(pass_at_k(np.full(len(counts), total), np.asarray(counts, dtype=np.int64), size).sum())


def effective_number(counts: Sequence[int]) -> float:
    """Return the effective number of different answers: exp of their entropy, corrected for the samples being few.

    Args:
        counts: Samples of each answer.

    Returns:
        At least 1; NaN without samples. Where nearly every sample is an answer of its own it is too low, the rest being unseen.

    Source: the correction (A − 1)/(2n) is Miller's (1955).
    """
    if not sum(counts):
        return float("nan")
    return float(np.exp(answer_entropy(counts) + (len(counts) - 1) / (2 * sum(counts))))


def guessing_chances(answers: Sequence[Mapping[str, int]], right: Sequence[set[str]]) -> Floats64:
    """Return how often a guesser is right that answers each problem as the policy answers another one.

    Args:
        answers: [P] per problem, how often each answer was read.
        right: [P] per problem, the answers that are right.

    Returns:
        [P] the chance, each other problem being picked alike; NaN where no other problem has an answer.
    """
    pool: dict[str, float] = {}
    shares: list[dict[str, float]] = []
    for counts in answers:
        total = sum(counts.values())
        shares.append({answer: count / total for answer, count in counts.items()} if total else {})
        for answer, share in shares[-1].items():
            pool[answer] = pool.get(answer, 0.0) + share
    num_answered = sum(bool(own) for own in shares)
    chances = np.full(len(answers), np.nan)
    for i, (own, wanted) in enumerate(zip(shares, right, strict=True)):
        others = num_answered - bool(own)
        if others:
            # What is left of a sum after its own part is taken away may be a rounding error below zero.
            chances[i] = max(0.0, sum(pool.get(answer, 0.0) - own.get(answer, 0.0) for answer in wanted)) / others
    return np.asarray(np.clip(chances, 0.0, 1.0))


# --------------------------------------------------------------------------------------------------------------------- words


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _outcome(numbers: Mapping[str, Estimate], seen: Sequence[_Seen], k: int, explained: float) -> DiversityOutcome:
    """Say whether guessing reaches what the policy reaches."""
    if not any(one.answers for one in seen):
        return DiversityOutcome.UNKNOWN
    guess, reached = numbers[f"pass@{k} of guessing"], numbers[f"pass@{k}"]
    if guess.estimate >= max(reached.low, explained * reached.estimate) > 0:
        return DiversityOutcome.GUESSING_EXPLAINS
    return DiversityOutcome.GUESSING_DOES_NOT_EXPLAIN


def _evidence(numbers: Mapping[str, Estimate], k: int, explained: float) -> tuple[LabelEvidence, ...]:
    """Return evidence that nothing is known of a capability, where guessing explains pass@1 and pass@k."""
    chances = [
        _chance_that_it_explains(numbers[f"pass@{attempts} of guessing"], numbers[f"pass@{attempts}"], explained)
        for attempts in dict.fromkeys((1, k))
    ]
    guess, reached = numbers["pass@1 of guessing"], numbers["pass@1"]
    if min(chances) <= 0.0:
        return ()
    because = (
        f"guessing among the answers to other problems explains it (pass@1 {guess.estimate:.2f} by guessing, {_shown(reached)} reached), so it "
        "shows no capability; ask for answers that cannot be guessed"
    )
    return (
        LabelEvidence(
            label=Bottleneck.INCONCLUSIVE, instead_of=(Bottleneck.POOR_CHOICE,), confidence=min(chances), because=because
        ),
    )


def _chance_that_it_explains(guess: Estimate, reached: Estimate, explained: float) -> float:
    """Return the probability that guessing reaches the given part of a number; 0 where that number is shown to be higher than by guessing."""
    if not guess.estimate >= reached.low:  # NaN does not
        return 0.0
    reach = (reached.low + reached.high) / 2 if np.isnan(reached.estimate) else reached.estimate
    spread = np.hypot(guess.high - guess.low, explained * (reached.high - reached.low)) / (2 * ndtri(0.975))
    return float(ndtr((guess.estimate - explained * reach) / max(float(spread), 1e-9)))


def leaves_references(numbers: Mapping[str, Estimate]) -> bool:
    """Return whether surely a part of the right answers goes along no reference path."""
    return ALONG in numbers and numbers[ALONG].high < _MOSTLY_ALONG


def _words_along(share: Estimate) -> str:
    return (
        f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}] of the right answers go through the steps of a reference path"
    )


def _summary(numbers: Mapping[str, Estimate], seen: Sequence[_Seen], size: int, k: int) -> str:
    solved = sum(one.num_right > 0 for one in seen)
    if size:
        alone = numbers["share of problems with a single right path"].estimate
        text = f"{numbers['right paths'].estimate:.1f} different texts among {size} right ones; {alone:.0%} of the solved problems have a single one."
    else:
        text = f"{solved} of {len(seen)} problems are solved, none of them twice, so paths cannot be compared."
    spread, guess = numbers["effective answers"].estimate, numbers[f"pass@{k} of guessing"].estimate
    if not np.isnan(spread):
        text += f" A problem gets {spread:.1f} answers in effect"
        text += "." if np.isnan(guess) else f"; guessing among the answers to other problems reaches pass@{k} = {guess:.2f}."
    return text


def _shown(value: Estimate) -> str:
    return f"{value.low:.2f} to {value.high:.2f}" if np.isnan(value.estimate) else f"{value.estimate:.2f}"


def _notes(context: ProbeContext, numbers: Mapping[str, Estimate], seen: Sequence[_Seen], size: int, k: int) -> dict[str, str]:
    notes: dict[str, str] = {}
    guess, reached = numbers[f"pass@{k} of guessing"], numbers[f"pass@{k}"]
    if _outcome(numbers, seen, k, context.thresholds.diversity.explained) is DiversityOutcome.GUESSING_EXPLAINS:
        notes["guessing_explains"] = (
            f"Guessing explains pass@{k}: it reaches {guess.estimate:.2f}, the policy {_shown(reached)} (from {reached.low:.2f}). The answers are few, so read "
            "pass@1 and a smaller k."
        )
    if leaves_references(numbers):
        notes["off_reference_paths"] = (
            f"{_words_along(numbers[ALONG])}; the others have a wrong step or another way: read some of them before right answers are rewarded alone."
        )
    if not any(one.answers for one in seen):
        notes["no_answers_read"] = "The verifier reads no answer out of a text, so answers cannot be counted."
    left_out = sum(0 < one.num_right < size for one in seen)
    if left_out:
        notes["problems_left_out"] = (
            f"{left_out} problems with fewer than {size} right samples are left out of what is said of paths."
        )
    if size:
        notes["wording_counts"] = (
            "Texts that differ in wording only count as different paths; one path is proof of sameness, many are not of variety."
        )
    if not context.behavior.sampling.samples_the_policy:
        notes["deployment_policy"] = (
            "Sampled with a temperature or a truncation of its own, which changes diversity: this is that of the deployed policy."
        )
    return notes
