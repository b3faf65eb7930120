"""Chat templates: what they write, what they leave out, and that none of them hangs or fills the memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.refusals import refused
from helpers.token_counter import TokenCounter

from posttrain import diagnose
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.models.loading import load_tokenizer
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, PromptFormat

CHAT = PromptFormat(format="chat")
EVERY_TURN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def codec_with(tiny_model: Path, template: str, seconds: float = 20.0) -> TextCodec:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = template
    return TextCodec(tokenizer, frozenset({2}), template_seconds=seconds)


@pytest.mark.parametrize(
    "template",
    [EVERY_TURN, "{{ bos_token }}{{ messages[0].content | trim }}{{ eos_token }}", "{% generation %}{{ messages[0].content }}{% endgeneration %}"],
)  # fmt: skip
def test_the_text_is_that_of_transformers(tiny_model: Path, template: str) -> None:
    codec = codec_with(tiny_model, template)
    turns = [{"role": "user", "content": " What is\n2 + 3? "}]
    expected = codec.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert codec.encode_prompt(" What is\n2 + 3? ", CHAT).text == expected


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "chat_template_too_slow"),
        ("{{ 'a' * 10**10 }}", "chat_template_too_large"),
        ("{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "chat_template_too_large"),
        ("{{ 'a'.center(10**10) }}", "chat_template_too_large"),
        ("{% for i in range(10**12) %}a{% endfor %}", "chat_refused_by_template"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "chat_refused_by_template"),
        ("{{ 1 / 0 }}", "chat_refused_by_template"),
        ("{{ messages[0].content + 1 }}", "chat_refused_by_template"),
        ("{% for %}", "chat_refused_by_template"),
        ("{{ raise_exception('no') }}", "chat_refused_by_template"),
        ("hello", "turn_left_out_by_template"),
        ("{{ messages[0].content[:2] }}", "turn_left_out_by_template"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_line_within_its_deadline(tiny_model: Path, template: str, code: str) -> None:
    seconds = 1.0 if code == "chat_template_too_slow" else 20.0
    codec = codec_with(tiny_model, template, seconds)
    start = time.monotonic()
    with refused(BehaviorError, code):
        codec.encode_prompt("What is 2 + 3?", CHAT)
    assert time.monotonic() - start < 60.0
    assert codec_with(tiny_model, EVERY_TURN).encode_prompt("2 + 3?", CHAT).text == "user: 2 + 3?\nassistant: "


@pytest.mark.parametrize("filters", ["trim", "upper", "tojson"])
def test_a_turn_that_is_only_changed_is_not_left_out(tiny_model: Path, filters: str) -> None:
    codec = codec_with(tiny_model, "{{ messages[0].content | " + filters + " }}")
    assert codec.encode_prompt(' is "2" + 3? ', CHAT).text


def test_the_turn_that_is_left_out_may_be_any(tiny_model: Path) -> None:
    first_user_only = "{% for m in messages %}{% if m.role == 'user' and loop.first %}{{ m.content }}{% endif %}{% endfor %}"
    codec = codec_with(tiny_model, first_user_only)
    assert codec.encode_prompt("2 + 3?", CHAT).text == "2 + 3?"
    for prompt, prompt_format in (
        ("2 + 3?", PromptFormat(format="chat", system="be brief")),
        ("2 + 3?", PromptFormat(format="chat", examples=(("1 + 1?", "2"),))),
        ((Message("user", "hi"), Message("assistant", "hello"), Message("user", "2 + 3?")), CHAT),
    ):
        with refused(BehaviorError, "turn_left_out_by_template"):
            codec.encode_prompt(prompt, prompt_format)


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(("template", "code"), [("hello", "turn_left_out_by_template"), (NO_SYSTEM, "chat_refused_by_template")])
def test_diagnose_refuses_it_before_the_first_token(
    tiny_model: Path, tmp_path: Path, write_rows: Callable[..., Path], template: str, code: str
) -> None:
    """The last problem alone has a system message."""
    rows = [{"prompt": f"{i} + 1 =", "answer": str(i + 1), "split": "eval"} for i in range(5)]
    chats = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    chats[-1]["messages"].insert(0, {"role": "system", "content": "be brief"})
    rows = [row | {"prompt": chat["messages"]} for row, chat in zip(rows, chats, strict=True)]
    behavior = diagnose.load_behavior(write_rows(rows))
    TokenCounter.tokens = 0
    engine = TokenCounter.with_context([behavior], codec=codec_with(tiny_model, template))
    with refused(BehaviorError, code):
        diagnose.run("m", [behavior], out=tmp_path / "run", engine=engine, samples=2)
    assert TokenCounter.tokens == 0
    assert not (tmp_path / "run").exists()
