"""A behavior file that is written for a file of problems: it has every key, says why, and loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.refusals import refused
from pydantic import BaseModel

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.behaviors.new_behavior_file import COMMENTS, write_behavior_file
from posttrain.diagnose.behaviors.schema import BehaviorConfig, MeasureConfig, PromptConfig, SamplingConfig, SplitConfig
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, VerifierOrigin
from posttrain.diagnose.verifiers.sandbox import isolation

LAYOUTS = Path(__file__).parent / "layouts"


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def keys() -> Iterator[str]:
    parts: dict[str, type[BaseModel]] = {
        "prompt": PromptConfig,
        "sampling": SamplingConfig,
        "measure": MeasureConfig,
        "split": SplitConfig,
    }
    for name in BehaviorConfig.model_fields:
        yield name
        yield from (f"{name}.{key}" for key in (parts[name].model_fields if name in parts else ()))


def measured(behavior: Behavior) -> Behavior:
    """Return a behavior without where it comes from, who chose its verifier and how it asks."""
    return replace(
        behavior,
        source="",
        options={},
        notes=(),
        fingerprint="",
        verifier_origin=VerifierOrigin.CHOSEN,
        prompt=replace(behavior.prompt, template=""),
    )


def test_every_key_has_a_comment() -> None:
    assert {*keys(), "verifier.kind"} == set(COMMENTS)


@pytest.mark.parametrize("name", ["gsm8k", "math", "mmlu", "arc", "bbh", "ifeval", "humaneval", "mbpp"])
def test_the_file_has_every_key_and_measures_the_same(tmp_path: Path, name: str) -> None:
    if name in ("humaneval", "mbpp") and not isolation.available():
        pytest.skip("nothing isolates programs here")
    source = tmp_path / f"{name}.jsonl"
    source.write_bytes((LAYOUTS / f"{name}.jsonl").read_bytes())
    path = write_behavior_file(source)
    assert path == tmp_path / f"{name}.yaml"
    written, given = load_behavior(path), load_behavior(source)
    assert measured(written) == measured(given)
    assert (written.prompt.template == "{question}") is (name == "ifeval")  # its prompts say how to answer
    content = yaml.safe_load(path.read_text())
    assert {*content, "reasoning_gym", "environment"} == set(BehaviorConfig.model_fields)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, path.name])


def test_what_is_given_stands_in_the_file(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", *({"frage": f"{i}+1?", "wert": i + 1} for i in range(10)))
    options = BehaviorOptions(
        columns={"prompt": "frage", "answer": "wert"}, verifier={"kind": "number", "tolerance": 0.5}, system='Say "so": #1.'
    )
    path = write_behavior_file(source, tmp_path / "files" / "mine.yaml", options)
    behavior = load_behavior(path)
    assert behavior.problems == load_behavior(source, options).problems
    assert (behavior.verifier.options, behavior.prompt.system) == ({"tolerance": 0.5}, 'Say "so": #1.')
    assert (behavior.name, behavior.prompt.template) == ("rows", "{question}")


def test_rows_that_say_their_split_are_not_divided(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", *({"prompt": f"{i}+1?", "answer": i + 1, "split": "test"} for i in range(4)))
    assert load_behavior(write_behavior_file(source)).problems == load_behavior(source).problems


def test_what_is_not_written(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", {"prompt": "1+1?", "answer": 2})
    path = write_behavior_file(source)
    content = path.read_bytes()
    with refused(BehaviorError, "file_exists"):
        write_behavior_file(source)
    assert path.read_bytes() == content
    for wrong, out, code in (
        (path, None, "not_a_problem_file"),
        ("sums", None, "not_a_problem_file"),
        (source, tmp_path / "mine.json", "not_a_yaml_file"),
        (tmp_path / "no.jsonl", None, "no_such_file"),
        (write(tmp_path / "odd.jsonl", {"frage": "q"}), None, "unknown_columns"),
    ):
        with refused(BehaviorError, code):
            write_behavior_file(wrong, out)
