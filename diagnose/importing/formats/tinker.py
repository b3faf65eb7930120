"""Rollout summaries of tinker-cookbook: a row per trajectory, without its text.

    {log_path}/iteration_NNNNNN/{train|eval_NAME}_rollout_summaries.jsonl          or
    {log_path}/{train|eval_NAME}_iteration_NNNNNN_rollout_summaries.jsonl          in earlier versions

A row has `schema_version` 1, `split`, `iteration`, `group_idx`, `traj_idx`, `tags`, `sampling_client_step`, `total_reward`, `final_reward`,
`trajectory_metrics` and `steps` (one per turn: ob_len, ac_len, reward, episode_done, metrics, logs). Texts stand in `*_logtree.json` alone. A problem is told by its
place in the batch: in training that is another problem at each iteration; an evaluation keeps its order unless a group failed. Groups without signal are
dropped before they are written where the configuration says `remove_constant_reward_groups`.

Source: thinking-machines-lab/tinker-cookbook, `tinker_cookbook/rl/rollout_logging.py` and `rollouts.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.importing.finish_import import Told, chosen_score, finish, numbers_of, refuse_biased, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.types import Note

_WANTED = "*_rollout_summaries.jsonl that tinker-cookbook wrote, or its log_path"
_TRAIN = "train"
_KEYS = ("split", "iteration", "group_idx", "traj_idx", "total_reward", "steps")


def read_tinker(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the trajectories of these files, as `Reader` says it; the policy of a sample is its step of sampling, or its iteration."""
    refuse_unused(options, "tinker", "score")
    rows, repeated = RowReader(), RepeatedRows()
    samples: list[ImportedSample] = []
    splits: list[str] = []
    notes: list[Note] = []
    models: set[str] = set()
    for path in find_files(paths, _WANTED, "**/*rollout_summaries.jsonl"):
        config = _config(path)
        models |= {str(config["model_name"])} if config.get("model_name") else set()
        for row in rows.json_lines(path):
            row.require(*_KEYS, wanted=_WANTED)
            if repeated.is_again(row, path, *(row.get(key) for key in ("iteration", "group_idx", "traj_idx"))):
                continue
            split = row.text("split") or _TRAIN
            if split == _TRAIN and config.get("remove_constant_reward_groups"):
                refuse_biased(
                    path,
                    "groups with one reward for all samples were dropped, so that success rates are biased",
                    "give the files of an evaluation",
                    options,
                )
                notes.append(Note("groups_dropped", "groups in which all samples or none succeed are left out"))
            samples.append(_read_row(row, split, options))
            splits.append(split)
    if len(set(splits)) > 1:
        samples = [
            replace(one, behavior=f"{one.behavior}.{split.replace('/', '.')}") for one, split in zip(samples, splits, strict=True)
        ]
    if any(split != _TRAIN for split in splits):
        notes.append(
            Note(
                "problems_by_place", "problems of an evaluation are told by their place; where a group failed, later places shift"
            )
        )
    told = Told(
        format="tinker",
        model=models.pop() if len(models) == 1 else "unknown",
        untold=frozenset({Untold.PROBLEM_IDS, Untold.COMPLETENESS}),
        notes=(*rows.notes, *repeated.notes, *notes),
    )
    return finish(samples, told, options)


def _config(path: Path) -> dict[str, Any]:
    """Return the configuration of the run, which stands beside the iterations as `config.json`; nothing where it is not there."""
    for folder in (path.parent, path.parent.parent):
        file = folder / "config.json"
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _read_row(row: SourceRow, split: str, options: ReadOptions) -> ImportedSample:
    steps = row.objects("steps")
    counts = [step.count("ac_len") for step in steps]
    place, iteration = row.whole("group_idx"), row.whole("iteration")
    tags = [str(tag) for tag in row.items("tags")]
    sampled_at = row.whole("sampling_client_step")
    return ImportedSample(
        behavior=".".join(tags) or split.replace("/", "."),
        problem=f"{iteration}-{place}" if split == _TRAIN else str(place),
        score=_score(row, options),
        num_tokens=None if not counts or None in counts else sum(count for count in counts if count is not None),
        turn_count=max(1, len(steps)),
        policy=str(sampled_at if sampled_at is not None else iteration),
    )


def _score(row: SourceRow, options: ReadOptions) -> float | None:
    rewards = {name: row.get(name) for name in ("total_reward", "final_reward") if name in row.values}
    metrics = numbers_of(row.inside("trajectory_metrics"), ())
    return chosen_score(metrics | rewards, options.score, "total_reward", row.where)


TINKER = Format(name="tinker", title="tinker-cookbook", files="*_rollout_summaries.jsonl, or a log_path", read=read_tinker)
