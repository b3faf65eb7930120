"""What a forecast advises: repairs first, then group size, support and the choice of problems."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.group_outcomes import forecast_of
from helpers.refusals import refused

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.report.signal_words import advice_words, forecast_sentence
from posttrain.diagnose.storage.group_signal_json import GroupSignalEntry, SignalAdvice

N = 64


def forecast(correct: list[int], **more: Any) -> GroupSignalEntry:
    entry = forecast_of(N, correct, **more)
    assert forecast_sentence(entry)
    assert all(advice_words(entry, one) for one in entry.advice)
    return entry


def test_most_groups_with_signal_need_nothing() -> None:
    assert forecast([32] * 20).advice == [SignalAdvice.START]


def test_rare_successes_want_larger_groups() -> None:
    entry = forecast([4] * 30)
    assert entry.advice == [SignalAdvice.LARGER_GROUP]
    assert entry.larger_group == 12  # (1 - 4/64) ** 12 = .46; at 8 it is .60


def test_problems_out_of_reach_want_references_and_are_left_out() -> None:
    entry = forecast([0] * 20 + [24] * 12)
    assert entry.advice == [SignalAdvice.EXTEND_SUPPORT, SignalAdvice.DROP_PROBLEMS]
    assert entry.selection.kept == [f"p{i}" for i in range(20, 32)]
    assert (entry.selection.num_too_hard, entry.selection.num_too_easy) == (20, 0)
    assert entry.selection.without_signal < 0.1
    assert entry.selection.by_signal < 0.1


def test_what_always_succeeds_wants_harder_problems() -> None:
    entry = forecast([64] * 20 + [32] * 4)
    assert entry.advice == [SignalAdvice.HARDER_PROBLEMS]  # four problems do not fill a step of eight
    assert entry.selection.num_too_easy == 20
    assert forecast([64] * 20 + [32] * 4, prompts_per_step=4).advice[-1] is SignalAdvice.DROP_PROBLEMS


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("num_lenient", SignalAdvice.FIX_FORMAT),
        ("num_truncated", SignalAdvice.RAISE_TOKEN_LIMIT),
        ("num_unread", SignalAdvice.FIX_READING),
    ],
)
def test_what_costs_no_training_comes_first(what: str, advice: SignalAdvice) -> None:
    assert forecast([0] * 20, **{what: [40] * 20}).advice[0] is advice


def test_missing_grades_come_first() -> None:
    assert forecast([32] * 20, num_missing=[320] * 20).advice[0] is SignalAdvice.FIX_GRADING


def test_the_largest_repair_comes_first() -> None:
    entry = forecast([0] * 20, num_truncated=[10] * 20, num_unread=[40] * 20)
    assert entry.advice[:2] == [SignalAdvice.FIX_READING, SignalAdvice.RAISE_TOKEN_LIMIT]


def test_a_step_counts_its_successes_and_its_chance_of_no_signal() -> None:
    entry = forecast([4] * 300, prompts_per_step=4)
    assert entry.successes_per_step.estimate == pytest.approx(4 * 8 * 4 / 64)
    here = entry.at(8).total
    assert entry.steps_without_signal.low == pytest.approx(here.low**4)
    assert entry.steps_without_signal.high == pytest.approx(here.high**4)


def test_group_sizes_and_steps_are_refused() -> None:
    for size in (1, 0, -3, 5000):
        with refused(SettingsError, "group_size"):
            forecast([4] * 4, group_size=size)
    with refused(SettingsError, "prompts_per_step"):
        forecast([4] * 4, prompts_per_step=0)


def test_a_group_size_of_its_own_stands_in_the_curve() -> None:
    assert forecast([4] * 10, group_size=10).at(10).total.estimate == pytest.approx(
        forecast([4] * 10).at(8).total.estimate, abs=0.1
    )


def test_few_samples_do_not_tell() -> None:
    entry = forecast_of(1, [0])
    assert entry.advice == [SignalAdvice.SAMPLE_MORE]
    assert forecast_sentence(entry)
    assert forecast_of(4, [0, 1, 2, 4]).advice == [SignalAdvice.SAMPLE_MORE]
