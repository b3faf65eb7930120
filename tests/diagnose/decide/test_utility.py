"""The stage with the highest expected utility, on effects that the test plants."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from posttrain.diagnose.decide.routes import Situation, name_stage
from posttrain.diagnose.decide.stage_effects import EffectKey, References, StageEffect, measured_effects
from posttrain.diagnose.decide.utility import Offer, expect, expected_regret
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Estimate, StageAdvice

MISSING, POOR = Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE
BOTH = frozenset({Need.REFERENCES, Need.VERIFIER})


def effect(gain: float, loss: float = 0.0) -> StageEffect:
    return StageEffect(
        gain=Estimate(estimate=gain, low=gain - 0.1, high=gain + 0.1, method=""),
        loss=Estimate(estimate=loss, low=loss, high=loss, method=""),
        plants=4,
    )


def key(label: Bottleneck, stage: str, references: References = References.MANY, *, retained: bool = False) -> EffectKey:
    return EffectKey(label, references, stage, retained)


EFFECTS = {
    key(MISSING, "sft"): effect(0.8, 0.3),
    key(MISSING, "sft", retained=True): effect(0.8, 0.15),
    key(MISSING, "sft", References.FEW): effect(0.1, 0.3),
    key(MISSING, "grpo"): effect(0.0, 0.02),
    key(MISSING, "hpt"): effect(0.7, 0.1),
    key(POOR, "sft"): effect(0.6, 0.3),
    key(POOR, "grpo"): effect(0.7, 0.1),
    key(POOR, "hpt"): effect(0.68, 0.15),
}


def told(posterior: dict[Bottleneck, float], label: Bottleneck | None = None, **changes: object) -> StageAdvice:
    offer = Offer(**{"needs": BOTH, "num_references": 100} | changes)  # type: ignore[arg-type]
    label = label or max(posterior, key=lambda one: posterior[one])
    return name_stage(Situation(label=label, posterior=posterior, pass_1=0.2, offer=offer, effects=EFFECTS), Thresholds())


def test_gain_less_loss_decides() -> None:
    found = told({MISSING: 1.0})
    assert found.name == "hpt", "sft gains more, and costs more than that of what is retained"
    assert found.predicted_gain is not None
    assert found.predicted_gain.estimate == pytest.approx(0.7 * 0.8)
    assert found.predicted_gain.low == pytest.approx(0.6 * 0.8)
    assert found.predicted_loss is not None
    assert found.predicted_loss.estimate == pytest.approx(0.1)
    assert next(iter(dict(found.alternatives))) == "sft"
    assert told({MISSING: 1.0}, retained=True).name == "sft", "what is mixed in keeps its cost small"
    assert told({POOR: 1.0}).name == "grpo"


def test_retention_weighs_as_it_is_told_to() -> None:
    situation = Situation(label=MISSING, posterior={MISSING: 1.0}, offer=Offer(needs=BOTH, num_references=100), effects=EFFECTS)
    assert name_stage(situation, Thresholds(retention_weight=0.0)).name == "sft"
    assert name_stage(situation, Thresholds(retention_weight=1.0)).name == "hpt"
    assert name_stage(situation, Thresholds(retention_weight=50.0)).name == "collect_references", "nothing is worth its cost"


def test_a_stage_is_named_on_condition_of_retention_where_that_is_worth_giving_one() -> None:
    def named(loss: float, **changes: object) -> StageAdvice:
        effects = {key(MISSING, "sft"): effect(0.8, 0.7), key(MISSING, "sft", retained=True): effect(0.8, loss)}
        offer = Offer(**{"needs": BOTH, "num_references": 100} | changes)  # type: ignore[arg-type]
        return name_stage(Situation(label=MISSING, posterior={MISSING: 1.0}, offer=offer, effects=effects), Thresholds())

    found = named(0.1)
    assert (found.name, found.needs) == ("sft", ("references", "retention_behavior"))
    assert found.predicted_loss is not None
    assert found.predicted_loss.estimate == pytest.approx(0.1), "what is predicted holds under the condition"
    assert "--retain" in found.why
    assert named(0.1, retained=True).needs == ("references",), "it is given"
    assert named(0.65).needs == ("references",), "it would change too little"


def test_the_first_stage_that_can_run_is_named_where_nothing_is_known_of_it() -> None:
    def named(**effects: StageEffect) -> str:
        table = {key(MISSING, stage): one for stage, one in effects.items()}
        offer = Offer(needs=BOTH, num_references=100)
        return name_stage(Situation(label=MISSING, posterior={MISSING: 1.0}, offer=offer, effects=table), Thresholds()).name

    assert named(grpo=effect(0.0)) == "sft"
    assert named(grpo=effect(0.0), sft=effect(0.0)) == "collect_references", "it was measured, and brings nothing"


def test_of_stages_that_bring_nearly_as_much_the_first_of_the_route_is_named() -> None:
    def named(sft: float) -> str:
        effects = {key(MISSING, "sft"): effect(sft), key(MISSING, "hpt"): effect(0.7)}
        offer = Offer(needs=BOTH, num_references=100)
        return name_stage(Situation(label=MISSING, posterior={MISSING: 1.0}, offer=offer, effects=effects), Thresholds()).name

    assert named(0.66) == "sft"
    assert named(0.6) == "hpt"


def test_few_references_are_worth_what_was_measured() -> None:
    found = told({MISSING: 1.0}, num_references=4)
    assert found.name == "collect_references"
    assert "with 64 or more references sft is expected to bring +0.64" in found.why


def test_for_a_number_of_references_that_was_not_tried_the_next_smaller_one_stands() -> None:
    def gain(number: int) -> float | None:
        found = expect(["sft"], {MISSING: 1.0}, Offer(needs=BOTH, num_references=number), 0.0, 0.0, EFFECTS)
        return found[0].gain.estimate if found else None

    assert gain(100) == pytest.approx(0.8)
    assert gain(20) == gain(4) == pytest.approx(0.1)
    assert gain(0) is None


def test_a_stage_without_signal_is_not_expected_to_bring_anything() -> None:
    assert told({POOR: 1.0}, without_signal={"grpo": "too seldom to learn from"}).name == "hpt"
    assert told({POOR: 1.0}, needs=frozenset({Need.VERIFIER})).name == "grpo", "references make no difference to it"


def test_where_it_may_be_decoding_a_change_of_decoding_is_worth_what_greedy_samples_bring() -> None:
    posterior = {Bottleneck.DECODING: 0.8, POOR: 0.2}

    def named(greedy_gain: float) -> str:
        situation = Situation(
            label=Bottleneck.INCONCLUSIVE, posterior=posterior, pass_1=0.4, greedy_gain=greedy_gain,
            offer=Offer(needs=BOTH, num_references=100), effects=EFFECTS,
        )  # fmt: skip
        return name_stage(situation, Thresholds()).name

    assert named(0.5) == "change_decoding"
    assert named(-0.2) == "grpo"


def test_an_open_label_leaves_the_stage_open_only_where_it_matters() -> None:
    open_ = {MISSING: 0.5, POOR: 0.5}
    found = told(open_, Bottleneck.INCONCLUSIVE)
    assert found.name == "hpt", "it loses little whichever label is true"
    expected = expect(["sft", "grpo", "hpt"], open_, Offer(needs=BOTH, num_references=100), 0.2, 1.0, EFFECTS)
    assert expected[0].name == "hpt"
    best = {label: max(one.utilities[label] for one in expected) for label in open_}
    by_hand = sum(0.5 * (best[label] - expected[0].utilities[label]) for label in open_)
    assert expected_regret(expected[0], expected, open_) == pytest.approx(by_hand)
    assert 0 < by_hand < 0.05

    found = told(open_, Bottleneck.INCONCLUSIVE, without_signal={"hpt": "", "sft": ""})
    assert found.name == "grpo", "the only one that can run"
    effects = {key(MISSING, "sft"): effect(0.8), key(POOR, "sft"): effect(0.0), key(POOR, "grpo"): effect(0.8)}
    situation = Situation(
        label=Bottleneck.INCONCLUSIVE, posterior=open_, offer=Offer(needs=BOTH, num_references=100), effects=effects
    )
    found = name_stage(situation, Thresholds())
    assert found.name == "sample_more"
    assert "sft if it is missing_support, grpo if it is poor_choice" in found.why
    assert "0.40" in found.why


def test_the_table_is_one_of_known_stages() -> None:
    rows = json.loads(files("posttrain.diagnose.decide").joinpath("stage_effects.json").read_text())
    assert len(measured_effects()) == len(rows), "no two rows are about the same"
    assert {one.stage for one in measured_effects()} <= set(STAGES) | {"sft_then_grpo"}
    for found in measured_effects().values():
        assert found.gain.low <= found.gain.estimate <= found.gain.high
        assert found.loss.low <= found.loss.estimate <= found.loss.high
