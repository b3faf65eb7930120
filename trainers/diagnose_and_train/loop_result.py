"""What a loop holds: its rounds, and how they are connected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.comparison.loop_json import LoopEnd, RoundVerdict
from posttrain.diagnose.comparison.pass_at_k_change import change_of_pass_at_1
from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.types import Bottleneck, Estimate, Purpose
from posttrain.trainers.diagnose_and_train.choose_stage import StageChoice
from posttrain.trainers.diagnose_and_train.round_verdict import LoopCost, RoundChange, round_gained
from posttrain.trainers.training.result import Ending


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRetention:
    """What the stage of a round mixed in of behaviors that are not to be lost."""

    behaviors: tuple[str, ...] = ()
    share: float = 0.0
    """Of the rows of every batch, for all of them together."""
    rows: int = 0
    """In all optimizer steps."""
    tokens: int = 0
    """Completion tokens of these rows."""

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> RoundRetention:
        """Read it from what `stage-N.json` holds; earlier versions retained nothing."""
        return cls(
            behaviors=tuple(summary.get("retained", ())),
            share=float(summary.get("retain_share", 0.0)),
            rows=int(summary.get("retained_rows", 0)),
            tokens=int(summary.get("retained_tokens", 0)),
        )


NO_RETENTION = RoundRetention()


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """What the training of a round did, as `stage-N.json` has it."""

    moved: bool
    """Whether it moved the model."""
    ending: Ending
    learning_rate: float | None
    """Peak; None where no optimizer takes steps, and in files of earlier versions."""
    cost: LoopCost
    retention: RoundRetention = NO_RETENTION

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> StageOutcome:
        """Read the content of `stage-N.json`; earlier versions did not tell whether the model moved."""
        tokens = {key: int(summary[key]) for key in ("generated_tokens", "trained_tokens")}
        return cls(
            moved=bool(summary.get("moved", True)),
            ending=Ending(summary["ending"]),
            learning_rate=summary.get("learning_rate"),
            cost=LoopCost(**tokens, seconds=float(summary["seconds"])),
            retention=RoundRetention.from_summary(summary),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRound:
    """One stage of a loop."""

    number: int
    """1 is the first."""
    choice: StageChoice
    """The stage, and why it was run."""
    started_from: int
    """The round whose checkpoint it started from; 0 is the model that the loop started with."""
    checkpoint: Path
    after: DiagnosedRun
    changes: tuple[RoundChange, ...]
    outcome: StageOutcome
    """What training did."""
    verdict: RoundVerdict
    utility: Estimate
    """Of the checkpoint: mean gain of the targets less mean loss of retention since the start."""
    cost: LoopCost
    """Of the stage, and of the diagnosis after it."""

    @property
    def stage(self) -> str:
        """Return the name of the stage."""
        return self.choice.stage

    @property
    def trained(self) -> tuple[str, ...]:
        """Return the names of the behaviors it was trained on."""
        return self.choice.trained

    @property
    def gained(self) -> bool:
        """Return whether a trained behavior rose."""
        return round_gained(self.changes)


@dataclass(kw_only=True)
class LoopHistory:
    """The rounds so far; index 0 is the model that the loop started with, index n the checkpoint of round n."""

    model: str
    before: DiagnosedRun
    rounds: list[LoopRound] = field(default_factory=list)
    compare: Callable[[DiagnosedBehavior, DiagnosedBehavior], Estimate | None] = change_of_pass_at_1
    """What gives the paired change of pass@1 of one behavior between two diagnoses; None where it has no samples on a side."""
    _changes: dict[tuple[str, str, str], Estimate | None] = field(default_factory=dict)

    def run(self, index: int) -> DiagnosedRun:
        """Return the diagnosis of a checkpoint."""
        return self.rounds[index - 1].after if index else self.before

    def checkpoint(self, index: int) -> str:
        """Return a checkpoint as a MODEL."""
        return str(self.rounds[index - 1].checkpoint) if index else self.model

    def path(self, index: int) -> list[int]:
        """Return the checkpoints from the start to this one, each trained from the one before."""
        found = [index]
        while found[0]:
            found.insert(0, self.rounds[found[0] - 1].started_from)
        return found

    def change(self, behavior: str, before: DiagnosedRun, after: DiagnosedRun) -> Estimate | None:
        """Return the paired change of pass@1 of a behavior; None where it has no samples on a side."""
        key = (behavior, str(before.path), str(after.path))
        if key not in self._changes:
            self._changes[key] = self.compare(before[behavior], after[behavior])
        return self._changes[key]

    def best(self) -> int:
        """Return the checkpoint with the highest utility; of equals the one with the fewest rounds. That of the start is 0."""
        utilities = [0.0, *(one.utility.estimate for one in self.rounds)]
        return utilities.index(max(utilities))

    @property
    def cost(self) -> LoopCost:
        """Return what the first diagnosis and all rounds took."""
        return sum((one.cost for one in self.rounds), diagnosis_cost(self.before))


def is_unusable(first: DiagnosedBehavior) -> bool:
    """Return whether a behavior is to be retained and its first measurement is invalid, so that no fall could be told."""
    return first.behavior.purpose is Purpose.RETENTION and first.diagnosis.bottleneck is Bottleneck.INVALID


def diagnosis_cost(run: DiagnosedRun) -> LoopCost:
    """Return what a diagnosis took."""
    costs = [diagnosis.cost for diagnosis in run.diagnoses]
    return LoopCost(generated_tokens=sum(c.generated_tokens for c in costs), seconds=sum(c.seconds for c in costs))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """A finished loop."""

    path: Path
    before: DiagnosedRun
    rounds: Sequence[LoopRound]
    """Empty when the diagnosis names no stage that trains."""
    ended: LoopEnd
    """Why there is no further round."""
    kept: LoopRound | None
    """The round whose checkpoint to keep, the one with the highest utility; None: the model that the loop started with."""
    transition: Transition | None
    """From the start to the checkpoint to keep, on the eval split; to the last one where the start is to be kept. None without a round that
    changed the weights."""
    final: Transition | None
    """The same on the final split, for the trained behaviors; None where there is no such split."""

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html" if self.transition else self.before.report_html
