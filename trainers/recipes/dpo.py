"""dpo: make the better answer of each pair likelier than the worse one, measured from where the model stood.

Sampled: nothing where pairs are given with `--data`; else n completions of every train problem, once, from the model as it is at the start,
and what the verifier calls right is set against what it calls wrong. Credit: none. Loss: −log σ(β(Δ(w) − Δ(l))), Δ = log π/π_ref,
averaged over pairs, plus `nll_weight` times the NLL of the better answers, per token. Paper: arXiv 2305.18290; the NLL: 2404.19733.
Changed from the textbook: the NLL is on by default, because without it the better answer's own likelihood often falls with the worse one's.
The signal vanishes where a margin is large already; pairs whose two sides are both far from what the policy writes teach style.
Provenance off-policy, interface preferences, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import EpochConfig
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.objectives.reductions import row_mean, token_mean
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.prepared import PreparedRows, fixed, in_epochs
from posttrain.trainers.sources.verified import make_pairs, sample_pairs, successes
from posttrain.trainers.stage import Component, Recipe, Stage, Term, TrainingInputs
from posttrain.trainers.training_types import Material, RowRole


class PairConfig(EpochConfig):
    """Knobs of every stage that learns from pairs."""

    learning_rate: float = Field(default=1e-6, gt=0, description="Peak. Papers: 5e-7..1e-6 for 7B; small models take more.")
    rows_per_batch: int = Field(default=8, ge=1, description="Pairs in one optimizer batch. Papers: 32..128.")
    num_samples: int = Field(default=8, ge=2, description="Samples drawn per problem, where no pairs are given.")
    max_per_problem: int = Field(default=4, ge=1, description="Pairs kept per problem, where no pairs are given.")
    use_references: bool = Field(
        default=True,
        description="Whether a reference path may be the better side where no sample is right; only for drawn pairs.",
    )


class DpoConfig(PairConfig):
    """Knobs of `dpo`."""

    beta: float = Field(default=0.1, gt=0, description="How far the policy may go for a margin; small goes far. DPO: 0.1..0.5.")
    nll_weight: float = Field(
        default=1.0, ge=0, description="Of the better answers' NLL. Iterative RPO (2404.19733): 1; DPO itself: 0."
    )


def pairs(inputs: TrainingInputs, config: PairConfig, stage: str) -> PreparedRows:
    """Pairs from `--data`, from a run's train rollouts, or drawn."""
    references = encode_references(inputs.engine, inputs.training_set.train) if config.use_references else []
    if inputs.data and inputs.data[0].role is RowRole.SAMPLE:
        make = fixed(make_pairs([*inputs.data, *references], successes(inputs.training_set), config.max_per_problem))
    elif inputs.data:
        make = fixed(inputs.data)
    else:
        make = sample_pairs(
            inputs.engine,
            inputs.graders,
            inputs.training_set,
            references,
            num_samples=config.num_samples,
            max_per_problem=config.max_per_problem,
            seed=f"pairs|{config.seed}",
        )
    return in_epochs(make, config, rows_per_item=2)


def pair_stage(inputs: TrainingInputs, config: PairConfig, stage: str, term: Term, nll_weight: float) -> Stage:
    """A term on pairs, with the NLL of their better sides where it has a weight."""
    components = [Component(term=term, reduction=row_mean)]
    if nll_weight > 0:
        components.append(Component(term=Nll(), reduction=token_mean, weight=nll_weight, roles=frozenset({RowRole.CHOSEN})))
    return Stage(source=pairs(inputs, config, stage), credit=NoCredit(), components=tuple(components))


def build(inputs: TrainingInputs, config: DpoConfig) -> Stage:
    """Put the stage together."""
    return pair_stage(inputs, config, "dpo", ReferenceMargin(beta=config.beta), config.nll_weight)


DPO = Recipe(name="dpo", config=DpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
