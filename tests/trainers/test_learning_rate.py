"""The default learning rate fits the stage and the model; a rate that is given, or that a run began with, is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.training import make_inputs, tiny_llama
from typer.testing import CliRunner

from posttrain.trainers.learning_rate import MOST_RATE, WIDTHS, RateKind, default_learning_rate
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.training.preparation import fill_in_learning_rate
from posttrain.trainers.training.resume_state import StoredState
from posttrain.trainers.training.trainer import run_recipe

ROOT = Path(__file__).parents[2]
USED = {
    ("sft", 128): (1e-3, 1e-3),
    ("sft", 576): (3e-5, 1e-4),
    ("rft", 576): (3e-5, 1e-4),
    ("grpo", 576): (2e-5, 3e-5),
    ("sft", 4096): (1e-5, 2e-5),
    ("rft", 4096): (1e-5, 2e-5),
    ("self_distill", 128): (1e-3, 1e-3),
    ("grpo", 128): (3e-4, 3e-4),
    ("grpo", 4096): (9e-7, 1.1e-6),
    ("ppo", 4096): (9e-7, 1.1e-6),
    ("dpo", 128): (1e-4, 1e-4),
    ("dpo", 4096): (5e-7, 1e-6),
    ("online_dpo", 4096): (5e-7, 1e-6),
    ("opd", 128): (5e-4, 5e-4),
    ("opd", 4096): (5e-6, 1e-5),
    ("reward_model", 4096): (7e-6, 1.1e-5),
    ("luffy", 4096): (1e-6, 5e-6),
}
"""Rates that are used for a stage at a width: measured at 128 and 576, of papers at 4096."""


@pytest.mark.parametrize(("stage", "width"), USED)
def test_the_default_is_what_is_used_at_the_width(stage: str, width: int) -> None:
    low, high = USED[stage, width]
    assert low <= load_config(stage).learning_rate_for(width) <= high


@pytest.mark.parametrize("kind", RateKind)
def test_wider_models_take_less_down_to_a_limit(kind: RateKind) -> None:
    rates = [default_learning_rate(kind, width) for width in (64, 128, 256, 576, 960, 2048, 4096, 8192, 16384)]
    assert rates == sorted(set(rates), reverse=True)
    assert default_learning_rate(kind, 8) == default_learning_rate(kind, WIDTHS[0])
    assert default_learning_rate(kind, 10**6) == default_learning_rate(kind, WIDTHS[-1])


def test_lora_takes_ten_times_as_much_up_to_a_limit() -> None:
    assert load_config("sft", None, ["lora_rank=8"]).learning_rate_for(4096) == pytest.approx(1.6e-4, rel=0.1)
    assert load_config("sft", None, ["lora_rank=8"]).learning_rate_for(128) == MOST_RATE == 3e-3


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_has_a_default_of_its_own_and_a_given_rate_wins(name: str) -> None:
    assert load_config(name).learning_rate is None
    assert load_config(name, None, ["learning_rate=auto"]) == load_config(name)
    given = load_config(name, None, ["learning_rate=3e-7"])
    assert given.learning_rate_for(128) == given.learning_rate_for(4096) == 3e-7


def test_the_default_is_told_recorded_and_trains_a_small_model(tokenizer, tmp_path: Path) -> None:
    """At 1e-5, the default of before, the loss of a model of this size stays where it was."""
    said: list[str] = []
    losses = {}
    for name, more in {"default": [], "before": ["learning_rate=1e-5"]}.items():
        config = load_config("sft", None, ["autocast=float32", "num_steps=20", "rows_per_batch=12", *more])
        out = tmp_path / name
        result = run_recipe("sft", make_inputs(tiny_llama(), tokenizer), config, out=out, say=said.append)
        records = [json.loads(line) for line in result.log.read_text().splitlines()]
        losses[name] = [record["loss"] for record in records if record["event"] == "step"]
        if name == "default":
            rate = default_learning_rate(RateKind.IMITATION, 16)
            assert result.learning_rate == records[0]["peak_learning_rate"] == records[1]["learning_rate"] == rate
            assert json.loads((result.checkpoint / "posttrain_config.json").read_text())["learning_rate"] == rate
            assert f"learning_rate: {rate}" in (result.checkpoint / "README.md").read_text()
            assert any(str(rate) in line for line in said)
    assert losses["default"][-1] < 0.7 * losses["default"][0]
    assert losses["before"][-1] > 0.95 * losses["before"][0]


def test_a_resumed_run_keeps_its_rate(model) -> None:
    """Also where the default has become another since."""
    config = load_config("sft")
    began, _ = fill_in_learning_rate(config, model, None)
    assert began.learning_rate == config.learning_rate_for(16)
    state = StoredState(record={"peak_learning_rate": 3e-3}, tensors=None)  # type: ignore[arg-type]
    resumed, _ = fill_in_learning_rate(config, model, state)
    assert resumed.learning_rate == 3e-3


def test_the_documentation_has_the_numbers_of_the_formulas() -> None:
    text = (ROOT / "docs" / "learning-rates.md").read_text()
    heads = re.search(r"\| kind .*", text)[0].split("|")[3:-1]
    widths = [int(re.search(r"\d+", head)[0]) for head in heads]
    assert widths == [128, 576, 960, 2048, 4096]
    told = set()
    for kind in RateKind:
        _, _, stages, *rates, _ = re.search(rf"^\| {kind} .*", text, re.M)[0].split("|")
        assert [float(rate) for rate in rates] == [default_learning_rate(kind, width) for width in widths]
        names = re.findall(r"`(\w+)`", stages)
        assert {RECIPES[name].config.rate_kind for name in names} == {kind}
        told |= set(names)
    assert told == set(RECIPES) - {"merge"}


def test_the_description_of_the_setting_has_the_numbers_of_the_formulas() -> None:
    description = type(load_config("sft")).model_fields["learning_rate"].description
    found = [[float(rate) for rate in re.findall(r"\d\.?\d*e-\d", part)] for part in description.split(";")[:3]]
    widths = (128, 576, 4096)
    assert found == [[load_config(stage).learning_rate_for(width) for width in widths] for stage in ("sft", "grpo", "dpo")]


def test_the_help_of_train_has_the_numbers_of_the_formulas() -> None:
    from posttrain.cli import app

    text = " ".join(re.sub(r"[^\w.\-(),]+", " ", CliRunner().invoke(app, ["train", "--help"], terminal_width=200).stdout).split())
    found = re.search(r"sft (\S+) at width 128, (\S+) at 4096", text)
    assert [float(rate) for rate in found.groups()] == [load_config("sft").learning_rate_for(width) for width in (128, 4096)]
