"""Rows of a data set as training rows: demonstrations, chats, pairs, labelled answers, labelled steps, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind, read_training_rows
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, Message, Problem, PromptFormat, Reference, Split
from posttrain.trainers.sources.chats import WrittenChat, write_answer, write_chat
from posttrain.trainers.training_types import Material, MeasuredProblemError, RowRole, TrainingProblem, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Hold what a file offers, tokenised."""

    rows: tuple[TrainingRow, ...]
    prompts: tuple[TrainingProblem, ...]
    """Prompts alone, as problems that are not graded."""


def read_data(path: str | Path, engine: Engine, behaviors: Sequence[Behavior]) -> DataSet:
    """Read a file of TRL's data set types and tokenise it as the behaviors' prompts are.

    Args:
        path: JSONL or parquet; see `posttrain.diagnose.behaviors.data_sets`.
        engine: Its tokenizer and chat template write the prompts.
        behaviors: At least one. What is measured; a data row with the prompt of a measured problem is refused. The first one's prompt format
            writes prompts, and its sampling settings say how long an answer to a prompt alone may be.

    Raises:
        BehaviorError: The file cannot be read, a row has none of the shapes, or the model cannot read it.
        MeasuredProblemError: A row has the prompt of a problem that is kept for measuring.
    """
    path = Path(path)
    rows = read_training_rows(path)
    _refuse_measured(rows, behaviors, str(path))
    prompt_format = PromptFormat(format=behaviors[0].prompt.format)
    encoded: list[TrainingRow] = []
    for row in rows:
        try:
            encoded += _encode(row, engine, prompt_format, path.name)
        except BehaviorError as error:
            raise BehaviorError(f"--data {path}: row {row.index} (from 0): {error}", code=error.code) from error
    return DataSet(rows=tuple(encoded), prompts=_problems(rows, behaviors[0], prompt_format, path.name))


def _problems(rows: Sequence[DataRow], like: Behavior, prompt_format: PromptFormat, name: str) -> tuple[TrainingProblem, ...]:
    """Return rows of prompts alone as train problems of a behavior of their own, sampled like another one."""
    problems = tuple(
        Problem(id=f"row{row.index}", prompt=row.prompt, answer="", key=f"row{row.index}", split=Split.TRAIN)
        for row in rows
        if row.kind is RowKind.PROMPT and row.prompt is not None
    )
    behavior = replace(like, name=f"data:{name}", problems=problems, prompt=prompt_format, source="", fingerprint="")
    return tuple(TrainingProblem(behavior=behavior, problem=problem) for problem in problems)


def _encode(row: DataRow, engine: Engine, prompt_format: PromptFormat, name: str) -> list[TrainingRow]:
    if row.kind is RowKind.PROMPT:
        assert row.prompt is not None
        engine.codec.encode_prompt(row.prompt, prompt_format)  # so that one that cannot be written is refused now
        return []
    if row.kind is RowKind.TEXT:
        return [_text_row(row, engine, name)]
    if row.kind is RowKind.STEPS:
        return [_step_row(row, engine, prompt_format, name)]
    codec = _chat_codec(engine, prompt_format)
    if row.chat:
        if codec is None:
            raise BehaviorError(
                "got a chat in which the assistant speaks several times, and no chat template writes it; give a model that has one",
                code="no_chat_template",
            )
        return [_row(row, name, written, RowRole.DEMONSTRATION) for written in write_chat(codec, row.chat)]
    answers = {
        RowRole.CHOSEN: row.completion if row.label is True else row.chosen,
        RowRole.REJECTED: row.completion if row.label is False else row.rejected,
        RowRole.DEMONSTRATION: row.completion if row.label is None else None,
    }
    return [
        _row(row, name, _write(row, text, engine, codec, prompt_format), role)
        for role, text in answers.items()
        if text is not None
    ]


def _chat_codec(engine: Engine, prompt_format: PromptFormat) -> TextCodec | None:
    """Return what writes chats with the model's template, where there is one and prompts are chats."""
    codec = engine.codec
    if not isinstance(codec, TextCodec) or codec.tokenizer.chat_template is None or prompt_format.format == "completion":
        return None
    return codec


def _write(row: DataRow, text: str, engine: Engine, codec: TextCodec | None, prompt_format: PromptFormat) -> WrittenChat:
    """Write one answer: chats by the template, texts as the behaviors' reference paths are written."""
    assert row.prompt is not None
    if codec is not None and not isinstance(row.prompt, str):
        return write_answer(codec, row.prompt, text)
    prompt = engine.codec.encode_prompt(row.prompt, prompt_format)
    path = engine.codec.encode_path(prompt, Reference(steps=(text,)))
    return WrittenChat(prompt_ids=prompt.token_ids, completion_ids=path.token_ids, text=text)


def _text_row(row: DataRow, engine: Engine, name: str) -> TrainingRow:
    """Return a text without a prompt as a row: its first token is the prompt, since nothing predicts it. That is the beginning-of-text token where the tokenizer writes one."""
    assert row.completion is not None
    text = engine.codec.encode_prompt(row.completion, PromptFormat(format="completion"))
    end = engine.codec.encode_path(text, Reference(steps=(".",))).token_ids[-1]
    written = WrittenChat(prompt_ids=text.token_ids[:1], completion_ids=(*text.token_ids[1:], end), text=row.completion)
    return _row(row, name, written, RowRole.DEMONSTRATION)


def _step_row(row: DataRow, engine: Engine, prompt_format: PromptFormat, name: str) -> TrainingRow:
    """Return labelled steps as a row; each ends with the last token that holds no more than it, the end token belongs to none."""
    assert row.prompt is not None
    prompt = engine.codec.encode_prompt(row.prompt, prompt_format)
    path = engine.codec.encode_path(prompt, Reference(steps=row.steps))
    places = [
        max((place for place, step in enumerate(path.token_steps[:-1]) if step <= number), default=0)
        for number in range(len(row.steps))
    ]
    written = WrittenChat(prompt_ids=prompt.token_ids, completion_ids=path.token_ids, text="".join(row.steps))
    return replace(
        _row(row, name, written, RowRole.SAMPLE), step_ends=tuple(places), step_scores=tuple(float(label) for label in row.labels)
    )


def _row(row: DataRow, name: str, written: WrittenChat, role: RowRole) -> TrainingRow:
    return TrainingRow(
        behavior=f"data:{name}",
        problem_id=f"row{row.index}",
        split=Split.TRAIN,
        group_id=f"{name}#{row.index}",
        prompt_ids=written.prompt_ids,
        completion_ids=written.completion_ids,
        token_weights=written.token_weights,
        role=role,
        text=written.text,
    )


def materials(rows: Sequence[TrainingRow], prompts: Sequence[TrainingProblem]) -> frozenset[Material]:
    """Return what rows and prompts offer."""
    found = {Material.PROMPTS} if prompts else set()
    sides: dict[str, set[RowRole]] = {}
    for row in rows:
        if row.role is RowRole.DEMONSTRATION:
            found.add(Material.DEMONSTRATIONS)
        elif row.role is RowRole.SAMPLE:
            found.add(Material.STEPS if row.step_ends else Material.SAMPLES)
        else:
            sides.setdefault(row.group_id, set()).add(row.role)
    return frozenset(found | {Material.PAIRS if len(roles) == 2 else Material.LABELS for roles in sides.values()})


# ------------------------------------------------------------------------------------------------------- what is measured


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
        return {normalise(form) for form in (prompt, behavior.prompt.template.replace("{question}", prompt))}
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


def _refuse_measured(rows: Sequence[DataRow], behaviors: Sequence[Behavior], path: str) -> None:
    """Refuse rows that ask what is measured, as it is or as the behavior's template writes it."""
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
