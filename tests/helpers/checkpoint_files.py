"""A made-up checkpoints.json: four checkpoints, of which the last is best on the target and lost the retention behavior."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.report_files import HOSTILE

from posttrain.diagnose.comparison.checkpoint_words import keep_checkpoint_words, keep_note_words
from posttrain.diagnose.comparison.checkpoints_json import (
    CheckpointBehaviorEntry,
    CheckpointEntry,
    CheckpointPointEntry,
    CheckpointProblemEntry,
    CheckpointsFile,
    Direction,
    KeepCheckpointEntry,
    KeepNote,
    RetentionState,
)
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, PassAtKEntry, RunEntry
from posttrain.diagnose.types import ProblemChange, Purpose

LABELS = ("base", "step 100", "step 200", HOSTILE)
_HALF = 0.07


def _curve(rate: float, lift: float, method: str) -> list[PassAtKEntry]:
    points = ((1, rate), (16, rate + lift))
    return [PassAtKEntry(k=k, estimate=x, low=x - _HALF, high=x + _HALF, method=method) for k, x in points]


def _behavior(
    name: str, purpose: Purpose, rates: Sequence[float], retention: Sequence[RetentionState | None]
) -> CheckpointBehaviorEntry:
    problem = CheckpointProblemEntry(
        id=f"{name}-1", num_samples=[16, 16, 16, 15], num_correct=[0, 5, 9, 9], num_missing=[0, 0, 0, 1],
        states=[None, ProblemChange.UNDETERMINED, ProblemChange.EXPANDED, ProblemChange.EXPANDED],
        directions=[None, None, Direction.ROSE, Direction.ROSE],
    )  # fmt: skip
    still = problem.model_copy(
        update={"id": f"{name}-2", "states": [None] + [ProblemChange.PRESERVED] * 3, "directions": [None] * 4}
    )
    points = [
        CheckpointPointEntry(
            pass_at_k=_curve(rate, 0.11, "t over problems; all 8 intervals at once"),
            change=_curve(rate - rates[0], 0.05, "paired t; all 6 intervals at once") if index else [],
            states={ProblemChange.PRESERVED: 20, ProblemChange.EXPANDED: index} if index else {},
            num_risen=3 * index if index else None,
            num_fallen=1 if index else None,
            retention=state,
            tokens=EstimateEntry(estimate=41.0 + index, low=40.0, high=50.0),
            truncated=EstimateEntry(estimate=0.01, low=0.0, high=0.02),
        )
        for index, (rate, state) in enumerate(zip(rates, retention, strict=True))
    ]
    return CheckpointBehaviorEntry(
        name=name, purpose=purpose, num_problems=32, shown_k=16, points=points, problems=[problem, still]
    )


def checkpoints_file() -> CheckpointsFile:
    """Return the file."""
    state = RetentionState
    notes = [KeepNote.SEVERAL_MAY_BE_BEST, KeepNote.RETENTION_OPEN]
    keep = KeepCheckpointEntry(
        index=2, label=LABELS[2], score=EstimateEntry(estimate=0.58, low=0.5, high=0.66), observed=0.61, candidates=[0, 1, 2], may_be_best=[1, 2],
        retention=state.OPEN, note_codes=notes, notes=[words for note in notes if (words := keep_note_words(note))],
    )  # fmt: skip
    return CheckpointsFile(
        run=RunEntry(
            path="runs/along", created="2026-11-29 10:00 UTC", command="posttrain compare ...", versions={"posttrain": "0.1.0"}
        ),
        margin=0.05,
        checkpoints=[
            CheckpointEntry(label=label, step=100 * index, run=f"runs/{index}", model={"source": f"m/checkpoint-{100 * index}"})
            for index, label in enumerate(LABELS)
        ],
        behaviors=[
            _behavior("products", Purpose.TARGET, (0.2, 0.55, 0.61, 0.7), (None,) * 4),
            _behavior(
                "spell_backward", Purpose.RETENTION, (0.8, 0.81, 0.78, 0.4), (state.KEPT, state.KEPT, state.OPEN, state.LOST)
            ),
        ],
        keep=keep.model_copy(update={"words": keep_checkpoint_words(keep, LABELS)}),
    )
