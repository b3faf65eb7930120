"""What diagnosis.json says of where imported samples come from."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.diagnose.storage.json_model import FileModel, Text


class NoteEntry(FileModel):
    """A caveat: a code for programs, a sentence for people."""

    code: str
    text: Text


class UntoldEntry(FileModel):
    """Something that the source of imported samples does not tell."""

    code: str
    words: str


class SourceEntry(FileModel):
    """Where imported samples come from."""

    format: str
    model: str = ""
    """As the source names it."""
    policy: str = ""
    """Which step or model of several; empty where the source has one."""
    version: str = ""
    """Of the tool that wrote it."""
    untold: Sequence[UntoldEntry] = ()
    not_measured: str = ""
    """What takes an engine, in words."""
    notes: Sequence[NoteEntry] = ()
    """How the files were read, and what may be biased; those about one behavior are among its caveats."""
