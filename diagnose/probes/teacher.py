"""The teacher probe: is there something to distil, and should it be taken on the student's own samples or on the teacher's?

**Something to distil**: the teacher's success on the same problems, paired with the student's.

**Where to take it.** On-policy distillation (GKD, arXiv 2306.13649; MiniLLM, arXiv 2306.08543) corrects what the student writes, so the
teacher must see the student's paths and tell right from wrong on them, and the student must come near the teacher's: three numbers.

* *reverse KL* per token, E_student[log student − log teacher] on the student's samples: far where the teacher finds them odd;
* *forward KL* per token, E_teacher[log teacher − log student] on the teacher's samples: far where the student never writes so;
* *right above wrong*: of two samples of one problem, how often the right one has the greater log teacher − log student over the whole
  answer. That is the return of on-policy distillation, and by its exponential the odds of the two answers change where the student becomes
  the teacher. Where the comparison is a coin's toss, the gradient knows nothing of success.

A student far from the teacher's paths is first shown them (`seq_kd`, arXiv 1606.07947). The order is that of the survey: import what is
not reached off policy, correct what is reached on policy (arXiv 2604.07941 §7.2.1).

**Which tokens.** Both terms of a difference come from the models' scorers, so that two equal models are 0 apart and not the distance
between a sampler's and a scorer's precision. Where both engines encode the same prompts and answers to the same ids, the sampled tokens
themselves are scored, the end token in each model's own dialect. Elsewhere the *text* is encoded anew for both models and each scores its
own tokens; the sums are compared and given per token of the student. A text has other tokenisations, which such a sum leaves out: it is a
lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, mean_interval, t_interval
from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt, Engine, ScoreRequest
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Note, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.probes.conditions import (
    SAMPLES,
    Measured,
    affordable,
    bare_rate,
    enough,
    in_random_order,
    measured,
    signed,
)
from posttrain.diagnose.probes.scaffold import MOST_PROBLEMS
from posttrain.diagnose.thresholds import TeacherThresholds
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, Problem, Reference, Rollout, SkipReason, Split, StopReason

OPD, SEQ_KD, NO_STAGE = "opd", "seq_kd", "none"
OWN = 2
"""Right, and wrong, samples of the student per problem that the teacher reads: the contrast is between problems, so few of each do."""
RIGHT, WRONG, TEACHERS = "student's right samples", "student's wrong samples", "teacher's samples"
_TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Samples of one model under both (arrays of length S)."""

    place: npt.NDArray[np.int64]
    """Of each sample's problem in `ProbeContext.problems`."""
    num_tokens: npt.NDArray[np.int64]
    """As the student writes it."""
    student: npt.NDArray[np.float64]
    """Summed log-probability, nats."""
    teacher: npt.NDArray[np.float64]
    """The same under the teacher."""

    def per_token(self, values: npt.NDArray[np.float64], which: npt.NDArray[np.bool_] | None = None) -> dict[int, float]:
        """Place of a problem → nats per token over its samples (those of `which`)."""
        chosen = np.ones(len(self.place), dtype=np.bool_) if which is None else which
        return {
            int(place): float(
                values[chosen & (self.place == place)].sum() / self.num_tokens[chosen & (self.place == place)].sum()
            )
            for place in np.unique(self.place[chosen])
        }


class TeacherOutcome(StrEnum):
    """Whether to distil the teacher, how, and why."""

    SEES_STUDENT_PATHS = "sees_student_paths"
    """On-policy distillation fits."""
    TOKENIZERS_DIFFER = "tokenizers_differ"
    """Only text can be distilled."""
    TEACHER_PATHS_FAR = "teacher_paths_far"
    """The teacher's paths are far from the student's support: off-policy traces first."""
    STUDENT_PATHS_FAR = "student_paths_far"
    """The teacher cannot judge the student's paths: off-policy traces first."""
    NO_PREFERENCE_FOR_RIGHT = "no_preference_for_right"
    """The teacher is not shown to prefer right samples to wrong ones: off-policy traces first."""
    NO_BETTER = "no_better"
    NOT_SHOWN_BETTER = "not_shown_better"
    NOT_MEASURED = "not_measured"

    @property
    def stage(self) -> str:
        """Return the stage that fits, `none` where there is nothing to distil."""
        if self is TeacherOutcome.SEES_STUDENT_PATHS:
            return OPD
        nothing = (TeacherOutcome.NO_BETTER, TeacherOutcome.NOT_SHOWN_BETTER, TeacherOutcome.NOT_MEASURED)
        return NO_STAGE if self in nothing else SEQ_KD


class TeacherProbe:
    """See the module."""

    name = "teacher"
    question = QUESTIONS[name]

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        if not available.teacher:
            return ProbeCost(impossible=SkipReason.NO_TEACHER)
        problems = min(MOST_PROBLEMS, len(behavior.split(split)))
        limit = behavior.sampling.max_tokens
        return ProbeCost(
            generated_tokens=problems * SAMPLES * limit,
            # Samples of both, scored by both.
            scored_tokens=2 * problems * (SAMPLES + 2 * OWN) * (limit + 1),
            when="where the behavior is not mastered",
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if (
            context.measured.posterior.label is Bottleneck.MASTERED
            and context.measured.posterior.confidence >= context.thresholds.confidence
        ):
            return SkipReason.MASTERED
        if context.teacher is not None and context.teacher.info.model_fingerprint == context.policy.info.model_fingerprint:
            return SkipReason.SAME_MODEL
        if not enough(context, affordable(context, MOST_PROBLEMS, 1)[0]):
            return SkipReason.TOO_FEW_TOKENS
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        assert context.teacher is not None
        most, num = affordable(context, MOST_PROBLEMS, 1)
        drawn = sorted(in_random_order(context, range(len(context.measured.problems)))[:most])
        if not drawn:
            return Finding(
                probe=self.name,
                behavior=context.measured.behavior.name,
                outcome=TeacherOutcome.NOT_MEASURED,
                summary="Not measured: the budget did not hold the teacher's samples of one problem.",
            )
        problems = [context.measured.problems[place] for place in drawn]
        prompt_requests = [
            PromptRequest(
                problem, context.teacher.codec.encode_prompt(problem.prompt, context.measured.behavior.prompt).token_ids, num
            )
            for problem in problems
        ]
        taught = context.sampler.sample(prompt_requests, condition=_TEACHER, engine=context.teacher)
        success = measured(context, _TEACHER, range(len(context.measured.problems)), drawn, taught)
        own = _own_samples(context, drawn)
        theirs = [one for rollouts in taught for one in rollouts if _scorable(one)]
        tokens = _same_tokens(context, problems, [*own, *theirs])
        same = tokens.answers and tokens.formats
        of_student = _contrast(context, own, same, by_teacher=False)
        of_teacher = _contrast(context, theirs, same, by_teacher=True)
        right = np.array([bool(one.succeeded(context.measured.behavior.measure.success)) for one in own], dtype=np.bool_)
        return _finding(context, success, of_student, of_teacher, right, tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class SameTokens:
    """What two tokenizers have in common, on the texts at hand."""

    prompts: bool
    """Whether problems become the same ids."""
    formats: bool
    """Whether both read chats, or both completions: a leading space that belongs to one format is odd in the other."""
    answers: bool
    """Whether answers become the same ids after the same prompt; then logits can be compared token by token."""


def _own_samples(context: ProbeContext, drawn: Sequence[int]) -> list[Rollout]:
    """The first right and wrong samples of the student, at most `OWN` of each per problem, in a fixed order."""
    table = context.measured.rollouts
    place = table.places([problem.id for problem in context.measured.problems])
    succeeded = table.succeeded(context.measured.behavior.measure.success)
    usable = np.isin(place, drawn) & ~table.greedy & ~table.missing
    chosen: list[int] = []
    for one in drawn:
        for outcome in (True, False):
            rows = np.flatnonzero(usable & (place == one) & (succeeded == outcome))
            chosen += rows[np.argsort(table.sample_index[rows], kind="stable")][:OWN].tolist()
    return [one for one in table.rows(chosen) if _scorable(one)]


def _scorable(rollout: Rollout) -> bool:
    """Whether a sample has a token that the other model can be asked about."""
    return rollout.stop is StopReason.EOS or (rollout.stop is not StopReason.ERROR and bool(rollout.text.strip()))


def _same_tokens(context: ProbeContext, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> SameTokens:
    assert context.teacher is not None
    pairs = [
        tuple(e.codec.encode_prompt(p.prompt, context.measured.behavior.prompt) for e in (context.policy, context.teacher))
        for p in problems
    ]
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


def _contrast(context: ProbeContext, rollouts: Sequence[Rollout], same: bool, *, by_teacher: bool) -> Contrast:
    """Samples of one model under both.

    Args:
        context: Holds both engines.
        rollouts: S samples of one of them.
        same: Whether its tokens mean the same to the other.
        by_teacher: Whether the teacher drew them.
    """
    assert context.teacher is not None
    known = {problem.id: (place, problem) for place, problem in enumerate(context.measured.problems)}
    engines = {False: context.policy, True: context.teacher}
    sums: dict[bool, npt.NDArray[np.float64]] = {}
    lengths: dict[bool, list[int]] = {}
    for is_teacher, engine in engines.items():
        prompts = [
            engine.codec.encode_prompt(known[one.problem_id][1].prompt, context.measured.behavior.prompt) for one in rollouts
        ]
        if same and is_teacher == by_teacher:
            paths = [one.token_ids for one in rollouts]
        else:
            paths = [_path(engine, prompt, one, same) for prompt, one in zip(prompts, rollouts, strict=True)]
        requests = [ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path) for prompt, path in zip(prompts, paths, strict=True)]
        what = f"{'teacher' if by_teacher else 'own'} samples under {'the teacher' if is_teacher else 'the policy'}"
        scores = context.sampler.score(requests, engine=engine, what=what, is_teacher=is_teacher)
        sums[is_teacher] = np.array([score.logprobs.sum(dtype=np.float64) for score in scores])
        lengths[is_teacher] = [len(path) for path in paths]
    return Contrast(
        place=np.array([known[one.problem_id][0] for one in rollouts], dtype=np.int64),
        num_tokens=np.maximum(1, np.array(lengths[False], dtype=np.int64)),
        student=sums[False],
        teacher=sums[True],
    )


def _path(engine: Engine, prompt: EncodedPrompt, rollout: Rollout, same: bool) -> tuple[int, ...]:
    """A sample as the other model's tokens; with the end token of that model where the sample ended by its own."""
    text = rollout.text if same else rollout.text.strip()
    path: EncodedPath = engine.codec.encode_path(prompt, Reference(steps=(text,)))
    ended = rollout.stop is StopReason.EOS
    if not same:
        return path.token_ids if ended else path.token_ids[:-1]
    return (*rollout.token_ids[:-1], path.token_ids[-1]) if ended else rollout.token_ids


# ----------------------------------------------------------------------------------------------------------------- what it says


def _finding(
    context: ProbeContext,
    success: Measured,
    of_student: Contrast,
    of_teacher: Contrast,
    right: npt.NDArray[np.bool_],
    tokens: SameTokens,
) -> Finding:
    level, groups = context.thresholds.level, context.measured.counts.groups
    ratio = of_student.teacher - of_student.student
    # Right and wrong samples count as often as they come up, not as often as they were chosen.
    reverse = _nats(_reweighed(context, of_student, -ratio, right), groups, level)
    forward = _nats(of_teacher.per_token(of_teacher.teacher - of_teacher.student), groups, level)
    shares, margins = _right_above_wrong(context, of_student, ratio, right)
    above = mean_interval(list(shares.values()), [groups[place] for place in shares], level=level)
    margin = _nats(margins, groups, level)

    student = bare_rate(context)
    outcome = decide_outcome(success.gain, reverse, forward, above, tokens, context.thresholds.teacher)
    stage, why = outcome.stage, _why(outcome, reverse, forward, above)
    notes = [_tokens_note(tokens)]
    if np.isnan(above.estimate):
        notes.append(
            Note(
                code="no_right_and_wrong",
                text="No problem has right and wrong samples of the student: whether the teacher tells them apart is not known.",
            )
        )
    notes += [
        Note(
            code="nearness_borderline",
            text=f"Near or far is borderline: the {name} is {value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}] nats per token, {context.thresholds.teacher.far:g} counts as far.",
        )
        for name, value in (("reverse KL", reverse), ("forward KL", forward))
        if value.low < context.thresholds.teacher.far < value.high
    ]
    numbers = {
        "student pass@1": student,
        "teacher pass@1": success.rate,
        "gain of the teacher over the student": success.gain,
        "reverse KL, nats per token of student samples": reverse,
        "forward KL, nats per token of teacher samples": forward,
        "teacher ranks right above wrong": above,
        "margin of right over wrong, nats per answer": margin,
    }
    return Finding(
        probe="teacher",
        behavior=context.measured.behavior.name,
        outcome=outcome,
        summary=f"The teacher solves {success.rate.estimate:.2f} where the student solves {student.estimate:.2f} "
        f"(gain {signed(success.gain)}); {why}: {_WORDS[stage]}.",
        numbers={name: Estimate.of(value) for name, value in numbers.items() if np.isfinite(value.estimate)},
        rows=_rows(context, success, student, of_student, of_teacher, right),
        problems=_per_problem(context, success, of_student, of_teacher),
        of_stages={name: f"{_VERDICTS[stage][name]}, since {why}" for name in (OPD, SEQ_KD)},
        notes=tuple(notes),
    )


_WORDS = {
    OPD: "on-policy distillation (opd) fits",
    SEQ_KD: "off-policy traces first (seq_kd)",
    NO_STAGE: "not worth distilling",
}


_VERDICTS = {
    OPD: {OPD: "fits", SEQ_KD: "opd fits better"},
    SEQ_KD: {OPD: "after seq_kd", SEQ_KD: "fits"},
    NO_STAGE: {OPD: "not worth it", SEQ_KD: "not worth it"},
}


def decide_outcome(
    gain: Interval, reverse: Interval, forward: Interval, above: Interval, tokens: SameTokens, thresholds: TeacherThresholds
) -> TeacherOutcome:
    """Decide in the order of the module: something to distil, tokens that can be compared, nearness, a learning signal."""
    if gain.high <= 0:
        return TeacherOutcome.NO_BETTER
    if not gain.low > 0:
        return TeacherOutcome.NOT_SHOWN_BETTER
    if not tokens.answers:
        return TeacherOutcome.TOKENIZERS_DIFFER
    if forward.estimate > thresholds.far:
        return TeacherOutcome.TEACHER_PATHS_FAR
    if reverse.estimate > thresholds.far:
        return TeacherOutcome.STUDENT_PATHS_FAR
    if above.low <= thresholds.right_above_wrong:  # NaN, where the student has no right samples, is no objection
        return TeacherOutcome.NO_PREFERENCE_FOR_RIGHT
    return TeacherOutcome.SEES_STUDENT_PATHS


def _why(outcome: TeacherOutcome, reverse: Interval, forward: Interval, above: Interval) -> str:
    """Return why the stage of an outcome fits, for people."""
    return {
        TeacherOutcome.NO_BETTER: "the teacher is no better here",
        TeacherOutcome.NOT_SHOWN_BETTER: "the teacher is not shown to be better here",
        TeacherOutcome.TOKENIZERS_DIFFER: "the tokenizers differ, so only text can be distilled",
        TeacherOutcome.TEACHER_PATHS_FAR: f"its paths are far from the student's support ({forward.estimate:.1f} nats per token)",
        TeacherOutcome.STUDENT_PATHS_FAR: f"it cannot see the student's paths (reverse KL {reverse.estimate:.1f} nats per token)",
        TeacherOutcome.NO_PREFERENCE_FOR_RIGHT: "it is not shown to prefer the student's right samples to its wrong ones "
        f"(in {above.estimate:.2f} of pairs)",
        TeacherOutcome.SEES_STUDENT_PATHS: f"it can see the student's paths (reverse KL {reverse.estimate:.1f} nats per token)",
    }[outcome]


def _tokens_note(tokens: SameTokens) -> Note:
    if not tokens.answers:
        return Note(
            code="tokenizers_differ",
            text="The tokenizers differ: only text can be distilled, and likelihoods are those of text encoded anew.",
        )
    if tokens.prompts:
        return Note(code="same_tokens", text="Both read prompts and answers as the same tokens: logits can be distilled.")
    form = "" if tokens.formats else ", one as chats and the other as completions; likelihoods are those of text encoded anew"
    return Note(
        code="prompts_differ",
        text=f"Both read answers as the same tokens, so that logits can be distilled; they write prompts differently{form}.",
    )


def _reweighed(
    context: ProbeContext, contrast: Contrast, values: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> dict[int, float]:
    """Place of a problem → expected nats per expected token under the student, from samples chosen by outcome."""
    found = {}
    for place in np.unique(contrast.place):
        here = contrast.place == place
        solved = context.measured.counts.num_correct[place] / max(1, int(context.measured.counts.num_samples[place]))
        weights = np.zeros(len(contrast.place))
        for which, share in ((here & right, solved), (here & ~right, 1.0 - solved)):
            weights[which] = share / max(1, int(which.sum()))
        found[int(place)] = float((weights * values).sum() / (weights * contrast.num_tokens).sum())
    return found


def _right_above_wrong(
    context: ProbeContext, contrast: Contrast, ratio: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> tuple[dict[int, float], dict[int, float]]:
    """How the log-ratios of right and wrong samples compare, for each problem that has both.

    Returns:
        Place of a problem → share of its pairs in which the right sample has the greater one, and → mean difference in nats. What differs
        by less than the precision of the engines explains is a tie and counts half.
    """
    shares, margins = {}, {}
    unsure = context.policy.info.logprob_tolerance * contrast.num_tokens
    for place in np.unique(contrast.place):
        ours, theirs = (np.flatnonzero((contrast.place == place) & which) for which in (right, ~right))
        if ours.size and theirs.size:
            apart = ratio[ours][:, None] - ratio[theirs][None, :]
            tie = np.abs(apart) <= unsure[ours][:, None] + unsure[theirs][None, :]
            shares[int(place)] = float(np.where(tie, 0.5, apart > 0).mean())
            margins[int(place)] = float(apart.mean())
    return shares, margins


def _nats(values: Mapping[int, float], groups: Sequence[str], level: float) -> Interval:
    """Interval for the mean over problems of a number without bounds."""
    return t_interval(list(values.values()), [groups[place] for place in values], level=level, method="t over problems")


def _rows(
    context: ProbeContext,
    success: Measured,
    student: Interval,
    of_student: Contrast,
    of_teacher: Contrast,
    right: npt.NDArray[np.bool_],
) -> tuple[dict[str, Any], ...]:
    """Success of both, and log-probability per token of each kind of samples under both."""
    rows = [
        _row("success", "all problems", "student", student, len(context.measured.problems)),
        _row("success", "all problems", "teacher", success.rate, len(success.drawn)),
    ]
    for name, contrast, which in (
        (RIGHT, of_student, right),
        (WRONG, of_student, ~right),
        (TEACHERS, of_teacher, np.ones(len(of_teacher.place), dtype=np.bool_)),
    ):
        for model, sums in (("student", contrast.student), ("teacher", contrast.teacher)):
            values = contrast.per_token(sums, which)
            interval = _nats(values, context.measured.counts.groups, context.thresholds.level)
            rows.append(_row("likelihood", name, model, interval, len(values)))
    return tuple(rows)


def _row(panel: str, of: str, under: str, interval: Interval, n_problems: int) -> dict[str, Any]:
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    finite = {key: float(value) if np.isfinite(value) else None for key, value in ends.items()}
    return {"panel": panel, "of": of, "under": under, **finite, "n_problems": n_problems}


def _per_problem(
    context: ProbeContext, success: Measured, of_student: Contrast, of_teacher: Contrast
) -> dict[str, dict[str, Any]]:
    reverse = of_student.per_token(of_student.student - of_student.teacher)
    forward = of_teacher.per_token(of_teacher.teacher - of_teacher.student)
    return {
        context.measured.problems[place].id: {
            "teacher_num_samples": int(samples),
            "teacher_num_correct": int(correct),
            "reverse_kl_per_token": reverse.get(int(place)),
            "forward_kl_per_token": forward.get(int(place)),
        }
        for place, samples, correct in zip(success.drawn, success.num_samples, success.num_correct, strict=True)
    }
