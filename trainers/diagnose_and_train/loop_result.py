"""What a finished loop holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRound:
    """One stage of a loop."""

    stage: str
    trained: tuple[str, ...]
    """Names of the behaviors it was trained on."""
    checkpoint: Path
    after: DiagnosedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """A finished loop."""

    path: Path
    before: DiagnosedRun
    rounds: tuple[LoopRound, ...]
    """Empty when the diagnosis names no stage that trains."""
    transition: Transition | None
    """From the start to the last checkpoint, on the eval split; None without a round."""
    final: Transition | None
    """The same on the final split, for the trained behaviors; None where there is no such split."""

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html" if self.rounds else self.before.report_html
