"""The formats that samples can be imported from, one module each."""

from __future__ import annotations

from posttrain.diagnose.importing.imported import Format

FORMATS: dict[str, Format] = {}
"""Name on the command line → format; register a new one here."""
