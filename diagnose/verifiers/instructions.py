"""What the 25 instructions of IFEval mean, each as a check of a text in linear time.

The definitions follow the benchmark's public ones (Google Research, instruction_following_eval, Apache License 2.0; arXiv 2311.07911); the code is our
own. It differs in what follows: keywords are texts, never patterns; sentences are counted by rules instead of a trained model; and words in
capitals are told apart by letters alone. Languages are detected by langdetect, as there, always with the same seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]
RELATIONS = ("less than", "at least")
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s+|$)|[。！？]+[」』”’)]*|\n\s*\n")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|no|fig|approx|inc|ltd|co|[a-z](?:\.[a-z])*)$", re.IGNORECASE
)
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*\n]", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_FENCE = re.compile(r"^```(?:json)?", re.IGNORECASE)
_MOST_FOR_LANGUAGE = 10_000


@dataclass(frozen=True, slots=True)
class Instruction:
    """One kind of instruction."""

    check: Callable[[str, Arguments], bool]
    """(text, arguments) → whether the text follows it."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Those it needs: `num`, `relation`, `text` or `texts` by name."""


def prepare_languages() -> None:
    """Load the profiles of languages, so that a first text does not wait for it."""
    detect_language("This is an English sentence.")


def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None where it has none."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # it samples
    try:
        return str(detect(text[:_MOST_FOR_LANGUAGE]))
    except LangDetectException:
        return None


def count_sentences(text: str) -> int:
    """Return how many sentences a text has: ends of sentences, but for those of abbreviations and initials."""
    count, start = 0, 0
    for match in _SENTENCE_END.finditer(text):
        before = text[max(start, match.start() - 12) : match.start()]
        if match[0] == "." and match.end() < len(text) and _ABBREVIATION.search(before):
            continue
        if _WORD.search(text, start, match.end()):
            count += 1
        start = match.end()
    return count + bool(_WORD.search(text, start))


def _compared(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _is_in(text: str, language: str) -> bool:
    # What has no letters is in every language.
    return detect_language(text) in (None, language)


def _has_all(text: str, arguments: Arguments) -> bool:
    low = text.casefold()
    return all(str(word).casefold() in low for word in arguments["keywords"])


def _has_none(text: str, arguments: Arguments) -> bool:
    return not any(
        re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text, re.IGNORECASE) for word in arguments["forbidden_words"]
    )


def _keyword_frequency(text: str, arguments: Arguments) -> bool:
    count = text.casefold().count(arguments["keyword"].strip().casefold())
    return _compared(count, arguments["relation"], arguments["frequency"])


def _letter_frequency(text: str, arguments: Arguments) -> bool:
    count = text.lower().count(arguments["letter"].strip().lower())
    return _compared(count, arguments["let_relation"], arguments["let_frequency"])


def _capital_words(text: str, arguments: Arguments) -> bool:
    count = sum(word.isupper() for word in _TOKEN.findall(text))
    return _compared(count, arguments["capital_relation"], arguments["capital_frequency"])


def _paragraphs(text: str, arguments: Arguments) -> bool:
    """Divided by `***`; one at either end divides nothing."""
    parts = text.split("***")
    inner = parts[1:] if not parts[0].strip() else parts
    inner = inner[:-1] if inner and not inner[-1].strip() else inner
    return all(part.strip() for part in inner) and len(inner) == arguments["num_paragraphs"]


def _nth_paragraph(text: str, arguments: Arguments) -> bool:
    """Divided by a blank line; the n-th, from 1, begins with a word."""
    parts = text.split("\n\n")
    num = sum(bool(part.strip()) for part in parts)
    nth = arguments["nth_paragraph"]
    if num != arguments["num_paragraphs"] or not 1 <= nth <= num or not parts[nth - 1].strip():
        return False
    first = re.split(r"[.,?!'\"]", parts[nth - 1].split()[0].lstrip("'\""), maxsplit=1)[0]
    return bool(first.lower() == arguments["first_word"].strip().lower())


def _placeholders(text: str, arguments: Arguments) -> bool:
    return bool(sum(_count_brackets(line) for line in text.split("\n")) >= arguments["num_placeholders"])


def _count_brackets(line: str) -> int:
    count, place = 0, line.find("[")
    while place >= 0 and (end := line.find("]", place)) >= 0:
        count, place = count + 1, line.find("[", end)
    return count


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = arguments["postscript_marker"].strip()
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, arguments: Arguments) -> bool:
    return bool(len(_STAR_BULLET.findall(text)) + len(_DASH_BULLET.findall(text)) == arguments["num_bullets"])


def _highlights(text: str, arguments: Arguments) -> bool:
    found = [*_HIGHLIGHT.findall(text), *_DOUBLE_HIGHLIGHT.findall(text)]
    return bool(sum(bool(one.strip("*").strip()) for one in found) >= arguments["num_highlights"])


def _sections(text: str, arguments: Arguments) -> bool:
    marks = re.findall(rf"{re.escape(arguments['section_spliter'].strip())}\s?\d", text)
    return bool(len(marks) >= arguments["num_sections"])


def _title(text: str, arguments: Arguments) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> \t"):
            return True
    return False


def _is_json(text: str, arguments: Arguments) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()).removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str, arguments: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = [part for place, part in enumerate(parts) if part or 0 < place < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _ends_with(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(arguments["end_phrase"].strip().lower())


def _repeats(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(arguments["prompt_to_repeat"].strip().lower())


def _quoted(text: str, arguments: Arguments) -> bool:
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


INSTRUCTIONS: dict[str, Instruction] = {
    "keywords:existence": Instruction(_has_all, {"keywords": "texts"}),
    "keywords:frequency": Instruction(_keyword_frequency, {"keyword": "text", "frequency": "num", "relation": "relation"}),
    "keywords:forbidden_words": Instruction(_has_none, {"forbidden_words": "texts"}),
    "keywords:letter_frequency": Instruction(
        _letter_frequency, {"letter": "text", "let_frequency": "num", "let_relation": "relation"}
    ),
    "language:response_language": Instruction(lambda text, given: _is_in(text, given["language"]), {"language": "text"}),
    "length_constraints:number_sentences": Instruction(
        lambda text, given: _compared(count_sentences(text), given["relation"], given["num_sentences"]),
        {"num_sentences": "num", "relation": "relation"},
    ),
    "length_constraints:number_paragraphs": Instruction(_paragraphs, {"num_paragraphs": "num"}),
    "length_constraints:number_words": Instruction(
        lambda text, given: _compared(len(_WORD.findall(text)), given["relation"], given["num_words"]),
        {"num_words": "num", "relation": "relation"},
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        _nth_paragraph, {"num_paragraphs": "num", "nth_paragraph": "num", "first_word": "text"}
    ),
    "detectable_content:number_placeholders": Instruction(_placeholders, {"num_placeholders": "num"}),
    "detectable_content:postscript": Instruction(_postscript, {"postscript_marker": "text"}),
    "detectable_format:number_bullet_lists": Instruction(_bullets, {"num_bullets": "num"}),
    "detectable_format:constrained_response": Instruction(lambda text, given: any(option in text for option in _OPTIONS)),
    "detectable_format:number_highlighted_sections": Instruction(_highlights, {"num_highlights": "num"}),
    "detectable_format:multiple_sections": Instruction(_sections, {"section_spliter": "text", "num_sections": "num"}),
    "detectable_format:json_format": Instruction(_is_json),
    "detectable_format:title": Instruction(_title),
    "combination:two_responses": Instruction(_two_responses),
    "combination:repeat_prompt": Instruction(_repeats, {"prompt_to_repeat": "text"}),
    "startend:end_checker": Instruction(_ends_with, {"end_phrase": "text"}),
    "startend:quotation": Instruction(_quoted),
    "change_case:capital_word_frequency": Instruction(
        _capital_words, {"capital_frequency": "num", "capital_relation": "relation"}
    ),
    "change_case:english_capital": Instruction(lambda text, given: text.isupper() and _is_in(text, "en")),
    "change_case:english_lowercase": Instruction(lambda text, given: text.islower() and _is_in(text, "en")),
    "punctuation:no_comma": Instruction(lambda text, given: "," not in text),
}
"""Every kind by the name that published rows have."""
