"""What a training run did, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Ending(StrEnum):
    """Why training ended."""

    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    """The dev slice did not get better for `patience` evaluations."""
    TARGET_MET = "target_met"
    """pass@1 on the dev slice reached `target`."""
    ATTRITION = "attrition"
    """pass@1 on the dev slice fell by more than `max_dev_loss` below what it was before the first step."""
    COST_MORE = "cost_more_than_it_gained"
    """Retained behaviors would have lost more than was gained: the saved weights are those of the start, or near them."""
    NOTHING_TO_LEARN = "nothing_to_learn"
    """The source had no rows, or no batch had a signal: the weights are those of the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """What a training run did and where it left it."""

    recipe: str
    ending: Ending
    num_steps: int
    """Optimizer steps taken."""
    learning_rate: float | None = None
    """Peak; None where no optimizer takes steps."""
    moved: bool = True
    """Whether the model is another one for what it was trained on. A stage that did not move it was not tried."""
    nats_per_token: float | None = None
    """Mean |Δ log π(token)| from the start to the end, over some rows that were trained on; None where no step was taken or the model is no policy."""
    num_skipped: int = 0
    """Batches without signal, on which no step was taken."""
    trained_tokens: int = 0
    """Completion tokens that ran backward, over all steps."""
    input_tokens: int = 0
    """Tokens that ran through the model for training."""
    generated_tokens: int = 0
    """Tokens sampled for training, the dev slice not counted."""
    retained_rows: int = 0
    """Rows of retained behaviors in all optimizer steps; one that is trained on twice counts twice."""
    retained_tokens: int = 0
    """Completion tokens of these rows; they are among the trained tokens."""
    kept_share: float = 1.0
    """How far the saved weights are on the line from those before training to those after it, chosen where behaviors are retained."""
    choice_tokens: int = 0
    """Tokens sampled on dev slices for that choice; not among the generated ones."""
    num_rows_dropped: int = 0
    """Rows that were longer than `max_length`, or than the model reads, and left out."""
    num_rows_cut: int = 0
    """Rows of which the end of the answer was left out for that."""
    num_problems_dropped: int = 0
    """Problems that were not sampled, since their prompt leaves no room for a sample."""
    seconds: float
    log: Path
    """JSONL, one object per step."""
    checkpoint: Path
    """A Hugging Face model folder: the best one by the dev slice where that was evaluated after a step, else the last."""

    @property
    def warning(self) -> str:
        """What to tell people of a stage that took steps and left the model where it was; else empty."""
        if self.moved or self.nats_per_token is None:
            return ""
        skipped = f", or give it more signal: {self.num_skipped} batches had none" if self.num_skipped else ""
        return (
            f"the model hardly moved ({self.nats_per_token:.2g} nats a token in {self.num_steps} steps at learning rate {self.learning_rate:g}): raise "
            f"learning_rate or num_steps{skipped}"
        )
