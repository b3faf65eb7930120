"""What is found before anything is sampled: templates, and prompts that give their answer away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.character_engine import (
    ASKS_DATE,
    CHATML,
    DEFAULT_SYSTEM,
    DROPS_THINKING,
    ENDS_CHAT,
    ENDS_NOTHING,
    HIDES_THINKING,
    NEXT_TURN_ENDS,
    OPENS_THINKING,
    READS_PARTS,
    THINKS,
    CharacterEngine,
)
from helpers.template_families import FAMILIES, Family, make_family_tokenizer

from posttrain.diagnose.engines.answer_turn import answer_turn
from posttrain.diagnose.engines.chat_template import ChatTemplate
from posttrain.diagnose.measure.setup_checks import check_setup
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Split,
    ValidityCode,
    VerifierSpec,
)
from posttrain.diagnose.verifiers.selftest import SelfTest

NO_OPENING = CHATML.partition("{% if add_generation_prompt %}")[0]
MARKS_ANSWERS_ONLY = "{% for m in messages %}{% if m.role == 'user' %}[inst]{{ m.content }}[/inst]{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
"""Needs no generation prompt: what ends a question begins its answer."""
OPENS_OTHERWISE = CHATML.replace("<|im_start|>assistant\n{% endif %}", "bot: {% endif %}")


def codes(
    template: str | None, *prompts: tuple[str, str], examples: tuple[tuple[str, str], ...] = (), system: str | None = None
) -> list[ValidityCode]:
    problems = tuple(
        Problem(id=f"p{i}", prompt=prompt, answer=answer, key=str(i), split=Split.EVAL)
        for i, (prompt, answer) in enumerate(prompts or [("what is 3 + 4?", "7")])
    )
    behavior = Behavior(name="b", problems=problems, verifier=VerifierSpec(kind="number"), measure=MeasureSettings(epsilon=0.006))
    behavior = replace(behavior, prompt=PromptFormat(examples=examples, system=system))
    found = check_setup(behavior, CharacterEngine(template), Thresholds(), SelfTest(cases=()), problems)
    return [failure.code for failure in found.failures]


@pytest.mark.parametrize(
    "template",
    [
        CHATML, DROPS_THINKING, DEFAULT_SYSTEM, OPENS_THINKING, HIDES_THINKING, ENDS_NOTHING, THINKS, NEXT_TURN_ENDS, ENDS_CHAT, READS_PARTS, ASKS_DATE,
        MARKS_ANSWERS_ONLY,
    ],
)  # fmt: skip
def test_templates_that_open_an_answer_are_right(template: str) -> None:
    assert codes(template) == []


@pytest.mark.parametrize("question", ["what is 3 + 4?", "add 3 and 4", "[3, 4]"])
def test_a_template_without_generation_prompt_is_found_whatever_the_question_ends_with(question: str) -> None:
    assert codes(NO_OPENING, (question, "7")) == [ValidityCode.NO_GENERATION_PROMPT]
    assert codes(NO_OPENING + "{% if false %}{% endif %}\n", (question, "7")) == [ValidityCode.NO_GENERATION_PROMPT]


def test_a_template_that_opens_answers_after_a_system_message_alone_is_right_for_such_chats() -> None:
    template = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt and messages[0].role == 'system' %}")
    assert codes(template) == [ValidityCode.NO_GENERATION_PROMPT]
    assert codes(template, system="be kind") == []


def test_a_generation_prompt_that_no_answer_of_a_chat_begins_with_is_a_wrong_template() -> None:
    assert codes(OPENS_OTHERWISE) == [ValidityCode.WRONG_TEMPLATE]
    assert codes(CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>model\n{% endif %}")) == [
        ValidityCode.WRONG_TEMPLATE
    ]


@pytest.mark.parametrize(
    ("prompt", "answer", "tells"),
    [
        ("3 + 4 is? answer: 7", "7", True),
        ("3 + 4 is? the answer is 7.", "7", True),
        (r"3 + 4 #### 7", "7", True),
        ("3 + 4 = 7. what is 3 + 4?", "7", True),
        ("3 + 4? (7)", "7", True),
        ("q: 3 + 4? a: 7", "7", True),
        ("if x = 70, what is 7?", "7", False),
        ("(7) apples and 2 pears?", "7", False),
        ("which is larger, 7 or 4?", "7", False),
        ("7 apples and 0 pears are how many? the answer is a number.", "7", False),
        ("the answer is 70 times what?", "7", False),
        ("the answer is 7.5 times what?", "7", False),
    ],
)
def test_a_prompt_that_states_its_answer_is_found(prompt: str, answer: str, tells: bool) -> None:
    assert codes(None, (prompt, answer)) == ([ValidityCode.ANSWER_IN_PROMPT] if tells else [])


def test_a_problem_among_its_own_worked_examples_tells_its_answer() -> None:
    assert codes(None, ("3 + 4?", "7"), examples=(("3 + 4?", "7"),)) == [ValidityCode.ANSWER_IN_PROMPT]
    assert codes(None, ("3 + 4?", "7"), examples=(("5 + 2?", "7"),)) == []


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_public_templates_open_and_end_their_answers(family: Family) -> None:
    template = ChatTemplate(make_family_tokenizer(family, marked=False))
    question, answer = Message("user", "what?"), Message("assistant", "that")
    for chat in ([question], [Message("system", "be kind"), question], [question, answer, question]):
        turn = answer_turn(template, chat)
        if turn is not None:  # some refuse a system message
            assert not turn.lacks_generation_prompt
            assert not turn.opens_otherwise
            assert turn.ending


@pytest.mark.parametrize(
    ("template", "ending"), [(CHATML, "<|im_end|>"), (ENDS_NOTHING, "user:"), (NEXT_TURN_ENDS, "<|im_start|>user")]
)
def test_what_follows_an_answer_is_what_a_sample_can_be_stopped_at(template: str, ending: str) -> None:
    turn = answer_turn(ChatTemplate(CharacterEngine(template).tokenizer), [Message("user", "what?")])
    assert turn is not None
    assert turn.ending == ending
