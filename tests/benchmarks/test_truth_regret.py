"""The arithmetic of the truth benchmark's second half: utilities, regrets, effects, budgets, and which runs are still to be done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from truth import equal_cost, regret, regret_plants
from truth.families import FAMILIES, HELD_OUT
from truth.regret import Outcome, PlantResult
from truth.regret_plants import Plant, Unit

TUNED = next(name for name in FAMILIES if name != HELD_OUT)
SAMPLES = {"target": 16, "retention": 32}
PLANT = Plant(TUNED, 0, "missing_support", 160)


def outcome(gain: float, loss: float, *, before: float = 0.2, scored: float | None = None) -> Outcome:
    """Return a run whose gain is another one on the samples for evaluation where `scored` is given."""
    return Outcome(
        target={"selection": (before, before + gain), "evaluation": (before, before + (gain if scored is None else scored))},
        retention={"selection": (0.9, 0.9 - loss), "evaluation": (0.9, 0.9 - loss)},
    )


def result(plant: Plant = PLANT, named: str = "grpo", pass_at_k: float = 0.6, **outcomes: list[Outcome]) -> PlantResult:
    return PlantResult(
        plant=plant, label="missing_support", named=named, outcomes={"none": [outcome(0.0, 0.0)]} | outcomes, pass_at_k=pass_at_k
    )


def test_the_best_stage_hangs_on_what_retention_is_worth() -> None:
    plant = result(sft=[outcome(0.6, 0.4), outcome(0.8, 0.2)], grpo=[outcome(0.3, 0.0)])
    assert [plant.best(weight) for weight in (0.0, 1.0, 2.0)] == ["sft", "sft", "grpo"]
    assert plant.regret("grpo", 0.0) == pytest.approx(0.7 - 0.3)
    assert plant.regret("grpo", 1.0) == pytest.approx((0.7 - 0.3) - 0.3)
    assert plant.regret("sft", 2.0) == pytest.approx(0.3 - (0.7 - 2 * 0.3))
    assert plant.regret("none", 1.0) == pytest.approx(0.4)
    assert outcome(0.3, -0.1).utility("selection", 2.0) == pytest.approx(0.3)
    assert plant.random_regret(1.0) == pytest.approx((0.4 + 0.0 + 0.1) / 3)


def test_the_best_stage_is_picked_on_one_sample_set_and_scored_on_another() -> None:
    plant = result(sft=[outcome(0.5, 0.0, scored=0.1)], grpo=[outcome(0.4, 0.0, scored=0.3)])
    assert plant.best(1.0) == "sft"
    assert plant.regret("grpo", 1.0) == pytest.approx(-0.2)


def test_a_rule_does_nothing_where_its_stage_cannot_run() -> None:
    plants = [
        result(sft=[outcome(0.5, 0.0)], grpo=[outcome(0.1, 0.0)], named="sft"),
        result(replace(PLANT, references=0), grpo=[outcome(0.2, 0.0)], named="collect_references", pass_at_k=0.3),
    ]
    found = regret.regrets(plants, 1.0)
    assert found["named by diagnose"] == pytest.approx([0.0, 0.2])
    assert found["always sft"] == pytest.approx([0.0, 0.2])
    assert found["always grpo"] == pytest.approx([0.4, 0.0])
    assert found["pass@16 gate"] == pytest.approx([0.4, 0.2])
    assert found["hpt"] == pytest.approx([0.4, 0.0])
    assert found["best constant in hindsight (sft)"] == pytest.approx([0.0, 0.2])


def test_a_stage_that_asks_for_retention_is_worth_what_it_is_with_it() -> None:
    measured = {"selection": [8, 16], "evaluation": [4, 16], "greedy": [0, 1]}
    baseline: dict[str, Any] = {"samples": SAMPLES, "target": measured, "retention": measured}
    runs = {
        Unit(0, PLANT, "sft", retained=False): baseline | {"refused": "missing_input"},
        Unit(0, PLANT, "sft", retained=True): baseline | {"target": measured | {"evaluation": [16, 16]}},
    }
    diagnosis = {"stage": {"name": "sft", "needs": ["references", "retention_behavior"]}}
    found = regret.collect(PLANT, "missing_support", baseline, runs, diagnosis, retained=False)
    assert found.utility(found.named, "evaluation", 1.0) == pytest.approx(0.375)
    assert found.utility("sft", "evaluation", 1.0) == 0.0
    assert not [row for row in regret.effects([found]) if "--retain" in row["stage"]]
    given = regret.collect(PLANT, "missing_support", baseline, runs, {"stage": {"name": "sft", "needs": []}}, retained=True)
    assert (given.named, given.utility("sft", "evaluation", 1.0)) == ("sft", pytest.approx(0.375))


def test_the_interval_takes_plants_of_one_cell_together() -> None:
    values = np.array([0.0] * 10 + [1.0] * 10)
    low, high = regret.bootstrap_interval(values, [str(number) for number in range(20)])
    assert 0.2 < low < 0.4
    assert 0.6 < high < 0.8
    assert regret.bootstrap_interval(values, ["a"] * 10 + ["b"] * 10) == (0.0, 1.0)
    assert regret.bootstrap_interval(values, ["a"] * 20) == (0.5, 0.5)


def test_effects_are_means_of_relative_gains_over_tuning_plants() -> None:
    other = replace(PLANT, kind="mixed")
    plants = [
        result(sft=[outcome(0.4, 0.2), outcome(0.8, 0.4)], grpo=[outcome(0.0, 0.1)]),
        result(other, sft=[outcome(0.2, 0.0), outcome(0.2, 0.0)]),
        result(replace(PLANT, family=HELD_OUT), sft=[outcome(-0.2, 0.9)]),
    ]
    rows = {(row["references"], row["stage"]): row for row in regret.effects(plants)}
    sft = rows["many", "sft"]
    gains = np.array([0.75, 0.25])
    half = stats.t.ppf(0.975, 1) * gains.std(ddof=1) * np.sqrt(1 + 1 / 2)  # for a further plant
    assert (sft["label"], sft["retained"], sft["plants"], sft["runs"]) == ("missing_support", False, 2, 4)
    assert sft["gain"] == pytest.approx(0.5)
    assert (sft["gain_low"], sft["gain_high"]) == (pytest.approx(max(-1.0, 0.5 - half)), pytest.approx(min(1.0, 0.5 + half)))
    assert sft["loss"] == pytest.approx(0.15)
    assert {references for references, stage in rows if stage == "grpo"} == {"none", "few", "some", "many"}
    assert {references for references, stage in rows if stage == "sft"} == {"many"}
    assert rows["few", "grpo"] | {"references": "none"} == rows["none", "grpo"]


def test_what_is_mastered_cannot_lose_more_than_everything() -> None:
    assert outcome(-0.5, 0.0, before=0.99).relative_gain == -1.0
    assert outcome(0.01, 0.0, before=0.99).relative_gain == pytest.approx(0.2)


def test_a_refused_run_leaves_the_model_as_it_is() -> None:
    measured = {"selection": [8, 16], "evaluation": [4, 16], "greedy": [0, 1]}
    baseline: Mapping[str, Any] = {"samples": SAMPLES, "target": measured, "retention": measured}
    assert regret.outcome_of(baseline, {"refused": "missing_input"}).utility("selection", 1.0) == 0.0
    run = {"samples": SAMPLES, "target": measured | {"selection": [16, 16]}, "retention": measured | {"selection": [0, 16]}}
    assert regret.outcome_of(baseline, run).utility("selection", 1.0) == pytest.approx(0.25 - 0.125)
    assert regret.outcome_of(baseline, run).utility("selection", 0.0) == pytest.approx(0.25)
    assert regret.greedy_outcome(baseline).utility("evaluation", 0.0) == pytest.approx(0.5 - 0.625)
    assert regret.pass_at_k(baseline | {"target": {"selection": [1, 0]}}) == 0.5


def test_steps_spend_the_budget_and_no_more() -> None:
    assert equal_cost.steps_for(1000.0, fixed=100.0, tried=60.0, num_tried=2, most=None) == 30
    assert equal_cost.steps_for(1000.0, fixed=100.0, tried=60.0, num_tried=2, most=20) == 20
    assert equal_cost.steps_for(1000.0, fixed=2000.0, tried=60.0, num_tried=2, most=None) == 1
    assert equal_cost.Cost(trained=10, generated=5, scored=2).passes == 37
    assert (equal_cost.Cost(trained=1) + equal_cost.Cost(generated=2, scored=3)).to_json() == {
        "trained": 1,
        "generated": 2,
        "scored": 3,
        "passes": 8,
    }


def test_finished_runs_are_skipped_and_shared_ones_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regret_plants, "BUILD", tmp_path)
    few = replace(PLANT, references=4)
    units = [Unit(seed, plant, stage) for seed in (0, 1) for plant in (PLANT, few) for stage in ("grpo", "sft")]
    todo = regret_plants.unfinished(units)
    assert len(todo) == 6
    assert [unit.seed for unit in todo] == [0, 0, 0, 1, 1, 1]
    regret_plants.write_json(Unit(0, PLANT, "grpo").path, {"stage": "grpo"})
    assert [unit.stage for unit in regret_plants.unfinished(units) if unit.seed == 0] == ["sft", "sft"]
    assert Unit(0, PLANT, "sft", retained=True) in regret_plants.unfinished([Unit(0, PLANT, "sft", retained=True)])


def test_stages_are_tried_where_their_needs_are_met() -> None:
    assert "sft" not in regret_plants.stages_of(replace(PLANT, references=0))
    assert {"sft", "hpt", "guided_grpo", "sft_then_grpo"} <= set(regret_plants.stages_of(replace(PLANT, references=4)))
    assert "opd" in regret_plants.stages_of(replace(PLANT, teacher=True))
    assert "replay" in regret_plants.stages_of(replace(PLANT, earlier=True))
    assert "dpo" in regret_plants.stages_of(PLANT, named=["dpo"])
    assert "collect_references" not in regret_plants.stages_of(PLANT, named=["collect_references"])


def test_every_availability_occurs_several_times() -> None:
    plants = regret_plants.choose_plants(list(FAMILIES))
    assert len(plants) == len(set(plants)) >= 24
    for references in regret_plants.REFERENCES:
        assert sum(plant.references == references for plant in plants) >= 4
    assert {plant.family for plant in plants} == set(FAMILIES)
    assert sum(plant.family == HELD_OUT for plant in plants) >= 4
    assert sum(plant.teacher for plant in plants) >= 4
