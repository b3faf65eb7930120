"""From samples of another tool to a finished run directory: store them, check them, decide, write the report."""

from __future__ import annotations

import hashlib
import os
import platform
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.garbage_collection import collector_paused
from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, SampleSource, Untold, model_words
from posttrain.diagnose.importing.imported_behavior import behavior_files
from posttrain.diagnose.importing.sample_columns import ENGINE, BehaviorSamples, group_by_behavior
from posttrain.diagnose.importing.scores import success_of_all
from posttrain.diagnose.measure.imported_checks import check_imported
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import SamplingEntry, ValidityEntry
from posttrain.diagnose.storage.files import write_bytes
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import BEHAVIORS, RunDirectory
from posttrain.diagnose.strict_settings import closest
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Sampling, Split, StopReason

_LONGEST_NAME = 60
"""Characters of a folder's name, each of up to four bytes."""
_MOST_NAMED = 8
"""Policies that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSettings:
    """What is made of imported samples."""

    out: str | Path
    """The run directory."""
    success: float | None = None
    """The score from which on a sample is right; 1 where None, which scores outside [0, 1] do not allow."""
    split: Split = Split.EVAL
    """What the problems may be used for: those of eval are never trained on."""
    step: str | None = None
    """Which policy to take where the samples are of several."""
    sampling: Sampling | None = None
    """How the samples were taken, where the source does not tell and the user knows; `max_tokens` 0 where the limit is not known."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Every number that the verdict depends on."""
    paths: Sequence[str | os.PathLike[str]] = ()
    """What was read, for the record."""
    command: str = ""
    """What to print under "how to reproduce"."""


def import_run(found: ImportedSamples, settings: ImportSettings, reporter: Reporter | None = None) -> DiagnosedRun:
    """Make a finished run of samples of another tool, with its report.

    The same samples and settings may be imported into the same folder again.

    Args, errors: As for `store_run`.
    """
    with collector_paused():
        run = store_run(found, settings, reporter)
        del found  # the texts, which are on disk now
        from posttrain.diagnose.pipeline.run_files import write_run  # drawing figures needs matplotlib: not before it is used

        with locked_folder(run.path):
            write_run(run)
    return run


def store_run(found: ImportedSamples, settings: ImportSettings, reporter: Reporter | None = None) -> DiagnosedRun:
    """Store and check samples of another tool as a run, and decide; there is no report yet.

    Args:
        found: What a reader returned.
        settings: What to make of it.
        reporter: Where progress goes.

    Raises:
        SourceError: The source tells that it sampled otherwise than is said (`other_sampling`); there are no samples (`no_samples`), they are of several policies (`several_policies`), or of none that is asked for
            (`unknown_policy`), or their scores do not say what is right (see `read_scores`).
        RunError: The folder holds something else.
    """
    reporter = reporter or Reporter(quiet=True)
    directory = RunDirectory(Path(settings.out), sources=[Path(path) for path in settings.paths])
    directory.check("diagnose", {})
    policy, samples = choose_policy(found.samples, settings.step)
    success = settings.success if len(samples) == len(found.samples) else success_of_all(found.samples, settings.success)
    behaviors = group_by_behavior(samples, success)
    source = _with_sampling(found.source, settings.sampling)
    source = replace(source, untold=source.untold | _lacking(samples, source))
    folder = directory.path / BEHAVIORS
    with locked_folder(directory.path):
        own, files = zip(*(behavior_files(folder, one, source, settings.split) for one in behaviors), strict=True)
        directory.open(
            "diagnose", _run_settings(source, policy, behaviors, own, settings), _details(source, policy, own, settings)
        )
        for path, content in ChainMap(*files).items():
            write_bytes(path, content)
        for one in behaviors:
            _store(directory, one, settings.split, reporter)
        for one, behavior in zip(behaviors, own, strict=True):
            _finish(directory, one, behavior, source, settings)
        return assemble(directory.path, behaviors=own)


def import_by_policy(
    found: ImportedSamples, settings: ImportSettings, reporter: Reporter | None = None
) -> dict[str, DiagnosedRun]:
    """Make one run of each policy that the samples are of, in a folder of its name under `settings.out`.

    Returns:
        Policy → its run, in the order of the source.

    Raises:
        UserError: As for `import_run`; scores are refused before any run is written.
    """
    settings = replace(settings, success=success_of_all(found.samples, settings.success))
    by_policy: dict[str, list[ImportedSample]] = {}
    for sample in found.samples:
        by_policy.setdefault(sample.policy, []).append(sample)
    folders = _folder_names(list(by_policy))
    return {
        name: import_run(
            replace(found, samples=samples), replace(settings, step=name, out=Path(settings.out) / folders[name]), reporter
        )
        for name, samples in by_policy.items()
    }


def choose_policy(samples: Sequence[ImportedSample], step: str | None) -> tuple[str, list[ImportedSample]]:
    """Return the policy that is taken, and its samples.

    Args:
        samples: Of one policy or of several.
        step: Which to take; None where there must be one alone.

    Raises:
        SourceError: Code `no_samples`, `several_policies` or `unknown_policy`.
    """
    if not samples:
        raise SourceError("got no samples; give files that hold some", code="no_samples")
    names = list(dict.fromkeys(sample.policy for sample in samples))
    listed = ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
    if step is None:
        if len(names) > 1:
            raise SourceError(
                f"got samples of {len(names)} policies ({listed}), and a run is of one; take one with --step {names[-1]}, or write a run of each "
                "with --by-step",
                code="several_policies",
            )
        return names[0], list(samples)
    if step not in names:
        raise SourceError(
            f"--step: got {step!r}, the samples are of {listed or 'one policy without a name'}{closest(step, names)}; give one of these",
            code="unknown_policy",
        )
    return step, [sample for sample in samples if sample.policy == step]


def _store(directory: RunDirectory, samples: BehaviorSamples, split: Split, reporter: Reporter) -> None:
    """Write the rollouts of one behavior."""
    with reporter.task(f"storing {samples.name}", samples.num_samples) as task:
        for name, table, cost in samples.shards(split):
            directory.write_shard("rollouts", name, table, cost)
            task.advance(table.num_rows)


def _finish(
    directory: RunDirectory, samples: BehaviorSamples, behavior: Behavior, source: SampleSource, settings: ImportSettings
) -> None:
    """Check the samples of one behavior, and mark it as measured to the end."""
    table = directory.rollout_table(samples.name)
    counts = count_successes(behavior, behavior.split(settings.split), table)
    validity = check_imported(behavior, counts, source.untold, settings.thresholds)
    directory.write_part("validity", samples.name, ValidityEntry.model_validate(validity).to_json())
    directory.write_done(samples.name, SamplingEntry(ended_code=ENGINE).to_json())


def _with_sampling(source: SampleSource, said: Sampling | None) -> SampleSource:
    """Return a source with what the user says of its sampler."""
    if said is None:
        return source
    if source.sampling is not None and replace(source.sampling, max_tokens=1) != replace(said, max_tokens=1):
        raise SourceError(
            f"--sampling: got temperature {said.temperature:g}, top_p {said.top_p:g}, and the source tells temperature "
            f"{source.sampling.temperature:g}, top_p {source.sampling.top_p:g}; leave it out",
            code="other_sampling",
        )
    return replace(source, sampling=source.sampling or said, untold=source.untold - {Untold.SAMPLING})


def _lacking(samples: Sequence[ImportedSample], source: SampleSource) -> frozenset[Untold]:
    """Return what no sample tells."""
    lacking = {
        Untold.LOGPROBS: True,
        Untold.SAMPLING: source.sampling is None,
        Untold.TEXTS: not any(sample.text for sample in samples),
        Untold.PROMPTS: not any(sample.prompt for sample in samples),
        Untold.ANSWERS: not any(sample.answer for sample in samples),
        Untold.STOP_REASONS: all(sample.stop is StopReason.UNKNOWN for sample in samples),
        Untold.TOKEN_COUNTS: not any(sample.num_tokens for sample in samples),
    }
    return frozenset(name for name, is_lacking in lacking.items() if is_lacking)


def _run_settings(
    source: SampleSource, policy: str, samples: Sequence[BehaviorSamples], behaviors: Sequence[Behavior], settings: ImportSettings
) -> dict[str, Any]:
    """Return what run.json holds: the settings of a run that sampled itself, and what the source tells."""
    digest = hashlib.sha256(" ".join(one.digest for one in samples).encode()).hexdigest()[:16]
    model = hashlib.sha256(f"{source.model}\x1d{policy}".encode()).hexdigest()[:16]
    return {
        "behaviors": {behavior.name: behavior.fingerprint for behavior in behaviors},
        "seed": 0,
        "split": settings.split.value,
        "thresholds": asdict(settings.thresholds),
        "engine": {"name": ENGINE, "sample_dtype": None, "score_dtype": None},
        "model_fingerprint": f"{ENGINE}:{model}",
        "samples_digest": digest,
        "source": _source_json(source, policy, samples),
    }


def _source_json(source: SampleSource, policy: str, samples: Sequence[BehaviorSamples]) -> dict[str, Any]:
    return {
        "format": source.format,
        "model": source.model,
        "policy": policy,
        "version": source.version,
        "sampling": None if source.sampling is None else asdict(source.sampling),
        "untold": sorted(source.untold),
        "notes": [asdict(note) for note in source.notes],
        "behaviors": {one.name: {"name": one.source_name, "notes": [asdict(note) for note in one.notes]} for one in samples},
    }


def _details(source: SampleSource, policy: str, behaviors: Sequence[Behavior], settings: ImportSettings) -> Mapping[str, Any]:
    named = model_words(source.format, source.model, policy, [Path(path).name for path in settings.paths])
    return {
        "model": {"source": named, "fingerprint": "", "device": ""},
        "versions": {"posttrain": version("posttrain"), "python": platform.python_version()}
        | ({source.format: source.version} if source.version else {}),
        "sources": {behavior.name: f"{BEHAVIORS}/{behavior.name}.yaml" for behavior in behaviors},
        "imported_from": [str(path) for path in settings.paths],
        "command": settings.command,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _folder_names(policies: Sequence[str]) -> dict[str, str]:
    """Return a name of a folder for each policy, none twice, whether or not capitals count."""
    folders: dict[str, str] = {}
    for policy in policies:
        base = "".join(one if one.isalnum() or one in "._-" else "-" for one in policy).strip(".-")[:_LONGEST_NAME] or "policy"
        taken = {folder.lower() for folder in folders.values()}
        folders[policy] = next(name for name in chain([base], (f"{base}-{i}" for i in count(2))) if name.lower() not in taken)
    return folders
