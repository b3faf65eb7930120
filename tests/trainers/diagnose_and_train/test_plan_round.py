"""What a loop decides from round to round, on success rates that are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.planned_loop import DIAGNOSIS_TOKENS, INVALID, LEARNING_RATE, STAGE_TOKENS, Rates, play
from helpers.refusals import refused
from helpers.scripted_loop import write_behavior

from posttrain.diagnose.comparison.loop_json import LoopEnd, RoundVerdict, StageOrigin
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.diagnose_and_train.choose_stage import StageChoice
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.plan_round import RATE_FACTOR, RoundPlan
from posttrain.trainers.diagnose_and_train.train_round import make_train_request
from posttrain.trainers.training.result import Ending

Ask = Callable[..., LoopRequest]


@pytest.fixture
def ask(tmp_path: Path, tiny_model: Path) -> Ask:
    """Return what makes a request on targets, and on retention behaviors, whose names begin with `old`."""

    def make(*names: str, num_train: int = 8, references: bool = True, **options: Any) -> LoopRequest:
        files = [
            write_behavior(tmp_path, name, purpose="retention", num_train=num_train)
            if name.startswith("old")
            else write_behavior(tmp_path, name, references=references)
            for name in names
        ]
        return LoopRequest(model=str(tiny_model), behaviors=files, out=tmp_path / "loop", **{"rounds": 8, **options})

    return make


def steps(*effects: Rates | Ending) -> Callable[[RoundPlan, Rates], Rates | Ending]:
    """Return training whose n-th round has the n-th effect, and none after the last."""
    left = list(effects)
    return lambda plan, before: left.pop(0) if left else {}


HARDLY = Ending.FINISHED
"""A training to its end that hardly moved the model."""


def test_it_follows_the_bottleneck_until_the_targets_are_mastered(ask: Ask) -> None:
    history, ended = play(ask("new"), {"new": 0.0}, steps({"new": 0.4}, {"new": 0.95}))
    assert [(one.stage, one.choice.reason) for one in history.rounds] == [("sft", "named"), ("grpo", "named")]
    assert [one.verdict for one in history.rounds] == [RoundVerdict.HELPED] * 2
    assert ended is LoopEnd.MASTERED
    assert history.best() == 2
    assert history.rounds[1].choice.advice[0].bottleneck == "poor_choice"


def test_it_ends_after_two_rounds_in_a_row_without_a_gain(ask: Ask) -> None:
    history, ended = play(ask("new"), {"new": 0.0}, steps({"new": 0.2}, {"new": 0.22}, {"new": 0.2}))
    assert [one.verdict for one in history.rounds] == [
        RoundVerdict.HELPED, RoundVerdict.BROUGHT_NOTHING, RoundVerdict.BROUGHT_NOTHING,
    ]  # fmt: skip
    assert ended is LoopEnd.NO_GAIN
    assert history.best() == 2


def test_a_gain_in_between_begins_the_count_again(ask: Ask) -> None:
    history, ended = play(ask("new"), {"new": 0.2}, steps({}, {"new": 0.4}, {}, {"new": 0.6}, {}, {}))
    assert (len(history.rounds), ended) == (6, LoopEnd.NO_GAIN)


def test_a_stage_that_hardly_moved_the_model_is_not_counted_as_tried(ask: Ask) -> None:
    """`b` never rises: it gets the alternative after two rounds that moved the model, and the one that did not is not among them."""
    effects = [HARDLY, {"a": 0.3}, {"a": 0.5}, {"a": 0.95}, {"b": 0.95}]
    history, ended = play(ask("a", "b"), {"a": 0.1, "b": 0.1}, steps(*effects))
    assert history.rounds[0].verdict is RoundVerdict.HARDLY_MOVED
    assert [one.stage for one in history.rounds if "b" in one.trained] == ["grpo", "grpo", "grpo", "rft"]
    assert ended is LoopEnd.MASTERED


def test_the_learning_rate_rises_after_steps_that_hardly_moved_the_model(ask: Ask) -> None:
    rates: list[float | None] = []

    def train(plan: RoundPlan, before: Rates) -> Rates | Ending:
        rates.append(plan.learning_rate)
        return HARDLY if len(rates) == 1 else {"new": 0.95}

    history, ended = play(ask("new"), {"new": 0.2}, train)
    assert (rates, ended) == ([None, RATE_FACTOR * LEARNING_RATE], LoopEnd.MASTERED)
    assert [one.outcome.learning_rate for one in history.rounds] == [LEARNING_RATE, RATE_FACTOR * LEARNING_RATE]


def test_a_learning_rate_that_is_given_stays(ask: Ask) -> None:
    rates: list[float | None] = []
    play(
        ask("new", overrides=["learning_rate=1e-6"]),
        {"new": 0.2},
        lambda plan, before: rates.append(plan.learning_rate) or HARDLY,
    )
    assert rates == [None, None]


def test_a_stage_that_had_nothing_to_learn_is_not_run_on_the_same_weights(ask: Ask) -> None:
    """No batch had a signal, so the weights are those of before."""
    history, _ = play(ask("new"), {"new": 0.2}, steps(Ending.NOTHING_TO_LEARN, {"new": 0.5}, {"new": 0.95}))
    assert [(one.stage, one.choice.instead_of) for one in history.rounds] == [("grpo", ()), ("rft", ("grpo",)), ("grpo", ())]


def test_a_raised_learning_rate_reaches_the_training(ask: Ask, tmp_path: Path) -> None:
    request = ask("new", overrides=["num_steps=3"])
    choice = StageChoice(stage="sft", trained=("new",), reason=StageOrigin.NAMED)
    for rate in (4e-5, 0.004):
        made = make_train_request(
            request, RoundPlan(choice=choice, started_from=0, learning_rate=rate), "start", None, tmp_path / "out"
        )
        assert (made.config.learning_rate, made.config.num_steps) == (rate, 3)


def test_a_stage_that_was_tried_twice_without_a_gain_makes_room_for_the_next_alternative(ask: Ask) -> None:
    """`a` rises with every round, `b` never: `b` gets the alternative from the third round on that it has a part in."""
    history, _ = play(ask("a", "b"), {"a": 0.1, "b": 0.1}, steps({"a": 0.3}, {"a": 0.5}, {"a": 0.95}, {}, {}))
    assert [(one.stage, one.trained) for one in history.rounds[:3]] == [
        ("grpo", ("a", "b")), ("grpo", ("a", "b")), ("grpo", ("a",)),
    ]  # fmt: skip
    fourth = history.rounds[3].choice
    assert (fourth.stage, fourth.trained, fourth.reason, fourth.instead_of) == (
        "rft", ("b",), StageOrigin.ALTERNATIVE, ("grpo",),
    )  # fmt: skip


def test_what_fell_is_brought_back_from_the_checkpoint_before_the_fall(ask: Ask) -> None:
    rounds = steps({"new": 0.4}, {"new": 0.8, "old": 0.5}, {"old": 0.95}, {"new": 0.95})
    history, ended = play(ask("new", "old"), {"new": 0.0, "old": 0.95}, rounds)
    second, third, fourth = history.rounds[1:]
    assert second.verdict is RoundVerdict.COST_MORE
    assert (third.stage, third.trained, third.choice.reason) == ("replay", ("old",), StageOrigin.CONSOLIDATION)
    assert (third.started_from, third.choice.earlier) == (2, 1)
    assert third.verdict is RoundVerdict.HELPED
    assert fourth.trained == ("new",)
    assert (ended, history.best()) == (LoopEnd.MASTERED, 4)


def test_a_target_that_was_mastered_on_the_way_and_falls_is_brought_back(ask: Ask) -> None:
    history, _ = play(ask("a", "b"), {"a": 0.0, "b": 0.1}, steps({"a": 0.95}, {"b": 0.5, "a": 0.4}, {"a": 0.95}, {"b": 0.95}))
    third = history.rounds[2]
    assert (third.stage, third.trained, third.choice.earlier) == ("replay", ("a",), 1)


def test_targets_that_are_mastered_do_not_end_it_while_something_has_fallen(ask: Ask) -> None:
    history, ended = play(ask("new", "old"), {"new": 0.2, "old": 0.95}, steps({"new": 0.95, "old": 0.8}, {"old": 0.95}))
    assert [one.stage for one in history.rounds] == ["grpo", "replay"]
    assert ended is LoopEnd.MASTERED


def test_it_goes_back_where_a_round_cost_more_than_it_gave_and_nothing_can_bring_it_back(ask: Ask) -> None:
    """Without train problems of what fell there is nothing to replay; its stage is not repeated from the start, where it would give equal weights."""
    request = ask("new", "old", num_train=0)
    history, _ = play(request, {"new": 0.2, "old": 0.95}, steps({"new": 0.3, "old": 0.5}, {"new": 0.5}))
    first, second = history.rounds[:2]
    assert (first.stage, first.verdict) == ("grpo", RoundVerdict.COST_MORE)
    assert (second.stage, second.started_from, second.choice.instead_of) == ("rft", 0, ("grpo",))
    assert history.best() == 2
    assert history.path(2) == [0, 2]


def test_the_checkpoint_to_keep_has_the_highest_gain_less_loss_and_need_not_be_the_last(ask: Ask) -> None:
    history, ended = play(ask("new", "old", rounds=2), {"new": 0.0, "old": 0.95}, steps({"new": 0.5}, {"new": 0.6, "old": 0.6}))
    assert ended is LoopEnd.ROUNDS_DONE
    assert [round(one.utility.estimate, 2) for one in history.rounds] == [0.5, 0.25]
    assert history.best() == 1


def test_the_start_is_kept_where_every_round_lost_more_than_it_gained(ask: Ask) -> None:
    history, _ = play(ask("new", "old", rounds=1), {"new": 0.2, "old": 0.95}, steps({"new": 0.3, "old": 0.6}))
    assert history.best() == 0


def test_a_retention_behavior_whose_first_measurement_is_invalid_counts_for_nothing(ask: Ask) -> None:
    history, ended = play(ask("new", "old"), {"new": 0.2, "old": INVALID}, steps({"new": 0.95, "old": 0.1}))
    assert [change.behavior for change in history.rounds[0].changes] == ["new"]
    assert (ended, history.best()) == (LoopEnd.MASTERED, 1)


def test_a_measurement_that_training_made_invalid_counts(ask: Ask) -> None:
    history, _ = play(ask("new", "old", rounds=1), {"new": 0.2, "old": 0.95}, steps({"new": 0.3, "old": INVALID}))
    assert (history.rounds[0].verdict, history.best()) == (RoundVerdict.COST_MORE, 0)


def test_stages_that_are_given_run_in_their_order_whatever_they_bring(ask: Ask) -> None:
    history, ended = play(ask("new", stages=["sft", "grpo", "sft"]), {"new": 0.95}, steps())
    assert [(one.stage, one.choice.reason, one.started_from) for one in history.rounds] == [
        ("sft", "given", 0), ("grpo", "given", 1), ("sft", "given", 2),
    ]  # fmt: skip
    assert ended is LoopEnd.ROUNDS_DONE


def test_it_ends_where_nothing_that_trains_is_named(ask: Ask) -> None:
    history, ended = play(ask("old"), {"old": 0.2}, steps())
    assert (history.rounds, ended) == ([], LoopEnd.NOTHING_TO_TRAIN)


@pytest.mark.parametrize(("rounds_worth", "num_rounds"), [(0.99, 0), (1.0, 1), (1.99, 1), (2.0, 2)])
def test_the_budget_is_checked_before_a_stage_begins(ask: Ask, rounds_worth: float, num_rounds: int) -> None:
    """The first round is expected to take a diagnosis, as long as what its stage takes is not known; the next of that stage, what the first took."""
    a_round = DIAGNOSIS_TOKENS + STAGE_TOKENS
    first = min(rounds_worth, 1.0) * DIAGNOSIS_TOKENS
    budget = int(DIAGNOSIS_TOKENS + first + (max(rounds_worth, 1.0) - 1.0) * (a_round + STAGE_TOKENS))
    history, ended = play(ask("new", budget_tokens=budget), {"new": 0.1}, steps({"new": 0.3}, {"new": 0.5}, {"new": 0.7}))
    assert (len(history.rounds), ended) == (num_rounds, LoopEnd.BUDGET_SPENT)


def test_a_budget_of_nothing_is_refused(ask: Ask) -> None:
    with refused(SettingsError, "budget_too_small"):
        ask("new", budget_tokens=0)


def test_the_weight_of_retention_judges_rounds_and_chooses_weights(ask: Ask) -> None:
    """A gain of 0.4 is worth a fall of 0.6 at a weight of 0.5, and not at 1."""
    for weight, verdict, best in ((1.0, RoundVerdict.COST_MORE, 0), (0.5, RoundVerdict.HELPED, 1)):
        request = ask("new", "old", retention_weight=weight, rounds=1)
        history, _ = play(request, {"new": 0.2, "old": 0.95}, steps({"new": 0.6, "old": 0.35}))
        assert (history.rounds[0].verdict, history.best()) == (verdict, best)
        assert history.rounds[0].utility.estimate == pytest.approx(0.4 - weight * 0.6)
        plan = RoundPlan(choice=StageChoice(stage="sft", trained=("new",), reason=StageOrigin.NAMED), started_from=0)
        made = make_train_request(request, plan, "model", None, Path("out"))
        assert made.config.retain_weight == weight
        assert request.settings().get("retention_weight", 1.0) == weight
    kept = ask("new", "old", retention_weight=0.5, overrides=["retain_weight=2"])
    assert make_train_request(kept, plan, "model", None, Path("out")).config.retain_weight == 2
