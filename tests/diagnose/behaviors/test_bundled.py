"""Every behavior that comes with the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from posttrain.diagnose.behaviors import bundled_behaviors, describe_bundled, load_behavior
from posttrain.diagnose.behaviors.bundled_files import BundledBehavior
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.types import Purpose, Split, default_epsilon
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest

NAMES = sorted(bundled_behaviors())


def test_what_is_bundled() -> None:
    assert {"products", "sums", "division", "spell_backward", "sorting", "prime_factors", "copying"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_bundled(name: str) -> None:
    behavior = load_behavior(name)
    assert behavior.name == behavior.source == name
    assert behavior.measure.epsilon == default_epsilon(8)
    assert len(behavior.problems) >= 48
    assert len({problem.id for problem in behavior.problems}) == len({problem.key for problem in behavior.problems})
    keys = {split: {problem.key for problem in behavior.split(split)} for split in Split}
    assert not keys[Split.TRAIN] & keys[Split.EVAL]
    assert not keys[Split.FINAL] & (keys[Split.TRAIN] | keys[Split.EVAL])
    total = len(behavior.problems)
    assert len(keys[Split.TRAIN]) >= total // 2
    assert len(keys[Split.FINAL]) >= 4
    assert all(problem.references for problem in behavior.problems)
    shown = {normalise(question) for question, _ in behavior.prompt.examples}
    assert len(shown) == 2
    assert not shown & {normalise(str(problem.prompt)) for problem in behavior.problems}
    assert load_behavior(name).fingerprint == behavior.fingerprint
    with Grader(behavior) as grader:
        found = verifier_selftest(behavior, grader, behavior.split(Split.EVAL))
        # The worked examples state an answer in the form that is asked for.
        for question, answer in behavior.prompt.examples:
            grade = grader.grade(behavior.problems[0], [answer])[0]
            assert grade.extracted is not None, (question, answer, grade)
    assert not found.failures
    assert all(case.num_texts for case in found.cases)


def test_another_process_reads_the_same_and_imports_nothing_heavy_before() -> None:
    code = (
        "from posttrain.diagnose.behaviors import load_behavior; import sys\n"
        "print([m for m in ('torch', 'reasoning_gym', 'vllm') if m in sys.modules])\n"
        "print(load_behavior('products').fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["[]", load_behavior("products").fingerprint]


def test_products_leave_out_what_the_prompt_shows() -> None:
    keys = {problem.key for problem in load_behavior("products").problems}
    assert "2*3" not in keys
    assert "4*5" not in keys
    low, high = zip(*(map(int, key.split("*")) for key in keys), strict=True)
    assert min(low) == 2
    assert max(low) == 9
    assert max(high) == 19


def test_divisions_are_exact() -> None:
    for problem in load_behavior("division").problems:
        a, b = map(int, problem.key.split("/"))
        assert int(problem.answer) * b == a


def test_one_is_for_retention() -> None:
    assert load_behavior("copying").purpose is Purpose.RETENTION


@pytest.mark.parametrize("described", describe_bundled(), ids=lambda described: described.name)
def test_the_listing_agrees_with_the_behavior(described: BundledBehavior) -> None:
    behavior = load_behavior(described.name)
    assert (described.verifier, described.num_problems, described.purpose) == (
        behavior.verifier.kind,
        len(behavior.problems),
        behavior.purpose.value,
    )
