"""The scaffold probe on scripted models whose dependence on help is planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import SEED, Answers, CountingEngine, note_codes, restarted, sampled_context, with_counts, with_measured

from posttrain.diagnose.engines.codec import completion_text
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext
from posttrain.diagnose.probes.scaffold import (
    HINT_TEMPLATE,
    ScaffoldOutcome,
    ScaffoldProbe,
    with_examples,
    with_hint,
    worked_examples,
)
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Reference,
    Sampling,
    SkipReason,
    Split,
    VerifierSpec,
    default_epsilon,
)


def sums(num: int = 20, *, hints: bool = True, references: bool = True, max_tokens: int = 32) -> Behavior:
    problems = [
        Problem(
            id=f"{split}{i}",
            prompt=f"{i + 2} + {i + start} =",
            answer=str(2 * i + start + 2),
            references=(Reference(steps=(f"{i + 2} and {i + start}", f" make {2 * i + start + 2}")),) if references else (),
            key=f"{i + 2}+{i + start}",
            split=split,
            hint="count on from the first" if hints else None,
        )
        for split, start, count in ((Split.EVAL, 100, num), (Split.TRAIN, 300, 8))
        for i in range(count)
    ]
    return Behavior(
        name="sums",
        problems=tuple(problems),
        verifier=VerifierSpec(kind="number"),
        prompt=PromptFormat(format="completion"),
        sampling=Sampling(max_tokens=max_tokens),
        measure=MeasureSettings(epsilon=default_epsilon(8), primary_k=4),
    )


def answers(problem: Problem, p: float) -> Answers:
    return [(problem.references[0].text if problem.references else problem.answer, p), ("it is 0", 1 - p)]


def script(behavior: Behavior, p: Callable[[str, Problem], float]) -> dict[str, Answers]:
    """Return what a model answers bare, with a hint and after examples."""
    examples = worked_examples(behavior, SEED)
    scripts = {}
    for problem in behavior.split(Split.EVAL):
        prompts = {"bare": (problem.prompt, behavior.prompt), "examples": with_examples(problem, behavior.prompt, examples)}
        if problem.hint is not None:
            prompts["hint"] = (with_hint(problem), behavior.prompt)
        for condition, (prompt, prompt_format) in prompts.items():
            scripts[completion_text(prompt, prompt_format)] = answers(problem, p(condition, problem))
    return scripts


def run(behavior: Behavior, p: Callable[[str, Problem], float], folder: Path, **more: Any) -> tuple[Finding, ProbeContext]:
    context = sampled_context(behavior, CountingEngine(script(behavior, p)), folder, "scaffold", **more)
    return ScaffoldProbe().run(context), context


def of(finding: Finding, condition: str) -> Mapping[str, Any]:
    return next(row for row in finding.rows if row["condition"] == condition)


def test_a_behavior_that_depends_on_its_hint(tmp_path: Path) -> None:
    finding, context = run(sums(), lambda condition, _: 0.8 if condition == "hint" else 0.0, tmp_path)
    (one,) = finding.evidence
    assert one.label is Bottleneck.SCAFFOLD_BOUND
    assert set(one.instead_of) == {Bottleneck.MISSING_SUPPORT, Bottleneck.MIXED, Bottleneck.POOR_CHOICE}
    assert one.confidence >= 0.95
    assert "with a hint" in one.because
    row = of(finding, "with a hint")
    assert row["low"] < 0.8 < row["high"]
    assert row["gain_low"] > 0.5
    assert row["n"] == 20 * 4
    assert of(finding, "with worked examples")["c"] == 0
    assert finding.outcome is ScaffoldOutcome.BOUND
    assert ScaffoldProbe().worth(context) is None


def test_a_behavior_that_depends_on_its_examples(tmp_path: Path) -> None:
    finding, _ = run(sums(hints=False), lambda condition, _: 0.9 if condition == "examples" else 0.1, tmp_path)
    (one,) = finding.evidence
    assert one.confidence >= 0.95
    assert "with worked examples" in one.because
    assert {row["condition"] for row in finding.rows} == {"baseline", "with worked examples", "best of 4", "best of 16"}


def test_help_that_changes_nothing_is_no_evidence(tmp_path: Path) -> None:
    finding, _ = run(sums(), lambda condition, _: 0.3, tmp_path)
    assert finding.evidence == ()
    row = of(finding, "with worked examples")
    assert row["gain_low"] < 0 < row["gain_high"]
    assert finding.outcome is ScaffoldOutcome.NOT_SHOWN


def test_a_gain_that_is_no_doubling_is_no_evidence(tmp_path: Path) -> None:
    finding, _ = run(sums(), lambda condition, _: 0.42 if condition == "bare" else 0.65, tmp_path)
    assert finding.evidence == ()
    assert of(finding, "with a hint")["gain"] > 0.1


def test_best_of_n_alone_is_poor_choice(tmp_path: Path) -> None:
    finding, _ = run(sums(hints=False), lambda condition, _: 0.2, tmp_path)
    best = of(finding, "best of 16")
    assert best["rate"] > 0.9
    assert best["gain_low"] > 0.6
    assert best["rate"] == finding.numbers["best of 16"].estimate
    assert finding.evidence == ()


def test_hints_of_a_minority_say_nothing_of_the_behavior(tmp_path: Path) -> None:
    behavior = sums()
    few = [replace(p, hint=p.hint if i < 8 else None) for i, p in enumerate(behavior.problems)]
    finding, _ = run(replace(behavior, problems=tuple(few)), lambda condition, _: 0.9 if condition == "hint" else 0.0, tmp_path)
    assert of(finding, "with a hint")["n_problems"] == 8
    assert finding.evidence == ()


def test_hints_that_state_the_answer_are_left_out(tmp_path: Path) -> None:
    behavior = sums()
    told = [replace(p, hint=f"it is {p.answer}, of course") if i % 2 else p for i, p in enumerate(behavior.problems)]
    finding, _ = run(replace(behavior, problems=tuple(told)), lambda condition, _: 0.9 if condition == "hint" else 0.0, tmp_path)
    assert of(finding, "with a hint")["n_problems"] == 10
    assert "hints_state_the_answer" in note_codes(finding)


def test_readable_with_examples_only_is_format_and_not_support(tmp_path: Path) -> None:
    behavior = sums(hints=False)
    finding, context = run(behavior, lambda condition, _: 0.9 if condition == "examples" else 0.0, tmp_path / "bare")
    assert finding.evidence
    num = context.counts.num_samples
    read = restarted(with_counts(context, num_lenient_correct=num * 3 // 4, num_unparsed=num))
    finding = ScaffoldProbe().run(read)
    assert finding.evidence == ()
    assert "gain_is_format" in note_codes(finding)


def test_half_of_a_teachers_answer(tmp_path: Path) -> None:
    behavior = sums(hints=False, references=False)
    teacher = CountingEngine({p.prompt: [(f"we count and {p.answer} is it, {p.answer}", 1.0)] for p in behavior.problems})  # type: ignore[misc]
    # From "we count and" on, the student nearly always knows; bare it hardly ever starts that way.
    student = {
        p.prompt: [(f"we count and get {p.answer}", 0.04), ("we count and get 0", 0.01), ("it is 0", 0.95)]
        for p in behavior.split(Split.EVAL)
    }
    context = sampled_context(behavior, CountingEngine(student), tmp_path, "scaffold", teacher=teacher)  # type: ignore[arg-type]
    finding = ScaffoldProbe().run(context)
    row = of(finding, "from a teacher's first half")
    assert row["rate"] > 0.6
    (one,) = finding.evidence
    assert "teacher" in one.because
    assert one.instead_of == (Bottleneck.MISSING_SUPPORT,), "half of an answer makes any problem easier that is reached at all"
    assert one.trains_as is Bottleneck.GUIDED_ONLY


def test_the_teachers_half_keeps_the_answer_back(tmp_path: Path) -> None:
    behavior = sums(hints=False, references=False)
    teacher = CountingEngine({p.prompt: [(f"{p.answer} it is and remains for ever {p.answer}", 1.0)] for p in behavior.problems})  # type: ignore[misc]
    student = {p.prompt: [("it is 0", 1.0)] for p in behavior.split(Split.EVAL)}
    finding = ScaffoldProbe().run(sampled_context(behavior, CountingEngine(student), tmp_path, "scaffold", teacher=teacher))  # type: ignore[arg-type]
    assert all(row["condition"] != "from a teacher's first half" for row in finding.rows)
    assert note_codes(finding) & {"left_out", "not_sampled"}


def test_nothing_is_drawn_twice_and_the_finding_is_the_same(tmp_path: Path) -> None:
    behavior = sums()
    engine = CountingEngine(script(behavior, lambda condition, _: 0.7 if condition == "hint" else 0.1))
    first = ScaffoldProbe().run(sampled_context(behavior, engine, tmp_path / "a", "scaffold"))
    calls = engine.calls
    again = ScaffoldProbe().run(sampled_context(behavior, engine, tmp_path / "a", "scaffold"))
    assert engine.calls == calls
    assert again == first
    # Stopped after the first condition: only the rest is drawn.
    sorted((tmp_path / "a" / "probes").glob("*.parquet"))[-1].unlink()
    assert ScaffoldProbe().run(sampled_context(behavior, engine, tmp_path / "a", "scaffold")) == first
    assert engine.calls == calls + 1
    assert ScaffoldProbe().run(sampled_context(behavior, engine, tmp_path / "b", "scaffold")) == first


def test_the_budget_is_kept(tmp_path: Path) -> None:
    behavior = sums()
    for budget in (200, 1000, 3000):
        finding, context = run(behavior, lambda condition, _: 0.1, tmp_path / str(budget), budget=budget)
        assert context.sampler.generated_tokens <= budget
        assert finding.rows[0]["condition"] == "baseline"
    small = sampled_context(behavior, context.policy, tmp_path / "200", "scaffold", budget=50)
    assert ScaffoldProbe().worth(small) is SkipReason.TOO_FEW_TOKENS


def test_examples_are_never_measured_problems() -> None:
    behavior = sums()
    measured = behavior.split(Split.EVAL)[3]
    double = replace(behavior.split(Split.TRAIN)[0], id="double", key=measured.key, prompt=measured.prompt)
    behavior = replace(behavior, problems=(*behavior.problems, double))
    for seed in range(50):
        chosen = worked_examples(behavior, str(seed))
        assert len(chosen) == 3
        assert len({p.answer for p in chosen}) == 3
        assert not {p.key for p in chosen} & {p.key for p in behavior.problems if p.split is not Split.TRAIN}
    assert len({tuple(p.id for p in worked_examples(behavior, str(seed))) for seed in range(20)}) > 5


def test_prompts_with_help() -> None:
    behavior = sums()
    problem, examples = behavior.problems[0], worked_examples(behavior, SEED)
    own = replace(behavior.prompt, examples=(("1 + 1 =", "2"),), template="Q: {question}\nA:")
    prompt, prompt_format = with_examples(problem, own, examples)
    assert prompt == problem.prompt
    assert prompt_format.examples[0] == ("1 + 1 =", "2")
    assert [question for question, _ in prompt_format.examples[1:]] == [example.prompt for example in examples]
    chat = replace(problem, prompt=(Message("system", "be brief"), Message("user", "2 + 100?")))
    turns, same = with_examples(chat, own, examples[:1])
    assert same is own
    assert [turn[0] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[-1] == Message("user", "2 + 100?")
    assert with_hint(problem) == HINT_TEMPLATE.format(hint=problem.hint, question=problem.prompt)
    assert with_hint(chat)[-1] == Message("user", HINT_TEMPLATE.format(hint=problem.hint, question="2 + 100?"))


def test_plan_and_worth(tmp_path: Path) -> None:
    probe = ScaffoldProbe()
    planned = probe.plan(sums(), Split.EVAL, AvailableInputs())
    assert planned.generated_tokens == 2 * 20 * 4 * 32
    assert probe.plan(sums(), Split.EVAL, AvailableInputs(teacher=True)).generated_tokens == (2 * 4 + 5) * 20 * 32
    bare = sums(hints=False, references=False)
    assert probe.plan(bare, Split.EVAL, AvailableInputs()).impossible is SkipReason.NO_SCAFFOLD
    behavior = sums()
    engine = CountingEngine(script(behavior, lambda condition, _: 0.8))
    assert probe.worth(sampled_context(behavior, engine, tmp_path, "scaffold")) is SkipReason.REACHABLE


@pytest.mark.parametrize("adaptive", [False, True])
def test_baseline_rates_of_adaptive_sampling(tmp_path: Path, adaptive: bool) -> None:
    behavior = sums()
    context = sampled_context(
        behavior, CountingEngine(script(behavior, lambda condition, _: 0.8 if condition == "hint" else 0.1)), tmp_path, "scaffold"
    )
    if adaptive:
        more = context.counts.num_samples + np.arange(20) % 3
        counts = replace(context.counts, num_samples=more)
        posterior = posterior_of(counts, epsilon=behavior.measure.epsilon, thresholds=context.thresholds)
        context = with_measured(context, counts=counts, posterior=posterior)
    finding = ScaffoldProbe().run(context)
    row = of(finding, "with a hint")
    assert 0.5 < row["gain_low"] < row["gain"] < row["gain_high"] < 0.85
    assert finding.evidence
    assert of(finding, "best of 16")["gain_low"] > 0.3
