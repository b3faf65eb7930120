"""Whether to distil the teacher, and on whose samples: numbers, rows, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, mean_interval, t_interval
from posttrain.diagnose.probes.base import Finding, Note, ProbeContext
from posttrain.diagnose.probes.conditions import ConditionResult, baseline_rate, signed
from posttrain.diagnose.probes.teacher.contrast import Contrast, SameTokens
from posttrain.diagnose.thresholds import TeacherThresholds
from posttrain.diagnose.types import Estimate

OPD, SEQ_KD, NO_STAGE = "opd", "seq_kd", "none"
RIGHT, WRONG, TEACHERS = "student's right samples", "student's wrong samples", "teacher's samples"


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
    def has_something_to_teach(self) -> bool:
        """Return whether the teacher is not known to be no better than the student."""
        return self not in (TeacherOutcome.NO_BETTER, TeacherOutcome.NOT_SHOWN_BETTER)

    @property
    def stage(self) -> str:
        """Return the stage that fits, `none` where there is nothing to distil."""
        if self is TeacherOutcome.SEES_STUDENT_PATHS:
            return OPD
        nothing = (TeacherOutcome.NO_BETTER, TeacherOutcome.NOT_SHOWN_BETTER, TeacherOutcome.NOT_MEASURED)
        return NO_STAGE if self in nothing else SEQ_KD


def make_finding(
    context: ProbeContext,
    success: ConditionResult,
    of_student: Contrast,
    of_teacher: Contrast,
    right: npt.NDArray[np.bool_],
    tokens: SameTokens,
) -> Finding:
    """Return whether to distil the teacher, and on whose samples.

    Args:
        context: Of the probe.
        success: The teacher's samples, beside the student's.
        of_student: Samples of the student under both.
        of_teacher: Samples of the teacher under both.
        right: [S] which samples of the student are right.
        tokens: What the tokenizers have in common.
    """
    level, groups = context.thresholds.level, context.counts.groups
    ratio = of_student.teacher - of_student.student
    # Right and wrong samples count as often as they come up, not as often as they were chosen.
    reverse = _nats(_reweighed(context, of_student, -ratio, right), groups, level)
    forward = _nats(of_teacher.per_token(of_teacher.teacher - of_teacher.student), groups, level)
    shares, margins = _right_above_wrong(context, of_student, ratio, right)
    above = mean_interval(list(shares.values()), [groups[place] for place in shares], level=level)
    margin = _nats(margins, groups, level)

    student = baseline_rate(context)
    outcome = decide_outcome(success.gain, reverse, forward, above, tokens, context.thresholds.teacher)
    stage, why = outcome.stage, _why(outcome, reverse, forward, above)
    notes = [_tokens_note(tokens)]
    if np.isnan(above.estimate):
        text = "No problem has right and wrong samples of the student: whether the teacher tells them apart is not known."
        notes.append(Note("no_right_and_wrong", text))
    notes += [
        Note(
            "nearness_borderline",
            f"Near or far is borderline: the {name} is {value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}] nats per token, {context.thresholds.teacher.far:g} counts as far.",
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
        outcome=outcome,
        summary=f"The teacher solves {success.rate.estimate:.2f} where the student solves {student.estimate:.2f} "
        f"(gain {signed(success.gain)}); {why}: {_WORDS[stage]}.",
        numbers={name: Estimate.of(value) for name, value in numbers.items() if np.isfinite(value.estimate)},
        rows=_rows(context, success, student, of_student, of_teacher, right),
        problems=_per_problem(context, success, of_student, of_teacher),
        of_stages={name: f"{_VERDICTS[stage][name]}, since {why}" for name in (OPD, SEQ_KD)},
        rules_out={} if outcome.has_something_to_teach else dict.fromkeys(_DISTILLING, why),
        notes=tuple(notes),
    )


_DISTILLING = ("opd", "gkd", "minillm", "seq_kd", "logit_kd")
_WORDS = {OPD: "on-policy distillation (opd) fits", SEQ_KD: "off-policy traces first (seq_kd)", NO_STAGE: "not worth distilling"}
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
            "tokenizers_differ",
            "The tokenizers differ: only text can be distilled, and likelihoods are those of text encoded anew.",
        )
    if tokens.prompts:
        return Note("same_tokens", "Both read prompts and answers as the same tokens: logits can be distilled.")
    form = "" if tokens.formats else ", one as chats and the other as completions; likelihoods are those of text encoded anew"
    return Note(
        "prompts_differ",
        f"Both read answers as the same tokens, so that logits can be distilled; they write prompts differently{form}.",
    )


def _reweighed(
    context: ProbeContext, contrast: Contrast, values: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> dict[int, float]:
    """Return place of a problem → expected nats per expected token under the student, from samples chosen by outcome."""
    found = {}
    for place in np.unique(contrast.place):
        here = contrast.place == place
        solved = context.counts.num_correct[place] / max(1, int(context.counts.num_samples[place]))
        weights = np.zeros(len(contrast.place))
        for which, share in ((here & right, solved), (here & ~right, 1.0 - solved)):
            weights[which] = share / max(1, int(which.sum()))
        found[int(place)] = float((weights * values).sum() / (weights * contrast.num_tokens).sum())
    return found


def _right_above_wrong(
    context: ProbeContext, contrast: Contrast, ratio: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> tuple[dict[int, float], dict[int, float]]:
    """Compare the log-ratios of right and wrong samples, for each problem that has both.

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
    """Return the interval for the mean over problems of a number without bounds."""
    return t_interval(list(values.values()), [groups[place] for place in values], level=level, method="t over problems")


def _rows(
    context: ProbeContext,
    success: ConditionResult,
    student: Interval,
    of_student: Contrast,
    of_teacher: Contrast,
    right: npt.NDArray[np.bool_],
) -> tuple[dict[str, Any], ...]:
    """Return success of both, and log-probability per token of each kind of samples under both."""
    rows = [
        _row("success", "all problems", "student", student, len(context.problems)),
        _row("success", "all problems", "teacher", success.rate, len(success.sampled)),
    ]
    for name, contrast, which in (
        (RIGHT, of_student, right),
        (WRONG, of_student, ~right),
        (TEACHERS, of_teacher, np.ones(len(of_teacher.place), dtype=np.bool_)),
    ):
        for model, sums in (("student", contrast.student), ("teacher", contrast.teacher)):
            values = contrast.per_token(sums, which)
            interval = _nats(values, context.counts.groups, context.thresholds.level)
            rows.append(_row("likelihood", name, model, interval, len(values)))
    return tuple(rows)


def _row(panel: str, of: str, under: str, interval: Interval, n_problems: int) -> dict[str, Any]:
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    finite = {key: float(value) if np.isfinite(value) else None for key, value in ends.items()}
    return {"panel": panel, "of": of, "under": under, **finite, "n_problems": n_problems}


def _per_problem(
    context: ProbeContext, success: ConditionResult, of_student: Contrast, of_teacher: Contrast
) -> dict[str, dict[str, Any]]:
    reverse = of_student.per_token(of_student.student - of_student.teacher)
    forward = of_teacher.per_token(of_teacher.teacher - of_teacher.student)
    return {
        context.problems[place].id: {
            "teacher_num_samples": int(samples),
            "teacher_num_correct": int(correct),
            "reverse_kl_per_token": reverse.get(int(place)),
            "forward_kl_per_token": forward.get(int(place)),
        }
        for place, samples, correct in zip(success.sampled, success.num_samples, success.num_correct, strict=True)
    }
