"""Whether rows of a data set ask what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.types import Behavior, Message, Split
from posttrain.trainers.training_types import MeasuredProblemError


def _asked(turns: Sequence[Message]) -> Iterator[str]:
    """Yield what a chat asks: each turn of the user, and the talk up to it where there was some before."""
    spoken: list[str] = []
    for turn in turns:
        if turn.role == "system":
            continue
        spoken.append(normalise(turn.content))
        if turn.role == "user":
            yield spoken[-1]
            if len(spoken) > 1:
                yield "\n".join(spoken)


def _measured_forms(behavior: Behavior, prompt: str | tuple[Message, ...]) -> set[str]:
    """Return what a data row would have to ask to ask this; of a chat only all of it, since its last turn may be as little as "Why?"."""
    if isinstance(prompt, str):
        return {normalise(form) for form in (prompt, behavior.prompt.ask(prompt))}
    *_, last = _asked(prompt)
    return {last}


def _asks(row: DataRow, measured: Mapping[str, str]) -> str | None:
    """Return the measured problem that a row asks; None where it asks none."""
    if row.kind is RowKind.TEXT:
        text = normalise(row.completion or "")
        return next((name for form, name in measured.items() if _stands_in(form, text)), None)
    asked = [normalise(row.prompt)] if isinstance(row.prompt, str) else _asked(row.chat or row.prompt or ())
    return next((measured[form] for form in asked if form in measured), None)


def _stands_in(form: str, text: str) -> bool:
    """Return whether a text holds a question as whole words."""
    start = text.find(form) if form else -1
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(form) :][:1]
        if not (form[:1].isalnum() and before.isalnum()) and not (form[-1:].isalnum() and after.isalnum()):
            return True
        start = text.find(form, start + 1)
    return False


def refuse_measured(rows: Sequence[DataRow], behaviors: Sequence[Behavior], path: str) -> None:
    """Refuse rows that ask what is measured, as it is or as the behavior's template writes it.

    Args:
        rows: Of any kind.
        behaviors: Their problems that are not for training are measured.
        path: The file of the rows, for the error message.

    Raises:
        MeasuredProblemError: A row asks one of them.
    """
    measured = {
        form: f"{behavior.name}/{problem.id}"
        for behavior in behaviors
        for problem in behavior.problems
        if problem.split is not Split.TRAIN
        for form in _measured_forms(behavior, problem.prompt)
    }
    found = [(row.index, name) for row in rows if (name := _asks(row, measured)) is not None]
    if found:
        raise MeasuredProblemError(
            f"--data {path}: {len(found)} rows ask what is measured (first: row {found[0][0]} is {found[0][1]}); leave them out, or move the "
            "problems to the train split"
        )
