"""What stands before an answer is cut off it, before any verifier reads it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from helpers.character_engine import CHATML, DROPS_THINKING, CharacterEngine

from posttrain.diagnose.types import (
    Behavior,
    Grade,
    GradeStatus,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Split,
    Thinking,
    VerifierSpec,
)
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.thinking import find_thought, follow_template, grade_after_prompt, opening_in_prompt

ASKED = "What is 3 times 5?"


def problem(prompt: str | tuple[Message, ...] = ASKED, answer: str = "15") -> Problem:
    return Problem(id="p", prompt=prompt, answer=answer, key="p", split=Split.EVAL)


PLAIN = PromptFormat()


def behavior(kind: str, asked: Problem, prompt: PromptFormat = PLAIN, **options: object) -> Behavior:
    return Behavior(
        name="b",
        problems=(asked,),
        verifier=VerifierSpec(kind=kind, options=options),
        prompt=prompt,
        measure=MeasureSettings(epsilon=0.01),
    )


def answer_of(text: str, thinking: Thinking = "auto") -> str | None:
    """Return what is left of a text; None where the thought has no end."""
    thought = find_thought(text, thinking)
    return text[thought.answer_start :] if thought.finished else None


PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("<antThinking>", "</antThinking>"),
    ("<reason>", "</reason>"),
    ("<thinking_process>", "</thinking_process>"),
    ("<inner-monologue>", "</inner-monologue>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|think|>", "<|/think|>"),
    ("<|think_start|>", "<|think_end|>"),
    ("◁think▷", "◁/think▷"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_markers_of_many_families_are_known(opening: str, closing: str) -> None:
    assert answer_of(f"{opening}is it 12?{closing}15") == "15"
    assert answer_of(f"{opening}is it 12?\n{closing}\n\n  15") == "  15"
    assert answer_of(f"is it 12?{closing} 15") == "15"  # the prompt has opened it
    assert answer_of(f"{opening}is it 12? it is 15") is None
    assert answer_of(f"{opening}{closing}15") == "15"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("15", "15"),
        ("", ""),
        ("<think>12", None),
        ("</think>15", "15"),
        ("<think>a <think>b</think> c</think>15", "15"),
        ("<think>a <think>b</think>15", "15"),  # the opening that the prompt ends with is often written again
        ("<think>12</think>13<think>14</think>15", "15"),
        ("<think>12</think>13<think>no, it is 15", None),
        ("<think>12</think>15\n</think>", ""),
        ("<think>I close with `</think>` when I am done. 12", None),
        ('<think>First "</think>", then 12</think>15', "15"),
        ("<think>12</think>The marker is `</think>`.", "The marker is `</think>`."),
        ("The tag `<think>` opens a thought.", "The tag `<think>` opens a thought."),
        ("I think it is 15; x < think > y", "I think it is 15; x < think > y"),
        ("[Reasoning]\n3 * 5\n[Answer]\n15", "[Reasoning]\n3 * 5\n[Answer]\n15"),
        ("[Reasoning]12[/Reasoning]15", "15"),
        ("<apricot>15", "<apricot>15"),
        ("<THINK>12</THINK>15", "15"),
        ("<think time='3'>12</think>15", "15"),
        ("Here is my thought process: 12? no. Here is my response: 15", "15"),
        ("<|channel|>analysis<|message|>12<|end|><|start|>assistant<|channel|>commentary<|message|>a tool", None),
        ("analysisWe add: 12? assistantfinal15", "15"),  # gpt-oss without its special tokens
        ("analysisWe add: 12?", None),
        ("analysis of 15", "analysis of 15"),
        ("<think>\n12\n</think>\n    return 15", "    return 15"),
    ],
)
def test_a_thought_reaches_to_the_last_closing_marker(text: str, left: str | None) -> None:
    assert answer_of(text) == left


def test_markers_can_be_named_or_switched_off() -> None:
    assert answer_of("BEGIN 12 END 15", ("BEGIN", "END")) == "15"
    assert answer_of("BEGIN 12", ("BEGIN", "END")) is None
    assert answer_of("<think>12</think>15", ("BEGIN", "END")) == "<think>12</think>15"
    assert answer_of("<think>12", "none") == "<think>12"


def test_a_long_text_takes_no_time() -> None:
    for text in ("<think " * 100_000, "<|start_" * 100_000, "a" * 1_000_000, "</" + "a_" * 300_000, "<|channel|>final" * 50_000):
        assert answer_of(text) in (text, None)


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("Question [THINK]", "[THINK]"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Write your thoughts between <think> and </think>, then answer.", ""),
        ("Begin with <think>, then answer.\nassistant:", ""),
        ("15", ""),
    ],
)
def test_an_opening_may_stand_at_the_end_of_the_prompt(prompt: str, opening: str) -> None:
    assert opening_in_prompt(prompt) == opening
    assert opening_in_prompt(prompt, "none") == ""


THOUGHT = "<think>\nThe answer is 12? It may be (A) or blue.\n</think>\n"


@pytest.mark.parametrize(
    ("kind", "options", "answer", "right", "wrong"),
    [
        ("number", {}, "15", "15", "16"),
        ("exact", {}, "green", "green", "blue"),
        ("choice", {}, "B", "(B)", "(C)"),
        ("regex", {"pattern": "^(\\d+)$"}, "15", "15", "12"),
    ],
)
def test_every_verifier_reads_what_follows_the_thought(
    kind: str, options: dict[str, object], answer: str, right: str, wrong: str
) -> None:
    asked = problem(answer=answer)
    with Grader(behavior(kind, asked, **options)) as grader:
        good, bad, unfinished = grader.grade(asked, [THOUGHT + right, THOUGHT + wrong, f"<think>\n{right}"])
    assert (good.status, good.score, good.answer_start) == (GradeStatus.SCORED, 1.0, len(THOUGHT))
    assert (bad.score, bad.lenient_score) == (0.0, 0.0)
    assert (unfinished.status, unfinished.score, unfinished.lenient_score) == (GradeStatus.UNFINISHED_THOUGHT, 0.0, 0.0)
    assert not unfinished.missing
    assert unfinished.answer_start == len(f"<think>\n{right}")


def test_a_behavior_that_thinks_not_is_read_whole() -> None:
    asked = problem(answer="<think>a</think>b")
    with Grader(behavior("exact", asked, PromptFormat(thinking="none"))) as grader:
        assert grader.grade(asked, ["<think>a</think>b"])[0].score == 1.0


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        (problem(f"{ASKED}\n<think>\n"), PromptFormat()),
        (problem(), PromptFormat(template="{question}\n<think>\n")),
        (problem((Message("user", f"{ASKED}\n<think>"),)), PromptFormat()),
        (problem((Message("user", ASKED), Message("assistant", "<think>\nLet me see:"))), PromptFormat()),
    ],
)
def test_a_thought_that_the_prompt_opens_must_end(asked: Problem, prompt: PromptFormat) -> None:
    with Grader(behavior("number", asked, prompt)) as grader:
        open_, closed = grader.grade(asked, ["15", "Is it 12?</think>\n15"])
        assert open_.status is GradeStatus.UNFINISHED_THOUGHT
        assert (closed.score, closed.answer_start) == (1.0, len("Is it 12?</think>\n"))
        assert grader.grade_answers(asked, ["15"])[0].score == 1.0  # an answer alone is no sample


def test_a_chat_template_may_open_the_thought() -> None:
    asked, seen = problem(), []

    def grade(_: Problem, texts: Sequence[str]) -> list[Grade]:
        seen.extend(texts)
        return [Grade(status=GradeStatus.SCORED, score=1.0, answer_start=find_thought(text).answer_start) for text in texts]

    opened, closed = "user\n3 * 5\nassistant\n<think>\n", "user\n3 * 5\nassistant\n<think>\n\n</think>\n\n"
    (after,) = grade_after_prompt(grade, asked, ["12?</think>15"], opened, PromptFormat())
    assert after.answer_start == len("12?</think>")
    grade_after_prompt(grade, asked, ["15"], closed, PromptFormat())
    grade_after_prompt(grade, asked, ["15"], opened, PromptFormat(thinking="none"))
    assert [find_thought(text).finished for text in seen] == [True, True, True]
    assert seen[1:] == ["15", "15"]
    grade_after_prompt(grade, asked, ["15"], opened, PromptFormat())
    assert not find_thought(seen[-1]).finished


MUSES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.reasoning_content %}<musing>\n{{ m.reasoning_content }}\n</musing>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes a thought that stands in a key of its own, between markers that are not known here."""
ALWAYS_MUSES = MUSES.replace(" and m.reasoning_content", "").replace("assistant\n{% endif %}", "assistant\n<musing>\n{% endif %}")
"""Opens a thought in every answer."""
TEMPLATES = {
    "writes": (MUSES, ("<musing>", "</musing>")),
    "opens": (ALWAYS_MUSES, ("<musing>", "</musing>")),
    "another key": (MUSES.replace("reasoning_content", "thought"), ("<musing>", "</musing>")),
    "words": (MUSES.replace("<musing>", "*pondering*").replace("</musing>", "*done*"), ("*pondering*", "*done*")),
    "cuts": (DROPS_THINKING.replace("</think>", "[/MUSE]"), ("[MUSE]", "[/MUSE]")),
    "cuts twice": (
        DROPS_THINKING.replace("split('</think>')[-1]", "split('~>')[-1].split('<~')[0]"),
        ("<~", "~>"),
    ),
    "known": (DROPS_THINKING, "auto"),
    "none": (CHATML, "auto"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_markers_are_those_of_the_chat_template(name: str) -> None:
    template, expected = TEMPLATES[name]
    codec = CharacterEngine(template).codec
    asked = behavior("number", problem())
    found = follow_template(asked, codec)
    assert found.prompt.thinking == expected
    assert found.fingerprint == asked.fingerprint
    if isinstance(expected, tuple):
        opening, closing = expected
        text = f"{opening}12? no, 15{closing}14"
        assert answer_of(text, found.prompt.thinking) == "14"
        assert answer_of(opening + "12", found.prompt.thinking) is None


def test_markers_of_a_template_give_way_to_what_the_behavior_says() -> None:
    codec = CharacterEngine(MUSES).codec
    for given in (PromptFormat(thinking="none"), PromptFormat(thinking=("a", "b")), PromptFormat(format="completion")):
        asked = behavior("number", problem(), given)
        assert follow_template(asked, codec) == asked
