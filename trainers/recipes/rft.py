"""rft: imitate the policy's own verified samples.

Sampled: n completions of every train problem, once, from the model as it is at the start. Credit: none, but only rows that the
verifier calls right are kept, distinct by text, a few per problem. Loss: −log π(y_t), averaged over tokens.
Papers: RFT (arXiv 2308.01825), STaR (2203.14465), RAFT (2304.06767).
The signal vanishes for problems that are never solved in n draws, and for those that are always solved it only sharpens.
Provenance on-policy (of the start, then ageing), interface verifier, role reshaping inside the support.
"""

from __future__ import annotations

from posttrain.trainers.config import RftConfig
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.objectives.terms import Nll
from posttrain.trainers.sources.verified import VerifiedSource
from posttrain.trainers.stage import Recipe, Stage, StageInputs


def build(inputs: StageInputs, config: RftConfig) -> Stage:
    """Put the stage together."""
    source = VerifiedSource(
        inputs.engine,
        inputs.graders,
        inputs.training_set,
        num_samples=config.num_samples,
        temperature=config.temperature,
        max_per_problem=config.max_per_problem,
        rows_per_batch=config.rows_per_batch,
        num_steps=config.num_steps,
        num_epochs=config.num_epochs,
        seed=config.seed,
    )
    return Stage(source=source, credit=NoCredit(), terms=(Nll(),), reduction=token_mean)


RFT = Recipe(
    name="rft",
    provenance="on_policy",
    interface="verifier",
    role="policy_reshaping",
    needs=("verifier",),
    config=RftConfig,
    build=build,
)
