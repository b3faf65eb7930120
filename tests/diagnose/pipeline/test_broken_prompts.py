"""A small model that was trained on chats, measured with the right chat template and with broken ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import yaml
from helpers.character_engine import CHATML, END
from helpers.chat_models import character_tokenizer, train_chat_model, with_template

from posttrain import diagnose
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile
from posttrain.diagnose.types import Bottleneck, ValidityCode

PAIRS = [(f"{a} + {b}?", f"it is {a + b}.") for a in (3, 14, 25, 36) for b in (7, 8, 19)]
OTHER = "{% for m in messages %}== {{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}== assistant: {% endif %}"
NO_END = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""Marks where a turn begins, and not where it ends."""
TEXT_END = NO_END.replace("{{ m.content }}", "{{ m.content }}{% if m.role == 'assistant' %}[end]{% endif %}")
"""Ends an answer with a text of several tokens."""
HEAD, OPENING = CHATML[: CHATML.index("{% if add_gen")], CHATML[CHATML.index("{% if add_gen") :]
SYSTEM_ONLY = HEAD + OPENING.replace("add_generation_prompt", "add_generation_prompt and messages[0].role == 'system'")
"""Opens an answer in chats with a system message alone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model that ends its answers in ChatML, goes on with the next turn in the formats without an end token, and rambles in that of another model.

    What it would write in a format that it never saw depends on how the processor rounds.
    """
    tokenizer = character_tokenizer(CHATML)
    chats = []
    for index, (question, answer) in enumerate(PAIRS):
        for template in (CHATML, NO_END, TEXT_END, OTHER):
            turn = {"role": "user", "content": question}
            prompt = tokenizer.apply_chat_template([turn], chat_template=template, tokenize=False, add_generation_prompt=True)
            if template == CHATML:
                chats.append((prompt, answer + END))
                continue
            if template == OTHER:
                chats.append((prompt, "so it goes " * 5))
                continue
            following = PAIRS[(index + 1) % len(PAIRS)][0]
            turns = [turn, {"role": "assistant", "content": answer}, {"role": "user", "content": following}]
            whole = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
            chats.append((prompt, whole[len(prompt) :]))
    return train_chat_model(tmp_path_factory.mktemp("chats") / "model", chats)


class Case(NamedTuple):
    """A chat template that the model is measured with."""

    template: str | None
    code: ValidityCode | None
    repair: str = ""
    prompt: Mapping[str, str] = MappingProxyType({})
    references: bool = True


CASES = {
    "its own": Case(CHATML, None),
    "no generation prompt": Case(HEAD, ValidityCode.NO_GENERATION_PROMPT, "add_generation_prompt"),
    "one for system messages alone": Case(SYSTEM_ONLY, ValidityCode.NO_GENERATION_PROMPT, "add_generation_prompt"),
    "of another model": Case(OTHER, ValidityCode.WRONG_TEMPLATE, "ChatML"),
    "none": Case(None, ValidityCode.NO_TEMPLATE, "ChatML"),
    "left aside": Case(CHATML, ValidityCode.NO_TEMPLATE, "", {"format": "completion"}),
    "without an end token": Case(NO_END, ValidityCode.NO_END, 'stop: ["[user]'),
    "with an end of several tokens": Case(TEXT_END, ValidityCode.NO_END, 'stop: ["[end]"]', references=False),
}


def measured(folder: Path, model: Path, case: Case, *, pilot: bool) -> BehaviorEntry:
    checkpoint = with_template(model, folder / "model", case.template)
    rows = [
        {"prompt": question, "answer": text.split()[-1][:-1], "split": "eval"}
        | ({"references": [text]} if case.references else {})
        for question, text in PAIRS
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "problems": "rows.jsonl",
        "verifier": {"kind": "number"},
        "sampling": {"max_tokens": 40},
        "prompt": dict(case.prompt),
    }
    (folder / "b.yaml").write_text(yaml.safe_dump(settings))
    diagnose.run(str(checkpoint), [folder / "b.yaml"], out=folder / "run", samples=4, probes=["none"], pilot=pilot)
    return DiagnosisFile.model_validate_json((folder / "run" / "diagnosis.json").read_text())["b"]


def check(entry: BehaviorEntry, case: Case) -> None:
    if case.code is None:
        assert not entry.validity.failures
        assert entry.bottleneck is Bottleneck.MASTERED
        return
    assert entry.bottleneck is Bottleneck.INVALID
    assert list(entry.validity.failure_codes) == [case.code]
    assert case.repair in entry.validity.failures[0]


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_the_prompt_is_named(name: str, model: Path, tmp_path: Path) -> None:
    check(measured(tmp_path, model, CASES[name], pilot=True), CASES[name])


@pytest.mark.parametrize("name", ["of another model", "without an end token"])
def test_without_a_pilot_the_samples_show_it(name: str, model: Path, tmp_path: Path) -> None:
    check(measured(tmp_path, model, CASES[name], pilot=False), CASES[name])


def test_a_system_message_gets_the_generation_prompt_of_its_chats(model: Path, tmp_path: Path) -> None:
    """The template opens answers in chats with a system message, and these are such chats."""
    entry = measured(tmp_path, model, Case(SYSTEM_ONLY, None, prompt={"system": "add"}), pilot=True)
    assert ValidityCode.NO_GENERATION_PROMPT not in entry.validity.failure_codes
