"""What a loop does to models, apart from what it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Behavior
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training.result import TrainingResult


class Measure(Protocol):
    """What makes a diagnosis: `posttrain.diagnose.run`, with the settings of the loop."""

    def __call__(
        self, model: str | Path, behaviors: Sequence[Behavior], /, *, out: Path, pilot: bool, **options: Any
    ) -> DiagnosedRun:
        """Measure behaviors of a model into `out`, or read what lies there finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSteps:
    """Measure and train. Programs that decide where to run these, and tests, give their own."""

    measure: Measure
    train: Callable[[TrainRequest], TrainingResult]
