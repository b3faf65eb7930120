"""Which of several checkpoints to keep: the best on the targets of those that are not shown to have lost a retention behavior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posttrain.analysis.stats import PolicyScores, may_be_best, shrunken_score
from posttrain.diagnose.comparison.checkpoint_counts import CheckpointCounts
from posttrain.diagnose.comparison.checkpoint_words import keep_checkpoint_words, keep_note_words
from posttrain.diagnose.comparison.checkpoints_json import (
    CheckpointBehaviorEntry,
    KeepCheckpointEntry,
    KeepNote,
    RetentionState,
)
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry
from posttrain.diagnose.types import Estimate, Purpose


def choose_checkpoint(
    behaviors: Sequence[CheckpointBehaviorEntry], counts: Mapping[str, CheckpointCounts], labels: Sequence[str]
) -> KeepCheckpointEntry:
    """Choose the checkpoint to keep, with the set of those that may be as good.

    The confidence set is for the best of the candidates, which the retention behaviors chose on problems of their own.

    Args:
        behaviors: What was found along the checkpoints.
        counts: Samples of each behavior.
        labels: Of the checkpoints.
    """
    targets = [one.name for one in behaviors if one.purpose is Purpose.TARGET]
    retention = [_retention(behaviors, index) for index in range(len(labels))]
    candidates = [index for index, state in enumerate(retention) if state is not RetentionState.LOST]
    scored = [counts[name] for name in targets or [one.name for one in behaviors]]
    scores = PolicyScores.of([one.success_rates(candidates) for one in scored])
    set_of_best = [place for place in range(len(candidates)) if _may_be_best(scored, scores, candidates, place)]
    best = int(np.argmax(scores.estimate))
    found = sorted({*set_of_best, best})
    score = shrunken_score(scores, found, best)
    index, may_be = candidates[best], [candidates[place] for place in found]
    notes = {
        KeepNote.NO_TARGET: not targets,
        KeepNote.EVERY_LATER_ONE_LOST: len(candidates) == 1,
        KeepNote.FIRST_MAY_BE_BEST: 0 in may_be and len(candidates) > 1,
        KeepNote.SEVERAL_MAY_BE_BEST: len(may_be) > 1,
        KeepNote.RETENTION_OPEN: retention[index] is RetentionState.OPEN,
        KeepNote.RETENTION_NOT_MEASURED: retention[index] is RetentionState.NOT_MEASURED,
        KeepNote.ADAPTIVE_SAMPLING: any(one.adaptive for one in scored),
        KeepNote.MISSING_SAMPLES: any(one.missing.any() for one in scored),
    }
    codes = [note for note, holds in notes.items() if holds]
    entry = KeepCheckpointEntry(
        index=index,
        label=labels[index],
        score=EstimateEntry.model_validate(Estimate.of(score)),
        observed=float(scores.estimate[best]),
        candidates=candidates,
        may_be_best=may_be,
        retention=retention[index],
        note_codes=codes,
    )
    words, notes_words = keep_checkpoint_words(entry, labels), [keep_note_words(note) for note in codes]
    return entry.model_copy(update={"words": words, "notes": [one for one in notes_words if one]})


def _retention(behaviors: Sequence[CheckpointBehaviorEntry], index: int) -> RetentionState:
    """Return whether a checkpoint kept all retention behaviors."""
    states = {state for one in behaviors if (state := one.points[index].retention) is not None}
    for state in (RetentionState.LOST, RetentionState.OPEN, RetentionState.KEPT):
        if state in states:
            return state
    return RetentionState.NOT_MEASURED


def _may_be_best(scored: Sequence[CheckpointCounts], scores: PolicyScores, candidates: Sequence[int], place: int) -> bool:
    """Return whether a candidate may be the best, whatever the missing outcomes are."""
    if any(one.missing.any() for one in scored):
        favoured = [one.favour(candidates[place]) for one in scored]
        scores = PolicyScores.of([one.success_rates(candidates) for one in favoured])
    return may_be_best(scores, place, rng=np.random.default_rng(0))
