"""Where an answer stands in a text, and how much of a reference path may be shown without giving it away."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.types import Grade, Problem, Reference, reaches

MAX_GRADED_PREFIXES = 64
"""Prefixes of one path that the verifier reads; of a longer path they are spread evenly."""

GradeTexts = Callable[[Problem, Sequence[str]], list[Grade]]
"""(problem, texts) → a grade of each text as an answer to the problem."""


def find_answer(text: str, answer: str) -> int | None:
    """Return the index at which an answer first stands as a word of its own, or None where it does not.

    Case is ignored, except for a single letter: "a" is an article, "A" may be a choice. A number is not found inside a longer one
    ("14" stands neither in "3.14" nor in "14.5").
    """
    pattern = _pattern(answer)
    found = pattern.search(text) if pattern else None
    return found.start() if found else None


def replace_answer(text: str, answer: str, other: str) -> str:
    """Return the text with another answer wherever `find_answer` would find this one."""
    pattern = _pattern(answer)
    return pattern.sub(lambda _: other, text) if pattern else text


def _pattern(answer: str) -> re.Pattern[str] | None:
    word = answer.strip()
    flags = re.IGNORECASE if len(word) > 1 else re.NOFLAG
    return re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w|[.,]\d)", flags) if word else None


def prefix_texts(path: EncodedPath, reference: Reference) -> tuple[str, ...]:
    """Return the [T + 1] texts of the first t tokens of a path, its end token left out.

    A character that is spread over several tokens is given by some tokenizers as the text of each of them; here it is counted once.
    """
    whole = reference.text
    if path.token_texts and path.token_texts[0][:1] == " " and whole[:1] != " ":
        whole = " " + whole
    ends = [0]
    for piece in path.token_texts[:-1]:
        end = ends[-1]
        ends.append(end + len(piece) if piece and whole.startswith(piece, end) else end)
    ends[-1] = len(whole)
    return tuple(whole[:end] for end in ends)


def tokens_before_answer(problem: Problem, texts: Sequence[str], grade: GradeTexts, success: float) -> int:
    """Return how many tokens of a path may be shown without giving the answer away; never all of them.

    The answer appears where `find_answer` finds it, or where the verifier reads the right answer out of the prefix; the word in which
    that happens is not begun either.

    Args:
        problem: The problem that the path solves.
        texts: [T + 1] as from `prefix_texts`.
        grade: Reads prefixes as answers.
        success: Score that counts as a success.
    """
    last = len(texts) - 1
    places = sorted({round(i * last / min(last, MAX_GRADED_PREFIXES)) for i in range(1, min(last, MAX_GRADED_PREFIXES) + 1)})
    limit, before = len(texts[-1]), 0
    for place, read in zip(places, grade(problem, [texts[place] for place in places]), strict=True):
        if read.score is not None and reaches(read.score, success):
            text = texts[place].rstrip()
            limit = max(text.rfind(" "), text.rfind("\n")) + 1
            if place - before > 1:  # prefixes that were not read lie between: the answer may have appeared in any of them
                limit = min(limit, len(texts[before]))
            break
        before = place
    return tokens_before_word(problem, texts, limit)


def tokens_before_word(problem: Problem, texts: Sequence[str], limit: int | None = None) -> int:
    """Return how many tokens end before the answer as a word and before the character `limit`; never all of them.

    What `tokens_before_answer` returns where no verifier is asked.
    """
    found = find_answer(texts[-1], problem.answer)
    end = min(len(texts[-1]) if found is None else found, len(texts[-1]) if limit is None else limit)
    return max(0, min(len(texts) - 2, bisect_right([len(text) for text in texts], end) - 1))
