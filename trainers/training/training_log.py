"""The log of a training run: one JSON object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from posttrain.trainers.training_types import OnStep


class TrainingLog:
    """Appends objects to a JSONL file, flushed one by one, and calls the callback with each.

    Numbers that are not finite are written as strings (`"nan"`), so that every line is strict JSON.

    Args:
        path: The file; what stands behind its first `keep` bytes is cut off.
        on_step: Called after each line.
        keep: 0 begins anew.
    """

    def __init__(self, path: Path, on_step: OnStep | None = None, *, keep: int = 0) -> None:
        self.path, self._on_step = path, on_step
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(keep)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size

    def write(self, record: Mapping[str, object]) -> None:
        """Add one line, and call the callback with it."""
        self.add(record)
        self.tell(record)

    def add(self, record: Mapping[str, object]) -> None:
        """Add one line."""
        clean = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
        }
        self._file.write(json.dumps(clean, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def tell(self, record: Mapping[str, object]) -> None:
        """Call the callback with a line that was added."""
        if self._on_step is not None:
            self._on_step(record)
