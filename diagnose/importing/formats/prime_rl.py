"""Rollouts of prime-rl: verifiers' episodes of each training step, as its file monitor writes them.

    {output_dir}/rollouts/step_{n}/{train,eval}/all/traces.jsonl        every rollout, as it completes
    {output_dir}/rollouts/step_{n}/{train,eval}/effective/traces.jsonl  what was left for the trainer

`effective` lacks rollouts that failed or were not admitted to a batch, so success rates from it are not those of the policy; it is read only where the user
accepts that. Before July 2026 there was `step_{n}/train_rollouts.jsonl` with the rows of verifiers' `results.jsonl`, of the rollouts that made up a batch.
The policy is another one at each step.

Source: PrimeIntellect-ai/prime-rl, `src/prime_rl/monitors/file.py` and `src/prime_rl/orchestrator/metrics.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.finish_import import finish, refuse_biased, refuse_unused
from posttrain.diagnose.importing.formats.verifiers import told
from posttrain.diagnose.importing.formats.verifiers_results import read_result, rollout_id
from posttrain.diagnose.importing.formats.verifiers_traces import EpisodeReader
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.types import Note

_WANTED = "the folder rollouts of a prime-rl run, one of its steps, or all/traces.jsonl below"
_COMPLETE = ("traces.jsonl", "**/all/traces.jsonl", "**/train_rollouts.jsonl", "**/eval_rollouts*.jsonl")
_EFFECTIVE = ("**/effective/traces.jsonl",)


def read_prime_rl(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the rollouts of a training run, as `Reader` says it; the policy of a sample is its step."""
    refuse_unused(options, "prime-rl", "score")
    files = _files(paths, options)
    kinds = {_kind(file) for file in files}
    rows, episodes, repeated = RowReader(), EpisodeReader(options), RepeatedRows()
    samples: list[ImportedSample] = []
    untold: set[Untold] = set()
    num_other_weights = 0
    for file in files:
        kind, step = _kind(file), _step(file)
        for row in rows.json_lines(file):
            if repeated.is_again(row, kind, step, rollout_id(row)):
                continue
            if "traces" in row.values or "nodes" in row.values:
                read = list(episodes.read(row, file, step))
                num_other_weights += _sampled_by_other_weights(row, step)
            else:
                untold.add(Untold.COMPLETENESS)
                read = [read_result(row, file, str(row.get("env_name") or "prime-rl"), episodes.ids, options, step)]
            samples += [replace(sample, behavior=f"{sample.behavior}.{kind}") for sample in read] if len(kinds) > 1 else read
    notes = [*rows.notes, *repeated.notes]
    if num_other_weights:
        notes.append(
            Note(
                "mixed_policy",
                f"{num_other_weights} episodes were sampled by weights of another step than the one they count for",
            )
        )
    if any(_is_effective(file) for file in files):
        untold.add(Untold.COMPLETENESS)
        notes.append(
            Note(
                "effective_only",
                "rollouts that failed or were not admitted to a batch are left out: success rates are not those of the policy",
            )
        )
    if Untold.COMPLETENESS in untold and not any(_is_effective(file) for file in files):
        notes.append(
            Note("batches_only", "only rollouts that made up a batch were stored; what was left out before is not known")
        )
    known = told(episodes, sorted(episodes.models), [read_sampling(one) for one in episodes.samplings], notes, "prime-rl")
    return finish(samples, replace(known, untold=known.untold | untold), options)


def _files(paths: Sequence[Path], options: ReadOptions) -> list[Path]:
    """Return the files of all rollouts; those of effective ones where there are no others, or where the user names them, and accepts it."""
    try:
        files = find_files(paths, _WANTED, *_COMPLETE)
    except SourceError as error:
        if error.code != "no_source_files":
            raise
        files = find_files(paths, _WANTED, *_COMPLETE, *_EFFECTIVE)
    for file in files:
        if _is_effective(file):
            refuse_biased(
                file,
                "these are the rollouts that were left for the trainer, so that success rates are biased",
                f"give {file.parent.parent / 'all' / file.name}",
                options,
            )
    return files


def _sampled_by_other_weights(row: SourceRow, step: str) -> bool:
    """Return whether an episode says that weights of another step sampled it, or that they changed while it ran."""
    span = row.inside("run").inside("work").mapping("policy")
    return bool(step) and bool(span) and {str(span.get("start")), str(span.get("end"))} != {step}


def _is_effective(file: Path) -> bool:
    return "effective" in file.resolve().parent.parts[-2:]


def _kind(file: Path) -> str:
    return "eval" if "eval" in file.resolve().parent.parts[-3:] or file.name.startswith("eval_") else "train"


def _step(file: Path) -> str:
    """Return the step that a path names last; empty where it names none."""
    steps = re.findall(r"step_(\d+)", str(file.resolve()))
    return str(int(steps[-1])) if steps else ""


PRIME_RL = Format(
    name="prime-rl", title="prime-rl", files="the folder rollouts of a run, or one of its steps", read=read_prime_rl
)
