"""Rows of a data set as training rows: demonstrations, pairs, labelled answers, labelled steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt, Engine
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.training_rows import DataRow, RowKind, read_training_rows
from posttrain.diagnose.types import Behavior, Message, PromptFormat, Reference, Split
from posttrain.trainers.types import MeasuredProblemError, Part, TrainingRow


def read_data(path: str | Path, engine: Engine, behaviors: Sequence[Behavior]) -> list[TrainingRow]:
    """Read a file of TRL's data set types and tokenise it as the behaviors' prompts are.

    Args:
        path: JSONL or parquet; see `posttrain.diagnose.training_rows`.
        engine: Its tokenizer and chat template write the prompts.
        behaviors: What is measured; a data row with the prompt of a measured problem is refused. Their first prompt format writes prompts.

    Raises:
        BehaviorError: The file cannot be read, or a row has none of the shapes.
        MeasuredProblemError: A row has the prompt of a problem that is kept for measuring.
    """
    rows = read_training_rows(path)
    _refuse_measured(rows, behaviors, str(path))
    prompt_format = PromptFormat(format=behaviors[0].prompt.format if behaviors else "auto")
    return [made for row in rows for made in _encode(row, engine, prompt_format, Path(path).name)]


def _encode(row: DataRow, engine: Engine, prompt_format: PromptFormat, name: str) -> list[TrainingRow]:
    prompt = engine.encode_prompt(row.prompt if row.prompt is not None else "", prompt_format) if row.prompt is not None else None
    if prompt is None:
        return [_text_row(row, engine, name)]

    def make(text: str, part: Part) -> TrainingRow:
        path = engine.encode_path(prompt, Reference(steps=(text,)))
        return _row(row, name, prompt, path, text, part)

    if row.kind is RowKind.PAIR:
        assert row.chosen is not None
        assert row.rejected is not None
        return [make(row.chosen, Part.CHOSEN), make(row.rejected, Part.REJECTED)]
    assert row.completion is not None
    if row.kind is RowKind.LABELLED:
        return [make(row.completion, Part.CHOSEN if row.label else Part.REJECTED)]
    if row.kind is RowKind.STEPS:
        return [_step_row(row, engine, prompt, name)]
    return [make(row.completion, Part.DEMONSTRATION)]


def _text_row(row: DataRow, engine: Engine, name: str) -> TrainingRow:
    """A bare text: its first token is the prompt, since nothing predicts it."""
    assert row.completion is not None
    prompt = engine.encode_prompt(row.completion[:1], PromptFormat(format="completion"))
    path = engine.encode_path(prompt, Reference(steps=(row.completion[1:] or " ",)))
    return _row(row, name, prompt, path, row.completion, Part.DEMONSTRATION)


def _step_row(row: DataRow, engine: Engine, prompt: EncodedPrompt, name: str) -> TrainingRow:
    path = engine.encode_path(prompt, Reference(steps=row.steps))
    ends = [max(i for i, step in enumerate(path.token_steps[:-1]) if step <= number) for number in range(len(row.steps))]
    return _row(
        row, name, prompt, path, "".join(row.steps), Part.SAMPLE, step_ends=tuple(ends), step_scores=tuple(map(float, row.labels))
    )


def _row(
    row: DataRow,
    name: str,
    prompt: EncodedPrompt,
    path: EncodedPath,
    text: str,
    part: Part,
    step_ends: tuple[int, ...] = (),
    step_scores: tuple[float, ...] = (),
) -> TrainingRow:
    return TrainingRow(
        behavior=f"data:{name}",
        problem_id=f"row{row.index}",
        split=Split.TRAIN,
        group_id=f"{name}#{row.index}",
        prompt_ids=prompt.token_ids,
        completion_ids=path.token_ids,
        part=part,
        step_ends=step_ends,
        step_scores=step_scores,
        text=text,
    )


def _question(prompt: str | tuple[Message, ...] | None) -> str:
    return normalise(prompt if isinstance(prompt, str) else prompt[-1].content if prompt else "")


def _refuse_measured(rows: Sequence[DataRow], behaviors: Sequence[Behavior], path: str) -> None:
    """Refuse rows that ask what is measured, bare or as the behavior's template writes it."""
    measured = {}
    for behavior in behaviors:
        for problem in behavior.problems:
            if problem.split is Split.TRAIN:
                continue
            question = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content
            for form in (question, behavior.prompt.template.replace("{question}", question)):
                measured[normalise(form)] = f"{behavior.name}/{problem.id}"
    found = [(row.index, measured[_question(row.prompt)]) for row in rows if _question(row.prompt) in measured]
    if found:
        raise MeasuredProblemError(
            f"--data {path}: {len(found)} rows ask what is measured (first: row {found[0][0]} is {found[0][1]}); leave them out, or move the "
            "problems to the train split"
        )


def parts_of(rows: Sequence[TrainingRow]) -> frozenset[Part]:
    """Which parts there are."""
    return frozenset(row.part for row in rows)


def require(rows: Sequence[TrainingRow], wanted: frozenset[Part], stage: str, shape: str) -> None:
    """Refuse data of another shape than a stage learns from, and data of which only some rows have it.

    Raises:
        BehaviorError: Says what the stage reads.
    """
    if parts_of(rows) != wanted:
        raise BehaviorError(
            f"{stage} learns from {shape}; --data or --from holds rows of another kind (see posttrain train --help)"
        )


def require_pairs(rows: Sequence[TrainingRow], stage: str) -> None:
    """Refuse what is not pair after pair, such as answers that are called good or bad each by itself.

    Raises:
        BehaviorError: Says what the stage reads.
    """
    shape = "pairs: a prompt, a chosen and a rejected answer"
    require(rows, frozenset({Part.CHOSEN, Part.REJECTED}), stage, shape)
    sides = [(row.part, row.group_id) for row in rows]
    if sides != [(part, group) for _, group in sides[::2] for part in (Part.CHOSEN, Part.REJECTED)]:
        raise BehaviorError(f"{stage} learns from {shape}; --data holds single answers that are called good or bad: use kto")
