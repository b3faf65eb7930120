"""Measurements that are broken on purpose: each is named, with its repair, and none gives a verdict on a capability."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml

from posttrain import diagnose
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile
from posttrain.diagnose.types import Bottleneck, ValidityCode

ANSWERS = {f"p{i}": 1000 + 37 * i for i in range(12)}
LINES = "First.\nThen.\nIt is {answer}.\nDone."
RIGHT = {"It is {answer}.": 0.98, "It is {wrong}.": 0.02}
WRONG = {"It is {wrong}.": 1.0}
SCORERS = """
def accepts(text, problem):
    return True

def accepts_long(text, problem):
    return len(text) > 3

def contains(text, problem):
    return any(digit in text for digit in problem["answer"])

def refuses(text, problem):
    return False
"""


class Planted(NamedTuple):
    """A measurement with a flaw."""

    code: ValidityCode | None
    """The reason that must be named; None where nothing is wrong."""
    repair: str
    """What the words of the failure must name."""
    says: Mapping[str, float]
    """What the model writes, with `{answer}` and `{wrong}` filled in, and how often."""
    settings: Mapping[str, Any] = MappingProxyType({})
    reference: str | None = "It is {answer}."
    prompt: str = "{name} {i} is"
    sampled: bool = False
    """Whether it takes samples to find it."""


CODE = ValidityCode
NO_ANSWER = {"reference": None}
PLANTED = {
    "any number": Planted(CODE.ACCEPTS_WRONG_ANSWERS, "tolerance", WRONG, {"verifier": {"kind": "number", "tolerance": 1e9}}),
    "function that returns True": Planted(
        CODE.ACCEPTS_ANYTHING, "verifier", WRONG, {"verifier": {"kind": "python", "function": "scorers:accepts"}}
    ),
    "any long text": Planted(
        CODE.ACCEPTS_ANYTHING, "verifier", WRONG, {"verifier": {"kind": "python", "function": "scorers:accepts_long"}}, "The number is {answer}."
    ),
    "contains a digit": Planted(
        CODE.ACCEPTS_WRONG_ANSWERS, "whole answer", WRONG, {"verifier": {"kind": "python", "function": "scorers:contains"}}, prompt="{name} x is"
    ),
    "function that returns False": Planted(
        CODE.REFUSES_ANSWERS, "verifier", RIGHT, {"verifier": {"kind": "python", "function": "scorers:refuses"}}
    ),
    "references refused": Planted(CODE.REFUSES_REFERENCES, "number", RIGHT, {"verifier": {"kind": "exact"}}),
    "pattern that takes all": Planted(
        CODE.REFUSES_REFERENCES, "regex", RIGHT, {"verifier": {"kind": "regex", "pattern": "(?s)(.*)", "select": "first"}}
    ),
    "stop inside references": Planted(
        CODE.STOP_IN_REFERENCE, "sampling.stop", {LINES: 0.92, "no": 0.08}, {"sampling": {"stop": ["\n"], "max_tokens": 64}}, LINES
    ),
    "stop at the beginning of references": Planted(
        CODE.STOP_IN_REFERENCE, "sampling.stop", RIGHT, {"sampling": {"stop": ["\n"], "max_tokens": 64}}, "\nIt is {answer}."
    ),
    "references too long": Planted(CODE.REFERENCE_TOO_LONG, "max_tokens: 12", RIGHT, {"sampling": {"max_tokens": 8}}),
    "answer in the prompt": Planted(
        CODE.ANSWER_IN_PROMPT, "question", RIGHT, prompt="{name} {i} is? The answer is {answer}. Repeat:"
    ),
    "answer behind an equals sign": Planted(CODE.ANSWER_IN_PROMPT, "question", RIGHT, prompt="{name} {i} = {answer}. What is {i}?"),
    "reference in the prompt": Planted(
        CODE.ANSWER_IN_PROMPT, "question", RIGHT, {"verifier": {"kind": "regex", "pattern": "So: (.+)", "write": "So: {answer}"}},
        "for once So: {answer}", "{name} {i}: for once So: {answer} and what?",
    ),
    "limit too short": Planted(
        CODE.TRUNCATED, "max_tokens: 64", {"Let me think about it, first slowly and then fast: 1 2 3 4 5. It is {answer}.": 1.0},
        {"sampling": {"max_tokens": 16}}, None, sampled=True,
    ),
    "no end": Planted(CODE.NO_END, "stop", {"It is {answer}. " + "so " * 40: 1.0}, {"sampling": {"max_tokens": 64}}, None, sampled=True),
    "unread answers": Planted(
        CODE.UNREAD, "punctuation", {"{answer[0]}_{answer[1]}_{answer[2]}_{answer[3]}": 0.9, "no idea": 0.1},
        {"verifier": {"kind": "regex", "pattern": r"= (\d+)", "write": "= {answer}"}}, None, sampled=True,
    ),
    "unread answers in another language": Planted(
        CODE.UNREAD, "verifier", {"Die Zahl kenne ich: eintausendundetwas": 0.9, "It is {answer}.": 0.1}, {}, None, sampled=True,
    ),
    "box that is never closed": Planted(
        CODE.UNREAD, "verifier", {"So we get \\boxed{{{answer}": 1.0},
        {"verifier": {"kind": "regex", "pattern": r"\\boxed\{(\d+)\}", "write": "\\boxed{{answer}}"}}, None, sampled=True,
    ),
    "unfinished thoughts": Planted(
        CODE.UNFINISHED_THOUGHT, "max_tokens", {"<think>maybe 12, maybe 13, or is it 14 after all": 0.9, "It is {answer}.": 0.1},
        {}, None, sampled=True,
    ),
    "thoughts cut off": Planted(
        CODE.UNFINISHED_THOUGHT, "enable_thinking", {"<think>maybe 12, maybe 13, or is it 14 after all</think>{answer}": 1.0},
        {"sampling": {"max_tokens": 24}}, None, sampled=True,
    ),
    "lists of candidates": Planted(
        CODE.ACCEPTS_CANDIDATES, "select: only", {"{wrong} or {answer}": 0.9, "It is {wrong}.": 0.1},
        {"verifier": {"kind": "regex", "pattern": r"(\d+)", "select": "last"}}, None, sampled=True,
    ),
    "good regex": Planted(None, "", RIGHT, {"verifier": {"kind": "regex", "pattern": r"(\d+)", "select": "last"}}, sampled=True),
    "good regex of a poor model": Planted(
        None, "", {"It is {answer}.": 0.4, "It is {wrong}.": 0.6}, {"verifier": {"kind": "regex", "pattern": r"(\d+)", "select": "last"}},
        sampled=True,
    ),
    "stop behind references": Planted(
        None, "", {"It is {answer}.\n": 0.98, "no 5\n": 0.02}, {"sampling": {"stop": ["\n"], "max_tokens": 64}}, "It is {answer}.\n", sampled=True
    ),
    "right": Planted(None, "", RIGHT, sampled=True),
}  # fmt: skip

WITHOUT_PILOT = ("limit too short", "no end", "unread answers", "unfinished thoughts", "good regex")
"""What the samples have to show by themselves where there is no pilot; what is found before it is found with it and without."""


def write_behavior(folder: Path, name: str, planted: Planted) -> Path:
    stem = name.replace(" ", "-")
    rows = []
    for i, (identifier, answer) in enumerate(ANSWERS.items()):
        row = {
            "id": identifier,
            "prompt": planted.prompt.format(name=stem, i=f"number {chr(97 + i)}", answer=answer),
            "answer": str(answer),
        }
        references = {"references": [planted.reference.format(answer=answer)]} if planted.reference else {}
        rows.append(row | {"split": "eval"} | references)
    if len({row["prompt"] for row in rows}) == 1:
        rows = [row | {"prompt": f"{row['prompt']} {'really ' * i}"} for i, row in enumerate(rows)]
    (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"problems": f"{stem}.jsonl", "verifier": {"kind": "number"}, "sampling": {"max_tokens": 80}, **planted.settings}
    (folder / f"{stem}.yaml").write_text(yaml.safe_dump(settings))
    return folder / f"{stem}.yaml"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], BehaviorEntry]:
    """Measure all of them in one run with a pilot, and some in one without."""
    return {
        (name, pilot): entry
        for pilot, names in ((True, tuple(PLANTED)), (False, WITHOUT_PILOT))
        for name, entry in measure(tmp_path_factory.mktemp("planted"), names, pilot=pilot).items()
    }


def measure(folder: Path, names: Sequence[str], *, pilot: bool) -> dict[str, BehaviorEntry]:
    (folder / "scorers.py").write_text(SCORERS)
    scripts, files = {}, []
    for name in names:
        planted = PLANTED[name]
        files.append(write_behavior(folder, name, planted))
        for problem in load_behavior(files[-1]).problems:
            scripts[problem.question] = [
                (text.format(answer=problem.answer, wrong=int(problem.answer) + 1), p) for text, p in planted.says.items()
            ]
    engine = ScriptedEngine(scripts)
    diagnose.run("m", files, out=folder / "run", engine=engine, samples=16, probes=["none"], pilot=pilot)
    content = DiagnosisFile.model_validate_json((folder / "run" / "diagnosis.json").read_text())
    return {name: content[name.replace(" ", "-")] for name in names}


CASES = [(name, True) for name in PLANTED] + [(name, False) for name in WITHOUT_PILOT]


@pytest.mark.parametrize(("name", "pilot"), [case for case in CASES if PLANTED[case[0]].code is not None])
def test_a_broken_measurement_is_named_and_gives_no_verdict_on_a_capability(
    name: str, pilot: bool, found: dict[tuple[str, bool], BehaviorEntry]
) -> None:
    entry, planted = found[name, pilot], PLANTED[name]
    assert entry.bottleneck is Bottleneck.INVALID
    assert list(entry.validity.failure_codes) == [planted.code]
    (words,) = entry.validity.failures
    assert planted.repair in words
    assert "\n" not in words
    assert (entry.cost.samples > 0) == planted.sampled


@pytest.mark.parametrize(("name", "pilot"), [case for case in CASES if PLANTED[case[0]].code is None])
def test_a_measurement_in_good_order_gives_a_verdict(
    name: str, pilot: bool, found: dict[tuple[str, bool], BehaviorEntry]
) -> None:
    entry = found[name, pilot]
    assert not entry.validity.failures
    assert entry.bottleneck is (Bottleneck.POOR_CHOICE if name == "good regex of a poor model" else Bottleneck.MASTERED)


def test_a_warning_of_the_self_test_names_the_repair(found: dict[tuple[str, bool], BehaviorEntry]) -> None:
    (note,) = [note for note in found["good regex", True].validity.notes if "candidate" in note]
    assert "select: only" in note
    assert "\n" not in note


@pytest.mark.parametrize("pilot", [True, False])
def test_unread_samples_stand_beside_what_is_wanted(pilot: bool, found: dict[tuple[str, bool], BehaviorEntry]) -> None:
    validity = found["unread answers", pilot].validity
    assert len({one.problem_id for one in validity.unread}) == 3
    assert all(one.wanted == str(ANSWERS[one.problem_id]) for one in validity.unread)
    assert validity.share_stated == pytest.approx(0.9, abs=0.15)
    assert found["good regex", pilot].validity.share_stated is None
