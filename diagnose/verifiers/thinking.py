"""Cut the thought off a text, before any verifier reads it: what a model writes before its answer is no answer.

The thought reaches to the last closing marker; its opening may stand in the prompt. Markers are those of the model's chat template, and else any of those that
were collected from public chat templates and model cards (Qwen 3, DeepSeek R1, gpt-oss, Magistral, Command A, Seed-OSS, Kimi, Apertus, Gemma, Granite, Sky-T1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from posttrain.diagnose.engines.base import Codec
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.thinking_markers import thinking_markers
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Problem, PromptFormat, Thinking

_WORD = (
    r"(?:[\w:-]{0,20}(?:think(?:ing)?|thoughts?|reasoning|reflection|rationale|monologue|deliberation)"
    r"|(?:\w{1,20}[:_-])?(?:reason|reflect|analysis|cot|scratch_?pad|ponder(?:ing)?|brainstorm(?:ing)?))(?:[_-]process)?"
)
_BAR = r"[|\N{FULLWIDTH VERTICAL LINE}]"
_OPENINGS = (
    rf"<{_WORD}(?:\s[^<>\n]{{0,80}})?>",
    r"\[THINK(?:ING)?\]",
    rf"<{_BAR}(?:(?:start|begin)_(?:of_)?)?{_WORD}(?:_(?:start|begin))?{_BAR}>",
    r"\N{WHITE LEFT-POINTING TRIANGLE}think\N{WHITE RIGHT-POINTING TRIANGLE}",
    r"<\|inner_prefix\|>",
    r"<\|channel\|>\s*analysis\b",
    r"\A(?-i:analysis(?=[A-Z]))",  # the same without its special tokens, which decoding leaves out
    r"<\|channel>\s*thought\b|<unused94>\s*thought\b",
)
_CLOSINGS = (
    rf"</{_WORD}\s*>",
    rf"\[/{_WORD}\]",  # such a word in brackets without a slash may be the heading of a part
    rf"<{_BAR}(?:/|end_(?:of_)?){_WORD}{_BAR}>|<{_BAR}{_WORD}_end{_BAR}>",
    r"\N{WHITE LEFT-POINTING TRIANGLE}/think\N{WHITE RIGHT-POINTING TRIANGLE}",
    r"<\|inner_suffix\|>",
    r"<\|channel\|>\s*final\b[^<>\n]{0,40}(?:<\|constrain\|>[^<>\n]{0,40})?<\|message\|>",
    r"(?-i:assistantfinal)",
    r"<channel\|>|<unused95>",
    r"\bHere(?:'s| is) my response:",
)
_QUOTES = {"`": "`", '"': '"', "'": "'", "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}"} | {
    "\N{LEFT SINGLE QUOTATION MARK}": "\N{RIGHT SINGLE QUOTATION MARK}",
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}": "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
}
"""A marker right between a pair of these is mentioned, and marks nothing."""
_BLANK = re.compile(r"\s*\n|[ \t]+")
"""What stands between a thought and the first line of its answer, whose indentation may be part of a program."""

UNFINISHED = "the thought was opened and never closed"


class Thought(NamedTuple):
    """How far the thought at the beginning of a text reaches."""

    answer_start: int
    """Index of the answer's first character; 0 without a thought."""
    finished: bool


def find_thought(text: str, thinking: Thinking = "auto") -> Thought:
    """Return where the answer of a text begins: behind the last closing marker.

    Args:
        text: What a model wrote.
        thinking: As in `PromptFormat`: any known markers, none, or one pair.
    """
    if thinking == "none":
        return Thought(0, True)
    opening, closing = _patterns(thinking)
    end = max((match.end() for match in _marks(closing, text)), default=0)
    if any(match.start() >= end for match in _marks(opening, text)):
        return Thought(len(text), False)
    if end and (blank := _BLANK.match(text, end)):
        end = blank.end()
    return Thought(end, True)


def follow_template(behavior: Behavior, codec: Codec) -> Behavior:
    """Return a behavior with the markers of the model's own chat template, where it writes or cuts off a thought between others than are known here."""
    prompt_format = behavior.prompt
    if prompt_format.thinking != "auto" or prompt_format.format == "completion" or not isinstance(codec, TextCodec):
        return behavior
    pair = None if codec.template is None else thinking_markers(codec.template, prompt_format.template_variables)
    if pair is None or find_thought("a".join(pair) + "b") == Thought(len("a".join(pair)), True):
        return behavior
    return replace(behavior, prompt=replace(prompt_format, thinking=pair))


def opening_in_prompt(prompt_text: str, thinking: Thinking = "auto") -> str:
    """Return the opening marker that a prompt ends with, which what is written after it goes on from; empty where there is none."""
    if thinking == "none":
        return ""
    written = prompt_text.rstrip().removesuffix("<|message|>").rstrip()
    last = ""
    for match in _marks(_patterns(thinking)[0], written[-200:]):
        last = match[0] if match.end() == len(written[-200:]) else ""
    return last


def opening_in_problem(problem: Problem, prompt_format: PromptFormat) -> str:
    """Return the opening marker that a problem's prompt leaves open, as far as the behavior itself says; empty where there is none.

    A chat that ends within the assistant's turn may leave a thought open that has begun; what a chat template adds is not known here.
    """
    if isinstance(problem.prompt, str):
        return opening_in_prompt(prompt_format.ask(problem.prompt), prompt_format.thinking)
    last = problem.prompt[-1]
    if last.role != "assistant":
        return opening_in_prompt(last.content, prompt_format.thinking)
    if find_thought(last.content, prompt_format.thinking).finished:
        return ""
    opening, _ = _patterns(prompt_format.thinking)
    return next(match[0] for match in _marks(opening, last.content))


def grade_after_prompt(
    grade: Callable[[Problem, Sequence[str]], list[Grade]],
    problem: Problem,
    texts: Sequence[str],
    prompt_text: str,
    prompt_format: PromptFormat,
) -> list[Grade]:
    """Grade samples of a prompt, with the opening of a thought that stands at its end.

    Args:
        grade: Grades texts that answer the problem.
        problem: The problem.
        texts: What the model wrote.
        prompt_text: The prompt as the model read it.
        prompt_format: How it was written.
    """
    opening = opening_in_prompt(prompt_text, prompt_format.thinking)
    if not opening:
        return grade(problem, texts)
    grades = grade(problem, [opening + text for text in texts])
    return [replace(one, answer_start=max(0, one.answer_start - len(opening))) for one in grades]


def unfinished_thought(text: str) -> Grade:
    """Return the grade of a text whose thought was never closed: a failure, counted apart."""
    return Grade(status=GradeStatus.UNFINISHED_THOUGHT, score=0.0, lenient_score=0.0, detail=UNFINISHED, answer_start=len(text))


def _marks(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the markers in a text that are not mentioned between quotation marks."""
    for match in pattern.finditer(text):
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        if not (before and after and _QUOTES.get(before) == after):
            yield match


@lru_cache
def _patterns(thinking: Thinking) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what opens a thought and what closes one."""
    if isinstance(thinking, tuple):
        opening, closing = (re.compile(re.escape(marker.strip())) for marker in thinking)
        return opening, closing
    return re.compile("|".join(_OPENINGS), re.IGNORECASE), re.compile("|".join(_CLOSINGS), re.IGNORECASE)
