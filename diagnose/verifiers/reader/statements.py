r"""Find the parts of a text that say what the answer is: boxes, tags, `####`, and markers such as `the answer is` in many languages."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from posttrain.diagnose.verifiers.reader.boxes import find_boxes
from posttrain.diagnose.verifiers.reader.characters import DRESS

_MOST_MARKERS = 100
MAX_CLAUSE = 2_000
"""Characters of a sentence that are looked at."""


class StatementKind(Enum):
    """How an answer is marked."""

    BOX = auto()
    TAG = auto()
    HASHES = auto()
    MARKER = auto()


@dataclass(frozen=True, slots=True)
class Statement:
    """A part of a text that is marked as the answer."""

    kind: StatementKind
    start: int
    """Where the mark begins."""
    begin: int
    """Where the answer begins."""
    stop: int
    """Where it stops: the end of the box, the line or the sentence."""
    end: int
    """Where the mark ends, or `stop`."""


# What names an answer, in languages that put blanks between words.
_NAMES = (
    "answers?", "ans", "results?", "antwort", "ergebnis", "lösung", "réponse", "reponse", "résultat", "respuesta", "resultado", "resposta",
    "risposta", "risultato", "antwoord", "svar", "svaret", "vastaus", "válasz", "odpowiedź", "odpověď", "odpoveď", "răspuns", "răspunsul",
    "ответ", "відповідь", "отговор", "одговор", "απάντηση", "cevap", "cevabı", "yanıt", "jawaban", "jawapan", "jawabannya", "sagot",
    "jibu", "đáp án", "đáp số", "trả lời", "câu trả lời", "תשובה", "התשובה", "جواب", "الجواب", "الإجابة", "إجابة", "پاسخ",
)  # fmt: skip
# Others are found without a blank around them.
_SCRIPT_NAMES = (
    "答案", "答え", "解答", "回答", "正解", "答", "정답", "답변", "답", "उत्तर", "जवाब", "উত্তর", "సమాధానం", "జవాబు", "விடை", "பதில்",
    "જવાબ", "ઉત્તર", "ಉತ್ತರ", "ഉത്തരം", "ਜਵਾਬ", "ଉତ୍ତର", "คำตอบ", "ចម្លើយ", "ຄຳຕອບ", "အဖြေ", "පිළිතුර", "პასუხი", "պատասխան",
)  # fmt: skip
_COPULAS = (
    "is", "was", "are", "were", "equals", "be", "(?:should|would|must|will|can only|has to) be", "comes? (?:out )?to", "turns out to be",
    "ist", "sind", "lautet", "lauten", "beträgt", "wäre", "war", "est", "sont", "serait", "vaut", "es", "son", "sería", "será", "é", "são",
    "seria", "è", "sono", "sarà", "sarebbe", "är", "er", "blir", "bliver", "on", "jest", "to", "brzmi", "je", "это", "равен", "равно",
    "este", "είναι", "adalah", "ialah", "là", "ni", "ay", "هو", "هي", "است", "היא", "הוא", "है", "হল", "হলো", "হচ্ছে",
)  # fmt: skip
_SCRIPT_COPULAS = (
    "应该是",
    "應該是",
    "就是",
    "应为",
    "應為",
    "是",
    "为",
    "為",
    "选择",
    "选",
    "選",
    "は",
    "が",
    "は、",
    "은",
    "는",
    "이",
    "คือ",
)
_NAME = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(_NAMES)})(?![^\W\d_]|['-]\w)|{'|'.join(_SCRIPT_NAMES)}", re.IGNORECASE)
_REMARK = r"(?:\s?\([^()\n]{0,40}\))?"
_TO_WHAT = (
    r"(?:[ ,]{1,2}(?:to(?![ \t]+[(*]{0,3}(?:[A-Z](?![A-Za-z])|-?[0-9]))|for|of|in|here|then|therefore|thus|choice|option|letter|zur|auf|à|de|para|per|a|der|die|la|le|el|key)\b"
    r"[^.\n:=?!0-9]{0,60}?)?"
)
_CLOSING_MARKS = rf"(?:[ \t]{{0,3}}[*{DRESS}\"'\])]){{0,4}}"
_CLOSED = re.compile(_CLOSING_MARKS)
_LINK = re.compile(
    rf"(?P<right>[ \t](?:correct[aeo]?|corrett?[ao]|giusta|certa|đúng|cuối cùng|الصحيحة|الصحيح|النهائية|النهائي|(?:yang )?(?:benar|tepat)|doğru|rätt|final[ae]?|finale|exact[ae]?"
    rf"|definitiva|הנכונה|הסופית|صحیح|درست|نهایی|sahihi)(?![^\W\d_]))?{_REMARK}{_CLOSING_MARKS}{_TO_WHAT}"
    rf"(?P<copula>[ \t]{{1,9}}(?:{'|'.join(_COPULAS)})(?![^\W\d_'])|[ \t]?(?:{'|'.join(_SCRIPT_COPULAS)}))?"
    rf"(?P<colon>{_CLOSING_MARKS}[ \t]?(?::=|[:=⇒]|[-\u2013\u2014](?=[ \t]))[ \t]?)?",
    re.IGNORECASE,
)
_DETERMINERS = re.compile(
    r"(?:^|[.!?:;,\n(*]|\b(?:doğru|सही|अंतिम|richtige|bonne|juiste|prawidłowa|poprawna|správná|правильный|верный|итоговый|σωστή|the|final|my|our|correct|right|so|and|thus|hence|therefore|then|numerical|exact|die|la|le|el|o|il))[\s*\"']{0,4}$",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:thought|guessed|assumed|supposed|believed|expected)(?:[ \t]+(?:that|the|my|initial|first|correct))*[ \t]*$",
    re.IGNORECASE,
)
"""What was once taken for the answer."""
_DENIED = re.compile(rf"(?:\b(?:not|nicht|pas)|n't|不是)[\s$(*\\{DRESS}]{{0,6}}$", re.IGNORECASE)
"""What stands before a box that the text says not to be the answer."""
_CORRECTION = re.compile(
    r"\b(?:(?i:correction):|(?i:actually),? (?:it(?:'s| is| should be)|that should be)|(?i:wait|sorry|oops|no)[,:.]* (?:no[,:]* )?(?:it(?:'s| is| should be)))(?=[\s*$])"
)
"""What takes back the statement before it."""
_TAGS = re.compile(
    r"[<\[](?P<close>/)?(?:final[ _-]?)?(?P<name>answer|ans|result|solution|response|output|choice|option|final)[>\]]",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?=\S)|(?<=\S)[ \t]*####[ \t]*(?=\S)", re.MULTILINE)
_SENTENCE_END = re.compile(rf"(?:[.?]|(?<![0-9)}}\]])!)(?=[\s\"')\]*{DRESS}]|$)|(?<=[0-9)])\.(?=[^\W\d_])|\n")
_ABBREVIATION = re.compile(
    r"(?:\b(?:approx|ca|no|nr|rs|vs|resp|bzw|etc|e\.g|i\.e|env|aprox|mr|mrs|dr|st|fig|eq)|[^.\w][a-z])$", re.IGNORECASE
)
_ONLY_DRESS = re.compile(rf"[\s*{DRESS}\"'#>{{}}\[\]()_:-]*$")


def find_statements(text: str) -> list[Statement]:
    """Return the marked parts of a plain text, in the order in which their marks begin.

    A marker is taken as one whatever follows; its reader decides whether that can be an answer.
    """
    boxes = [
        Statement(StatementKind.BOX, *box)
        for box in find_boxes(text)
        if not _DENIED.search(text, max(0, box.start - 20), box.start)
    ]
    found = sorted([*boxes, *_tags(text), *_hashes(text), *_markers(text)], key=lambda statement: statement.start)
    # A marker speaks until the next one begins.
    limit = len(text)
    for index in range(len(found) - 1, -1, -1):
        statement = found[index]
        if statement.kind in (StatementKind.MARKER, StatementKind.HASHES):
            if limit < statement.stop:
                limit = max(limit, statement.begin)
                found[index] = replace(statement, stop=limit, end=limit)
            limit = statement.start
    return found


def _tags(text: str) -> Iterator[Statement]:
    opened: dict[str, re.Match[str]] = {}
    for match in _TAGS.finditer(text):
        name = match["name"].lower()
        if not match["close"]:
            opened[name] = match
        elif name in opened:
            start = opened.pop(name)
            yield Statement(StatementKind.TAG, start.start(), start.end(), match.start(), match.end())
    for match in opened.values():  # sampling may have stopped at the closing tag
        if match[0][0] == "<":
            stop = clause_end(text, match.end())
            yield Statement(StatementKind.MARKER, match.start(), match.end(), stop, stop)


def _hashes(text: str) -> Iterator[Statement]:
    for match in deque(_HASHES.finditer(text), maxlen=_MOST_MARKERS):
        stop = text.find("\n", match.end())
        stop = len(text) if stop < 0 else stop
        stop = min(stop, match.end() + MAX_CLAUSE)
        yield Statement(StatementKind.HASHES, match.start(), match.end(), stop, stop)


def _markers(text: str) -> Iterator[Statement]:
    for match in deque(_NAME.finditer(text), maxlen=_MOST_MARKERS):
        if _SUPPOSED.search(text, max(0, match.start() - 40), match.start()):
            continue
        link = _LINK.match(text, match.end())
        assert link is not None
        # Behind "is" a dash is a sign, behind the name alone it is none.
        signed = link["copula"] is not None and "-" in (link["colon"] or "")
        begin = link.end("copula") if signed else link.end()
        if link["copula"] is None and link["colon"] is None and link["right"] is None:
            line_end = text.find("\n", match.end())
            alone = line_end >= 0 and _ONLY_DRESS.match(text[match.end() : line_end][:40]) is not None
            heading = not match[0].isascii() and text[match.start() - 1 : match.start()] == "["  # 【答案】
            if not alone and not heading and not _DETERMINERS.search(text[max(0, match.start() - 20) : match.start()]):
                continue  # "She can answer 12 questions"
            behind = _CLOSED.match(text, match.end())
            begin = match.end() if behind is None else behind.end()
        stop = clause_end(text, begin)
        yield Statement(StatementKind.MARKER, match.start(), begin, stop, stop)
    for match in deque(_CORRECTION.finditer(text), maxlen=_MOST_MARKERS):
        stop = clause_end(text, match.end())
        # It begins behind its words, so that they part it from what it takes back.
        yield Statement(StatementKind.MARKER, match.end(), match.end(), stop, stop)


def clause_end(text: str, begin: int) -> int:
    """Return where the sentence or line ends that begins at `begin`, leaving out lines of marks in front of it."""
    limit = min(len(text), begin + MAX_CLAUSE)
    last = begin
    for match in _SENTENCE_END.finditer(text, begin, limit):
        if _ONLY_DRESS.match(text, last, match.start()) and match[0] == "\n":
            last = match.end()
            continue
        if match[0] == "." and _ABBREVIATION.search(text, max(last, match.start() - 8), match.start()):
            continue
        return match.start()
    return limit
