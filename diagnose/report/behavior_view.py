"""What a diagnosis page says of one behavior, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from posttrain.analysis.number_format import DASH, format_interval, format_number, format_probability
from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.importing.source_facts import SourceFacts
from posttrain.diagnose.report.signal_words import signal_view
from posttrain.diagnose.report.text import MethodNotes, counted, visible, write_estimate
from posttrain.diagnose.report.verdict_view import NextStart, verdict_view
from posttrain.diagnose.report.words import BOTTLENECKS, OUTCOMES, STOPS, describe_limit, describe_verifier
from posttrain.diagnose.storage.diagnosis_json import (
    BehaviorEntry,
    CheckEntry,
    CostEntry,
    ExampleEntry,
    PassAtKEntry,
    ProbeEntry,
    TurnLimitEntry,
)
from posttrain.diagnose.storage.problem_json import ProblemEntry
from posttrain.diagnose.types import GradeStatus, Split

MOST_ROWS = 400
"""Of a table of problems."""
_DEFAULT_K = 16


def behavior_view(
    entry: BehaviorEntry, slug: str, start: NextStart, settings: Mapping[str, Any], methods: MethodNotes
) -> dict[str, Any]:
    """Return everything that a page says of one behavior.

    Args:
        entry: The behavior.
        slug: Its name on the page and in the folder of figures.
        start: What a next stage starts from.
        settings: Settings of the run.
        methods: Where methods get their numbers.
    """
    problems = [problem for problem in entry.problems if problem.split is Split.EVAL] or entry.problems
    primary = int(entry.measure.get("primary_k") or _DEFAULT_K)
    validity = {check.name for check in entry.validity.checks}
    mastered = settings.get("thresholds", {}).get("mastered", math.nan)
    source = SourceFacts.of_run(settings, entry.name)
    ends_told = source is None or Untold.STOP_REASONS not in source.untold
    return {
        **verdict_view(
            entry, f"b-{slug}", start, failures=entry.validity.failures, no_verdict=settings.get("split") == Split.TRAIN
        ),
        "slug": slug,
        "summary": {
            "pass_1": _pass_at(entry.pass_at_k, 1),
            "pass_k": _pass_at(entry.pass_at_k, primary),
            "primary_k": primary,
            "greedy": _greedy(problems),
            "problems": f"{len(problems)}",
        },
        "verifier": visible(describe_verifier(entry.verifier.kind, entry.verifier.options, entry.verifier.origin))
        if entry.verifier
        else "",
        "token_limit": describe_limit(entry.token_limit.max_tokens, entry.token_limit.source) if entry.token_limit else "",
        "read_as": [visible(note) for note in entry.notes],
        "epsilon": format_number(entry.measure.get("epsilon")),
        "mastered": format_number(mastered),
        "checks": [_check_view(check, methods) for check in entry.checks if check.name not in validity],
        "probes": [_probe_view(probe, methods) for probe in entry.probes],
        "pass_at_k": pass_at_k_rows(entry.pass_at_k, methods),
        "turns": _turns_view(entry.turn_limits, methods),
        "signal": signal_view(entry.group_signal),
        "examples": [
            ("right", [_example_view(example) for example in entry.examples.right]),
            ("wrong", [_example_view(example) for example in entry.examples.wrong]),
        ],
        "validity": _validity_view(entry, methods),
        "problems": _problem_rows(entry.problems, ends_told=ends_told),
        "problems_hidden": max(0, len(entry.problems) - MOST_ROWS),
        "counts": _counts(problems, ends_told=ends_told),
        "p_methods": [methods.number(method) for method in dict.fromkeys(problem.p_method for problem in entry.problems)],
        "cost": _cost(entry.cost, source),
    }


def pass_at_k_rows(
    points: Sequence[PassAtKEntry], methods: MethodNotes, *, signed: bool = False
) -> list[tuple[str, str, str, str]]:
    """Return k, value, whether it is extrapolated, and the number of its method."""
    return [
        (
            str(point.k),
            write_estimate(point, signed=signed),
            "extrapolated" if point.extrapolated else "observed",
            methods.number(point.method),
        )
        for point in points
    ]


def _turns_view(limits: Sequence[TurnLimitEntry], methods: MethodNotes) -> dict[str, Any] | None:
    """Return the table of pass@(k, T); None where no sample took more than one turn."""
    if not limits:
        return None
    ks = [point.k for point in limits[0].pass_at_k]
    used = dict.fromkeys(point.method for limit in limits for point in limit.pass_at_k)
    return {
        "header": [f"pass@({k}, T)" for k in ks],
        "methods": [methods.number(method) for method in used],
        "rows": [
            (
                str(limit.turns),
                f"{limit.num_correct} of {limit.num_samples}",
                [_pass_at(limit.pass_at_k, k) for k in ks],
                f"{limit.label}{f', leans to {BOTTLENECKS[limit.leans_to][0]}' if limit.leans_to else ''} ({format_number(limit.confidence)})",
            )
            for limit in limits
        ],
    }


def _pass_at(points: Sequence[PassAtKEntry], k: int) -> str:
    for point in points:
        if point.k == k:
            return write_estimate(point) + (" (extrapolated)" if point.extrapolated else "")
    return DASH


def _greedy(problems: Sequence[ProblemEntry]) -> str:
    known = [problem.greedy_correct for problem in problems if problem.greedy_correct is not None]
    return f"{sum(known)} of {len(known)}" if known else DASH


def _check_view(check: CheckEntry, methods: MethodNotes) -> dict[str, str]:
    return {
        "name": check.name,
        "what": check.what,
        "value": write_estimate(check),
        "wanted": f"{'≥' if check.op == '>=' else '≤'} {format_number(check.threshold)}",
        "outcome": OUTCOMES[check.outcome],
        "tone": check.outcome.value,
        "n": counted(check),
        "method": methods.number(check.method),
    }


def _probe_view(probe: ProbeEntry, methods: MethodNotes) -> dict[str, Any]:
    cost = [
        f"{format_number(value)} {what}"
        for value, what in (
            (probe.cost.generated_tokens if probe.cost else 0, "tokens generated"),
            (probe.cost.scored_tokens if probe.cost else 0, "tokens scored"),
            (probe.cost.teacher_tokens if probe.cost else 0, "tokens scored by the teacher"),
        )
        if value
    ]
    return {
        "name": probe.name.replace("_", " "),
        "question": probe.question,
        "skipped": probe.skipped,
        "figures": [],
        "summary": probe.summary,
        "contribution": probe.contribution,
        "numbers": [
            (value.label or key.replace("_", " "), write_estimate(value), methods.number(value.method))
            for key, value in probe.numbers.items()
        ],
        "notes": probe.notes,
        "cost": ", ".join(cost) or "no tokens",
    }


def _validity_view(entry: BehaviorEntry, methods: MethodNotes) -> dict[str, Any]:
    validity, sampling = entry.validity, entry.sampling
    notes = [note for note in validity.notes if note not in entry.caveats]
    if sampling.num_rounds:
        rounds = "one round" if sampling.num_rounds == 1 else f"{sampling.num_rounds} rounds"
        notes.append(f"Sampled in {rounds}; no more, because {sampling.ended_because}.")
    return {
        "checks": [_check_view(check, methods) for check in validity.checks],
        "notes": notes,
        "failures": validity.failures,
        "unread": [(one.problem_id, visible(one.text), visible(one.wanted)) for one in validity.unread],
        "prompt": visible(validity.prompt_example),
    }


def _example_view(example: ExampleEntry) -> dict[str, str]:
    if example.status is GradeStatus.UNPARSED:
        grade = f"unparsed: {visible(example.detail)}" if example.detail else "unparsed"
    elif example.status is GradeStatus.UNFINISHED_THOUGHT:
        grade = "unfinished thought"
    else:
        grade = "right" if example.success else "truncated" if example.truncated else "wrong"
    return {
        "problem_id": example.problem_id,
        "prompt": visible(example.prompt),
        "text": visible(example.text),
        "grade": grade,
        "extracted": DASH if example.extracted is None else visible(example.extracted),
        "stop": STOPS[example.stop],
        "answer": visible(example.answer),
    }


def _problem_rows(problems: Sequence[ProblemEntry], *, ends_told: bool) -> list[list[str]]:
    """Return the cells of the table of problems, hardest first.

    Args:
        problems: All that were sampled.
        ends_told: Whether it is known why each sample ended; where it is not, a count of no truncated samples says nothing.
    """
    hardest_first = sorted(problems, key=lambda problem: -1.0 if problem.p is None or math.isnan(problem.p) else problem.p)
    return [
        [
            problem.id,
            problem.split.value,
            BOTTLENECKS[problem.state][0],
            format_probability(_known(problem.posterior.get(problem.state.value))),
            f"{problem.num_correct} of {problem.num_samples}",
            str(problem.num_unparsed),
            str(problem.num_truncated) if ends_told or problem.num_truncated else DASH,
            str(problem.num_missing),
            format_interval(_known(problem.p), _known(problem.p_low), _known(problem.p_high)),
            format_number(problem.reference_nll_per_token),
        ]
        for problem in hardest_first[:MOST_ROWS]
    ]


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _counts(problems: Sequence[ProblemEntry], *, ends_told: bool) -> str:
    """Return what was counted over the problems of the verdict, in one line; `ends_told` as in `_problem_rows`."""

    def add_up(*names: str) -> list[int]:
        return [sum(map(attrgetter(f"num_{name}"), problems)) for name in names]

    total, right, unparsed, missing = map(format_number, add_up("samples", "correct", "unparsed", "missing"))
    truncated, unfinished, thought, tokens = add_up("truncated", "unfinished_thoughts", "thought_tokens", "tokens")
    counts = f"{total} samples with a known outcome: {right} right, {unparsed} unparsed"
    if ends_told or truncated:
        counts += f", {format_number(truncated)} truncated" + ("" if ends_told else " (or more: the source does not tell of all)")
    counts += f", {format_number(unfinished)} with an unfinished thought" if unfinished else ""
    counts += f"; {missing} more missing"
    if thought:
        counts += f"; {format_number(thought)} tokens of thought and {format_number(tokens - thought)} of answers"
    return counts


def _cost(cost: CostEntry, source: SourceFacts | None) -> list[tuple[str, str]]:
    """Return what the samples took; of imported ones only what their source tells."""
    parts = ("samples", "generated_tokens", "scored_tokens", "teacher_tokens")
    rows = [(name.replace("_", " "), format_number(getattr(cost, name))) for name in parts]
    rows.append(("seconds", format_number(cost.seconds, 0)))
    if source is None:
        return rows
    told = {name: words for name, words in rows if name == "samples" or words != "0"}
    if Untold.TOKEN_COUNTS in source.untold:
        counted = told.get("generated tokens")
        told["generated tokens"] = f"{counted} (not told of all samples)" if counted else "not told"
    return list(told.items())
