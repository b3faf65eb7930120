"""A run that is drawn to the end: read it back from disk, decide, write diagnosis.json and the report. No model is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.decide.verdict import diagnose_behavior
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.measure import reference_likelihood
from posttrain.diagnose.probes.runner import read_answers
from posttrain.diagnose.report.content import BehaviorReport, Example
from posttrain.diagnose.sampling import shards
from posttrain.diagnose.stage_catalogue import available_needs
from posttrain.diagnose.storage.diagnosis_json import diagnosis_to_json, validity_from_json
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory, write_json
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Diagnosis, GradeStatus, PathScore, Problem, Rollout, Split

TRAIN_SPLIT = (
    "These are train problems: their samples are there to learn from. What they show may have been trained on, so it is no verdict on the "
    "behavior; measure the eval split for one."
)
_EXAMPLES = 6


@dataclass(frozen=True, kw_only=True)
class MeasuredBehavior:
    """One behavior of a finished run: what was decided, and all that it rests on."""

    behavior: Behavior
    diagnosis: Diagnosis
    report: BehaviorReport
    table: RolloutTable
    """The rollouts as columns, for counting."""
    paths: tuple[PathScore, ...]

    @cached_property
    def rollouts(self) -> tuple[Rollout, ...]:
        """The rollouts themselves, in the order of the table; read from the run directory when first asked for."""
        return tuple(self.table.all_rows())


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedRun:
    """A finished run."""

    path: Path
    model: dict[str, Any]
    settings: dict[str, Any]
    behaviors: tuple[MeasuredBehavior, ...]

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """The diagnosis of each behavior."""
        return tuple(measured.diagnosis for measured in self.behaviors)

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html"

    def __getitem__(self, name: str) -> MeasuredBehavior:
        """The behavior of that name."""
        for measured in self.behaviors:
            if measured.behavior.name == name:
                return measured
        raise KeyError(name)


def assemble(path: str | Path, *, behaviors: Sequence[Behavior] | None = None, page: bool = True) -> DiagnosedRun:
    """Decide and report from what a run directory holds; no model is needed.

    Args:
        path: The run directory.
        behaviors: Its behaviors where they are loaded already; else they are read from where the run found them.
        page: Whether to write the report again where there is one; drawing its figures takes longer than all the rest.

    Raises:
        RunError: there is no finished draw, or a behavior has changed since.
    """
    directory = RunDirectory(Path(path))
    record = directory.read_json()
    if record["kind"] != "diagnose":
        raise RunError(f"run {path}: holds a {record['kind']} run; give the folder of a `posttrain diagnose`")
    settings = record["settings"]
    loaded = tuple(behaviors) if behaviors is not None else _reload(directory, settings, record["sources"])
    thresholds, split = Thresholds.from_json(settings["thresholds"]), Split(settings["split"])
    given = {name: settings.get(name) is not None for name in ("teacher", "earlier")}
    measured = tuple(_measure_behavior(directory, behavior, split, thresholds, settings["seed"], **given) for behavior in loaded)
    result = DiagnosedRun(path=directory.path, model=record["model"], settings=settings, behaviors=measured)
    write_json(
        directory.diagnosis_json,
        {
            "schema": 1,
            "model": record["model"],
            "settings": settings,
            "behaviors": [diagnosis_to_json(m.diagnosis, m.behavior, m.report.answers) for m in measured],
        },
    )
    if page or not result.report_html.exists():
        _write_report(directory, record, result)
    directory.finish()
    return result


def _reload(directory: RunDirectory, settings: dict[str, Any], sources: dict[str, str]) -> tuple[Behavior, ...]:
    loaded = []
    for name, fingerprint in settings["behaviors"].items():
        source = sources[name]
        behavior = load_behavior(source)
        if behavior.fingerprint != fingerprint:
            raise RunError(
                f"run {directory.path}: the behavior {name} ({source}) has changed since; bring back the file, or measure again into a new folder"
            )
        loaded.append(behavior)
    return tuple(loaded)


def _measure_behavior(
    directory: RunDirectory, behavior: Behavior, split: Split, thresholds: Thresholds, seed: int, *, teacher: bool, earlier: bool
) -> MeasuredBehavior:
    validity_file = directory.validity(behavior.name)
    if not validity_file.exists():
        raise RunError(
            f"run {directory.path}: {behavior.name} is not measured to the end; run the same `posttrain diagnose` again to resume it"
        )
    problems = behavior.split(split)
    rollouts, paths = directory.rollout_table(behavior.name), tuple(directory.read_paths(behavior.name))
    counts = shards.measure(behavior, problems, rollouts)
    likelihood = reference_likelihood.measure(behavior, paths)
    pipes = validity_from_json(behavior.name, json.loads(validity_file.read_text()))
    if (rounds_file := directory.rounds(behavior.name)).exists():
        *rounds, end = json.loads(rounds_file.read_text())
        drawn = "one round" if len(rounds) == 1 else f"{len(rounds)} rounds"
        pipes = replace(pipes, notes=(*pipes.notes, f"Samples were drawn in {drawn}; no more, because {end['why']}."))
    answers = read_answers(directory, behavior)
    diagnosis = diagnose_behavior(
        behavior,
        problems,
        counts,
        pipes,
        likelihood,
        thresholds=thresholds,
        available=available_needs(behavior, teacher=teacher, earlier=earlier),
        seed=seed,
        cost=directory.cost(behavior.name, rollouts, [answer.finding for answer in answers if answer.finding]),
        findings=[answer.finding for answer in answers if answer.finding],
    )
    if split is Split.TRAIN:
        diagnosis = _as_no_verdict(diagnosis)
    right, wrong = _examples(behavior, problems, rollouts)
    report = BehaviorReport(
        diagnosis=diagnosis,
        validity=pipes,
        path=likelihood,
        sampling=counts if len(rollouts) else None,
        answers=answers,
        examples_right=right,
        examples_wrong=wrong,
        epsilon=behavior.measure.epsilon,
        mastered_threshold=thresholds.mastered,
        primary_k=behavior.measure.primary_k,
        source=behavior.source,
    )
    return MeasuredBehavior(behavior=behavior, diagnosis=diagnosis, report=report, table=rollouts, paths=paths)


def _as_no_verdict(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis of train problems, which must not pass for one of the behavior."""
    head = f"{diagnosis.name}: "
    return replace(
        diagnosis,
        sentence=f"{diagnosis.name} (train split, no verdict): {diagnosis.sentence.removeprefix(head)}",
        caveats=(TRAIN_SPLIT, *diagnosis.caveats),
    )


def _examples(
    behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The first right and the first wrong sample of different problems."""
    known = {problem.id: problem for problem in problems}
    succeeded = rollouts.succeeded(behavior.measure.success)
    found = []
    for wanted in (succeeded, ~succeeded & ~rollouts.missing):
        candidates = np.flatnonzero(wanted & ~rollouts.greedy)
        firsts = candidates[np.sort(np.unique(rollouts.problem[candidates], return_index=True)[1])[:_EXAMPLES]]
        found.append(tuple(_example(known[r.problem_id], r, behavior.measure.success) for r in rollouts.rows(firsts)))
    return found[0], found[1]


def _example(problem: Problem, rollout: Rollout, success: float) -> Example:
    if rollout.grade.status is GradeStatus.UNPARSED:
        word = f"unparsed: {rollout.grade.detail}" if rollout.grade.detail else "unparsed"
    else:
        word = "right" if rollout.succeeded(success) else "truncated" if rollout.truncated else "wrong"
    return Example(
        problem_id=problem.id,
        prompt=problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content,
        text=rollout.text,
        grade=word,
        extracted=rollout.grade.extracted,
        stop=rollout.stop.value,
        answer=problem.answer,
    )


def _write_report(directory: RunDirectory, record: dict[str, Any], result: DiagnosedRun) -> None:
    from posttrain.diagnose.report import write_report
    from posttrain.diagnose.report.content import ReportContent

    settings = {key: value for key, value in record["settings"].items() if key not in ("behaviors",)}
    write_report(
        directory.path,
        ReportContent(
            title="What holds it back",
            model=record["model"]["source"],
            date=record["created"],
            command=record["command"] or "see run.json",
            settings=settings
            | {
                f"behavior {name}": f"fingerprint {fingerprint[:12]}"
                for name, fingerprint in record["settings"]["behaviors"].items()
            },
            versions=record["versions"],
            behaviors=tuple(m.report for m in result.behaviors),
        ),
    )
