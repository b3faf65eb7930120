"""sft: imitate reference paths.

Sampled: nothing; the rows are the reference paths of train problems. Credit: none, every token of every path counts alike.
Loss: −log π(y_t), averaged over the tokens of the batch. Paper: InstructGPT's first step (arXiv 2203.02155).
Changed from the textbook: the end token is learned, the prompt is not.
The signal vanishes when the paths are already likely, and it never sees the policy's own mistakes; what the paths do not
contain is forgotten. Provenance off-policy, interface token targets, role support expansion where the paths are outside the
support, else reshaping.
"""

from __future__ import annotations

from posttrain.diagnose.errors import UserError
from posttrain.trainers.config import SftConfig
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.objectives.terms import Nll
from posttrain.trainers.sources.demonstrations import FixedRows, encode_references
from posttrain.trainers.stage import Recipe, Stage, StageInputs


def build(inputs: StageInputs, config: SftConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: No train problem has a reference path.
    """
    rows = encode_references(inputs.engine, inputs.training_set.train, config.max_references)
    if not rows:
        raise UserError(
            "sft needs reference paths and no train problem has one; add `references` to the problems, or use rft or grpo"
        )
    source = FixedRows(
        rows, rows_per_batch=config.rows_per_batch, num_steps=config.num_steps, num_epochs=config.num_epochs, seed=config.seed
    )
    return Stage(source=source, credit=NoCredit(), terms=(Nll(),), reduction=token_mean)


SFT = Recipe(
    name="sft",
    provenance="off_policy",
    interface="token_targets",
    role="support_expansion",
    needs=("references",),
    config=SftConfig,
    build=build,
)
