"""Training rows as JSON and back, without loss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from posttrain.diagnose.types import Split
from posttrain.trainers.training_types import RowRole, TrainingRow

_MADE_FROM = {"split": Split, "role": RowRole}


def row_to_json(row: TrainingRow) -> dict[str, Any]:
    """Return what is not at its default; float32 arrays become numbers that read back as the same float32."""
    found: dict[str, Any] = {}
    for each in fields(row):
        value = getattr(row, each.name)
        if isinstance(value, np.ndarray):
            found[each.name] = {"dtype": str(value.dtype), "values": value.tolist()}
        elif value != each.default:
            found[each.name] = value
    return found


def row_from_json(found: Mapping[str, Any]) -> TrainingRow:
    """Return the row that `row_to_json` wrote."""
    values: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            values[key] = np.array(value["values"], dtype=value["dtype"])
        elif isinstance(value, list):
            values[key] = tuple(value)
        else:
            values[key] = _MADE_FROM[key](value) if key in _MADE_FROM else value
    return TrainingRow(**values)


def fingerprint_rows(rows: Sequence[TrainingRow]) -> str:
    """Hash rows in their order; empty for none."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row_to_json(row), sort_keys=True).encode())
    return digest.hexdigest()[:16] if rows else ""
