"""The named stages. One small file each; a new one is a file and a line here."""

from __future__ import annotations

from typing import Any

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.recipes.grpo import GRPO
from posttrain.trainers.recipes.rft import RFT
from posttrain.trainers.recipes.sft import SFT
from posttrain.trainers.stage import Recipe

RECIPES: dict[str, Recipe[Any]] = {"sft": SFT, "rft": RFT, "grpo": GRPO}


def find_recipe(name: str) -> Recipe[Any]:
    """A recipe by name.

    Raises:
        SettingsError: There is none of that name.
    """
    if name not in RECIPES:
        raise SettingsError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
