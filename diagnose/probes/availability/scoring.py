"""Which right paths are known, and their scores under the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.behaviors.answer_span import replace_answer
from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.probes.availability.steps import CHUNKS, SteppedPath, removed_by
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.types import PathScore, Problem, Reference, Rollout

MOST_PATHS = 64
"""Paths of each kind that are scored, of different problems: a share over 64 problems is known to ± .12."""


@dataclass(frozen=True, kw_only=True)
class KnownPath:
    """A right path as tokens."""

    problem: Problem
    token_ids: tuple[int, ...]
    parts: npt.NDArray[np.int64]
    """[T] the step, or the part of one, that each token belongs to."""
    whole_steps: bool
    score: PathScore | None = None
    """What is known of a reference path already."""


def cut_into_parts(num_tokens: int, steps: npt.NDArray[Any] | None) -> tuple[npt.NDArray[np.int64], bool]:
    """Return the [T] parts of a path, numbered on without gaps: its steps where there are several, else even parts of its tokens."""
    if steps is not None and steps.max() > 0:
        return np.asarray(np.unique(steps, return_inverse=True)[1], dtype=np.int64), True
    return np.arange(num_tokens) * min(CHUNKS, num_tokens) // num_tokens, False


def likeliest_references(context: ProbeContext, rng: np.random.Generator) -> list[KnownPath]:
    """Return the likeliest reference path of each of some problems chosen at random: one way to the answer is enough."""
    best: dict[str, PathScore] = {}
    for path in context.paths.paths if context.paths is not None else ():
        held = best.get(path.problem_id)
        if held is None or path.policy_logprobs.sum() > held.policy_logprobs.sum():
            best[path.problem_id] = path
    problems = [problem for problem in context.problems if problem.id in best]
    chosen = sorted(rng.permutation(len(problems))[:MOST_PATHS].tolist())
    found = []
    for problem in (problems[i] for i in chosen):
        path = best[problem.id]
        parts, whole = cut_into_parts(len(path.token_ids), path.token_steps)
        found.append(KnownPath(problem=problem, token_ids=path.token_ids, parts=parts, whole_steps=whole, score=path))
    return found


def own_right_samples(context: ProbeContext, rng: np.random.Generator) -> list[KnownPath]:
    """Return one right sample, chosen at random, of each of some problems chosen at random."""
    place = context.rollouts.places([problem.id for problem in context.problems])
    right = context.rollouts.succeeded(context.behavior.measure.success) & ~context.rollouts.greedy & (place >= 0)
    rows = rng.permutation(np.flatnonzero(right))
    firsts = rows[np.sort(np.unique(place[rows], return_index=True)[1])][:MOST_PATHS]
    problems = {problem.id: problem for problem in context.problems}
    samples: list[Rollout] = context.rollouts.rows(firsts)
    return [
        KnownPath(
            problem=problems[sample.problem_id],
            token_ids=sample.token_ids,
            parts=cut_into_parts(len(sample.token_ids), None)[0],
            whole_steps=False,
        )
        for sample in samples
        if sample.token_ids
    ]


def score_paths(context: ProbeContext, kind: str, known: Sequence[KnownPath]) -> list[SteppedPath]:
    """Score paths again, with what truncation would do to them."""
    groups = dict(zip(context.counts.problem_ids, context.counts.groups, strict=True))
    requests = [ScoreRequest(prompt_ids=context.sampler.prompt(one.problem).token_ids, path_ids=one.token_ids) for one in known]
    found = []
    for one, scores in zip(known, context.sampler.score(requests, what=f"{kind} paths") if requests else [], strict=True):
        num = int(one.parts.max()) + 1
        local, rank = np.zeros(num), np.zeros(num, dtype=np.int64)
        np.add.at(local, one.parts, scores.logprobs.astype(np.float64))
        np.maximum.at(rank, one.parts, scores.ranks.astype(np.int64))
        cut = {name: set(one.parts[which].tolist()) for name, which in removed_by(scores).items()}
        found.append(
            SteppedPath(
                problem=one.problem,
                group=groups[one.problem.id],
                path=kind,
                whole_steps=one.whole_steps,
                log_local=local,
                worst_rank=rank,
                removed_by=tuple(tuple(name for name, parts in cut.items() if part in parts) for part in range(num)),
            )
        )
    return found


def answer_margins(context: ProbeContext, known: Sequence[KnownPath], rng: np.random.Generator) -> dict[str, float]:
    """Return problem id → nats by which its reference path is likelier than the same path with another problem's answer in place of its own.

    Of the wrong answers one is taken that has as many tokens, where there is one: a longer answer is less likely for its length alone.
    """
    donors = sorted({problem.answer.strip() for problem in context.problems})
    score_requests: list[tuple[str, float, ScoreRequest]] = []
    for one in known:
        assert one.score is not None
        reference = one.problem.references[one.score.reference_index]
        prompt = context.sampler.prompt(one.problem)
        choices = []
        for i in rng.permutation(len(donors))[:CHUNKS]:
            changed = with_answer(reference, one.problem.answer, donors[int(i)])
            if changed is not None:
                path = context.policy.codec.encode_path(prompt, changed)
                choices.append((abs(len(path.token_ids) - len(one.token_ids)), changed.text, path.token_ids))
        choices.sort(key=lambda choice: choice[0])
        grades = context.sampler.grade(one.problem, [text for _, text, _ in choices]) if choices else []
        wrong = (ids for (*_, ids), grade in zip(choices, grades, strict=True) if grade.score is not None and grade.score <= 0.0)
        if (ids := next(wrong, None)) is not None:
            right = float(one.score.policy_logprobs.astype(np.float64).sum())
            score_requests.append((one.problem.id, right, ScoreRequest(prompt_ids=prompt.token_ids, path_ids=ids)))
    scores = (
        context.sampler.score([request for *_, request in score_requests], what="paths with a wrong answer")
        if score_requests
        else []
    )
    return {
        problem_id: right - float(score.logprobs.astype(np.float64).sum())
        for (problem_id, right, _), score in zip(score_requests, scores, strict=True)
    }


def with_answer(reference: Reference, answer: str, other: str) -> Reference | None:
    """Return the same path with another answer wherever its own stands as a word; None where it does not, or where they are the same."""
    if answer.strip() == other:
        return None
    steps = tuple(replace_answer(step, answer, other) for step in reference.steps)
    return replace(reference, steps=steps) if steps != reference.steps else None
