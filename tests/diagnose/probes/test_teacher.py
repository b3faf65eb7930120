"""The teacher probe on scripted pairs: better and close, better and far, no better, blind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedCodec, ScriptedEngine
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext, finding_from_json, finding_to_json
from posttrain.diagnose.probes.teacher import TeacherProbe
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.shards import draw, measure, plan_greedy, plan_round
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Cost,
    Grade,
    GradeStatus,
    MeasureSettings,
    Problem,
    PromptFormat,
    Sampling,
    Split,
    VerifierSpec,
    default_epsilon,
)

SEED = "seed"
Answers = Sequence[tuple[str, float]]


def sums(num: int = 24, *, max_tokens: int = 32) -> Behavior:
    return Behavior(
        name="sums",
        problems=tuple(
            Problem(id=f"p{i}", prompt=f"{i + 2} + {i + 100} =", answer=str(2 * i + 102), key=f"p{i}", split=Split.EVAL)
            for i in range(num)
        ),
        verifier=VerifierSpec(kind="number"),
        prompt=PromptFormat(format="completion"),
        sampling=Sampling(max_tokens=max_tokens),
        measure=MeasureSettings(epsilon=default_epsilon(8), primary_k=4),
    )


def grade(problem: Problem, texts: Sequence[str]) -> list[Grade]:
    """The last word of a text is its answer."""
    words = [(text.split() or [""])[-1] for text in texts]
    return [Grade(status=GradeStatus.SCORED, score=float(word == problem.answer), extracted=word) for word in words]


class Counting(ScriptedEngine):
    """Counts what it is asked for."""

    def __init__(self, scripts: Mapping[str, Answers]):
        super().__init__(scripts)
        self.calls = 0

    def sample(self, requests: Sequence[SampleRequest], *rest: Any, **more: Any) -> Any:
        self.calls += 1
        return super().sample(requests, *rest, **more)


def bench_of(
    behavior: Behavior, engine: ScriptedEngine, folder: Path, probe: str, *, n: int = 16, budget: int = 10**6, **more: Any
) -> ProbeContext:
    """A context over samples that are drawn anew into a folder, or read from it."""
    directory = RunDirectory(folder)
    problems = behavior.split(Split.EVAL)
    none = np.zeros(len(problems), dtype=np.int64)
    for shard in (*plan_greedy(behavior, Split.EVAL), *plan_round(behavior, Split.EVAL, none, none + n, 0)):
        if not directory.shard("rollouts", shard.name).exists():
            ((_, rollouts),) = draw(engine, grade, behavior, [shard], seed=SEED, on_tokens=lambda _: None)
            directory.write_rollouts(shard.name, rollouts, Cost(seconds=0.0))
    table = directory.rollout_table(behavior.name)
    sampling = measure(behavior, problems, table)
    thresholds = Thresholds()
    return ProbeContext(
        probe=probe,
        behavior=behavior,
        split=Split.EVAL,
        problems=problems,
        engine=engine,
        grade=grade,
        sampling=sampling,
        known=posterior_of(sampling, epsilon=behavior.measure.epsilon, thresholds=thresholds),
        rollouts=table,
        paths=None,
        thresholds=thresholds,
        seed=SEED,
        directory=directory,
        reporter=Reporter(quiet=True),
        budget=budget,
        **more,
    )


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
    context = bench_of(behavior, Counting(engines[0]), folder, "teacher", teacher=(kind or Counting)(engines[1]), **more)
    return TeacherProbe().run(context), context


def rate(p: float) -> Callable[[Problem], Answers]:
    return lambda problem: [(f"it is {problem.answer}", p), ("it is 0", 1 - p)]


def advice(finding: Finding) -> str:
    said = {name: words.split(",")[0] for name, words in finding.of_stages.items()}
    return next((name for name, words in said.items() if words == "fits"), "none")


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
    finding, context = pair(sums(), rate(0.3), rate(0.85), tmp_path)
    assert advice(finding) == "opd"
    numbers = finding.numbers
    assert numbers["gain of the teacher over the student"].low > 0.3
    assert numbers["teacher pass@1"].low < 0.85 < numbers["teacher pass@1"].high
    # Exactly: KL over whole answers of 10 and 8 tokens; on the student's side with the shares that came up.
    solved = context.sampling.num_correct / context.sampling.num_samples
    ratio = solved * np.log(0.3 / 0.85) + (1 - solved) * np.log(0.7 / 0.15)
    found = numbers["reverse KL, nats per token of student samples"]
    assert found.estimate == pytest.approx((ratio / (10 * solved + 8 * (1 - solved))).mean(), rel=1e-4)
    forward = (0.85 * np.log(0.85 / 0.3) + 0.15 * np.log(0.15 / 0.7)) / (0.85 * 10 + 0.15 * 8)
    found = numbers["forward KL, nats per token of teacher samples"]
    assert found.low < forward < found.high
    assert numbers["teacher ranks right above wrong"].estimate == 1.0
    assert "(opd) fits" in finding.summary
    assert any("logits can be distilled" in note for note in finding.notes)
    assert finding.evidence == ()
    assert context.teacher_tokens > 0
    assert finding_from_json(finding_to_json(finding)) == finding


def test_a_better_teacher_far_away(tmp_path: Path) -> None:
    finding, _ = pair(sums(), rate(0.1), lambda problem: [(f"so we get {problem.answer}", 1.0)], tmp_path)
    assert advice(finding) == "seq_kd"
    assert "far from the student's support" in finding.summary
    assert finding.numbers["forward KL, nats per token of teacher samples"].low > 1


def test_a_teacher_that_never_saw_the_students_paths(tmp_path: Path) -> None:
    # The student writes the teacher's answers now and then, the teacher never the student's wrong ones.
    finding, _ = pair(
        sums(),
        lambda problem: [(f"it is {problem.answer}", 0.4), ("nobody knows it", 0.6)],
        lambda problem: [(f"it is {problem.answer}", 1.0)],
        tmp_path,
    )
    assert advice(finding) == "seq_kd"
    assert "cannot see the student's paths" in finding.summary


def test_an_equal_teacher_is_not_worth_it(tmp_path: Path) -> None:
    finding, context = pair(sums(), rate(0.4), rate(0.4), tmp_path)
    assert advice(finding) == "none"
    assert TeacherProbe().worth(context) == "the teacher is the same model"
    assert finding.numbers["teacher ranks right above wrong"].estimate == 0.5
    assert finding.numbers["reverse KL, nats per token of student samples"].estimate == 0.0
    worse, _ = pair(sums(), rate(0.8), rate(0.1), tmp_path / "worse")
    assert advice(worse) == "none"
    assert "no better here" in worse.summary


def test_a_teacher_that_cannot_tell_right_from_wrong_on_the_students_paths(tmp_path: Path) -> None:
    # It is right by a way of its own, and no better than the student where it goes the student's way.
    finding, _ = pair(
        sums(),
        lambda problem: [(f"it is {problem.answer}", 0.28), ("it is 0", 0.7), (f"as {problem.answer}", 0.02)],
        lambda problem: [(f"it is {problem.answer}", 0.1), ("it is 0", 0.3), (f"as {problem.answer}", 0.6)],
        tmp_path,
    )
    assert finding.numbers["gain of the teacher over the student"].low > 0.2
    assert finding.numbers["forward KL, nats per token of teacher samples"].high < 1
    assert advice(finding) == "seq_kd"
    assert "not shown to prefer" in finding.summary


def test_other_tokens_only_leave_the_text(tmp_path: Path) -> None:
    finding, _ = pair(sums(), rate(0.3), rate(0.85), tmp_path, kind=Shifted)
    assert advice(finding) == "seq_kd"
    assert "tokenizers differ" in finding.summary
    same, _ = pair(sums(), rate(0.3), rate(0.85), tmp_path / "same")
    name = "teacher ranks right above wrong"
    assert finding.numbers[name].estimate == same.numbers[name].estimate


def test_a_student_without_a_right_sample(tmp_path: Path) -> None:
    finding, _ = pair(sums(), rate(0.0), rate(0.9), tmp_path)
    assert advice(finding) == "seq_kd"
    assert "teacher ranks right above wrong" not in finding.numbers
    assert any("not known" in note for note in finding.notes)


def test_plan_and_worth(tmp_path: Path) -> None:
    probe = TeacherProbe()
    assert "no teacher" in probe.plan(sums(), Split.EVAL, AvailableInputs()).impossible
    assert probe.plan(sums(), Split.EVAL, AvailableInputs(teacher=True)).generated_tokens == 24 * 4 * 32
    _, context = pair(sums(), rate(1.0), rate(1.0), tmp_path)
    assert "nothing to distil" in probe.worth(context)
    finding, poor = pair(sums(), rate(0.2), rate(1.0), tmp_path / "poor", budget=3)
    assert "too few" in probe.worth(poor)
    assert advice(finding) == "none"


def test_nothing_is_drawn_twice_and_the_finding_is_the_same(tmp_path: Path) -> None:
    first, context = pair(sums(), rate(0.3), rate(0.8), tmp_path / "a")
    assert isinstance(context.teacher, Counting)
    assert context.teacher.calls == 1
    again, context = pair(sums(), rate(0.3), rate(0.8), tmp_path / "a")
    assert isinstance(context.teacher, Counting)
    assert context.teacher.calls == 0
    assert again == first
    assert pair(sums(), rate(0.3), rate(0.8), tmp_path / "b")[0] == first
