"""Completions that TRL's GRPO trainer logs with `log_completions=True`: a parquet file `completions_{step}.parquet` per logging step.

A row has `step`, `prompt` and `completion` (texts, or chats), a column for each reward function, columns that those logged, and `advantage`; versions of
2025 have `reward` and `reward_NAME`. A file holds the batch of samples that was generated last, so steps between are missing, and where nothing was
generated since, it holds the same samples again: such repeats are passed over. A reward function that does not apply gives NaN.

Source: huggingface/trl 1.16, `trl/trainer/grpo_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.importing.chat_messages import read_messages, read_prompt, said_last, several_turns
from posttrain.diagnose.importing.finish_import import (
    ProblemIds,
    Told,
    as_answer,
    chosen_score,
    finish,
    numbers_of,
    refuse_unused,
)
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RowReader, SourceRow, find_files
from posttrain.diagnose.types import Note

_WANTED = "completions_{step}.parquet that TRL wrote, or the folder completions"
_NO_SCORE = frozenset({"step", "prompt", "completion", "advantage"})
_ANSWERS = ("answer", "solution", "ground_truth", "target")
"""Columns of a data set that a reward function may have logged."""


def read_trl(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the completions of these files, as `Reader` says it; the policy of a sample is its step."""
    refuse_unused(options, "trl", "score")
    rows, ids = RowReader(), ProblemIds()
    samples: list[ImportedSample] = []
    before: list[dict[str, Any]] = []
    num_repeated = 0
    for path in find_files(paths, _WANTED, "**/completions_*.parquet"):
        read = list(rows.parquet(path))
        batch = [{key: value for key, value in row.values.items() if key != "step"} for row in read]
        repeated = _overlap(before, batch)
        num_repeated += repeated
        folder = path.resolve().parent
        behavior = (folder.parent.name if folder.name == "completions" else folder.name) or "trl"
        samples += [_read_row(row, path, behavior, ids, options) for row in read[repeated:]]
        before = batch
    notes = list(rows.notes)
    if num_repeated:
        notes.append(Note("logged_again", f"{num_repeated} completions were logged again at a later step and count once"))
    return finish(samples, Told(format="trl", untold=ids.untold | {Untold.COMPLETENESS}, notes=notes), options)


def _overlap(before: Sequence[Mapping[str, Any]], batch: Sequence[Mapping[str, Any]]) -> int:
    """Return how many of the first rows of a file are the last ones of the file before: two or more, or all of it."""
    written = [repr(row) for row in before], [repr(row) for row in batch]  # repr, because NaN is unequal to itself
    for length in range(min(len(before), len(batch)), 0, -1):
        if written[0][-length:] == written[1][:length]:
            return length if length > 1 or length == len(batch) else 0
    return 0


def _read_row(row: SourceRow, path: Path, behavior: str, ids: ProblemIds, options: ReadOptions) -> ImportedSample:
    row.require("step", "prompt", "completion", wanted=_WANTED)
    prompt = read_prompt(row.get("prompt"), f"{row.where}: prompt")
    completion = row.get("completion")
    chat = () if completion is None else read_messages(completion, f"{row.where}: completion")
    answer = as_answer(next((row.get(key) for key in _ANSWERS if isinstance(row.get(key), str)), None))
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(None, behavior, prompt, answer, path),
        score=chosen_score(numbers_of(row, _NO_SCORE, "reward", options.score), options.score, "reward", row.where),
        text=said_last(chat),
        prompt=prompt,
        answer=answer,
        turns=several_turns(chat),
        policy=row.name("step"),
    )


TRL = Format(name="trl", title="TRL", files="completions_{step}.parquet, or the folder completions", read=read_trl)
