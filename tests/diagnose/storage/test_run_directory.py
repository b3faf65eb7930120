"""Run directories: what is said where a folder holds a run with other settings."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.diagnose.storage.run_directory import say_differences

SOURCE = {"kind": "code", "code": "x = 1\n" * 500}


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        ({"samples": 4, "seed": 0}, {"samples": 5, "seed": 0}, ["samples: there 4, here 5"]),
        ({}, {"teacher": None}, []),  # a setting that came later, at its default
        ({"removed": 1}, {}, []),
        ({"behaviors": {"a": "1", "b": "2"}}, {"behaviors": {"a": "1", "b": "3"}}, ['behaviors.b: there "2", here "3"']),
        ({"behaviors": {"a": "1"}}, {"behaviors": {"a": "1", "b": None}}, ["behaviors.b: there none, here null"]),
        ({"behaviors": {}}, {"behaviors": {"a": "1"}}, ['behaviors: there {}, here {"a": "1"}']),
        ({"source": SOURCE | {"file": "a"}}, {"source": SOURCE | {"file": "b"}}, ['source.file: there "a", here "b"']),
        ({"betas": [0.9, 0.95]}, {"betas": (0.9, 0.99)}, ["betas: there [0.9, 0.95], here [0.9, 0.99]"]),
    ],
)
def test_only_what_differs_is_named(there: dict[str, Any], here: dict[str, Any], named: list[str]) -> None:
    assert say_differences(there, here) == "; ".join(named)


def test_many_or_long_differences_are_cut() -> None:
    said = say_differences({"many": {str(i): "a" * 5000 for i in range(100)}}, {"many": {str(i): SOURCE for i in range(100)}})
    assert len(said) < 1000
    assert said.endswith("95 more")
