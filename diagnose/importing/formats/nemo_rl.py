"""Samples that NeMo-RL logs: `train_data_step{n}.jsonl` and `val_data_step{n}.jsonl`, one row per sample, each value in a list of its own.

A validation row has `content` (a chat) and `rewards`. A training row has `content` (the text of prompt and response together), `rewards`, `input_lengths`,
`token_ids`, `token_loss_mask` (1 where the policy wrote), log-probabilities and advantages. `idx` is the place in the batch; no problem has an id. With
dynamic sampling a training row also has `filtered_rewards`: the groups without signal are gone, and `rewards` are those of the batch before, in another
order.

Source: NVIDIA-NeMo/RL, `nemo_rl/algorithms/grpo.py` and `log_batched_dict_as_jsonl` of `nemo_rl/utils/logger.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import ASSISTANT, read_messages, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, Told, finish, refuse_biased, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files, read_number
from posttrain.diagnose.types import Note

_WANTED = "train_data_step{n}.jsonl or val_data_step{n}.jsonl that NeMo-RL wrote"
_STEP = re.compile(r"(train|val)_data_step(\d+)\.jsonl")
_FILTERED = "filtered_rewards"


def read_nemo_rl(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of these steps, as `Reader` says it; the policy of a sample is its step."""
    refuse_unused(options, "nemo-rl")
    rows, ids, repeated = RowReader(), ProblemIds(), RepeatedRows()
    samples: list[ImportedSample] = []
    kinds: set[str] = set()
    notes: list[Note] = []
    for path in find_files(paths, _WANTED, "**/train_data_step*.jsonl", "**/val_data_step*.jsonl"):
        named = _STEP.match(path.name)
        kind, step = (named[1], named[2]) if named else ("train", "")
        kinds.add(kind)
        for row in rows.json_lines(path):
            if repeated.is_again(row, path, _only(row.get("idx"))):
                continue
            if _FILTERED in row.values:
                refuse_biased(
                    path,
                    "dynamic sampling dropped the groups without signal, so that success rates are biased",
                    "give val_data_step files",
                    options,
                )
                notes.append(Note("groups_dropped", "groups in which all samples or none succeed are left out"))
            samples.append(_read_row(row, kind, step, path, ids))
    if len(kinds) > 1:
        samples = [replace(sample, behavior=f"{sample.behavior}.{sample.metadata['kind']}") for sample in samples]
    untold = ids.untold | ({Untold.COMPLETENESS} if notes else set())
    return finish(samples, Told(format="nemo-rl", untold=untold, notes=(*rows.notes, *repeated.notes, *notes)), options)


def _read_row(row: SourceRow, kind: str, step: str, path: Path, ids: ProblemIds) -> ImportedSample:
    row.require("content", "rewards", wanted=_WANTED)
    content = _only(row.get("content"))
    key = _FILTERED if _FILTERED in row.values else "rewards"
    reward = read_number(_only(row.get(key)), f"{row.where}: {key}")
    agent = _only(row.get("agent_ref"))
    behavior = str(agent.get("name")) if isinstance(agent, dict) and agent.get("name") else "nemo-rl"
    shared: dict[str, Any] = {"behavior": behavior, "score": reward, "policy": step, "metadata": {"kind": kind}}
    if isinstance(content, list):
        chat = read_messages(content, f"{row.where}: content")
        first = next((i for i, message in enumerate(chat) if message.role == ASSISTANT), len(chat))
        prompt, said = chat[:first], chat[first:]
        return ImportedSample(
            problem=ids.name(None, behavior, prompt, "", path),
            text=said_last(said),
            prompt=prompt,
            turns=several_turns(said),
            **shared,
        )
    tokens, mask = _only(row.get("token_ids")), _only(row.get("token_loss_mask"))
    if (
        not isinstance(tokens, list)
        or not isinstance(mask, list)
        or len(tokens) != len(mask)
        or not all(x in (0, 1) for x in mask)
    ):
        raise SourceError(
            f"{row.where}: got neither a chat under content nor token_ids with their token_loss_mask, which tell problems apart; give {_WANTED}",
            code="not_this_format",
        )
    asked = mask.index(1) if 1 in mask else len(mask)
    return ImportedSample(
        problem=ids.name(None, behavior, repr(tokens[:asked]), "", path),
        num_tokens=int(sum(map(int, mask))),
        turn_count=max(1, sum(1 for before, here in zip([0, *mask], mask, strict=False) if here and not before)),
        **shared,
    )


def _only(value: Any) -> Any:
    """Return what stands in a list of one; NeMo-RL writes each value of a row as a batch of one sample."""
    return value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], dict) else value


NEMO_RL = Format(
    name="nemo-rl", title="NeMo-RL", files="val_data_step{n}.jsonl, train_data_step{n}.jsonl, or their folder", read=read_nemo_rl
)
