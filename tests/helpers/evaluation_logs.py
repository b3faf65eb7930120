"""Where the logs of evaluation harnesses lie, and what tests ask of them."""

from __future__ import annotations

from pathlib import Path

from posttrain.diagnose.importing.imported import ImportedSamples

EVALUATIONS = Path(__file__).parents[1] / "fixtures" / "evaluations"


def codes(found: ImportedSamples) -> set[str]:
    """Return the codes of all notes on a source."""
    return {note.code for note in found.source.notes}
