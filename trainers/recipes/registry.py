"""Every recipe by name. A new stage is a file beside this one and an entry in `diagnose.stage_catalogue`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.stage_catalogue import HOW_TO_GIVE, STAGES, Need, Provenance, trainable_needs
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.data.data_set import materials
from posttrain.trainers.recipes.retention import with_retention
from posttrain.trainers.stage import ConfigT, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material, TrainingProblem, TrainingRow

RECIPES: dict[str, Recipe[Any]] = {
    name: getattr(import_module(f"{__package__}.{name}"), name.upper()) for name, stage in STAGES.items() if stage.trains
}
"""By name, in the order of the catalogue; the recipe `grpo` is `GRPO` in `grpo.py`."""


def find_recipe(name: str) -> Recipe[Any]:
    """Return a recipe by name.

    Raises:
        SettingsError: There is none of that name.
    """
    if name not in RECIPES:
        raise SettingsError(f"no recipe {name!r}; there are {', '.join(RECIPES)}", code="unknown_recipe")
    return RECIPES[name]


def offered_needs(inputs: TrainingInputs) -> frozenset[Need]:
    """Return what inputs offer to a stage; what it does not read is refused by `build_stage`."""
    offered = {
        Need.REFERENCES: any(item.problem.references for item in inputs.training_set.train),
        Need.VERIFIER: inputs.graders,
        Need.TEACHER: inputs.teacher or inputs.earlier,
    }
    return trainable_needs(frozenset(need for need, there in offered.items() if there), data=bool(inputs.data))


def refuse_unread(recipe: Recipe[Any], rows: Sequence[TrainingRow], prompts: Sequence[TrainingProblem]) -> None:
    """Refuse rows and prompts that a recipe does not learn from.

    Raises:
        BehaviorError: A data set or a run is given that the stage would pass over or take for something else (`data_not_read`, `margin_not_read`).
    """
    for unread in sorted(materials(rows, prompts) - recipe.reads):
        others = ", ".join(name for name, other in RECIPES.items() if unread in other.reads)
        own = " or ".join(sorted(recipe.reads)) or "no data set and no run"
        raise BehaviorError(
            f"{recipe.name}: got {unread}, and it learns from {own}; give that, or use a stage that reads them: {others}",
            code="data_not_read",
        )
    if not recipe.reads_margins and (row := next((row for row in rows if row.margin), None)):
        others = ", ".join(name for name, other in RECIPES.items() if other.reads_margins)
        raise BehaviorError(
            f"{recipe.name}: got the margin {row.margin:g} of {row.behavior}/{row.problem_id}, and its loss has no place for one; leave the column margin "
            f"out, or use a stage that reads it: {others}",
            code="margin_not_read",
        )


def check_inputs(recipe: Recipe[Any], inputs: TrainingInputs) -> None:
    """Refuse inputs that lack what a recipe needs, or hold what it does not learn from.

    Raises:
        BehaviorError: As `refuse_unread`.
        SettingsError: The stage lacks what `stage_catalogue` says it needs.
    """
    refuse_unread(recipe, inputs.data, inputs.prompts)
    missing = [need for need in recipe.description.needs if need not in offered_needs(inputs)]
    if missing:
        raise SettingsError(
            f"{recipe.name}: {'; '.join(HOW_TO_GIVE[need] for need in missing)}; give that, or use another stage (see `posttrain stages`)",
            code="missing_input",
        )


def samples_problems(recipe: Recipe[Any], inputs: TrainingInputs, config: TrainingConfig) -> bool:
    """Return whether a stage samples train problems (or prompts alone), before or while it trains."""
    needs = set(recipe.description.needs)
    if recipe.description.provenance is Provenance.OFF_POLICY:
        return not inputs.data and bool(needs & {Need.PAIRS, Need.STEP_FEEDBACK, Need.VERIFIER})
    return not (inputs.data and Material.SAMPLES in recipe.reads) and getattr(config, "on_policy", 1.0) > 0


def scored_by_teacher(recipe: Recipe[Any]) -> bool:
    """Return whether a teacher reads the very tokens that are trained on, and not texts that it wrote itself."""
    return Need.TEACHER in recipe.description.needs and Need.VERIFIER not in recipe.description.needs


def can_retain(recipe: Recipe[Any]) -> bool:
    """Return whether retained behaviors can be mixed into a stage: it trains, and what it saves is a policy."""
    return recipe.build is not None and recipe.saves == "policy"


def build_stage(recipe: Recipe[ConfigT], inputs: TrainingInputs, config: ConfigT) -> Stage:
    """Build the stage of a recipe that takes steps, with rows of the retained behaviors in its batches where there are such.

    Raises:
        UserError: The inputs are refused by `check_inputs`, or the recipe cannot be built from them.
    """
    check_inputs(recipe, inputs)
    assert recipe.build is not None
    return with_retention(recipe.build(inputs, config), inputs, config)
