"""From a run directory to data: read back what was sampled and scored, decide, and return it. Nothing is written; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.decide.evidence import Measurements
from posttrain.diagnose.decide.turn_limits import decide_turn_limits
from posttrain.diagnose.decide.verdict import diagnose_behavior
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.importing.source_facts import SourceFacts
from posttrain.diagnose.measure.reference_likelihood import summarize_references
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.probes.drift.stored_runs import NAME as DRIFT
from posttrain.diagnose.probes.runner import read_probe_results
from posttrain.diagnose.sampling.token_limit import recorded_limit
from posttrain.diagnose.stage_catalogue import Need, available_needs
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry, SamplingEntry, ValidityEntry
from posttrain.diagnose.storage.json_model import FileModel
from posttrain.diagnose.storage.run_check import checked_table
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.run_record import DecisionRecord
from posttrain.diagnose.storage.shard_file import refuse_damage
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Diagnosis, LimitSource, Note, Purpose, Split, ValidityMeasurement

Entry = TypeVar("Entry", bound=FileModel)
_OF_CHECKS = ("estimate", "low", "high", "threshold")
EARLIER_DEFAULT = 64
"""`max_tokens` of behaviors without one, in runs of versions before `auto`."""
TRAIN_SPLIT = (
    "These are train problems: their samples are there to learn from. What they show may have been trained on, so it is no verdict on the "
    "behavior; measure the eval split for one."
)
NO_CHECKSUMS = (
    "The samples were stored by an earlier version, without checksums: whether they changed on disk since cannot be told. Measure again into a new "
    "folder to know."
)

REGRADED = (
    "The stored texts were graded again, without the model: further probes and what they found rest on the grades of before and are left out; "
    "regrade.json says whose grade changed."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfinished:
    """How far a behavior has come that is not measured to the end."""

    plan: SamplingEntry
    """How its sampling went so far."""
    to_come: str
    """What is still to be done, such as `further probes`."""
    to_follow: tuple[str, ...] = ()
    """Behaviors of the run that have no samples to show yet."""


def assemble(
    path: str | Path,
    *,
    behaviors: Sequence[Behavior] | None = None,
    decision: DecisionRecord | None = None,
    unfinished: Mapping[str, Unfinished] | None = None,
) -> DiagnosedRun:
    """Read a run directory back and decide.

    Args:
        path: The run directory.
        behaviors: Its behaviors where they are loaded already; else they are read from where the run found them.
        decision: What decides in the place of what the run was measured with; None for that of run.json.
        unfinished: Behaviors that are not measured to the end.

    Returns:
        What was measured and decided; `run_files.write_run` writes it.

    Raises:
        RunError: The sampling is not finished, or a behavior has changed since.
    """
    directory = RunDirectory(Path(path))
    record = directory.read_json()
    if record["kind"] != "diagnose":
        raise RunError(f"run {path}: holds a {record['kind']} run; give the folder of a `posttrain diagnose`")
    settings = record["settings"]
    loaded = tuple(behaviors) if behaviors is not None else _reload(directory, record)
    decision = decision or DecisionRecord.model_validate(record.get("decision", {}))
    loaded = tuple(_decided_with(decision, recorded_limit(behavior, record)) for behavior in loaded)
    thresholds = Thresholds.from_json(settings["thresholds"])
    if decision.retention_weight is not None:
        thresholds = replace(thresholds, retention_weight=decision.retention_weight)
    return DiagnosedRun(
        path=directory.path,
        run=RunEntry(
            path=str(directory.path),
            created=record["created"],
            command=decision.command or record["command"] or "see run.json",
            versions=record["versions"],
        ),
        model=record["model"],
        settings=settings,
        behaviors=tuple(
            _measure(
                directory,
                behavior,
                settings,
                thresholds,
                retained=_can_retain(loaded),
                again=decision.before is not None,
                unfinished=(unfinished or {}).get(behavior.name),
            )
            for behavior in loaded
        ),
    )


def _reload(directory: RunDirectory, record: dict[str, Any]) -> tuple[Behavior, ...]:
    """Load the behaviors of a run from where it found them, with the options that were given beside them."""
    loaded, split = [], Split(record["settings"]["split"])
    for name, fingerprint in record["settings"]["behaviors"].items():
        source = directory.behavior_source(record, name)
        options = BehaviorOptions.model_validate(record.get("behavior_options", {}).get(name, {}))
        behavior = load_behavior(source, options, measured=split)
        auto = behavior.limit_source is LimitSource.AUTO and name not in record.get("token_limits", {})
        if auto and behavior.fingerprint != fingerprint:
            earlier = load_behavior(source, options.model_copy(update={"max_tokens": EARLIER_DEFAULT}), measured=split)
            behavior = earlier if earlier.fingerprint == fingerprint else behavior
        if behavior.fingerprint != fingerprint:
            raise RunError(
                f"run {directory.path}: the behavior {name} ({source}) has changed since; bring back the file, or measure again into a new folder"
            )
        loaded.append(behavior)
    return tuple(loaded)


def _can_retain(behaviors: Sequence[Behavior]) -> bool:
    """Return whether there is a retention behavior whose train problems a stage could mix in."""
    return any(one.purpose is Purpose.RETENTION and one.split(Split.TRAIN) for one in behaviors)


def _decided_with(decision: DecisionRecord, behavior: Behavior) -> Behavior:
    """Return a behavior with the numbers of a decision in the place of its own."""
    given = {name: value for name in ("epsilon", "primary_k") if (value := getattr(decision, name)) is not None}
    return replace(behavior, measure=replace(behavior.measure, **given)) if given else behavior


def _measure(
    directory: RunDirectory,
    behavior: Behavior,
    settings: dict[str, Any],
    thresholds: Thresholds,
    *,
    retained: bool,
    again: bool,
    unfinished: Unfinished | None,
) -> DiagnosedBehavior:
    """Count, score and decide one behavior; `again` with what an earlier run showed when it was decided again."""
    split = Split(settings["split"])
    problems = behavior.split(split)
    table = checked_table(directory, behavior.name) if unfinished is None else directory.rollout_table(behavior.name)
    paths = tuple(directory.read_paths(behavior.name))
    validity = read_validity(directory, behavior)
    sampling = count_successes(behavior, problems, table)
    likelihood = summarize_references(behavior, paths)
    answers = read_probe_results(directory, behavior, decided_again=[DRIFT] if again else [])
    findings = [answer.finding for answer in answers if answer.finding]
    source = SourceFacts.of_run(settings, behavior.name)
    available = available_needs(
        behavior, teacher=settings.get("teacher") is not None, earlier=settings.get("earlier") is not None
    )
    available |= {Need.VERIFIER}  # what graded these samples is there, whatever there is to train on
    measured = Measurements(
        behavior=behavior,
        problems=problems,
        counts=sampling,
        validity=validity,
        paths=likelihood,
        findings=findings,
        cost=directory.cost(behavior.name, table, findings),
        source=source,
    )
    diagnosis = diagnose_behavior(measured, thresholds=thresholds, available=available, seed=settings["seed"], retained=retained)
    if unfinished is not None:
        words = f"A first report: {unfinished.to_come} are still to come, and it is written again with them."
        if unfinished.to_follow:
            words += f" Not shown yet: {', '.join(unfinished.to_follow)}."
        diagnosis = replace(diagnosis, caveats=(Note("first_report", words), *diagnosis.caveats))
    if not all(table.with_checksum):
        diagnosis = replace(diagnosis, caveats=(*diagnosis.caveats, Note("no_checksums", NO_CHECKSUMS)))
    if behavior.name in settings.get("regraded", {}).get("behaviors", ()):
        diagnosis = replace(diagnosis, caveats=(*diagnosis.caveats, Note("regraded", REGRADED)))
    return DiagnosedBehavior(
        behavior=behavior,
        problems=tuple(problems),
        diagnosis=_as_no_verdict(diagnosis) if split is Split.TRAIN else diagnosis,
        sampling=sampling,
        plan=unfinished.plan if unfinished else _read_entry(directory, "done", behavior.name, SamplingEntry),
        validity=validity,
        likelihood=likelihood,
        answers=answers,
        table=table,
        paths=paths,
        turn_limits=decide_turn_limits(measured, table, thresholds, seed=settings["seed"]),
    )


def read_validity(directory: RunDirectory, behavior: Behavior) -> ValidityMeasurement:
    """Read the validity checks of a behavior that is measured to the end."""
    entry = _read_entry(directory, "validity", behavior.name, ValidityEntry)
    checks = [
        one.model_dump() | {name: getattr(one, name) for name in _OF_CHECKS} for one in entry.checks
    ]  # a dump has None for NaN
    content = {**entry.model_dump(), "behavior": behavior.name, "checks": checks}
    return TypeAdapter(ValidityMeasurement).validate_python(content)


def _read_entry(directory: RunDirectory, kind: str, name: str, model: type[Entry]) -> Entry:
    """Read one part of a run as an entry of diagnosis.json."""
    content = directory.read_part(kind, name)
    with refuse_damage(directory.part(kind, name)):
        return model.model_validate(content)


def _as_no_verdict(diagnosis: Diagnosis) -> Diagnosis:
    """Mark a diagnosis of train problems, which must not pass for one of the behavior."""
    head = f"{diagnosis.name}: "
    return replace(
        diagnosis,
        sentence=f"{diagnosis.name} (train split, no verdict): {diagnosis.sentence.removeprefix(head)}",
        caveats=(Note("train_split", TRAIN_SPLIT), *diagnosis.caveats),
    )
