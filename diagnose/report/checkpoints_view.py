"""What a page says of several checkpoints, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.analysis.number_format import format_number
from posttrain.diagnose.comparison.checkpoint_words import RETENTION
from posttrain.diagnose.comparison.checkpoints_json import (
    CheckpointBehaviorEntry,
    CheckpointPointEntry,
    CheckpointProblemEntry,
    CheckpointsFile,
)
from posttrain.diagnose.report.behavior_view import MOST_ROWS
from posttrain.diagnose.report.comparison_view import tone
from posttrain.diagnose.report.text import MethodNotes, unique_slugs, write_estimate
from posttrain.diagnose.report.words import CHANGES
from posttrain.diagnose.storage.diagnosis_json import PassAtKEntry
from posttrain.diagnose.types import ProblemChange


def checkpoints_view(file: CheckpointsFile, methods: MethodNotes) -> dict[str, Any]:
    """Return everything that a page says of the checkpoints.

    Args:
        file: The comparison.
        methods: Where methods get their numbers.
    """
    slugs = unique_slugs(f"along-{behavior.name}" for behavior in file.behaviors)
    labels = [one.label for one in file.checkpoints]
    return {
        "keep": file.keep.words,
        "notes": list(file.keep.notes),
        "runs": [(one.label, one.run, str(one.model.get("source", "–"))) for one in file.checkpoints],
        "behaviors": [
            _behavior(file, behavior, slug, labels, methods) for behavior, slug in zip(file.behaviors, slugs, strict=True)
        ],
    }


def at_k(points: Sequence[PassAtKEntry], k: int) -> PassAtKEntry | None:
    """Return the point of a curve at k; None where it has none."""
    return next((point for point in points if point.k == k), None)


def checkpoint_cells(behavior: CheckpointBehaviorEntry, index: int) -> dict[str, str]:
    """Return pass@1, pass@k and their changes at one checkpoint, as text."""
    point, k = behavior.points[index], behavior.shown_k
    return {
        "pass_at_1": _written(at_k(point.pass_at_k, 1)),
        "pass_at_k": _written(at_k(point.pass_at_k, k)),
        "change_at_1": _written(at_k(point.change, 1), signed=True),
        "change_at_k": _written(at_k(point.change, k), signed=True),
        "retention": "–" if point.retention is None or index == 0 else RETENTION[point.retention],
    }


def _behavior(
    file: CheckpointsFile, behavior: CheckpointBehaviorEntry, slug: str, labels: list[str], methods: MethodNotes
) -> dict[str, Any]:
    """Return what a page says of one behavior."""
    rows = []
    for index, (label, point) in enumerate(zip(labels, behavior.points, strict=True)):
        change = at_k(point.change, 1)
        rows.append(
            {
                "label": label,
                "kept": index == file.keep.index,
                "may_be_best": index in file.keep.may_be_best,
                **checkpoint_cells(behavior, index),
                "tone": "same" if change is None else tone(change),
                "problems": _problem_words(point),
                "tokens": "–" if point.tokens is None else format_number(point.tokens.estimate, 1),
                "truncated": "–" if point.truncated is None else format_number(point.truncated.estimate, 2),
            }
        )
    last = behavior.points[-1]
    used = [at_k(points, 1) for points in (last.pass_at_k, last.change)]
    moving = sorted((one for one in behavior.problems if _has_moved(one)), key=_largest_change_first)
    return {
        "slug": slug,
        "name": behavior.name,
        "purpose": behavior.purpose.value,
        "num_problems": str(behavior.num_problems),
        "k": str(behavior.shown_k),
        "rows": rows,
        "methods": [methods.number(one.method) for one in used if one is not None],
        "problems": [
            [one.id, *(f"{c}/{n}" for c, n in zip(one.num_correct, one.num_samples, strict=True))] for one in moving[:MOST_ROWS]
        ],
        "problems_hidden": len(behavior.problems) - len(moving[:MOST_ROWS]),
        "columns": labels,
    }


_MOVED = {ProblemChange.EXPANDED, ProblemChange.ATTRITED}


def _has_moved(problem: CheckpointProblemEntry) -> bool:
    return any(problem.directions) or bool(_MOVED & set(problem.states[1:]))


def _largest_change_first(problem: CheckpointProblemEntry) -> float:
    rates = [c / n for c, n in zip(problem.num_correct, problem.num_samples, strict=True)]
    return -max(abs(rate - rates[0]) for rate in rates)


def _problem_words(point: CheckpointPointEntry) -> str:
    """Return how many problems rose, fell, entered and left support since the first checkpoint."""
    if not point.states:
        return "–"
    parts = [] if point.num_risen is None else [f"{point.num_risen} rose, {point.num_fallen} fell"]
    parts += [f"{point.states[state]} {CHANGES[state][0]}" for state in sorted(_MOVED) if point.states.get(state)]
    return "; ".join(parts) or "none changed"


def _written(point: PassAtKEntry | None, *, signed: bool = False) -> str:
    return "–" if point is None else write_estimate(point, signed=signed)
