"""Problems from reasoning-gym: symmetries, answers, paths."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.reasoning_gym_adapters import ADAPTERS, Item
from posttrain.diagnose.types import Behavior
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest


def read(dataset: str, answer: str = "0", **metadata: Any) -> Item:
    item = ADAPTERS[dataset].read({"question": "q", "answer": answer, "metadata": metadata})
    assert item is not None
    return item


def load(tmp_path: Path, verifier: dict[str, Any] | None = None, **settings: Any) -> Behavior:
    path = tmp_path / "g.yaml"
    content: dict[str, Any] = {"reasoning_gym": {"size": 20, **settings}}
    if verifier:
        content["verifier"] = verifier
    path.write_text(yaml.safe_dump(content))
    return load_behavior(path)


@pytest.mark.parametrize(
    ("dataset", "first", "second", "same"),
    [
        ("products", {"expression": "3 * 4"}, {"expression": "4 * 3"}, True),
        ("products", {"expression": "3 * 4 * 5"}, {"expression": "5 * 3 * 4"}, True),
        ("products", {"expression": "3 * 4"}, {"expression": "2 * 6"}, False),
        ("chain_sum", {"expression": "3 + 4"}, {"expression": "4 + 3"}, True),
        ("chain_sum", {"expression": "3 - 4"}, {"expression": "4 - 3"}, False),
        ("chain_sum", {"expression": "3 + 4 - 1"}, {"expression": "4 + 3 - 1"}, False),
        ("chain_sum", {"expression": "3 + 4"}, {"expression": "3 * 4"}, False),
        ("gcd", {"numbers": [6, 4]}, {"numbers": [4, 6]}, True),
        ("lcm", {"numbers": [6, 4]}, {"numbers": [4, 6]}, True),
        ("spell_backward", {"word": "Cat"}, {"word": "cat"}, True),
        (
            "number_sorting",
            {"original_numbers": ["2.0", "1.0"], "direction": "ascending"},
            {"original_numbers": ["1.0", "2.0"], "direction": "ascending"},
            True,
        ),
        (
            "number_sorting",
            {"original_numbers": ["2.0", "1.0"], "direction": "ascending"},
            {"original_numbers": ["2.0", "1.0"], "direction": "descending"},
            False,
        ),
    ],
)
def test_symmetries(dataset: str, first: dict[str, Any], second: dict[str, Any], same: bool) -> None:
    assert (read(dataset, **first).key == read(dataset, **second).key) is same


def test_answers_and_paths() -> None:
    assert read("products", expression="3 * 4").steps == ("3 times 4 is 12.",)
    assert read("chain_sum", expression="3 - 4").answer == "-1"
    # The data set's own answer to this one is wrong, so it is worked out here.
    assert read("basic_arithmetic", "99", expression="12 / 4").answer == "3"
    for unusable in ("13 / 4", "13 / 0", "4 + 12 / 4"):
        assert ADAPTERS["basic_arithmetic"].read({"answer": "1", "metadata": {"expression": unusable}}) is None
    assert read("prime_factorization", number=60, factors=[2, 2, 3, 5]).steps == (
        "60 is 2 times 30. ",
        "30 is 2 times 15. ",
        "15 is 3 times 5. ",
        "So: 2 * 2 * 3 * 5",
    )
    assert read("spell_backward", word="cat").steps[-1] == "So: tac"
    assert ADAPTERS["spell_backward"].read({"metadata": {"word": "noon"}}) is None
    sorting = read("number_sorting", original_numbers=["12.0", "-3.5", "7.0"], direction="descending")
    assert (sorting.answer, sorting.steps) == ("12, 7, -3.5", ("12, ", "7, ", "-3.5"))
    for numbers in ([84, 30], [7, 7], [1, 9], [12, 18, 27]):
        assert read("gcd", numbers=numbers).answer == str(math.gcd(*numbers))
        assert read("lcm", numbers=numbers).answer == str(math.lcm(*numbers))
        for dataset in ("gcd", "lcm"):
            item = read(dataset, numbers=numbers)
            assert re.findall(r"\d+", "".join(item.steps))[-1] == item.answer


@pytest.mark.parametrize("dataset", ["products", "chain_sum", "gcd", "lcm"])
def test_number_data_sets_pass_their_selftest(tmp_path: Path, dataset: str) -> None:
    behavior = load(tmp_path, dataset=dataset, verifier={"kind": "number"})
    assert len(behavior.problems) == 20
    with Grader(behavior) as grader:
        found = verifier_selftest(behavior, grader, behavior.problems)
    assert not found.failures


def test_a_small_space_is_exhausted_and_filters_hold(tmp_path: Path) -> None:
    behavior = load(tmp_path, dataset="products", max_digits=1, size=500, where={"min_factor": 2, "max_smaller_factor": 3})
    pairs = {(a, b) for a in (2, 3) for b in range(a, 10)}
    assert {problem.key for problem in behavior.problems} == {f"{a}*{b}" for a, b in pairs}


def test_worked_examples_leave_out_their_twins(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    settings = {"dataset": "products", "max_digits": 1, "size": 100, "question": "{a} times {b}?"}
    examples = [{"question": "3 times 2?", "answer": "6"}]
    path.write_text(yaml.safe_dump({"reasoning_gym": settings, "verifier": {"kind": "number"}, "prompt": {"examples": examples}}))
    keys = {problem.key for problem in load_behavior(path).problems}
    assert "2*3" not in keys
    assert len(keys) == 54


def test_templates_of_questions_answers_and_references(tmp_path: Path) -> None:
    settings = {"question": "Last is first: {word}", "answer": "{word}", "references": ["{word}: ", "{answer}"]}
    problem = load(tmp_path, {"kind": "exact"}, dataset="spell_backward", **settings).problems[0]
    assert problem.prompt == f"Last is first: {problem.answer}"
    assert problem.references[0].text == f"{problem.answer}: {problem.answer[::-1]}"
    # The data set's own path leads to its own answer only.
    assert not load(tmp_path, {"kind": "exact"}, dataset="spell_backward", answer="{word}").problems[0].references
    assert not load(tmp_path, {"kind": "exact"}, dataset="spell_backward", references=False).problems[0].references


def test_a_data_set_without_adapter(tmp_path: Path) -> None:
    behavior = load(tmp_path, dataset="letter_counting")
    assert behavior.verifier.kind == "reasoning_gym"
    problem = behavior.problems[0]
    assert problem.id == "letter_counting-0"
    assert problem.references == ()
    assert problem.metadata["reasoning_gym"]["answer"] == problem.answer
    assert load(tmp_path, dataset="letter_counting").fingerprint == behavior.fingerprint
    assert load(tmp_path, dataset="letter_counting", seed=1).fingerprint != behavior.fingerprint
    with Grader(behavior) as grader:
        assert grader.grade(problem, [problem.answer])[0].score == 1.0
