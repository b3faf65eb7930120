"""reward_model: learn from pairs what a good answer is, as one number.

Sampled: as dpo. Credit: none. Loss: −log σ(r(w) − r(l)), r the scalar head behind the last token, averaged over pairs. The checkpoint is a sequence
classifier with one label (`AutoModelForSequenceClassification`), which a behavior may name as its verifier: {kind: reward_model, model: FOLDER}.
Papers: arXiv 2203.02155; centering: 2312.09244.
The signal vanishes where pairs are told apart already; what is not in the pairs is not judged. Provenance off-policy, interface preferences; it
changes no policy.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.reductions import row_mean
from posttrain.trainers.objectives.reward_modelling import BradleyTerry
from posttrain.trainers.recipes.dpo import PairConfig, pairs
from posttrain.trainers.sources.prepared import Made, in_epochs
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material, TrainingRow


class RewardModelConfig(PairConfig):
    """Knobs of `reward_model`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak. InstructGPT: 9e-6.")
    centering: float = Field(default=0.01, ge=0, description="Weight of (r(w) + r(l))², which keeps rewards near 0. Paper: 0.01.")


def readable_to_the_end(row: TrainingRow) -> TrainingRow:
    """The row with one more token, so that the model reads the last one: a token is read only to predict the next."""
    return replace(row, completion_ids=(*row.completion_ids, row.completion_ids[-1]), sampler_logprobs=None)


def build(inputs: TrainingInputs, config: RewardModelConfig) -> Stage:
    """Put the stage together.

    Raises:
        SettingsError: There is no model to put a head on.
    """
    if inputs.model is None:
        raise SettingsError("reward_model puts a head on a model, and none was given")
    sampled = pairs(inputs, config, "reward_model")

    def make() -> Made:
        _, metrics = sampled.prepare()
        return [readable_to_the_end(row) for row in sampled.rows], metrics

    source = in_epochs(make, config, rows_per_item=2)
    return Stage(
        source=source,
        credit=NoCredit(),
        components=(Component(term=BradleyTerry(centering=config.centering), reduction=row_mean),),
        scalar_head=scalar_head(inputs.model, bias=False),  # a margin does not see one
    )


REWARD_MODEL = Recipe(
    name="reward_model",
    config=RewardModelConfig,
    build=build,
    saves="reward_model",
    reads=frozenset({Material.PAIRS, Material.SAMPLES}),
)
