"""Find what of a text answers the question that was asked: not what a model struck out, and no further turn or question that it made up."""

from __future__ import annotations

import re

from posttrain.diagnose.verifiers.reader.statements import find_statements

_STRUCK = re.compile(r"~~(?=\S)[^~\n]{1,400}(?<=\S)~~|<(?P<tag>del|strike)>[^<>\n]{1,400}</(?P=tag)>", re.IGNORECASE)
_BOX_TOKEN = re.compile(r"<\|(?:begin_of_box\|>(?P<content>.{0,400}?)<\|end_of_box)\|>", re.DOTALL)
_TOKEN = re.compile(
    r"<[|\N{FULLWIDTH VERTICAL LINE}](?=[^<>|]{0,40}[A-Za-z]{3})[\w/ \N{LOWER ONE EIGHTH BLOCK}-]{3,40}[|\N{FULLWIDTH VERTICAL LINE}]>"
    r"|</?s>|<eos>|<(?:start|end)_of_turn>|\[/?INST\]",
    re.IGNORECASE,
)
"""A special token of a chat template: it begins or ends a turn."""
_ROLE = re.compile(r"\s*(?:assistant|model|user|system)\s*(?:\n|$|(?=<))", re.IGNORECASE)
_QUESTION = (
    r"questions?|q|problem|exercise|input|human|user|instructions?|task|frage|aufgabe|pregunta|pergunta|domanda|вопрос|задача|pytanie|soru|soal"
    r"|题目|問題|问题|問|问|質問|문제|질문|प्रश्न|प्र"
)
_NEXT_QUESTION = re.compile(
    rf"\n[ \t]*(?:[*_]{{2}}|#{{1,4}}[ \t])?(?:{_QUESTION})[ \t]?(?:[#№]?[0-9]{{1,3}})?[ \t]?(?:[*_]{{2}})?(?:[:：]|(?<=[0-9])\.[ \t])",
    re.IGNORECASE | re.MULTILINE,
)
_EXPLANATION = re.compile(
    r"\n[ \t]*(?:[*_]{1,2}|#{1,4}[ \t])?(?:explanation|reasoning|reason|rationale|justification|why|note|working|erklärung|begründung|explication|explicación"
    r"|explicação|spiegazione|пояснение|объяснение|解释|解析|説明|说明|理由|설명)\b[^\n:：]{0,30}[:：]|\n[ \t]*(?:[*_]{1,2}|#{1,4}[ \t])?(?P<steps>step 1\b|here(?:'s| is) (?:why|how|the|my)\b|work:|breakdown\b)|\n(?:-{3,}|\*{3,})[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER_FIRST = re.compile(r"[\s*_$\\(\[]*[-+]?[0-9]")
_MOST_WORDS = 6
"""Of a line that may be an answer as a whole."""


def own_turn(text: str) -> str:
    """Return the first turn of a text, without what is struck out; special tokens of a chat template end it."""
    if "~~" in text or "</" in text:
        text = _STRUCK.sub(" ", text)
    if "<" not in text and "[" not in text:
        return text
    text = _BOX_TOKEN.sub(r"\\boxed{\g<content>}", text)
    begin = 0
    for token in _TOKEN.finditer(text):
        if text[begin : token.start()].strip():
            return text[begin : token.start()]
        role = _ROLE.match(text, token.end())
        begin = token.end() if role is None else role.end()
    return text[begin:]


def before_next_question(text: str) -> str | None:
    """Return what stands before a question that a sample goes on with, as after examples in its prompt; None where it does not.

    A question at the beginning is the one that was asked, and several are parts of it: such a text is not cut.
    """
    text = "\n" + text
    first = _NEXT_QUESTION.search(text)
    before = "" if first is None else text[: first.start()].strip()
    return before or None


def before_explanation(text: str) -> str:
    """Return the answer with which a text begins, where an explanation that marks none follows under a heading of its own; else the whole text."""
    begins = _EXPLANATION.search(text)
    if begins is None:
        return text
    before = text[: begins.start()].strip()
    if begins["steps"] and not _NUMBER_FIRST.match(before):  # "I take 3 steps" is no answer
        return text
    return before if before and _is_alone(before) and not find_statements(text[begins.end() :]) else text


def answered_before_next_question(text: str) -> str | None:
    """Return what `before_next_question` does where it marks an answer, or is nothing else: what is only told in it may be what is given."""
    before = before_next_question(text)
    return before if before is not None and (_is_alone(before) or find_statements(before)) else None


def _is_alone(part: str) -> bool:
    words = part.split()
    return len(words) <= _MOST_WORDS and "\n" not in part and (":" not in part or len(words[0]) <= 2)
