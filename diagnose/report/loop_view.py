"""What a page says of the rounds of a loop, as text."""

from __future__ import annotations

import math
from typing import Any

from posttrain.analysis.number_format import format_number, format_probability
from posttrain.diagnose.comparison.loop_json import (
    LoopFile,
    LoopRoundEntry,
    RoundAdviceEntry,
    RoundChangeEntry,
    RoundRetentionEntry,
    StageOrigin,
)
from posttrain.diagnose.comparison.loop_words import REASONS, VERDICTS, keep_words
from posttrain.diagnose.report.text import write_estimate
from posttrain.diagnose.report.words import BOTTLENECKS
from posttrain.diagnose.types import Bottleneck, Purpose

_TONES = {"helped": "better", "cost_more_than_it_gave": "worse"}


def loop_view(file: LoopFile | None) -> dict[str, Any] | None:
    """Return everything that a page says of the rounds; None without a loop, or for one of an earlier version, which did not record it."""
    if file is None or file.ended is None:
        return None
    return {
        "ended": file.words,
        "keep": keep_words(file),
        "rounds": [_row(one) for one in file.rounds],
        "rates": [
            (behavior.name, behavior.purpose.value, [write_estimate(point) for point in behavior.pass_at_1])
            for behavior in file.behaviors
        ],
        "columns": ["start", *(f"round {one.number}" for one in file.rounds)],
        "cost": _cost_words(file.cost.generated_tokens, file.cost.trained_tokens, file.cost.seconds)
        + ("" if file.budget_tokens is None else f"; the budget is {file.budget_tokens:,} tokens"),
    }


def _row(entry: LoopRoundEntry) -> dict[str, Any]:
    """Return one row of the table of rounds."""
    trained = [change for change in entry.changes if change.trained]
    others = [change for change in entry.changes if not change.trained]
    return {
        "number": str(entry.number),
        "stage": f"{entry.stage} on {', '.join(entry.trained)}",
        "from": "start" if entry.started_from == 0 else f"round {entry.started_from}",
        "why": _why(entry) + ("" if entry.learning_rate is None else f"; learning rate {entry.learning_rate:g}"),
        "named": _lines(map(_named, entry.advice)),
        "expected": _lines(
            f"{advice.behavior} {write_estimate(advice.predicted_gain, signed=True)}"
            for advice in entry.advice
            if advice.predicted_gain is not None
        ),
        "happened": _lines(map(_change, trained)),
        "others": _lines([*map(_change, others), *_retention(entry.retention)]),
        "cost": _cost_words(entry.cost.generated_tokens, entry.cost.trained_tokens, entry.cost.seconds),
        "verdict": "" if entry.verdict is None else VERDICTS[entry.verdict],
        "tone": _TONES.get(entry.verdict or "", "same"),
        "utility": "–" if entry.utility is None else write_estimate(entry.utility, signed=True),
    }


def _why(entry: LoopRoundEntry) -> str:
    """Return why a stage was run."""
    words = REASONS[entry.reason]
    if entry.reason is StageOrigin.CONSOLIDATION and entry.earlier is not None:
        return f"{words}: what fell, from {entry.earlier}"
    if entry.instead_of:
        return f"{words}, after {', '.join(entry.instead_of)} brought nothing"
    return words


def _named(advice: RoundAdviceEntry) -> str:
    """Return a label with its probability; of an open one what it leans to, without a number."""
    words = f"{advice.behavior}: {BOTTLENECKS[advice.bottleneck][0]}"
    if advice.bottleneck is not Bottleneck.INCONCLUSIVE:
        return f"{words}, {format_probability(advice.confidence)}"
    return words if advice.leans_to is None else f"{words}, leans to {BOTTLENECKS[advice.leans_to][0]}"


def _change(change: RoundChangeEntry) -> str:
    kept = " (retention)" if change.purpose is Purpose.RETENTION else ""
    return f"{change.behavior}{kept} {write_estimate(change.delta, signed=True)}"


def _retention(entry: RoundRetentionEntry) -> list[str]:
    """Return what was mixed into the batches of a round so that it is not lost; nothing where no behavior was retained."""
    if not entry.behaviors:
        return []
    names = ", ".join(entry.behaviors)
    return [f"retained: {names} at a share of {format_number(entry.share, 2)} ({entry.rows:,} rows, {entry.tokens:,} tokens)"]


def _lines(parts: Any) -> list[str]:
    return list(parts) or ["–"]


def _cost_words(generated: int, trained: int, seconds: float) -> str:
    time = "" if math.isnan(seconds) else f", {format_number(seconds, 0)} s"
    return f"{generated:,} tokens generated, {trained:,} trained{time}"
