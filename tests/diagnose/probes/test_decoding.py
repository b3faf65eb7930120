"""The decoding probe on scripted models whose success under cooler sampling is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.probes import Answers, CountingEngine, addition_problems, sampled_context

from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext
from posttrain.diagnose.probes.decoding import DecodingOutcome, DecodingProbe, ceiling
from posttrain.diagnose.probes.finding_json import finding_from_json, finding_to_json
from posttrain.diagnose.types import Behavior, Bottleneck, Problem, Sampling, SkipReason, Split


def run(
    behavior: Behavior, answers: Callable[[int, Problem], Answers], folder: Path, **more: Any
) -> tuple[Finding, ProbeContext]:
    scripts = {str(problem.prompt): answers(i, problem) for i, problem in enumerate(behavior.problems)}
    context = sampled_context(behavior, CountingEngine(scripts), folder, "decoding", **more)
    return DecodingProbe().run(context), context


def spread(problem: Problem, right: float) -> Answers:
    """Right at rate `right`, the rest spread over wrong answers that are unlikely each: cooling removes them."""
    return [(f"it is {problem.answer}", right), *((f"{letter}no 0", (1 - right) / 8) for letter in "abcdefgh")]


def of(finding: Finding, condition: str) -> Mapping[str, Any]:
    return next(row for row in finding.rows if row["condition"] == condition)


def test_cooler_sampling_masters_what_greedy_decoding_leaves_open(tmp_path: Path) -> None:
    # Right answers have the majority, so that every temperature below 1 helps.
    finding, context = run(addition_problems(48), lambda _, problem: spread(problem, 0.6), tmp_path)
    (one,) = finding.evidence
    assert one.label is Bottleneck.DECODING
    assert one.instead_of == (Bottleneck.MIXED, Bottleneck.POOR_CHOICE)
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
    assert finding.outcome is DecodingOutcome.MASTERS
    assert finding_from_json(finding_to_json(finding)) == finding
    assert DecodingProbe().worth(context) is SkipReason.GREEDY_MASTERS


def test_greedy_loops_leave_it_open(tmp_path: Path) -> None:
    # The likeliest first letter leads into an answer that never ends.
    def answers(_: int, problem: Problem) -> Answers:
        return [("zz " * 40, 0.2), *((f"{letter} is {problem.answer}", 0.1) for letter in "abcdefgh")]

    finding, context = run(addition_problems(48), answers, tmp_path)
    assert (context.counts.greedy_correct == 0).all()
    assert (ceiling(context) == 1).all()
    assert DecodingProbe().worth(context) is None
    # Cooling makes the loop likelier still.
    assert of(finding, "T = 0.3")["gain_high"] < 0
    assert finding.evidence == ()


def test_wrong_greedily_and_poor_is_not_decoding(tmp_path: Path) -> None:
    def answers(_: int, problem: Problem) -> Answers:
        return [(f"it is {problem.answer}", 0.3), ("0", 0.7)]

    finding, context = run(addition_problems(), answers, tmp_path)
    assert finding.evidence == ()
    assert finding.outcome is DecodingOutcome.NOT_SHOWN
    assert DecodingProbe().worth(context) is SkipReason.COOLING_CANNOT_HELP


def test_half_of_the_problems_is_not_mastered_by_cooling(tmp_path: Path) -> None:
    def answers(i: int, problem: Problem) -> Answers:
        return spread(problem, 0.6) if i % 2 else [(f"it is {problem.answer}", 0.2), ("0", 0.8)]

    finding, context = run(addition_problems(), answers, tmp_path)
    assert finding.evidence == ()
    assert of(finding, "T = 0.3")["gain_low"] > -0.1
    assert DecodingProbe().worth(context) is SkipReason.COOLING_CANNOT_HELP


def test_not_worth_it(tmp_path: Path) -> None:
    probe, behavior = DecodingProbe(), addition_problems()

    def context(p: float) -> ProbeContext:
        scripts = {str(problem.prompt): [(problem.answer, p), ("0", 1 - p)] for problem in behavior.problems}
        return sampled_context(behavior, CountingEngine(scripts), tmp_path / str(p), "decoding")

    assert probe.worth(context(1.0)) is SkipReason.MASTERED
    assert probe.worth(context(0.0)) is SkipReason.NOTHING_TO_COOL


def test_plan() -> None:
    probe = DecodingProbe()
    assert probe.plan(addition_problems(), Split.EVAL, AvailableInputs()).generated_tokens == 2 * 4 * 24 * 32
    cool = replace(addition_problems(), sampling=Sampling(temperature=0.7))
    assert probe.plan(cool, Split.EVAL, AvailableInputs()).impossible is SkipReason.DEPLOYMENT_POLICY


def test_nothing_is_drawn_twice_and_the_finding_is_the_same(tmp_path: Path) -> None:
    behavior = addition_problems()
    engine = CountingEngine({str(problem.prompt): spread(problem, 0.5) for problem in behavior.problems})
    first = DecodingProbe().run(sampled_context(behavior, engine, tmp_path / "a", "decoding"))
    calls = engine.calls
    assert DecodingProbe().run(sampled_context(behavior, engine, tmp_path / "a", "decoding")) == first
    assert engine.calls == calls
    assert DecodingProbe().run(sampled_context(behavior, engine, tmp_path / "b", "decoding")) == first


def test_a_small_budget_takes_a_part_of_the_problems(tmp_path: Path) -> None:
    budget = 24 * 2 * 12
    finding, context = run(addition_problems(48), lambda _, problem: spread(problem, 0.5), tmp_path, budget=budget)
    assert context.sampler.generated_tokens <= budget
    assert 5 <= of(finding, "T = 0.6")["n_problems"] < 48
    assert of(finding, "T = 1")["n_problems"] == 48
    chosen = set(finding.problems)
    assert chosen != {problem.id for problem in context.problems[: len(chosen)]}
    nothing, context = run(addition_problems(48), lambda _, problem: spread(problem, 0.5), tmp_path, budget=10)
    assert context.sampler.generated_tokens == 0
    assert nothing.evidence == ()
    assert nothing.outcome is DecodingOutcome.NOT_MEASURED


def test_greedy_decoding_at_the_threshold_is_doubt_in_the_label(tmp_path: Path) -> None:
    """Nine of ten greedy answers are right and cooler sampling falls short: whether decoding is all that binds is open."""

    def answers(place: int, problem: Problem) -> Answers:
        right, wrong = (0.4, 0.35) if place % 10 else (0.35, 0.4)
        return [(f"it is {problem.answer}", right), ("no 0", wrong), ("we pass", 0.25)]

    finding, context = run(addition_problems(40), answers, tmp_path)
    assert context.counts.greedy_correct.mean() == 0.9
    assert of(finding, "T = 0.3")["high"] < 0.9
    (evidence,) = finding.evidence
    assert evidence.label is Bottleneck.DECODING
    assert 0.2 < evidence.confidence < 0.8
    assert finding.outcome is DecodingOutcome.NOT_SHOWN
