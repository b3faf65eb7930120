"""Samples in which no answer can be read, beside what they should say; do they state it in another form?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.diagnose.measure.check_values import Failure, quoted
from posttrain.diagnose.types import Behavior, Problem, Rollout, UnreadText, ValidityCode

_NUM_SHOWN = 3
_MOSTLY = 0.5
_LONG = 3
"""Letters and digits that an answer must have more of to be looked for at the end of a text; a shorter one is found there by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadSamples:
    """The samples in which no answer could be read."""

    texts: tuple[UnreadText, ...] = ()
    """Some of them, of different problems where there are."""
    share_stated: float | None = None
    """Share that states the answer once blanks and punctuation are left out; None without such samples."""


def show_unread(problems: Sequence[Problem], unread: Sequence[Rollout]) -> UnreadSamples:
    """Put samples beside what they should say, and try whether they say it once blanks and punctuation are left out.

    Args:
        problems: The measured problems.
        unread: Samples in which no answer could be read.
    """
    if not unread:
        return UnreadSamples()
    known = {problem.id: problem for problem in problems}
    texts = [_unread_text(known[one.problem_id], one) for one in unread]
    first: dict[str, UnreadText] = {}
    for text in texts:
        first.setdefault(text.problem_id, text)
    shown = [*first.values(), *(text for text in texts if text is not first[text.problem_id])][:_NUM_SHOWN]
    return UnreadSamples(texts=tuple(shown), share_stated=float(np.mean([text.states_answer for text in texts])))


def explain_unread(behavior: Behavior, found: str, unread: UnreadSamples) -> Failure:
    """Say that most samples are not read, with some of them, and the repair.

    Args:
        behavior: Whose samples.
        found: In how many no answer could be read, in words.
        unread: The samples.
    """
    shown = "; ".join(f"{quoted(one.text)} where {quoted(one.wanted)} is wanted" for one in unread.texts)
    words, kind = f"no answer could be read in {found} ({shown})", behavior.verifier.kind
    if unread.share_stated is not None and unread.share_stated >= _MOSTLY:
        text = (
            f"{words}; {unread.share_stated:.0%} of them state it once blanks and punctuation are left out, so read this form with another verifier "
            f"than {kind}, such as `verifier: {{kind: regex, pattern: ...}}`"
        )
    else:
        text = (
            f"{words}; say in `prompt: {{template: ...}}` how to write the answer, or read what the model writes with another verifier than {kind}, "
            "such as `verifier: {kind: regex, pattern: ...}`; if the texts make no sense, check the chat template"
        )
    return Failure(ValidityCode.UNREAD, text)


def _unread_text(problem: Problem, row: Rollout) -> UnreadText:
    wanted = problem.references[0].text if problem.references else problem.answer
    return UnreadText(
        problem_id=problem.id,
        text=row.text,
        wanted=wanted,
        states_answer=states_answer(row.text[row.grade.answer_start :], problem),
    )


def states_answer(text: str, problem: Problem) -> bool:
    """Return whether a text, or one of its lines, is the answer or a reference once blanks, punctuation and case are left out.

    A longer text counts too where it ends with an answer of four letters or digits at least.
    """
    lines = {_squeeze(part) for part in (text, *text.splitlines())} - {""}
    answers = {_squeeze(answer) for answer in problem.accepted_answers} - {""}
    paths = {_squeeze(reference.text) for reference in problem.references} - {""}
    return bool(lines & (answers | paths)) or any(len(answer) > _LONG and _squeeze(text).endswith(answer) for answer in answers)


def _squeeze(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
