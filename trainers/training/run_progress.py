"""How far a training run has come: its counts, and the batch whose optimizer steps are being taken."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from posttrain.trainers.row_json import row_from_json
from posttrain.trainers.training_types import TrainingRow


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run has come; written into its state, apart from `is_whole` and `begun`."""

    next_step: int = 0
    num_steps: int = 0
    num_skipped: int = 0
    trained_tokens: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    retained_rows: int = 0
    retained_tokens: int = 0
    seconds_before: float = 0.0
    """Spent by the processes that worked on this run before."""
    begun: float = field(default_factory=time.monotonic)
    is_whole: bool = True
    """Whether weights, moments and average are those after a whole number of optimizer steps, and counted and logged as that."""

    @property
    def seconds(self) -> float:
        """Spent on this run, by all processes that worked on it."""
        return self.seconds_before + time.monotonic() - self.begun

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the time spent, for a state from which a run is resumed."""
        counts = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("begun", "is_whole")}
        return {**counts, "seconds_before": self.seconds}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Progress:
        """Read what `to_json` wrote."""
        return cls(**record)


@dataclass(kw_only=True, slots=True)
class OpenBatch:
    """The batch of the next step: some of its optimizer steps may be taken, and a state then holds what the others need."""

    rows: Sequence[TrainingRow]
    """Advantages filled in."""
    num_updates: int
    """Optimizer steps to be taken on it."""
    metrics: Mapping[str, float]
    """Of the source and of the credit."""
    num_done: int = 0
    """Optimizer steps taken."""
    trained_tokens: int = 0
    input_tokens: int = 0
    old: dict[int, Tensor] = field(default_factory=dict)
    """Row index → [T] log-probabilities before the first of these steps."""

    def to_json(self) -> dict[str, Any]:
        """Return everything but `old`, for a state from which a run is resumed."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "old"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], old: dict[int, Tensor]) -> OpenBatch:
        """Read what `to_json` wrote."""
        return cls(**{**record, "rows": tuple(map(row_from_json, record["rows"]))}, old=old)
