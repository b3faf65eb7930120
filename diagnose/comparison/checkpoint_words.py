"""Words of a comparison of checkpoints for people, made from its codes and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.analysis.number_format import format_interval, format_number
from posttrain.diagnose.comparison.checkpoints_json import KeepCheckpointEntry, KeepNote, RetentionState

RETENTION = {
    RetentionState.KEPT: "kept",
    RetentionState.LOST: "lost",
    RetentionState.OPEN: "not decided",
    RetentionState.NOT_MEASURED: "not measured",
}
"""What a table says of retention."""

_NOTES = {
    KeepNote.NO_TARGET: "No behavior is a target, so the choice is by all of them.",
    KeepNote.RETENTION_OPEN: "That it kept the retention behaviors within the margin is neither shown nor ruled out: sample more.",
    KeepNote.RETENTION_NOT_MEASURED: "No retention behavior was measured, so what else changed is not known.",
    KeepNote.EVERY_LATER_ONE_LOST: "Every later checkpoint is shown to have lost a retention behavior.",
    KeepNote.FIRST_MAY_BE_BEST: "No checkpoint is shown to be better than the first.",
    KeepNote.ADAPTIVE_SAMPLING: (
        "Problems of a run have different numbers of samples, which may depend on outcomes (adaptive sampling, samples left out): "
        "rates are estimated by likelihood, and every band is widened by itself."
    ),
    KeepNote.MISSING_SAMPLES: "Samples without an outcome count as failures and as successes, whichever is worse for what is claimed.",
}


def keep_note_words(note: KeepNote) -> str:
    """Return a note as a sentence; empty where the sentence of the choice says it."""
    return _NOTES.get(note, "")


def keep_checkpoint_words(keep: KeepCheckpointEntry, labels: Sequence[str]) -> str:
    """Return which checkpoint to keep, its score, and which others may be as good."""
    others = [labels[index] for index in keep.may_be_best if index != keep.index]
    score = keep.score
    words = (
        f"Keep {keep.label}: pass@1 on the targets is {format_number(keep.observed, 2)} as measured, "
        f"{format_interval(score.estimate, score.low, score.high)} after allowing for its having been chosen."
    )
    if others:
        words += f" {', '.join(others)} may be as good (95 % confidence set of the best)."
    elif len(keep.candidates) > 1:
        words += " Every other one is shown to be worse."
    return words
