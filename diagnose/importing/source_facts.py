"""What run.json holds of the source of imported samples, and what a verdict makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.importing.sample_notes import REPEATS
from posttrain.diagnose.types import Note

KEY = "source"
"""Of the settings of a run; absent where the run sampled itself."""
NOT_OF_VERDICT = frozenset({"columns"})
"""Codes of notes that say how files were read, which is no caveat of a verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts:
    """What is known of where the samples of one behavior come from."""

    format: str
    untold: frozenset[Untold]
    notes: tuple[Note, ...]
    """Of the source and of the behavior."""

    @classmethod
    def of_run(cls, settings: Mapping[str, Any], behavior: str) -> Self | None:
        """Return what the settings of a run say; None where it sampled itself."""
        source = settings.get(KEY)
        if not isinstance(source, Mapping):
            return None
        notes = [*source.get("notes", ()), *source.get("behaviors", {}).get(behavior, {}).get("notes", ())]
        return cls(
            format=str(source.get("format", "")),
            untold=frozenset(Untold(name) for name in source.get("untold", ()) if name in set(Untold)),
            notes=tuple(Note(str(note["code"]), str(note["text"])) for note in notes),
        )

    @property
    def independent(self) -> bool:
        """Return whether nothing shows that samples of a problem are one and the same."""
        return not any(note.code in REPEATS for note in self.notes)
