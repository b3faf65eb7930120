"""The teacher probe on scripted pairs: better and close, better and far, no better, blind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import Answers, CountingEngine, addition_problems, note_codes, sampled_context

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedCodec, ScriptedEngine
from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext
from posttrain.diagnose.probes.finding_json import finding_from_json, finding_to_json
from posttrain.diagnose.probes.teacher import TeacherOutcome, TeacherProbe
from posttrain.diagnose.types import Behavior, Problem, SkipReason, Split


def pair(
    behavior: Behavior,
    student: Callable[[Problem], Answers],
    teacher: Callable[[Problem], Answers],
    folder: Path,
    *,
    kind: type[ScriptedEngine] | None = None,
    **more: Any,
) -> tuple[Finding, ProbeContext]:
    engines = [{str(problem.prompt): answers(problem) for problem in behavior.problems} for answers in (student, teacher)]
    context = sampled_context(
        behavior, CountingEngine(engines[0]), folder, "teacher", teacher=(kind or CountingEngine)(engines[1]), **more
    )
    return TeacherProbe().run(context), context


def rate(p: float) -> Callable[[Problem], Answers]:
    return lambda problem: [(f"it is {problem.answer}", p), ("it is 0", 1 - p)]


def _halves(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(half for one in ids for half in (one // 16, one % 16))


def _whole(ids: Sequence[int]) -> tuple[int, ...]:
    ended = ids[-1:] == (256,)
    body = ids[:-1] if ended else ids
    return (*(16 * a + b for a, b in zip(body[::2], body[1::2], strict=True)), *((256,) if ended else ()))


class ShiftedCodec(ScriptedCodec):
    """Every byte in two halves."""

    def encode_prompt(self, *args: Any) -> Any:
        plain = super().encode_prompt(*args)
        return replace(plain, token_ids=_halves(plain.token_ids))

    def encode_path(self, prompt: Any, reference: Any) -> Any:
        plain = super().encode_path(prompt, reference)
        return replace(plain, token_ids=(*_halves(plain.token_ids[:-1]), 256))


class Shifted(ScriptedEngine):
    """The same texts as other tokens."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.codec = ShiftedCodec()

    def sample(self, requests: Sequence[SampleRequest], *rest: Any, **more: Any) -> Any:
        return super().sample([replace(r, prompt_ids=_whole(r.prompt_ids)) for r in requests], *rest, **more)

    def score(self, requests: Any, **more: Any) -> Any:
        whole = [replace(r, prompt_ids=_whole(r.prompt_ids), path_ids=_whole(r.path_ids)) for r in requests]
        return super().score(whole, **more)


def test_a_better_teacher_on_close_paths(tmp_path: Path) -> None:
    finding, context = pair(addition_problems(), rate(0.3), rate(0.85), tmp_path)
    assert finding.outcome is TeacherOutcome.SEES_STUDENT_PATHS
    assert finding.outcome.stage == "opd"
    numbers = finding.numbers
    assert numbers["gain of the teacher over the student"].low > 0.3
    assert numbers["teacher pass@1"].low < 0.85 < numbers["teacher pass@1"].high
    # Exactly: KL over whole answers of 10 and 8 tokens; on the student's side with the shares that came up.
    solved = context.counts.num_correct / context.counts.num_samples
    ratio = solved * np.log(0.3 / 0.85) + (1 - solved) * np.log(0.7 / 0.15)
    found = numbers["reverse KL, nats per token of student samples"]
    assert found.estimate == pytest.approx((ratio / (10 * solved + 8 * (1 - solved))).mean(), rel=1e-4)
    forward = (0.85 * np.log(0.85 / 0.3) + 0.15 * np.log(0.15 / 0.7)) / (0.85 * 10 + 0.15 * 8)
    found = numbers["forward KL, nats per token of teacher samples"]
    assert found.low < forward < found.high
    assert numbers["teacher ranks right above wrong"].estimate == 1.0
    assert "same_tokens" in note_codes(finding)
    assert finding.evidence == ()
    assert context.sampler.teacher_tokens > 0
    assert finding_from_json(finding_to_json(finding)) == finding


def test_a_better_teacher_far_away(tmp_path: Path) -> None:
    finding, _ = pair(addition_problems(), rate(0.1), lambda problem: [(f"so we get {problem.answer}", 1.0)], tmp_path)
    assert finding.outcome is TeacherOutcome.TEACHER_PATHS_FAR
    assert finding.outcome.stage == "seq_kd"
    assert finding.numbers["forward KL, nats per token of teacher samples"].low > 1


def test_a_teacher_that_never_saw_the_students_paths(tmp_path: Path) -> None:
    # The student writes the teacher's answers now and then, the teacher never the student's wrong ones.
    finding, _ = pair(
        addition_problems(),
        lambda problem: [(f"it is {problem.answer}", 0.4), ("no one knows it", 0.6)],
        lambda problem: [(f"it is {problem.answer}", 1.0)],
        tmp_path,
    )
    assert finding.outcome is TeacherOutcome.STUDENT_PATHS_FAR
    assert finding.outcome.stage == "seq_kd"


def test_an_equal_teacher_is_not_worth_it(tmp_path: Path) -> None:
    finding, context = pair(addition_problems(), rate(0.4), rate(0.4), tmp_path)
    assert finding.outcome.stage == "none"
    assert TeacherProbe().worth(context) is SkipReason.SAME_MODEL
    assert finding.numbers["teacher ranks right above wrong"].estimate == 0.5
    assert finding.numbers["reverse KL, nats per token of student samples"].estimate == 0.0
    worse, _ = pair(addition_problems(), rate(0.8), rate(0.1), tmp_path / "worse")
    assert worse.outcome is TeacherOutcome.NO_BETTER


def test_a_teacher_that_cannot_tell_right_from_wrong_on_the_students_paths(tmp_path: Path) -> None:
    # It is right by a way of its own, and no better than the student where it goes the student's way.
    finding, _ = pair(
        addition_problems(),
        lambda problem: [(f"it is {problem.answer}", 0.28), ("it is 0", 0.7), (f"as {problem.answer}", 0.02)],
        lambda problem: [(f"it is {problem.answer}", 0.1), ("it is 0", 0.3), (f"as {problem.answer}", 0.6)],
        tmp_path,
    )
    assert finding.numbers["gain of the teacher over the student"].low > 0.2
    assert finding.numbers["forward KL, nats per token of teacher samples"].high < 1
    assert finding.outcome is TeacherOutcome.NO_PREFERENCE_FOR_RIGHT
    assert finding.outcome.stage == "seq_kd"


def test_other_tokens_only_leave_the_text(tmp_path: Path) -> None:
    finding, _ = pair(addition_problems(), rate(0.3), rate(0.85), tmp_path, kind=Shifted)
    assert finding.outcome is TeacherOutcome.TOKENIZERS_DIFFER
    assert finding.outcome.stage == "seq_kd"
    same, _ = pair(addition_problems(), rate(0.3), rate(0.85), tmp_path / "same")
    name = "teacher ranks right above wrong"
    assert finding.numbers[name].estimate == same.numbers[name].estimate


def test_a_student_without_a_right_sample(tmp_path: Path) -> None:
    finding, _ = pair(addition_problems(), rate(0.0), rate(0.9), tmp_path)
    assert finding.outcome.stage == "seq_kd"
    assert "teacher ranks right above wrong" not in finding.numbers
    assert "no_right_and_wrong" in note_codes(finding)


def test_plan_and_worth(tmp_path: Path) -> None:
    probe = TeacherProbe()
    assert probe.plan(addition_problems(), Split.EVAL, AvailableInputs()).impossible is SkipReason.NO_TEACHER
    assert probe.plan(addition_problems(), Split.EVAL, AvailableInputs(teacher=True)).generated_tokens == 24 * 4 * 32
    _, context = pair(addition_problems(), rate(1.0), rate(1.0), tmp_path)
    assert probe.worth(context) is SkipReason.MASTERED
    finding, poor = pair(addition_problems(), rate(0.2), rate(1.0), tmp_path / "poor", budget=3)
    assert probe.worth(poor) is SkipReason.TOO_FEW_TOKENS
    assert finding.outcome.stage == "none"


def test_nothing_is_drawn_twice_and_the_finding_is_the_same(tmp_path: Path) -> None:
    first, context = pair(addition_problems(), rate(0.3), rate(0.8), tmp_path / "a")
    assert isinstance(context.teacher, CountingEngine)
    assert context.teacher.calls == 1
    again, context = pair(addition_problems(), rate(0.3), rate(0.8), tmp_path / "a")
    assert isinstance(context.teacher, CountingEngine)
    assert context.teacher.calls == 0
    assert again == first
    assert pair(addition_problems(), rate(0.3), rate(0.8), tmp_path / "b")[0] == first
