"""Rollouts and validation samples of verl: a file `{step}.jsonl` per step, in `trainer.rollout_data_dir` or `trainer.validation_data_dir`.

A row has `input` and `output` (texts without special tokens), `score`, `step`, in newer versions `gts` (what is right), and whatever the reward function
returned beside the score, such as `acc`. There is no id of a problem, no stop reason and no log-probability. Where tools answer, their words stand in
`output` too. A recipe that drops groups without signal (DAPO's `filter_groups`) drops them before they are written, and the file does not say so.

Source: verl-project/verl, `verl/trainer/ppo/ray_trainer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from posttrain.diagnose.importing.finish_import import (
    ProblemIds,
    Told,
    as_answer,
    as_answers,
    chosen_score,
    finish,
    numbers_of,
    refuse_unused,
)
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RowReader, SourceRow, find_files

_WANTED = "{step}.jsonl that verl wrote, or its rollout_data_dir or validation_data_dir"
_NO_SCORE = frozenset({"input", "output", "gts", "step", "request_id", "uid"})


class _File(NamedTuple):
    """A file, with what its place says where its rows do not."""

    path: Path
    behavior: str
    step: str


def read_verl(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the rollouts of these steps, as `Reader` says it; the policy of a sample is its step."""
    refuse_unused(options, "verl", "score")
    rows, ids = RowReader(), ProblemIds()
    samples: list[ImportedSample] = []
    for path in find_files(paths, _WANTED, "**/[0-9]*.jsonl"):
        folder, named = path.resolve().parent.name, re.fullmatch(r"(\d+)\.jsonl(\.gz|\.zst)?", path.name)
        file = _File(path, behavior=folder or "verl", step=named[1] if named else "")
        samples += [_read_row(row, file, ids, options) for row in rows.json_lines(path)]
    untold = ids.untold | {Untold.COMPLETENESS}
    return finish(samples, Told(format="verl", untold=untold, notes=rows.notes), options)


def _read_row(row: SourceRow, file: _File, ids: ProblemIds, options: ReadOptions) -> ImportedSample:
    row.require("input", "output", wanted=_WANTED)
    prompt, answers = row.text("input"), as_answers(row.get("gts"))
    source = row.get("data_source")
    behavior = source if isinstance(source, str) and source else file.behavior
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(None, behavior, prompt, as_answer(row.get("gts")), file.path),
        score=chosen_score(numbers_of(row, _NO_SCORE, "score"), options.score, "score", row.where),
        text=row.text("output") or "",
        prompt=prompt,
        answer=answers[0] if answers else "",
        answers=answers[1:],
        policy=row.name("step") or file.step,
    )


VERL = Format(
    name="verl", title="verl", files="{step}.jsonl of rollout_data_dir or validation_data_dir, or the folder", read=read_verl
)
