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
