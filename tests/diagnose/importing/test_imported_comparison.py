"""Imported runs compared, by the ids of their problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.imported_runs import SAMPLED_PLAINLY, SOURCE, run_of, sample, samples_of, spread

from posttrain.diagnose.comparison.change_role import ObservedRole
from posttrain.diagnose.comparison.transition import ComparisonNote
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.compare_files import compare, compare_folders
from posttrain.diagnose.types import Sampling, StopReason


def refused(before: Any, after: Any) -> str:
    with pytest.raises(UserError) as caught:
        compare_folders(before, after)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_a_gain_between_two_imports_is_found_whatever_the_models_are_called(tmp_path: Path) -> None:
    before = run_of(spread(30, 16, 2), tmp_path / "before")
    after = run_of(spread(30, 16, 12), tmp_path / "after")
    transition = compare(before.path, after.path, out=tmp_path / "out")
    (change,) = transition.behaviors
    assert (change.pass_at_1_before.estimate, change.pass_at_1_after.estimate) == (2 / 16, 12 / 16)
    assert change.delta.low > 0.4
    assert ComparisonNote.SAMPLING_UNKNOWN in change.notes
    assert (tmp_path / "out" / "report.html").exists()


def test_problems_are_paired_by_id_and_those_of_one_side_are_left_out(tmp_path: Path) -> None:
    before = run_of(samples_of({"a": [1, 0], "b": [0, 0], "only": [1, 1]}), tmp_path / "before", SAMPLED_PLAINLY)
    after = run_of(samples_of({"new": [0, 0], "b": [1, 0], "a": [1, 1]}), tmp_path / "after", SAMPLED_PLAINLY)
    (change,) = compare_folders(before, after).behaviors
    assert {row.id: (row.before, row.after) for row in change.changes} == {"a": (0.5, 1.0), "b": (0.0, 0.5)}
    assert ComparisonNote.PARTLY_SHARED in change.notes
    same = run_of(samples_of({"a": [0, 0], "b": [1, 0], "only": [1, 0]}), tmp_path / "same", SAMPLED_PLAINLY)
    assert compare_folders(before, same).behaviors[0].notes == ()


def test_lengths_and_ends_that_no_source_tells_are_no_zeros(tmp_path: Path) -> None:
    runs = [run_of(samples_of({"a": [1, 0], "b": [0, i]}), tmp_path / str(i)) for i in range(2)]
    beside = {row.name: row.before.estimate for row in compare_folders(*runs).behaviors[0].side_by_side}
    assert all(value != value for value in beside.values())
    told = {"stop": StopReason.EOS, "num_tokens": 5}
    runs = [run_of(samples_of({"a": [1, 0], "b": [0, i]}, **told), tmp_path / f"told-{i}") for i in range(2)]
    beside = {row.name: row.before.estimate for row in compare_folders(*runs).behaviors[0].side_by_side}
    assert (beside["generated tokens per sample"], beside["truncated share"]) == (5.0, 0.0)


def test_the_same_samples_show_nothing(tmp_path: Path) -> None:
    runs = [run_of(spread(30, 16, 2), tmp_path / name) for name in ("a", "b")]
    assert refused(*runs) == "same_samples"


def test_what_was_measured_otherwise_is_not_compared(tmp_path: Path) -> None:
    first = run_of([sample("a", 1.0, answer="4", prompt="2+2?"), sample("b", 0.0)], tmp_path / "first", SAMPLED_PLAINLY)

    def against(code: str, *samples: Any, source: Any = SAMPLED_PLAINLY, **settings: Any) -> None:
        assert refused(first, run_of(samples, tmp_path / code, source, **settings)) == code

    against("no_shared_behavior", sample("a", behavior="other"))
    against("no_shared_problem", sample("c"))
    against("other_problems", sample("a", answer="5"))
    against("other_sampling", sample("a"), source=replace(SOURCE, sampling=Sampling(temperature=0.6, max_tokens=0)))
    against("other_grades", sample("a"), success=0.5)
    asked = run_of([sample("a", 0.0, answer="4", prompt="What is 2+2?")], tmp_path / "asked", SAMPLED_PLAINLY)
    assert ComparisonNote.OTHER_PROMPTS in compare_folders(first, asked).behaviors[0].notes


def test_other_prompts_of_one_id_are_other_problems_where_no_answer_says_that_they_are_not(tmp_path: Path) -> None:
    runs = [run_of([sample("0", 1.0, prompt=text)], tmp_path / text) for text in ("cats", "dogs")]
    assert refused(*runs) == "other_problems"


def test_further_samples_at_temperature_0_are_not_said_to_tell_more(tmp_path: Path) -> None:
    runs = {}
    for temperature in (0.0, 0.5):
        source = replace(SOURCE, sampling=Sampling(temperature=temperature, max_tokens=0))
        sides = [
            run_of(samples_of({f"p{i}": [float(i % 10 < right)] for i in range(60)}), tmp_path / f"{right}-{temperature}", source)
            for right in (2, 8)
        ]
        runs[temperature] = compare_folders(*sides).behaviors[0].role
    assert runs[0.0].role is runs[0.5].role is ObservedRole.GAIN_PLACE_OPEN
    assert runs[0.0].samples_that_tell is None
    assert runs[0.5].samples_that_tell is not None
