"""Early stopping and the choice of the checkpoint, both by evaluations on the dev slice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.training.dev_evaluation import DevEvaluation
from posttrain.trainers.training.result import Ending

NEVER, BEFORE = -2, -1
"""In place of the number of a step: no evaluation yet, the evaluation before step 0."""


@dataclass(kw_only=True, slots=True)
class DevSelection:
    """The evaluations of a run so far: which weights are the best, and whether training should end."""

    config: TrainingConfig
    evaluations: tuple[DevEvaluation, ...] = ()
    """Before the first step; and the last one where there was another."""
    evaluated_after: int = NEVER
    """The step after which the last one was made."""
    best_score: float | None = None
    """Of the evaluations after a step; None before the first."""
    best_is_saved: bool = False
    num_without_gain: int = 0
    """Evaluations since the best one."""

    def is_due(self, step: int) -> bool:
        """Return whether the weights after a step are to be evaluated."""
        every = self.config.eval_every
        return every is not None and self.evaluated_after < step and (step + 1) % every == 0

    def add(self, evaluation: DevEvaluation, step: int) -> bool:
        """Take an evaluation in, and return whether it is the best after a step, so that its weights must be saved.

        One without a score (NaN, where no sample has a grade) is never the best.
        """
        self.evaluations = (*self.evaluations[:1], evaluation)
        self.evaluated_after = step
        if step == BEFORE:
            return False
        if not math.isnan(evaluation.score) and (self.best_score is None or evaluation.score > self.best_score):
            self.best_score, self.best_is_saved, self.num_without_gain = evaluation.score, True, 0
            return True
        self.num_without_gain += 1
        return False

    def evaluations_of(self, step: int) -> tuple[DevEvaluation, ...]:
        """Return the evaluation before the first step, and the one of the weights after `step`, where there were such."""
        return self.evaluations if self.evaluated_after == step else self.evaluations[:1]

    def log_record(self) -> dict[str, Any]:
        """Return what is logged of the last evaluation."""
        last = self.evaluations[-1]
        best = {"best": self.best_score} if self.evaluated_after != BEFORE else {}
        return {"event": "dev", "step": self.evaluated_after, "dev_score": last.score, **best, **last.metrics}

    def ending(self) -> Ending:
        """Return whether the last evaluation ends the run; `Ending.FINISHED` where it goes on to its last step.

        Raises:
            SettingsError: A setting is about pass@1, and the dev slice is not graded.
        """
        config, passed, before = self.config, self.evaluations[-1].pass_at_1, self.evaluations[0].pass_at_1
        if passed is None or before is None:
            wanted = [name for name in ("target", "max_dev_loss") if getattr(config, name) is not None]
            if wanted:
                raise SettingsError(
                    f"{wanted[0]} is about pass@1 on the dev slice, and no verifier grades it; leave it out",
                    code="dev_not_graded",
                )
        elif config.target is not None and passed >= config.target:
            return Ending.TARGET_MET
        elif config.max_dev_loss is not None and before - passed > config.max_dev_loss:
            return Ending.ATTRITION
        if config.patience is not None and self.num_without_gain >= config.patience:
            return Ending.STOPPED_EARLY
        return Ending.FINISHED

    def to_json(self) -> dict[str, Any]:
        """Return all but the settings, for a state from which a run is resumed."""
        record = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "config"}
        return record | {"evaluations": [asdict(each) for each in self.evaluations]}

    @classmethod
    def from_json(cls, config: TrainingConfig, record: Mapping[str, Any]) -> DevSelection:
        """Read what `to_json` wrote."""
        evaluations = tuple(DevEvaluation(**each) for each in record["evaluations"])
        return cls(config=config, **{**record, "evaluations": evaluations})
