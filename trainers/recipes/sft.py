"""sft: imitate reference paths.

Sampled: nothing; the rows are the reference paths of train problems, or those of `--data`. Credit: none, every token of every path counts
alike. Loss: −log π(y_t), averaged over the tokens of the batch. Paper: InstructGPT's first step (arXiv 2203.02155).
Changed from the textbook: the end token is learned, the prompt is not.
The signal vanishes when the paths are already likely, and it never sees the policy's own mistakes; what the paths do not
contain is forgotten. Provenance off-policy, interface token targets, role support expansion where the paths are outside the
support, else reshaping.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.diagnose.errors import UserError
from posttrain.trainers.config import EpochConfig
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.prepared import PreparedRows, fixed, in_epochs
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material, TrainingRow


class SftConfig(EpochConfig):
    """Knobs of `sft`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak. Papers: 1e-5 for all weights, 1e-4..1e-3 for LoRA.")
    max_references: int | None = Field(default=None, ge=1, description="Reference paths used per problem; None uses all.")


def demonstrations(inputs: TrainingInputs, stage: str, max_references: int | None) -> list[TrainingRow]:
    """The rows of `--data`, else the reference paths of the train problems.

    Raises:
        UserError: There are none.
    """
    if inputs.data:
        return list(inputs.data)
    rows = encode_references(inputs.engine, inputs.training_set.train, max_references)
    if not rows:
        raise UserError(
            f"{stage} needs reference paths and no train problem has one; add `references` to the problems, give rows with --data, or use "
            "rft or grpo"
        )
    return rows


def epochs(rows: Sequence[TrainingRow], config: EpochConfig) -> PreparedRows:
    """Rows that are there already, in epochs."""
    return in_epochs(fixed(rows), config)


def build(inputs: TrainingInputs, config: SftConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: There is nothing to imitate.
    """
    rows = demonstrations(inputs, "sft", config.max_references)
    return Stage(source=epochs(rows, config), credit=NoCredit(), components=(Component(term=Nll(), reduction=token_mean),))


SFT = Recipe(name="sft", config=SftConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
