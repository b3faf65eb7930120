"""Rollouts that AReaL dumps with `dump_to_file`: `.../{rollout|eval-rollout}/{version}/{task_id}.jsonl`, a row per sample.

A row has `task_id`, `sample_idx`, `seqlen`, `prompt_len`, `head_version` and `tail_version` (the first and the last version of the weights that wrote in
it), `reward`, and `prompt` and `completion` as texts with special tokens. A sample whose completion is empty, or that does not end with the policy's words, is
not written: success rates are biased upwards, so the files are read only where the user accepts that. A task id is given anew each time a prompt is used,
so problems are told by their prompts.

Source: inclusionAI/AReaL, `areal/infra/workflow_executor.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from posttrain.diagnose.importing.finish_import import ProblemIds, Told, finish, refuse_biased, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.types import Note

_WANTED = "{task_id}.jsonl that AReaL dumped, or the folder rollout or eval-rollout"
_KEYS = ("task_id", "seqlen", "prompt_len", "tail_version", "reward", "prompt", "completion")


def read_areal(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of these files, as `Reader` says it; the policy of a sample is the last version of the weights that wrote in it."""
    refuse_unused(options, "areal")
    rows, ids, repeated = RowReader(), ProblemIds(), RepeatedRows()
    samples: list[ImportedSample] = []
    kinds: list[str] = []
    num_mixed = 0
    for path in find_files(paths, _WANTED, "**/*.jsonl"):
        refuse_biased(
            path,
            "AReaL leaves out samples with an empty completion, so that success rates are biased upwards",
            "count them from the trainer's own log",
            options,
        )
        kind = "eval" if "eval-rollout" in path.resolve().parts else "train"
        for row in rows.json_lines(path):
            if repeated.is_again(row, path, row.get("task_id"), row.get("sample_idx")):
                continue
            samples.append(_read_row(row, path, ids))
            kinds.append(kind)
            num_mixed += row.get("head_version") != row.get("tail_version")
    if len(set(kinds)) > 1:
        samples = [replace(one, behavior=f"{one.behavior}.{kind}") for one, kind in zip(samples, kinds, strict=True)]
    notes = [
        *rows.notes,
        *repeated.notes,
        Note("empty_left_out", "samples with an empty completion are left out: success rates are biased upwards"),
    ]
    if num_mixed:
        notes.append(
            Note("mixed_policy", f"{num_mixed} samples were written by several versions of the weights; the last one counts")
        )
    return finish(samples, Told(format="areal", untold=ids.untold | {Untold.COMPLETENESS}, notes=notes), options)


def _read_row(row: SourceRow, path: Path, ids: ProblemIds) -> ImportedSample:
    row.require(*_KEYS, wanted=_WANTED)
    prompt = row.text("prompt")
    length, asked = row.count("seqlen"), row.count("prompt_len")
    return ImportedSample(
        behavior="areal",
        problem=ids.name(None, "areal", prompt, "", path),
        score=row.number("reward"),
        text=row.text("completion"),
        prompt=prompt,
        num_tokens=None if length is None or asked is None or length < asked else length - asked,
        policy=row.name("tail_version"),
    )


AREAL = Format(name="areal", title="AReaL", files="the folder rollout or eval-rollout", read=read_areal)
