"""What a chat template writes and reads, and how its failures are told."""

from __future__ import annotations

import pytest
from helpers.character_engine import (
    BOS,
    CHATML,
    END,
    ENDS_NOTHING,
    READS_PARTS,
    REFUSES_SYSTEM,
    SHOWS_TOOLS,
    START,
    THINKS,
    CharacterEngine,
)
from tokenizers import AddedToken

from posttrain.diagnose.engines.chat_template import ChatTemplate
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, PromptFormat, Reference

ASKED = Message("user", "a?")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(CharacterEngine(source).tokenizer)


@pytest.mark.parametrize(
    ("source", "end"), [(CHATML, 3), (THINKS, 3), (READS_PARTS, 3), (ENDS_NOTHING, None), (REFUSES_SYSTEM, 3)]
)
def test_the_token_behind_an_answer_ends_a_turn(source: str, end: int | None) -> None:
    assert template(source).turn_end_id == end


def test_what_ends_a_turn_need_not_be_marked_as_special() -> None:
    engine = CharacterEngine(CHATML.replace(END, "<|ends|>"))
    engine.tokenizer.add_tokens([AddedToken("<|ends|>", special=False)])
    end = engine.tokenizer.convert_tokens_to_ids("<|ends|>")
    codec = TextCodec(engine.tokenizer, frozenset({3}))
    assert codec.eos_ids == {3, end}
    assert codec.decode([*engine.tokenizer("15")["input_ids"], end]) == "15"


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        (REFUSES_SYSTEM, [Message("system", "b"), ASKED]),
        ("{{ messages[0].content + 1 }}", [ASKED]),
        ("{{ messages[5].content }}", [ASKED]),
        ("{{ messages[0].tool_calls[0].name }}", [ASKED]),
    ],
)
def test_a_template_that_fails_is_told_in_one_line(source: str, messages: list[Message]) -> None:
    with pytest.raises(BehaviorError) as refused:
        template(source).render(messages)
    assert refused.value.code == "chat_refused_by_template"
    assert "\n" not in str(refused.value)


def test_what_a_template_reads_is_known() -> None:
    assert template(SHOWS_TOOLS).reads("tools")
    assert not template(CHATML).reads("tools")
    assert template(THINKS).reads("enable_thinking")
    assert not template(THINKS).reads("thinking")


def test_a_broken_template_does_not_stand_in_the_way_of_texts() -> None:
    codec = TextCodec(CharacterEngine("{{ raise_exception('no chats') }}").tokenizer, frozenset({3}))
    prompt = codec.encode_prompt("2 + 2 =", PromptFormat(format="completion"))
    path = codec.encode_path(prompt, Reference(steps=("4",)))
    assert path.token_texts == ("4", END)


@pytest.mark.parametrize("question", ["2 + 2 =", BOS + "2 + 2 ="])
def test_a_prompt_begins_with_one_token_of_the_beginning(question: str) -> None:
    engine = CharacterEngine(None, writes_bos=True)
    prompt = engine.codec.encode_prompt(question, PromptFormat())
    assert engine.text(prompt.token_ids) == BOS + "2 + 2 ="
    path = engine.codec.encode_path(prompt, Reference(steps=("4",)))
    assert engine.text(path.token_ids) == "4" + END


def test_a_prompt_that_ends_with_an_end_token_keeps_it() -> None:
    engine = CharacterEngine(None)
    prompt = engine.codec.encode_prompt(f"a{END}", PromptFormat())
    assert engine.text(prompt.token_ids) == f"a{END}"


def test_texts_end_with_the_tokenizers_token_and_chats_with_the_templates() -> None:
    engine = CharacterEngine(CHATML)
    engine.tokenizer.eos_token = BOS
    codec = TextCodec(engine.tokenizer, frozenset({1}))
    path = Reference(steps=("b",))
    text = codec.encode_prompt("a?", PromptFormat(format="completion"))
    chat = codec.encode_prompt("a?", PromptFormat())
    assert engine.text(codec.encode_path(text, path).token_ids) == "b" + BOS
    assert engine.text(codec.encode_path(chat, path).token_ids) == "b" + END
    assert chat.text.startswith(START)
