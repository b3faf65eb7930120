"""Recipes and the catalogue of stages say the same of each stage."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import replace

import pytest
from helpers.recipe_inputs import SETTINGS, inputs_of

from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.trainers.recipes.registry import RECIPES, build_stage, check_inputs, find_recipe, offered_needs
from posttrain.trainers.training_types import Material


def test_every_recipe_is_described_and_the_other_way_round() -> None:
    assert {name for name, stage in STAGES.items() if stage.trains} == set(RECIPES)
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.description is STAGES[name]
        assert (recipe.saves == "policy") == (STAGES[name].family != "reward models")
        assert (recipe.saves == "policy") == (STAGES[name].role is not None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_does_and_is_built_from_blocks_alone(name: str) -> None:
    module = importlib.import_module(f"posttrain.trainers.recipes.{name}")
    assert module.__doc__ is not None
    assert module.__doc__.startswith(f"{name}: ")
    assert all(f"\n{part}: " in module.__doc__ for part in ("Sampled", "Credit", "Loss"))
    assert STAGES[name].paper in module.__doc__
    imported = re.findall(r"from posttrain\.trainers\.recipes\.(\w+) import", inspect.getsource(module))
    assert set(imported) <= {"blocks"}


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_catalogue_lists_is_enough_to_train(name: str) -> None:
    recipe, inputs = find_recipe(name), inputs_of(name, set(STAGES[name].needs))
    config = recipe.config(**SETTINGS.get(name, {}))
    check_inputs(recipe, inputs)
    if recipe.transform is not None:
        assert recipe.transform(inputs, config)()
        return
    stage = build_stage(recipe, inputs, config)
    num_batches, _ = stage.source.prepare()
    assert num_batches > 0
    assert stage.source.batch(0).rows


@pytest.mark.parametrize("name", RECIPES)
def test_a_stage_is_refused_without_any_one_of_what_the_catalogue_lists(name: str) -> None:
    recipe, needs = find_recipe(name), set(STAGES[name].needs)
    refused: set[Need] = set()
    for need in needs:
        inputs = inputs_of(name, needs - {need})
        missing = needs - offered_needs(inputs)  # a verifier makes pairs and judges steps
        if missing:
            with pytest.raises(SettingsError) as caught:
                check_inputs(recipe, inputs)
            assert caught.value.code == "missing_input"
        refused |= missing
    assert refused == needs


@pytest.mark.parametrize("name", RECIPES)
def test_data_that_a_stage_does_not_read_is_refused(name: str) -> None:
    recipe = find_recipe(name)
    pairs = inputs_of("dpo", {Need.PAIRS})
    if Material.PAIRS in recipe.reads:
        return
    with pytest.raises(BehaviorError) as caught:
        check_inputs(recipe, pairs)
    assert caught.value.code == "data_not_read"


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if Material.PAIRS in recipe.reads])
def test_a_margin_is_read_by_the_loss_or_refused(name: str) -> None:
    inputs = inputs_of("dpo", {Need.PAIRS})
    inputs = replace(inputs, data=tuple(replace(row, margin=0.5) for row in inputs.data))
    if name == "reward_model":
        check_inputs(find_recipe(name), inputs)
        return
    with pytest.raises(BehaviorError) as caught:
        check_inputs(find_recipe(name), inputs)
    assert caught.value.code == "margin_not_read"


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        find_recipe("pppo")
    assert caught.value.code == "unknown_recipe"
