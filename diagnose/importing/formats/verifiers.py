"""Evaluations of verifiers: `traces.jsonl` of version 1, `results.jsonl` of the versions before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.diagnose.importing.finish_import import Told, finish, refuse_unused
from posttrain.diagnose.importing.formats.verifiers_results import RESULTS, read_metadata, read_result, rollout_id
from posttrain.diagnose.importing.formats.verifiers_traces import TRACES, EpisodeReader
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, find_files
from posttrain.diagnose.types import Note, Sampling

_WANTED = "traces.jsonl or results.jsonl of a verifiers evaluation, or a folder that holds them"


def read_verifiers(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the rollouts of evaluations, as `Reader` says it."""
    refuse_unused(options, "verifiers", "score")
    rows, episodes, repeated = RowReader(), EpisodeReader(options), RepeatedRows()
    samples: list[ImportedSample] = []
    models: dict[str, None] = {}
    sampling: list[Sampling | None] = []
    for path in find_files(paths, _WANTED, f"**/{TRACES}", f"**/{RESULTS}"):
        metadata = read_metadata(path)
        model = str(metadata.get("model") or "")
        of_results = False
        for row in rows.json_lines(path):
            if repeated.is_again(row, model, rollout_id(row)):
                continue
            if "traces" in row.values or "nodes" in row.values:
                samples += episodes.read(row, path)
            else:
                of_results = True
                environment = str(metadata.get("env_id") or "verifiers")
                samples.append(read_result(row, path, environment, episodes.ids, options, policy=model))
        if of_results:
            models[model] = None
            sampling.append(read_sampling(metadata.get("sampling_args")))
            version = metadata.get("version_info")
            episodes.versions |= (
                {str(version["vf_version"])} if isinstance(version, dict) and version.get("vf_version") else set()
            )
    sampling += [read_sampling(one) for one in episodes.samplings]
    return finish(samples, told(episodes, [*models, *sorted(episodes.models)], sampling, [*rows.notes, *repeated.notes]), options)


def told(
    episodes: EpisodeReader,
    models: Sequence[str],
    sampling: Sequence[Sampling | None],
    notes: Sequence[Note],
    format: str = "verifiers",
) -> Told:
    """Return what is known of rollouts of verifiers beside the samples.

    Args:
        episodes: What read them.
        models: Those that are named; "" for a file that names none.
        sampling: Settings of the sampler, of each file or call.
        notes: What was passed over in the files.
        format: Name of the format.
    """
    further = list(notes)
    if episodes.not_trainable:
        names = ", ".join(sorted(episodes.not_trainable))
        further.append(Note("other_agents", f"traces of agents that are not trained were passed over: {names}"))
    return Told(
        format=format,
        model=models[0] if len(models) == 1 and models[0] else "unknown",
        version=", ".join(sorted(episodes.versions)),
        sampling=sampling[0] if sampling and all(one == sampling[0] for one in sampling) else None,
        untold=episodes.ids.untold,
        notes=(*further, *episodes.ids.notes),
    )


VERIFIERS = Format(
    name="verifiers",
    title="verifiers",
    files="traces.jsonl (version 1) or results.jsonl (before), or their folder",
    read=read_verifiers,
)
