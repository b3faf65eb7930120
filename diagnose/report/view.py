"""What both pages say, as text: the HTML and the Markdown report are two ways to set the same words and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.analysis.plots.tables import DASH, format_interval, format_number, format_probability
from posttrain.diagnose.report.comparison_view import comparison_view
from posttrain.diagnose.report.content import BehaviorReport, Example, ReportContent
from posttrain.diagnose.report.figures import eval_problems
from posttrain.diagnose.report.text import (
    counted,
    next_command,
    trains,
    unique_slugs,
    visible,
    write_estimate,
    write_setting,
)
from posttrain.diagnose.report.words import BOTTLENECKS, GLOSSARY, OUTCOMES, ROLES, STOPS
from posttrain.diagnose.types import Answer, Bottleneck, Check, Diagnosis, PassAtK, ProblemDiagnosis

View = dict[str, Any]
_MOST_ROWS = 400
_TONES = {Bottleneck.MASTERED: "good", Bottleneck.INVALID: "broken", Bottleneck.INCONCLUSIVE: "open"}


def page_view(content: ReportContent, run_dir: Path) -> View:
    """Everything a page says, formatted.

    Args:
        content: What was measured and decided.
        run_dir: The run, for the command of the next step.

    Returns:
        Nested dicts and lists of strings; `behaviors` and `comparisons` in the order of the content.
    """
    slugs = unique_slugs(report.diagnosis.name for report in content.behaviors)
    behaviors = [behavior_view(report, slug, content, run_dir) for report, slug in zip(content.behaviors, slugs, strict=True)]
    comparison_slugs = unique_slugs(report.name for report in content.comparisons)
    return {
        "title": content.title,
        "model": content.model,
        "checkpoint": content.checkpoint,
        "date": content.date,
        "command": content.command,
        "settings": [(key, write_setting(value)) for key, value in content.settings.items()],
        "versions": list(content.versions.items()),
        "behaviors": behaviors,
        "comparisons": [
            comparison_view(report, f"change-{slug}") for report, slug in zip(content.comparisons, comparison_slugs, strict=True)
        ],
        "glossary": GLOSSARY,
        "states": [(label, meaning) for label, meaning in BOTTLENECKS.values()],
    }


def behavior_view(report: BehaviorReport, slug: str, content: ReportContent, run_dir: Path) -> View:
    """Everything a page says about one behavior."""
    diagnosis = report.diagnosis
    label, meaning = BOTTLENECKS[diagnosis.bottleneck]
    problems = eval_problems(diagnosis.problems)
    primary = report.primary_k or 16
    return {
        "slug": slug,
        "name": diagnosis.name,
        "purpose": diagnosis.purpose.value,
        "label": label,
        "meaning": meaning,
        "tone": _TONES.get(diagnosis.bottleneck, "work"),
        "confidence": format_probability(diagnosis.confidence),
        "sentence": diagnosis.sentence,
        "role": ROLES[diagnosis.role] if diagnosis.role is not None else None,
        "shares": [
            (BOTTLENECKS[Bottleneck(state)][0] if state in set(Bottleneck) else state, format_probability(share))
            for state, share in sorted(diagnosis.shares.items(), key=lambda item: -item[1])
            if share > 0
        ],
        "stage": _stage_view(report),
        "command": next_command(report, content, run_dir),
        "todo": _todo(report),
        "settles": _settles(report),
        "caveats": diagnosis.caveats,
        "summary": {
            "pass_1": _pass_at(diagnosis.pass_at_k, 1),
            "pass_k": _pass_at(diagnosis.pass_at_k, primary),
            "primary_k": primary,
            "greedy": _greedy(report),
            "problems": f"{len(problems)}",
        },
        "epsilon": format_number(report.epsilon),
        "mastered": format_number(report.mastered_threshold),
        "checks": [_check_view(check) for check in diagnosis.checks],
        "probes": [_probe_view(answer, diagnosis) for answer in report.answers],
        "pass_at_k": [
            (str(point.k), write_estimate(point.value), "extrapolated" if point.extrapolated else "observed", point.value.method)
            for point in diagnosis.pass_at_k
        ],
        "examples": [("right", _examples(report.examples_right)), ("wrong", _examples(report.examples_wrong))],
        "validity": {
            "checks": [_check_view(check) for check in report.validity.checks],
            "notes": report.validity.notes,
            "failures": report.validity.failures,
            "prompt": visible(report.validity.prompt_example),
        },
        "problems": _problem_rows(diagnosis.problems),
        "problems_hidden": max(0, len(diagnosis.problems) - _MOST_ROWS),
        "counts": _counts(problems),
        "p_methods": ", ".join(dict.fromkeys(problem.p_method for problem in diagnosis.problems)),
        "cost": _cost(report),
    }


def _stage_view(report: BehaviorReport) -> View | None:
    stage = report.diagnosis.stage
    if stage is None:
        return None
    gain = stage.predicted_gain
    return {
        "name": stage.name if trains(stage) else stage.name.replace("_", " "),
        "kind": "Next stage" if trains(stage) else "Next step",
        "why": stage.why[:1].upper() + stage.why[1:] + ("" if stage.why.endswith((".", "!", "?")) else "."),
        "provenance": stage.provenance.replace("_", "-"),
        "interface": stage.interface.replace("_", " "),
        "needs": ", ".join(stage.needs) or "nothing beyond the prompts",
        "gain": None if gain is None else f"{write_estimate(gain, signed=True)} ({gain.method})",
        "alternatives": stage.alternatives,
    }


def _todo(report: BehaviorReport) -> str | None:
    """What to do where no stage that trains is named."""
    stage = report.diagnosis.stage
    if stage is not None and trains(stage):
        return None
    match report.diagnosis.bottleneck:
        case Bottleneck.INVALID:
            failure = report.validity.failures[0] if report.validity.failures else "see the validity checks below"
            return f"Repair the measurement, then diagnose again: {failure}"
        case Bottleneck.INCONCLUSIVE:
            return "Measure more before training anything."
        case Bottleneck.MASTERED:
            return "Nothing to train. Keep it as a retention behavior while other stages run."
        case _ if stage is None:
            return "No stage fits what is available; see the caveats."
        case _:
            return None


def _settles(report: BehaviorReport) -> str | None:
    more = report.diagnosis.settles_with
    if more is None:
        return None
    time = f", {format_number(math.ceil(more.seconds))} s at the speed so far" if not math.isnan(more.seconds) else ""
    return (
        f"{format_number(more.samples)} more samples (about {format_number(more.tokens)} tokens{time}), the same number of every problem, settle it "
        f"in {more.chance:.0%} of simulated continuations; --max-tokens-total draws them where they count and stops as soon as it is settled."
    )


def _pass_at(points: tuple[PassAtK, ...], k: int) -> str:
    for point in points:
        if point.k == k:
            return write_estimate(point.value) + (" (extrapolated)" if point.extrapolated else "")
    return DASH


def _greedy(report: BehaviorReport) -> str:
    if report.sampling is None:
        return DASH
    known = report.sampling.greedy_correct[~np.isnan(report.sampling.greedy_correct)]
    return f"{int(known.sum())} of {len(known)}" if len(known) else DASH


def _check_view(check: Check) -> View:
    return {
        "name": check.name,
        "what": check.what,
        "value": format_interval(check.estimate, check.low, check.high),
        "wanted": f"{'≥' if check.op == '>=' else '≤'} {format_number(check.threshold)}",
        "outcome": OUTCOMES[check.outcome],
        "tone": check.outcome.value,
        "n": counted(check),
        "method": check.method,
    }


def _probe_view(answer: Answer, diagnosis: Diagnosis) -> View:
    found = answer.finding
    head = {"name": answer.probe.replace("_", " "), "question": answer.question, "skipped": answer.skipped_words, "figure": None}
    if found is None:
        return {**head, "numbers": [], "notes": ()}
    cost = [
        f"{format_number(value)} {what}"
        for value, what in (
            (found.generated_tokens, "tokens generated"),
            (found.scored_tokens, "scored"),
            (found.teacher_tokens, "scored by the teacher"),
        )
        if value
    ]
    return {
        **head,
        "summary": found.summary,
        "contribution": next((c.words for c in diagnosis.contributions if c.probe == answer.probe), ""),
        "numbers": [(name, write_estimate(value), value.method) for name, value in found.numbers.items()],
        "notes": [note.text for note in found.notes],
        "cost": ", ".join(cost) or "no tokens",
    }


def _examples(examples: tuple[Example, ...]) -> list[View]:
    return [
        {
            "problem_id": example.problem_id,
            "prompt": visible(example.prompt),
            "text": visible(example.text),
            "grade": example.grade,
            "extracted": DASH if example.extracted is None else visible(example.extracted),
            "stop": STOPS.get(example.stop, example.stop),
            "answer": visible(example.answer),
        }
        for example in examples
    ]


def _problem_rows(problems: tuple[ProblemDiagnosis, ...]) -> list[list[str]]:
    hardest_first = sorted(problems, key=lambda problem: -1.0 if math.isnan(problem.p) else problem.p)
    return [
        [
            problem.id,
            problem.split.value,
            BOTTLENECKS[problem.state][0],
            format_probability(_posterior(problem.posterior, problem.state)),
            f"{problem.num_correct} of {problem.num_samples}",
            str(problem.num_unparsed),
            str(problem.num_truncated),
            str(problem.num_missing),
            format_interval(problem.p, problem.p_low, problem.p_high),
            format_number(problem.reference_nll_per_token),
        ]
        for problem in hardest_first[:_MOST_ROWS]
    ]


def _posterior(posterior: Mapping[str, float], state: Bottleneck) -> float:
    return float(posterior.get(state.value, math.nan))


def _counts(problems: list[ProblemDiagnosis]) -> str:
    """What was counted over the problems of the verdict, in one line."""
    total = sum(problem.num_samples for problem in problems)
    parts = [f"{format_number(sum(problem.num_correct for problem in problems))} right"]
    for words, count in (
        ("unparsed", sum(problem.num_unparsed for problem in problems)),
        ("truncated", sum(problem.num_truncated for problem in problems)),
    ):
        parts.append(f"{format_number(count)} {words}")
    missing = sum(problem.num_missing for problem in problems)
    return f"{format_number(total)} samples with a known outcome: {', '.join(parts)}; {format_number(missing)} more missing"


def _cost(report: BehaviorReport) -> list[tuple[str, str]]:
    cost = report.diagnosis.cost
    rows = [
        ("samples", cost.samples),
        ("generated tokens", cost.generated_tokens),
        ("scored tokens", cost.scored_tokens),
        ("teacher tokens", cost.teacher_tokens),
    ]
    return [(name, format_number(value)) for name, value in rows] + [("seconds", format_number(cost.seconds, 1))]
