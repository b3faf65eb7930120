"""Which column of a file holds what, where its rows are neither our own nor those of a published set.

Columns are found by their usual names, or a user names them (`--map`, or `columns:` of a behavior file). Names are compared without regard to case,
blanks and hyphens. What is found under another name than our own is said in one line, and columns that have no meaning here go into the metadata.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import closest, shorten

OWN_COLUMNS = ("id", "prompt", "answer", "references", "group", "split", "key", "hint", "metadata", "answers")
"""What a row of ours may hold."""
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        "question", "problem", "query", "instruction", "input", "messages", "question_stem", "ctx", "user_prompt", "goal", "sentence",
        "conversations",
    ),
    "answer": (
        "target", "ground_truth", "gold", "expected", "final_answer", "expected_answer", "reference_answer", "correct_answer", "gold_answer",
        "best_answer", "answer_number", "answerkey", "ideal", "label", "answer_idx", "answer_index", "correct_option", "correct_idx", "gold_index", "gold_idx", "gold_label", "cop",
        "expected_output", "output", "response", "completion",
    ),
    "solution": (
        "solution", "rationale", "cot", "chain_of_thought", "reasoning", "explanation", "worked_solution", "generated_solution", "canonical_solution",
    ),
    "choices": ("choices", "options", "endings", "candidates"),
    "context": ("context", "passage", "article", "document", "background", "body", "story", "narrative", "puzzle", "premise"),
    "id": ("task_id", "unique_id", "question_id", "problem_id", "doc_id", "qid", "uid", "idx", "index"),
}  # fmt: skip
"""Our name → usual names of others, the most telling first. Those of `id` are used where they differ from row to row."""
MAPPED = (*OWN_COLUMNS, "solution", "choices", "wrong", "context")
"""What a user may say a column holds: `solution` (a worked one: a reference path), `choices` (texts of which one is right), `wrong` (texts that are
choices together with the answer) and `context` (a text that stands before the question) beside what a row of ours holds."""
_OF_SEVERAL = ("choices", "wrong")
"""Of these, what several columns may hold."""
SAMPLED = ("output", "response", "completion", "generation", "model_output", "prediction")
"""Usual names of what a model wrote."""
GRADES: Mapping[str, str] = {
    "correct": "whether the sample is right",
    "is_correct": "the same",
    "is_right": "the same",
    "passed": "whether it passed its tests",
    "is_passed": "the same",
    "success": "whether a task was done",
    "resolved": "whether an issue was",
    "score": "a number from 0 to 1, or what a grader of other ends gave",
    "reward": "a trainer's score",
    "rewards": "those of several samples, a list",
    "accuracy": "the score of one sample, or the share of several that are right",
    "acc": "the same",
    "exact_match": "whether it is the answer, letter by letter",
}
"""Usual names of what a sample was graded with → what that is, the most telling first."""
_ADVANTAGE = "advantage"
"""A trainer's reward less that of the other samples: it shows that a row is a graded sample, and not how it was graded."""
_ONE_CHOICE = re.compile(r"(?:(?:option|choice|op|opt|answer|ending|sol|solution)_?)?([a-j]|[0-9])")
_WRONG = re.compile(r"(?:(?:incorrect|wrong)_(?:answer|option|choice)|distractor)s?_?[0-9]*")
"""A choice that is wrong, or several: the right one stands in the column of the answer, as in GPQA."""
_TYPO, _TYPO_LENGTH = 0.8, 4
"""How alike a column must be to one of ours, and how long, to be taken for a misspelt one."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what."""

    names: Mapping[str, str | tuple[str, ...]]
    """Our name (one of `MAPPED`) → the column, or several that hold a choice each."""
    extra: tuple[str, ...] = ()
    """Columns that have no meaning here."""
    first_index: int = 0
    """What an answer that is a number calls the first choice."""
    is_numbered: bool = True
    """Whether an answer that is a number means the number of a choice's column, such as 1 for `option1`."""
    holds_truths: bool = False
    """Whether answers are true and false."""

    @cached_property
    def own(self) -> tuple[tuple[str, str], ...]:
        """Return which of `OWN_COLUMNS` there are, each with the column that holds it."""
        return tuple((name, column) for name in OWN_COLUMNS if isinstance(column := self.names.get(name), str))

    def held(self, row: Mapping[str, Any], name: str) -> Any:
        """Return what a row holds under our name; None where it holds nothing."""
        column = self.names.get(name)
        if isinstance(column, tuple):
            return {self._mark(one, place): row[one] for place, one in enumerate(column) if row.get(one) is not None} or None
        return None if column is None else row.get(column)

    @property
    def note(self) -> str:
        """Return what was understood of the columns, in one line; empty where all have our names."""
        renamed = [
            f"{theirs if isinstance(theirs, str) else ', '.join(theirs)} → {ours}"
            for ours, theirs in self.names.items()
            if ours != theirs
        ]
        told = f"columns read: {', '.join(renamed)}" if renamed else ""
        counted = "choices are counted from 1" if self.first_index else ""
        mixed = (
            "the answer and what is wrong are the choices, in an order of their own for each question"
            if "wrong" in self.names
            else ""
        )
        truths = "true is right as yes or true, false as no or false" if self.holds_truths else ""
        kept = f"kept as metadata: {', '.join(self.extra)}" if self.extra else ""
        return "; ".join(part for part in (told, counted, mixed, truths, kept) if part)

    def _mark(self, column: str, place: int) -> str:
        """Return what labels the choice of a column: `A` of option_a, `1` of option1, else the letter of its place."""
        match = _ONE_CHOICE.fullmatch(_plain(column))
        mark = match[1].upper() if match else ""
        return mark if mark and (self.is_numbered or not mark.isdigit()) else chr(ord("A") + place)


def find_columns(objects: Sequence[tuple[int, str, Mapping[str, Any]]], given: Mapping[str, str]) -> Columns:
    """Find out which column holds what.

    Args:
        objects: Number, file and place, and content of each row; a column is there if any row holds something in it.
        given: What the user says: our name → column. The other way round is understood too, where only that makes sense.

    Raises:
        BehaviorError: A name that was given is unknown, a column of ours is misspelt, or none can be read as the prompt.
    """
    rows, where = [row for _, _, row in objects], objects[0][1]
    present = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    names: dict[str, str | tuple[str, ...]] = dict(_resolve(given, present, where))
    free = [name for name in present if name not in _columns_in(names.values())]
    names |= {name: name for name in OWN_COLUMNS if name in free and name not in names}
    free = [name for name in free if name not in names]
    for name in OWN_COLUMNS:  # written otherwise, as in `Answer`
        own = None if name in names else _first_usual((name,), free)
        if own is not None and (name != "id" or _tells_rows_apart(rows, own)):
            names[name] = own
            free.remove(own)
    _refuse_misspelt(free, names, objects)
    for ours, usual in ALIASES.items():
        if ours not in names and (found := _first_usual((ours, *usual), free)) is not None:
            if ours == "id" and not _tells_rows_apart(rows, found):
                continue
            names[ours] = found
            free.remove(found)
    if "answer" not in names and "answers" not in names and (right := _correct_texts(rows, free)):
        names["answer"] = right
        free.remove(right)
    if "answer" not in names and "answers" not in names and "solution" in names:
        names["answer"] = names.pop("solution")
    if "choices" not in names and "answer" in names:
        if "wrong" not in names and (single := single_choices(rows[0], free)):
            names["choices"] = tuple(single)
        elif "wrong" not in names and (wrong := [name for name in free if _WRONG.fullmatch(_plain(name))]):
            names["wrong"] = tuple(wrong)
        free = [name for name in free if name not in _columns_in(names.values())]
    if (
        names.get("prompt") == "instruction" and _holds_texts(rows, "input") and "input" in free
    ):  # as Alpaca has it: the text that is worked on
        names["context"] = "input"
        free.remove("input")
    if "prompt" not in names:
        if present and not free:
            raise BehaviorError(f"{where}: the row has no prompt; every row needs a prompt", code="missing_key")
        raise BehaviorError(
            f"{where}: got the columns {', '.join(present) or 'none'}, none of which is known to hold the prompt; say which does, as in "
            f"--map prompt={free[0] if free else 'COLUMN'}{_map_of_answer(names, free)} (or `columns:` in a behavior file); known are prompt, "
            f"{', '.join(ALIASES['prompt'][:6])}{_say_header(where)}; logs and rollouts of other tools are read by `posttrain import auto FILE`",
            code="unknown_columns",
        )
    columns = Columns(names=names, extra=tuple(free))
    answers = [columns.held(row, "answer") for row in rows]
    if any(isinstance(answer, bool) for answer in answers):
        return replace(columns, holds_truths="choices" not in names)
    if any(answer in (0, "0") for answer in answers):
        return replace(columns, is_numbered=False)
    return replace(columns, first_index=1) if _counts_from_one(columns, rows) else columns


def refuse_samples(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row that holds what a model wrote beside its grade: such files have a row for each sample, and none is an answer.

    Args:
        row: The first row.
        where: Its file and place.

    Raises:
        BehaviorError: Code `samples_no_problems`.
    """
    there = list(row)
    sampled, grade = _first_usual(SAMPLED, there), _first_usual((*GRADES, _ADVANTAGE), there)
    if sampled is not None and grade is not None:
        raise BehaviorError(
            f"{where}: got the columns {sampled} and {grade}: these are graded samples of a model, which `posttrain import auto FILE` reads, and not "
            "problems; where they are, say what is what, as in --map prompt=question answer=answer",
            code="samples_no_problems",
        )


def say_renaming(there: Sequence[str]) -> str:
    """Return which columns of a row to rename so that it is a prompt with an answer to imitate, by the usual names of both."""
    asked = _first_usual(ALIASES["prompt"], there)
    further = [name for name in there if name != asked]
    answered = _first_usual((*ALIASES["solution"], *SAMPLED, "answer", *ALIASES["answer"]), further)
    return (
        f"rename {asked or 'the column of what is asked'} to prompt and {answered or 'that of the answer'} to completion, or say so: --data-map "
        f"prompt={asked or 'COLUMN'} completion={answered or 'COLUMN'} (--map of `posttrain check --train`)"
    )


def _counts_from_one(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether answers number the choices from 1: none is 0, and one is as large as there are choices."""
    if "choices" not in columns.names:
        return False
    pairs = [(str(columns.held(row, "answer")).strip(), columns.held(row, "choices")) for row in rows]
    if not all(answer.isdigit() and isinstance(choices, list | dict) for answer, choices in pairs):
        return False
    numbers = [int(answer) for answer, _ in pairs]
    return min(numbers, default=0) > 0 and any(int(answer) == len(choices) for answer, choices in pairs)


def _say_header(where: str) -> str:
    return "; the first line of a table has to name its columns" if re.search(r"\.[ct]sv(?:\.gz)?: row", where, re.I) else ""


def _map_of_answer(names: Mapping[str, Any], free: Sequence[str]) -> str:
    return f" answer={free[1]}" if "answer" not in names and len(free) > 1 else ""


def _resolve(given: Mapping[str, str], present: Sequence[str], where: str) -> dict[str, str | tuple[str, ...]]:
    """Return our names with the columns that a user gives them, whichever of the two stands first."""
    found: dict[str, str | tuple[str, ...]] = {}
    for left, right in given.items():
        pair = _pair(left, right, present) or _pair(right, left, present)
        if pair is None:
            raise BehaviorError(f"{where}: {_not_a_pair(left, right, present)}", code="unknown_column")
        if pair[0] in found:
            raise BehaviorError(
                f"{where}: columns: got {pair[0]} twice ({found[pair[0]]} and {pair[1]}); give each once", code="column_twice"
            )
        found[pair[0]] = pair[1]
    return found


def _pair(ours: str, theirs: str, present: Sequence[str]) -> tuple[str, str | tuple[str, ...]] | None:
    if ours not in MAPPED:
        return None
    if theirs in present:
        return ours, theirs
    several = tuple(part.strip() for part in theirs.split(","))
    return (ours, several) if ours in _OF_SEVERAL and len(several) > 1 and set(several) <= set(present) else None


def _not_a_pair(left: str, right: str, present: Sequence[str]) -> str:
    columns = f"the columns are {', '.join(present) or 'none'}"
    for ours, theirs in ((left, right), (right, left)):
        if ours in MAPPED and theirs not in MAPPED:
            return f"columns: got {left}={right}, and there is no column {theirs!r}{closest(theirs, present)}; {columns}"
    return (
        f"columns: got {left}={right}; allowed: OUR NAME=COLUMN, as in prompt=question; our names are {', '.join(MAPPED)}; {columns}"
        f"{closest(left, MAPPED) or closest(right, MAPPED)}"
    )


def _columns_in(values: Iterable[str | tuple[str, ...]]) -> set[str]:
    return {column for value in values for column in ((value,) if isinstance(value, str) else value)}


def _refuse_misspelt(
    free: Sequence[str], names: Mapping[str, Any], objects: Sequence[tuple[int, str, Mapping[str, Any]]]
) -> None:
    """Refuse a column that is nearly one of ours: what was meant to be read must not pass for metadata."""
    known = {_plain(name) for usual in ALIASES.values() for name in usual}
    for name in free:
        for own in () if _ONE_CHOICE.fullmatch(_plain(name)) else OWN_COLUMNS:
            near = difflib.SequenceMatcher(None, _plain(name), own).ratio() >= _TYPO and abs(len(name) - len(own)) <= 2
            if near and own not in names and len(name) >= _TYPO_LENGTH and _plain(name) not in known and _plain(name) != own:
                where = next(place for _, place, row in objects if row.get(name) is not None)
                raise BehaviorError(
                    f"{where}: unknown key {name!r}; did you mean {own!r}? Rename it, say --map {'solution' if own == 'references' else own}={name}, or put it into metadata",
                    code="unknown_key",
                )


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _first_usual(usual: Sequence[str], free: Sequence[str]) -> str | None:
    by_plain = {_plain(name): name for name in reversed(free)}
    return next((by_plain[name] for name in usual if name in by_plain), None)


def _tells_rows_apart(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    values = [row.get(column) for row in rows]
    return all(isinstance(value, str | int) and not isinstance(value, bool) for value in values) and len(
        set(map(str, values))
    ) == len(values)


def _correct_texts(rows: Sequence[Mapping[str, Any]], free: Sequence[str]) -> str | None:
    """Return the column `correct` where it holds what is right, as in AQuA, and not whether something is."""
    name = _first_usual(("correct",), free)
    told = [] if name is None else [row.get(name) for row in rows]
    is_told = all(isinstance(one, str) and one.strip().lower() not in ("true", "false", "yes", "no", "0", "1") for one in told)
    return name if told and is_told else None


def single_choices(row: Mapping[str, Any], free: Iterable[str]) -> list[str]:
    """Return the columns that hold one choice each, such as A to D or option1 and option2, in order; empty where there are no two.

    Args:
        row: The first row.
        free: Columns that may be.
    """
    found = {match[1]: name for name in free if (match := _ONE_CHOICE.fullmatch(_plain(name))) and row.get(name) is not None}
    marks = sorted(found)
    follow = all(ord(later) == ord(earlier) + 1 for earlier, later in pairwise(marks))
    return [found[mark] for mark in marks] if len(marks) > 1 and marks[0] in ("a", "0", "1") and follow else []


def _holds_texts(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return all(isinstance(row.get(column, ""), str) for row in rows)


def refuse_no_prompt(columns: Columns, where: str) -> BehaviorError:
    """Return the error that a row has no prompt."""
    column = columns.names["prompt"]
    beside = "" if column == "prompt" else f" (the column {shorten(column)})"
    return BehaviorError(f"{where}: the row has no prompt{beside}; every row needs a prompt", code="missing_key")
