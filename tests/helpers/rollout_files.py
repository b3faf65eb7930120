"""Rollouts of other tools: where the fixtures lie, and files that a test writes by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.importing.formats import FORMATS
from posttrain.diagnose.importing.imported import ImportedSamples, ReadOptions

ROLLOUTS = Path(__file__).parents[1] / "fixtures" / "rollouts"


def read_rollouts(format: str, *paths: Path, **options: Any) -> ImportedSamples:
    """Return the samples of these files."""
    return FORMATS[format].read(paths, ReadOptions(**options))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], end: str = "") -> Path:
    """Write rows as JSONL, NaN included, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end, encoding="utf-8")
    return path


def by_problem(read: ImportedSamples) -> dict[str, list[float | None]]:
    """Return the scores of each problem, in order."""
    found: dict[str, list[float | None]] = {}
    for sample in read.samples:
        found.setdefault(sample.problem, []).append(sample.score)
    return found
