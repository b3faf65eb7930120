"""What a recipe is built from, as little as its entry in the catalogue of stages says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.training import TinyEngine, grade_parity, make_behavior, make_tokenizer, random_pairs, random_rows, tiny_llama

from posttrain.diagnose.stage_catalogue import Need
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.stage import FrozenModel, TrainingInputs
from posttrain.trainers.training_types import Material, TrainingSet

SETTINGS: dict[str, dict[str, Any]] = {
    "gkd": {"on_policy": 1.0},  # by default half of the batches are given: reference paths, or verified samples of the teacher
}


def inputs_of(name: str, needs: set[Need]) -> TrainingInputs:
    """Return inputs that offer a stage these needs, and as little else as there can be."""
    recipe, behavior, model = find_recipe(name), make_behavior(max_tokens=9), tiny_llama()
    if Need.REFERENCES not in needs:
        behavior = replace(behavior, problems=tuple(replace(problem, references=()) for problem in behavior.problems))
    data: tuple[Any, ...] = ()
    if Need.PAIRS in needs and Material.PAIRS in recipe.reads:
        data = tuple(random_pairs())
    elif Need.STEP_FEEDBACK in needs and Material.STEPS in recipe.reads:
        data = tuple(replace(row, step_ends=(0,), step_scores=(1.0,)) for row in random_rows())
    teacher = tiny_llama(seed=2)
    frozen = FrozenModel(source="t", fingerprint="t", model=teacher, tokenizer=make_tokenizer(), engine=TinyEngine(teacher))
    return TrainingInputs(
        engine=TinyEngine(model),
        training_set=TrainingSet([behavior], dev_share=0),
        graders={"sums": grade_parity} if Need.VERIFIER in needs else {},
        model=model,
        tokenizer=make_tokenizer(),
        data=data,
        teacher=frozen if needs & {Need.TEACHER, Need.EARLIER_CHECKPOINT} else None,
    )
