"""Samples of student and teacher under both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.types import Problem, Reference, Rollout, StopReason

OWN = 2
"""Right, and wrong, samples of the student per problem that the teacher reads: the contrast is between problems, so few of each do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Samples of one model under both (arrays of length S)."""

    place: npt.NDArray[np.int64]
    """Of each sample's problem in `MeasuredBehavior.problems`."""
    num_tokens: npt.NDArray[np.int64]
    """As the student writes it."""
    student: npt.NDArray[np.float64]
    """Summed log-probability, nats."""
    teacher: npt.NDArray[np.float64]
    """The same under the teacher."""

    def per_token(self, values: npt.NDArray[np.float64], which: npt.NDArray[np.bool_] | None = None) -> dict[int, float]:
        """Return place of a problem → nats per token over its samples (those of `which`)."""
        chosen = np.ones(len(self.place), dtype=np.bool_) if which is None else which
        return {
            int(place): float(
                values[chosen & (self.place == place)].sum() / self.num_tokens[chosen & (self.place == place)].sum()
            )
            for place in np.unique(self.place[chosen])
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SameTokens:
    """What two tokenizers have in common, on these texts."""

    prompts: bool
    """Whether problems become the same ids."""
    formats: bool
    """Whether both read chats, or both completions: a leading space that belongs to one format is odd in the other."""
    answers: bool
    """Whether answers become the same ids after the same prompt; then logits can be compared token by token."""


def own_samples(context: ProbeContext, sampled: Sequence[int]) -> list[Rollout]:
    """Return the first right and wrong samples of the student, at most `OWN` of each per problem, in a fixed order."""
    table = context.rollouts
    place = table.places([problem.id for problem in context.problems])
    succeeded = table.succeeded(context.behavior.measure.success)
    usable = np.isin(place, sampled) & ~table.greedy & ~table.missing
    chosen: list[int] = []
    for one in sampled:
        for outcome in (True, False):
            rows = np.flatnonzero(usable & (place == one) & (succeeded == outcome))
            chosen += rows[np.argsort(table.sample_index[rows], kind="stable")][:OWN].tolist()
    return [one for one in table.rows(chosen) if is_scorable(one)]


def is_scorable(rollout: Rollout) -> bool:
    """Return whether a sample has a token that the other model can be asked about."""
    return rollout.stop is StopReason.EOS or (rollout.stop is not StopReason.ERROR and bool(rollout.text.strip()))


def compare_tokenizers(context: ProbeContext, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> SameTokens:
    """Return what the tokenizers of student and teacher have in common on these problems and samples."""
    assert context.teacher is not None
    pairs = [tuple(context.sampler.prompt(p, e) for e in (context.policy, context.teacher)) for p in problems]
    prompts = {problem.id: mine for problem, (mine, _) in zip(problems, pairs, strict=True)}
    answers = all(
        context.policy.codec.encode_path(prompts[one.problem_id], Reference(steps=(one.text,))).token_ids[:-1]
        == context.teacher.codec.encode_path(prompts[one.problem_id], Reference(steps=(one.text,))).token_ids[:-1]
        for one in rollouts
    )
    return SameTokens(
        prompts=all(mine.token_ids == other.token_ids for mine, other in pairs),
        formats=all(mine.format == other.format for mine, other in pairs),
        answers=answers,
    )


def score_under_both(context: ProbeContext, rollouts: Sequence[Rollout], same: bool, *, by_teacher: bool) -> Contrast:
    """Return samples of one model scored under both.

    Args:
        context: Holds both engines.
        rollouts: S samples of one of them.
        same: Whether its tokens mean the same to the other.
        by_teacher: Whether the teacher drew them.
    """
    assert context.teacher is not None
    places = {problem.id: place for place, problem in enumerate(context.problems)}
    sums: dict[bool, npt.NDArray[np.float64]] = {}
    lengths: dict[bool, list[int]] = {}
    for is_teacher, engine in {False: context.policy, True: context.teacher}.items():
        known = same and is_teacher == by_teacher
        paths = [one.token_ids if known else _path(context, engine, places[one.problem_id], one, same) for one in rollouts]
        what = f"{'teacher' if by_teacher else 'own'} samples under {'the teacher' if is_teacher else 'the policy'}"
        sums[is_teacher] = context.sampler.total_logprobs(rollouts, paths, engine=engine, what=what, is_teacher=is_teacher)
        lengths[is_teacher] = [len(path) for path in paths]
    return Contrast(
        place=np.array([places[one.problem_id] for one in rollouts], dtype=np.int64),
        num_tokens=np.maximum(1, np.array(lengths[False], dtype=np.int64)),
        student=sums[False],
        teacher=sums[True],
    )


def _path(context: ProbeContext, engine: Engine, place: int, rollout: Rollout, same: bool) -> tuple[int, ...]:
    """Return a sample as the other model's tokens; with the end token of that model where the sample ended by its own."""
    text = rollout.text if same else rollout.text.strip()
    prompt = context.sampler.prompt(context.problems[place], engine)
    path = engine.codec.encode_path(prompt, Reference(steps=(text,)))
    ended = rollout.stop is StopReason.EOS
    if not same:
        return path.token_ids if ended else path.token_ids[:-1]
    return (*rollout.token_ids[:-1], path.token_ids[-1]) if ended else rollout.token_ids
