"""The availability probe: is a right path not reached, or not taken once it is reached?

The survey asks for both apart (arXiv 2604.07941 §2.3): whether the policy reaches a prefix, and whether the next step has enough
probability there. Along every right path that is known, reference paths and verified own samples, each step has a log-probability of
being reached and one of being taken. Tokens that common sampling truncations would remove are told too: a step that they remove is
not available to a deployed model, however often it is tried.

Likelihood misleads where many right paths exist, and where it rewards style. So paths are held against the problem's own success rate,
against the model's own right samples, and against the same path given a wrong answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, mean_interval
from posttrain.diagnose.behaviors.answer_span import replace_answer
from posttrain.diagnose.engines.base import ScoreRequest, TokenScores
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Note, ProbeContext, ProbeCost
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, PathScore, Problem, Reference, Rollout, SkipReason, Split

MOST_PATHS = 64
"""Paths of each kind that are scored, of different problems: a share over 64 problems is known to ± .12."""
CHUNKS = 8
"""Parts that a path without steps is cut into: as many rungs as the prefix ladder has."""

TRUNCATIONS: dict[str, tuple[str, float]] = {
    "top-p .95": ("top_p", 0.95),
    "top-p .9": ("top_p", 0.9),
    "top-k 50": ("top_k", 50),
    "top-k 20": ("top_k", 20),
    "min-p .05": ("min_p", 0.05),
}
"""Usual defaults of model cards and servers; the rules are those of `engines.drawing`."""

FIRST_STEP, CHAIN, STEP, REACHABLE = "first_step", "chain", "step", "reachable"
CLASSES = (FIRST_STEP, STEP, CHAIN, REACHABLE)
"""What keeps a path from being sampled: its first step; a later one whose prefix is reached; none alone, but all together; nothing."""
REFERENCE, OWN = "reference", "own"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """What binds a path of S steps."""

    kind: str
    """One of `CLASSES`."""
    step: int
    """The step less likely than epsilon; of a chain, the one that loses the most up to where it breaks; of a reachable path, of all steps.
    Counted from 0."""
    log_reach: float
    """Log-probability of everything before that step."""
    log_local: float
    """Log-probability of that step after it."""


@dataclass(frozen=True, kw_only=True)
class SteppedPath:
    """A right path, step by step."""

    problem: Problem
    group: str
    path: str
    """`reference` or `own`."""
    whole_steps: bool
    """Whether its parts are steps, and not parts of one."""
    log_local: Floats
    """[S] log-probability of each step after everything before it."""
    worst_rank: npt.NDArray[np.int64]
    """[S] rank of the least likely token of each step; 0 is the most likely token."""
    removed_by: tuple[tuple[str, ...], ...]
    """[S] truncations that remove one of its tokens."""
    num_tokens: int

    @property
    def log_reach(self) -> Floats:
        """[S] log-probability of everything before each step."""
        return np.concatenate([[0.0], np.cumsum(self.log_local)[:-1]])

    def binding(self, epsilon: float) -> Binding:
        """What binds it: walked from the start, the first thing that is rarer than epsilon."""
        return bind(self.log_local, epsilon)


def bind(log_local: Floats, epsilon: float) -> Binding:
    """What binds a path.

    Args:
        log_local: [S] log-probability of each step after everything before it.
        epsilon: Rate under which something is out of support.
    """
    edge, reach = np.log(epsilon), np.concatenate([[0.0], np.cumsum(log_local)])
    weakest = int(np.argmin(log_local))
    for step, local in enumerate(log_local):
        if local < edge:
            kind, weakest = (FIRST_STEP if step == 0 else STEP), step
            break
        if reach[step + 1] < edge:
            kind, weakest = CHAIN, int(np.argmin(log_local[: step + 1]))
            break
    else:
        kind = REACHABLE
    return Binding(kind=kind, step=weakest, log_reach=float(reach[weakest]), log_local=float(log_local[weakest]))


def removed_by(scores: TokenScores) -> dict[str, npt.NDArray[np.bool_]]:
    """Truncation → [T] whether it removes each token; those that the engine cannot tell are left out."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, (kind, value) in TRUNCATIONS.items():
        if kind == "top_k":
            found[name] = np.asarray(scores.ranks >= value)
        elif kind == "top_p" and scores.mass_above is not None:
            found[name] = np.asarray(scores.mass_above >= value)
        elif kind == "min_p" and scores.top_logprobs is not None:
            found[name] = np.asarray(scores.logprobs < scores.top_logprobs + np.log(value))
    return found


class AvailabilityOutcome(StrEnum):
    """What keeps most of the right paths that are not likely enough from being sampled."""

    FIRST_STEP = "first_step"
    STEP = "step"
    CHAIN = "chain"
    REACHABLE = "reachable"
    """Nothing: all of them are likely enough."""
    NO_PATHS = "no_paths"


class Availability:
    """Reachability and availability of right paths, step by step."""

    name = "availability"
    question = QUESTIONS[name]

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        problems = behavior.split(split)
        texts = [len(reference.text.encode()) + 1 for p in problems for reference in p.references[:1]]
        own = min(MOST_PATHS, len(problems)) * behavior.sampling.max_tokens
        # A token has a byte at least. Reference paths are scored twice: as they are, and with a wrong answer.
        references = 2 * sum(sorted(texts, reverse=True)[:MOST_PATHS])
        return ProbeCost(
            scored_tokens=references + own, when="where there are references or right samples, and it is not mastered"
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if context.measured.paths is None and not context.measured.counts.num_correct.any():
            return SkipReason.NO_RIGHT_PATHS
        if context.measured.posterior.label is Bottleneck.MASTERED:
            return SkipReason.MASTERED
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        rng = _generator(context)
        scored = _references(context, rng)
        own = _own(context, rng)
        margins = _answer_margins(context, scored, rng)
        paths = [*_score(context, REFERENCE, scored), *_score(context, OWN, own)]
        return _finding(context, paths, margins)


# ------------------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A right path as tokens."""

    problem: Problem
    token_ids: tuple[int, ...]
    parts: npt.NDArray[np.int64]
    """[T] the step, or the part of one, that each token belongs to."""
    whole_steps: bool
    score: PathScore | None = None
    """What is known of a reference path already."""


def _generator(context: ProbeContext) -> np.random.Generator:
    digest = hashlib.sha256(f"{context.seed}\x00{context.measured.behavior.name}\x00{context.sampler.probe}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _parts(num_tokens: int, steps: npt.NDArray[Any] | None) -> tuple[npt.NDArray[np.int64], bool]:
    """[T] parts of a path, numbered on without gaps: its steps where there are several, else even parts of its tokens."""
    if steps is not None and steps.max() > 0:
        return np.asarray(np.unique(steps, return_inverse=True)[1], dtype=np.int64), True
    return np.arange(num_tokens) * min(CHUNKS, num_tokens) // num_tokens, False


def _references(context: ProbeContext, rng: np.random.Generator) -> list[_Known]:
    """The likeliest reference path of each of some problems chosen at random: one way to the answer is enough."""
    best: dict[str, PathScore] = {}
    for path in context.measured.paths.paths if context.measured.paths is not None else ():
        held = best.get(path.problem_id)
        if held is None or path.policy_logprobs.sum() > held.policy_logprobs.sum():
            best[path.problem_id] = path
    problems = [problem for problem in context.measured.problems if problem.id in best]
    chosen = sorted(rng.permutation(len(problems))[:MOST_PATHS].tolist())
    found = []
    for problem in (problems[i] for i in chosen):
        path = best[problem.id]
        parts, whole = _parts(len(path.token_ids), path.token_steps)
        found.append(_Known(problem=problem, token_ids=path.token_ids, parts=parts, whole_steps=whole, score=path))
    return found


def _own(context: ProbeContext, rng: np.random.Generator) -> list[_Known]:
    """One right sample, chosen at random, of each of some problems chosen at random."""
    place = context.measured.rollouts.places([problem.id for problem in context.measured.problems])
    right = (
        context.measured.rollouts.succeeded(context.measured.behavior.measure.success)
        & ~context.measured.rollouts.greedy
        & (place >= 0)
    )
    rows = rng.permutation(np.flatnonzero(right))
    firsts = rows[np.sort(np.unique(place[rows], return_index=True)[1])][:MOST_PATHS]
    problems = {problem.id: problem for problem in context.measured.problems}
    samples: list[Rollout] = context.measured.rollouts.rows(firsts)
    return [
        _Known(
            problem=problems[sample.problem_id],
            token_ids=sample.token_ids,
            parts=_parts(len(sample.token_ids), None)[0],
            whole_steps=False,
        )
        for sample in samples
        if sample.token_ids
    ]


def _score(context: ProbeContext, kind: str, known: Sequence[_Known]) -> list[SteppedPath]:
    """Score paths again, with what truncation would do to them."""
    groups = dict(zip(context.measured.counts.problem_ids, context.measured.counts.groups, strict=True))
    requests = [ScoreRequest(prompt_ids=context.sampler.prompt_ids(one.problem), path_ids=one.token_ids) for one in known]
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
                num_tokens=len(one.token_ids),
            )
        )
    return found


def _answer_margins(context: ProbeContext, known: Sequence[_Known], rng: np.random.Generator) -> dict[str, float]:
    """Problem id → nats by which its reference path is likelier than the same path with another problem's answer in place of its own.

    Of the wrong answers one is taken that has as many tokens, where there is one: a longer answer is less likely for its length alone.
    """
    donors = sorted({problem.answer.strip() for problem in context.measured.problems})
    score_requests: list[tuple[str, float, ScoreRequest]] = []
    for one in known:
        assert one.score is not None
        reference = one.problem.references[one.score.reference_index]
        prompt = context.policy.codec.encode_prompt(one.problem.prompt, context.measured.behavior.prompt)
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
    """The same path with another answer wherever its own stands as a word; None where it does not, or where they are the same."""
    if answer.strip() == other:
        return None
    steps = tuple(replace_answer(step, answer, other) for step in reference.steps)
    return replace(reference, steps=steps) if steps != reference.steps else None


# ------------------------------------------------------------------------------------------------------------------ deciding


def _finding(context: ProbeContext, paths: Sequence[SteppedPath], margins: Mapping[str, float]) -> Finding:
    epsilon = context.measured.behavior.measure.epsilon
    bound = [path.binding(epsilon) for path in paths]
    return Finding(
        probe=context.sampler.probe,
        behavior=context.measured.behavior.name,
        outcome=_outcome(paths, bound),
        summary=_summary(paths, bound),
        numbers=_numbers(context, paths, bound, margins),
        rows=tuple(row for path, binding in zip(paths, bound, strict=True) for row in _rows(path, binding)),
        problems=_per_problem(paths, bound),
        notes=tuple(_notes(context, paths, margins)),
    )


def _rows(path: SteppedPath, binding: Binding) -> list[dict[str, Any]]:
    return [
        {
            "problem": path.problem.id,
            "path": path.path,
            "step": step + 1,
            "steps": len(path.log_local),
            "log_reach": float(path.log_reach[step]),
            "log_local": float(path.log_local[step]),
            "worst_rank": int(path.worst_rank[step]),
            "removed_by": ", ".join(path.removed_by[step]),
            "class": binding.kind,
            "binds": step == binding.step and binding.kind != REACHABLE,
        }
        for step in range(len(path.log_local))
    ]


def _per_problem(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> dict[str, dict[str, Any]]:
    """What binds the reference path of each problem, and the tries it would take."""
    return {
        path.problem.id: {
            "availability": {
                "class": binding.kind,
                "step": binding.step + 1,
                "steps": len(path.log_local),
                "tries_to_pass_step": _tries(binding.log_reach + binding.log_local),
                "tries_of_step_alone": _tries(binding.log_local),
                "tries_of_path": _tries(float(path.log_local.sum())),
            }
        }
        for path, binding in zip(paths, bound, strict=True)
        if path.path == REFERENCE
    }


def _tries(log_probability: float) -> float:
    """1/p, at most 10^15: beyond, only "never" can be meant."""
    return float(f"{np.exp(min(-log_probability, np.log(1e15))):.4g}")


def _numbers(
    context: ProbeContext, paths: Sequence[SteppedPath], bound: Sequence[Binding], margins: Mapping[str, float]
) -> dict[str, Estimate]:
    level = context.thresholds.level
    numbers = {}
    for kind in (REFERENCE, OWN):
        mine = [(path, binding) for path, binding in zip(paths, bound, strict=True) if path.path == kind]
        if not mine:
            continue
        groups = [path.group for path, _ in mine]
        words = "reference paths" if kind == REFERENCE else "own right samples"
        if kind == REFERENCE:
            for name in CLASSES:
                values = [float(binding.kind == name) for _, binding in mine]
                numbers[f"{words}: {name.replace('_', ' ')}"] = _estimate(mean_interval(values, groups, level=level))
        for name in TRUNCATIONS:
            values = [float(any(name in removed for removed in path.removed_by)) for path, _ in mine]
            numbers[f"{words} that {name} removes"] = _estimate(mean_interval(values, groups, level=level))
    if margins:
        groups_of = dict(zip(context.measured.counts.problem_ids, context.measured.counts.groups, strict=True))
        groups = [groups_of[problem_id] for problem_id in margins]
        nats = np.array(list(margins.values()))
        reach = max(1.0, float(np.abs(nats).max()))
        numbers["margin of the right answer, nats"] = _estimate(mean_interval(nats, groups, level=level, low=-reach, high=reach))
        numbers["right answer likelier than a wrong one"] = _estimate(
            mean_interval((nats > 0).astype(np.float64), groups, level=level)
        )
    return numbers


def _estimate(interval: Interval) -> Estimate:
    return Estimate.of(interval)


# --------------------------------------------------------------------------------------------------------------------- words


def _outcome(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> AvailabilityOutcome:
    """Say what binds most of the paths that `_summary` describes."""
    kind = REFERENCE if any(path.path == REFERENCE for path in paths) else OWN
    kinds = [binding.kind for path, binding in zip(paths, bound, strict=True) if path.path == kind]
    if not kinds:
        return AvailabilityOutcome.NO_PATHS
    held = Counter(one for one in kinds if one != REACHABLE)
    return AvailabilityOutcome(held.most_common(1)[0][0] if held else REACHABLE)


def _summary(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> str:
    """Which step binds, and why, in the words of tries; of the references, or of own samples where there are none."""
    kind = REFERENCE if any(path.path == REFERENCE for path in paths) else OWN
    mine = [(path, binding) for path, binding in zip(paths, bound, strict=True) if path.path == kind]
    if not mine:
        return "No right path is known, so nothing can be said of steps."
    what = "reference paths" if kind == REFERENCE else "own right samples"
    kinds = Counter(binding.kind for _, binding in mine)
    held = [(path, binding) for path, binding in mine if binding.kind != REACHABLE]
    if not held:
        (rarest,) = _typical([float(path.log_local.sum()) for path, _ in mine])
        return f"Nothing binds: all {len(mine)} {what} are likely enough to be sampled, typically in 1 of {rarest} tries."
    (step, kind_of), most = Counter((b.step, b.kind) for _, b in held).most_common(1)[0]
    chosen = [(p, b) for p, b in held if (b.step, b.kind) == (step, kind_of)]
    reach, local, whole = _typical(
        [b.log_reach for _, b in chosen], [b.log_local for _, b in chosen], [float(p.log_local.sum()) for p, _ in chosen]
    )
    part = "step" if chosen[0][0].whole_steps else "part"
    lengths = {len(p.log_local) for p, _ in chosen}
    where = f"{part} {step + 1}" + (f" of {lengths.pop()}" if len(lengths) == 1 else "")
    match kind_of:
        case "first_step":
            head = f"{where} binds in {most} of {len(mine)} {what}: nothing but the prompt stands before it, and it is taken in 1 of {local} tries"
        case "step":
            head = f"{where} binds in {most} of {len(mine)} {what}: its prefix is reached in 1 of {reach} tries, the {part} itself is taken in 1 of {local}"
        case _:
            head = (
                f"the chain binds in {most} of {len(mine)} {what}: no {part} is out of reach where it breaks, but the whole path is taken only in 1 of {whole} tries; "
                f"{where} loses the most (1 of {local})"
            )
    names = {FIRST_STEP: f"first {part}", STEP: f"a later {part}", CHAIN: "the chain", REACHABLE: "nothing"}
    shares = ", ".join(f"{names[name]} {kinds[name]}" for name in CLASSES if kinds[name])
    return f"{head[0].upper()}{head[1:]}. What binds, in number of paths: {shares}."


def _typical(*logs: Sequence[float]) -> list[str]:
    """1/p of the median path, rounded to what people read."""
    return [_round_number(_tries(float(np.median(values)))) for values in logs]


def _round_number(value: float) -> str:
    if value >= 1e9:
        return "more than a billion"
    digits = 1 if value >= 100 else 0 if value < 10 else 1
    scale = 10 ** max(0, int(np.log10(value)) - digits)
    return f"{round(value / scale) * scale:,}"


def _notes(context: ProbeContext, paths: Sequence[SteppedPath], margins: Mapping[str, float]) -> list[Note]:
    notes = []
    factor = context.thresholds.availability.many_paths
    references = {path.problem.id: float(path.log_local.sum()) for path in paths if path.path == REFERENCE}
    own = {path.problem.id: float(path.log_local.sum()) for path in paths if path.path == OWN}
    both = sorted(references.keys() & own.keys())
    if both:
        gap = float(np.median([own[i] - references[i] for i in both]))
        if gap > np.log(factor):
            notes.append(
                Note(
                    code="goes_other_ways",
                    text=(
                        f"On {len(both)} problems with both, the model's own right samples are typically e^{gap:.0f} times as likely as the reference: it "
                        "goes other ways, and what binds the reference need not bind the problem."
                    ),
                )
            )
    _, low, _ = context.measured.posterior.mixture.problem_interval(context.thresholds.level)
    totals = _log_probability_of_references(context)
    solved = [i for i, p in enumerate(context.measured.problems) if p.id in totals and context.measured.counts.num_correct[i] > 0]
    many = [i for i in solved if low[i] > 0 and np.log(low[i]) > totals[context.measured.problems[i].id] + np.log(factor)]
    if many:
        notes.append(
            Note(
                code="many_right_paths",
                text=(
                    f"Many right paths: {len(many)} of {len(solved)} solved problems are solved at least {factor:.0f} times as often as their "
                    "reference paths are likely. There a path's likelihood says little of success."
                ),
            )
        )
    if margins:
        nats = np.array(list(margins.values()))
        interval = mean_interval((nats > 0).astype(np.float64), level=context.thresholds.level)
        if interval.low <= 0.5:
            notes.append(
                Note(
                    code="style_not_knowledge",
                    text=(
                        f"Style, not knowledge: with another problem's answer in it the same path is as likely or likelier in {int((nats <= 0).sum())} of "
                        f"{len(nats)} problems, so a likely path does not show that its answer is known."
                    ),
                )
            )
    if any(path.path == REFERENCE for path in paths) and not any(path.whole_steps for path in paths):
        notes.append(
            Note(
                code="references_without_steps",
                text=f"The references have no steps: they are cut into {CHUNKS} parts of equally many tokens.",
            )
        )
    return notes


def _log_probability_of_references(context: ProbeContext) -> dict[str, float]:
    """Problem id → log-probability of all its reference paths together."""
    totals: dict[str, float] = {}
    for path in context.measured.paths.paths if context.measured.paths is not None else ():
        value = float(path.policy_logprobs.astype(np.float64).sum())
        totals[path.problem_id] = float(np.logaddexp(totals.get(path.problem_id, -np.inf), value))
    return totals
