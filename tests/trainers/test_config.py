from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.recipes.grpo import GrpoConfig
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.recipes.sft import SftConfig
from posttrain.trainers.step.optimizer import learning_rate_at


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_defaults_and_every_knob_a_description(name: str) -> None:
    config = load_config(name)
    assert all(field.description for field in type(config).model_fields.values())
    assert RECIPES[name].name == name


def test_overrides_win_over_the_file_and_are_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("learning_rate: 1e-4\ngroup_size: 4\n")
    config = load_config("grpo", file, ["learning_rate=2e-5", "betas=[0.9, 0.99]", "importance_cap=null", "normalize_std=false"])
    assert isinstance(config, GrpoConfig)
    assert (config.learning_rate, config.group_size, config.betas) == (2e-5, 4, (0.9, 0.99))
    assert config.importance_cap is None
    assert config.normalize_std is False


@pytest.mark.parametrize(
    ("overrides", "code", "named"),
    [
        (["learning_rte=1"], "unknown_setting", "learning_rate?"),
        (["group_size=1"], "setting_out_of_range", "group_size"),
        (["learning_rate"], "override_without_value", "learning_rate=1e-5"),
        (["schedule=square"], "setting_out_of_range", "schedule"),
        (["save_every=0"], "setting_out_of_range", "save_every"),
        (["seed=[1"], "override_without_value", "seed=[1"),
        (["betas=[0.9, 1.0]"], "setting_out_of_range", "betas"),
        (["learning_rate=true"], "setting_out_of_range", "learning_rate"),
        (["group_size=yes"], "setting_out_of_range", "group_size"),
        (["eval_every=false"], "setting_out_of_range", "eval_every"),
        (["num_epochs=1e300"], "setting_out_of_range", "num_epochs"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(overrides: list[str], code: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config("grpo", None, overrides)
    assert caught.value.code == code
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_that_are_not_finite_are_refused_in_every_setting(name: str) -> None:
    codes = {}
    for field in RECIPES[name].config.model_fields:
        for text in (".inf", "-.inf", ".nan", "[.inf, 0.9]", "[0.9, .nan]"):
            with pytest.raises(SettingsError) as caught:
                load_config(name, None, [f"{field}={text}"])
            codes[field, text] = caught.value.code
    assert set(codes.values()) == {"setting_out_of_range"}


def test_unknown_keys_in_a_file_and_unknown_recipes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"

    def code_of(recipe: str, given: Path | None = None) -> str:
        with pytest.raises(SettingsError) as caught:
            load_config(recipe, given)
        return caught.value.code

    file.write_text("group_size: 4\n")
    assert code_of("sft", file) == "unknown_setting"
    file.write_text("- 1\n")
    assert code_of("sft", file) == "config_not_a_mapping"
    assert code_of("pppo") == "unknown_recipe"
    assert code_of("sft", tmp_path / "missing.yaml") == "config_unreadable"


def test_schedules() -> None:
    config = SftConfig(learning_rate=1.0, warmup_steps=2, schedule="linear")
    assert [learning_rate_at(step, 6, config) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = SftConfig(learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(0, 4, cosine) == 1.0
    assert learning_rate_at(2, 4, cosine) == pytest.approx(0.5)
