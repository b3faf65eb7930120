"""The decoding probe on scripted models whose success under cooler sampling is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext, finding_from_json, finding_to_json
from posttrain.diagnose.probes.decoding import DecodingProbe, ceiling
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.shards import draw, measure, plan_greedy, plan_round
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
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


def run(
    behavior: Behavior, answers: Callable[[int, Problem], Answers], folder: Path, **more: Any
) -> tuple[Finding, ProbeContext]:
    scripts = {str(problem.prompt): answers(i, problem) for i, problem in enumerate(behavior.problems)}
    context = bench_of(behavior, Counting(scripts), folder, "decoding", **more)
    return DecodingProbe().run(context), context


def spread(problem: Problem, right: float) -> Answers:
    """Right at rate `right`, the rest spread over wrong answers that are unlikely each: cooling removes them."""
    return [(f"it is {problem.answer}", right), *((f"{letter}no 0", (1 - right) / 8) for letter in "abcdefgh")]


def of(finding: Finding, condition: str) -> Mapping[str, Any]:
    return next(row for row in finding.rows if row["condition"] == condition)


def test_cooler_sampling_masters_what_greedy_decoding_leaves_open(tmp_path: Path) -> None:
    # Right answers have the majority, so that every temperature below 1 helps.
    finding, context = run(sums(48), lambda _, problem: spread(problem, 0.6), tmp_path)
    (one,) = finding.evidence
    assert one.label is Bottleneck.DECODING
    assert one.instead_of == (Bottleneck.POOR_CHOICE,)
    assert one.confidence >= 0.95
    assert [row["condition"] for row in finding.rows] == ["T = 1", "T = 0.6", "T = 0.3", "greedy"]
    # At T the mass of an answer's first letter is p^(1/T) over the sum of all.
    for temperature in (0.6, 0.3):
        powered = [p ** (1 / temperature) for p in (0.6, *([0.05] * 8))]
        row = of(finding, f"T = {temperature}")
        assert row["low"] < powered[0] / sum(powered) < row["high"]
        assert row["gain_low"] > 0.2
    assert of(finding, "T = 1")["gain"] is None
    assert of(finding, "T = 1")["rate"] == finding.numbers["pass@1 at T = 1"].estimate
    assert "masters it without training" in finding.summary
    assert finding_from_json(finding_to_json(finding)) == finding
    assert "greedy decoding masters it" in DecodingProbe().worth(context)


def test_greedy_loops_leave_it_open(tmp_path: Path) -> None:
    # The likeliest first letter leads into an answer that never ends.
    def answers(_: int, problem: Problem) -> Answers:
        return [("zz " * 40, 0.2), *((f"{letter} is {problem.answer}", 0.1) for letter in "abcdefgh")]

    finding, context = run(sums(48), answers, tmp_path)
    assert (context.sampling.greedy_correct == 0).all()
    assert (ceiling(context) == 1).all()
    assert DecodingProbe().worth(context) == ""
    # Cooling makes the loop likelier still.
    assert of(finding, "T = 0.3")["gain_high"] < 0
    assert finding.evidence == ()


def test_wrong_greedily_and_poor_is_not_decoding(tmp_path: Path) -> None:
    def answers(_: int, problem: Problem) -> Answers:
        return [(f"it is {problem.answer}", 0.3), ("0", 0.7)]

    finding, context = run(sums(), answers, tmp_path)
    assert finding.evidence == ()
    assert "No temperature" in finding.summary
    worth = DecodingProbe().worth(context)
    assert "wrong answer both greedily and in most samples" in worth


def test_half_of_the_problems_is_not_mastered_by_cooling(tmp_path: Path) -> None:
    def answers(i: int, problem: Problem) -> Answers:
        return spread(problem, 0.6) if i % 2 else [(f"it is {problem.answer}", 0.2), ("0", 0.8)]

    finding, context = run(sums(), answers, tmp_path)
    assert finding.evidence == ()
    assert of(finding, "T = 0.3")["gain_low"] > -0.1
    assert "at best" in DecodingProbe().worth(context)


def test_not_worth_it(tmp_path: Path) -> None:
    probe, behavior = DecodingProbe(), sums()

    def context(p: float) -> ProbeContext:
        scripts = {str(problem.prompt): [(problem.answer, p), ("0", 1 - p)] for problem in behavior.problems}
        return bench_of(behavior, Counting(scripts), tmp_path / str(p), "decoding")

    assert "mastered at temperature 1" in probe.worth(context(1.0))
    assert "no sample is right" in probe.worth(context(0.0))


def test_plan() -> None:
    probe = DecodingProbe()
    assert probe.plan(sums(), Split.EVAL, AvailableInputs()).generated_tokens == 2 * 4 * 24 * 32
    cool = replace(sums(), sampling=Sampling(temperature=0.7))
    assert "temperature 1" in probe.plan(cool, Split.EVAL, AvailableInputs()).impossible


def test_nothing_is_drawn_twice_and_the_finding_is_the_same(tmp_path: Path) -> None:
    behavior = sums()
    engine = Counting({str(problem.prompt): spread(problem, 0.5) for problem in behavior.problems})
    first = DecodingProbe().run(bench_of(behavior, engine, tmp_path / "a", "decoding"))
    calls = engine.calls
    assert DecodingProbe().run(bench_of(behavior, engine, tmp_path / "a", "decoding")) == first
    assert engine.calls == calls
    assert DecodingProbe().run(bench_of(behavior, engine, tmp_path / "b", "decoding")) == first


def test_a_small_budget_takes_a_part_of_the_problems(tmp_path: Path) -> None:
    budget = 24 * 2 * 12
    finding, context = run(sums(48), lambda _, problem: spread(problem, 0.5), tmp_path, budget=budget)
    assert context.generated_tokens <= budget
    assert 5 <= of(finding, "T = 0.6")["n_problems"] < 48
    assert of(finding, "T = 1")["n_problems"] == 48
    chosen = set(finding.problems)
    assert chosen != {problem.id for problem in context.problems[: len(chosen)]}
    nothing, context = run(sums(48), lambda _, problem: spread(problem, 0.5), tmp_path, budget=10)
    assert context.generated_tokens == 0
    assert nothing.evidence == ()
