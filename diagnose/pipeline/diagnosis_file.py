"""From a finished run to the content of diagnosis.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from posttrain.analysis.plots.curves import step_rows
from posttrain.diagnose.report.words import BOTTLENECKS
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import (
    AlternativeEntry,
    BehaviorEntry,
    CheckEntry,
    CostEntry,
    DiagnosisFile,
    ExampleEntry,
    ExamplesEntry,
    ExcerptEntry,
    PassAtKEntry,
    ProbeCostEntry,
    ProbeEntry,
    ProblemEntry,
    ReferencesEntry,
    SettlesEntry,
    StageEntry,
    StepEntry,
    ValidityEntry,
    key_of,
    labelled,
)
from posttrain.diagnose.types import Contribution, PathLikelihoodMeasurement, ProbeResult, Problem, Rollout, StageAdvice

NUM_EXAMPLES = 6
"""Samples to read of either kind, each of another problem."""


def diagnosis_file(run: DiagnosedRun) -> DiagnosisFile:
    """Return what diagnosis.json holds of a run."""
    behaviors = [behavior_entry(measured) for measured in run.behaviors]
    return DiagnosisFile(run=run.run, model=run.model, settings=run.settings, behaviors=behaviors)


def behavior_entry(measured: DiagnosedBehavior) -> BehaviorEntry:
    """Return the entry of one behavior."""
    diagnosis = measured.diagnosis
    return BehaviorEntry(
        name=diagnosis.name,
        purpose=diagnosis.purpose,
        source=measured.behavior.source,
        sentence=diagnosis.sentence,
        bottleneck=diagnosis.bottleneck,
        label=BOTTLENECKS[diagnosis.bottleneck][0],
        confidence=diagnosis.confidence,
        role=diagnosis.role,
        shares=dict(diagnosis.shares),
        stage=_stage(diagnosis.stage),
        settles_with=None if diagnosis.settles_with is None else SettlesEntry.model_validate(diagnosis.settles_with),
        caveats=[note.text for note in diagnosis.caveats],
        caveat_codes=[note.code for note in diagnosis.caveats],
        measure=asdict(measured.behavior.measure),
        checks=[CheckEntry.model_validate(check) for check in diagnosis.checks],
        pass_at_k=[
            PassAtKEntry(k=point.k, **asdict(point.value), extrapolated=point.extrapolated) for point in diagnosis.pass_at_k
        ],
        problems=_problems(measured),
        probes=[_probe(answer, diagnosis.contributions) for answer in measured.answers],
        validity=ValidityEntry.model_validate(measured.validity),
        sampling=measured.plan,
        examples=_examples(measured),
        references=_references(measured.likelihood),
        cost=CostEntry.model_validate(diagnosis.cost),
    )


def _stage(stage: StageAdvice | None) -> StageEntry | None:
    if stage is None:
        return None
    alternatives = [AlternativeEntry(name=name, why=why) for name, why in stage.alternatives]
    fields = {key: getattr(stage, key) for key in ("name", "provenance", "interface", "why")}
    return StageEntry(**fields, needs=list(stage.needs), alternatives=alternatives)


def _problems(measured: DiagnosedBehavior) -> list[ProblemEntry]:
    """Return every problem, with what the probes found about it."""
    groups = {problem.id: problem.group for problem in measured.problems}
    greedy = dict(zip(measured.sampling.problem_ids, measured.sampling.greedy_correct, strict=True))
    findings = [answer.finding for answer in measured.answers if answer.finding is not None]
    entries = []
    for problem in measured.diagnosis.problems:
        found = {key_of(key): value for finding in findings for key, value in finding.problems.get(problem.id, {}).items()}
        right = greedy.get(problem.id, np.nan)
        entries.append(
            ProblemEntry.model_validate(
                {
                    **found,
                    **asdict(problem),
                    "group": groups.get(problem.id),
                    "greedy_correct": None if np.isnan(right) else bool(right),
                }
            )
        )
    return entries


def _probe(answer: ProbeResult, contributions: Sequence[Contribution]) -> ProbeEntry:
    """Return what became of one probe."""
    found = answer.finding
    if found is None:
        return ProbeEntry(
            name=answer.probe, question=answer.question, skipped=answer.skipped_words, skipped_code=answer.skipped or ""
        )
    return ProbeEntry(
        name=answer.probe,
        question=answer.question,
        outcome=found.outcome,
        summary=found.summary,
        contribution=next((one.words for one in contributions if one.probe == answer.probe), ""),
        numbers={key_of(label): labelled(label, value) for label, value in found.numbers.items()},
        rows=[dict(row) for row in found.rows],
        notes=[note.text for note in found.notes],
        note_codes=[note.code for note in found.notes],
        cost=ProbeCostEntry.model_validate(found),
    )


def _examples(measured: DiagnosedBehavior) -> ExamplesEntry:
    """Return the first right and the first wrong sample of different problems."""
    known = {problem.id: problem for problem in measured.problems}
    table, success = measured.table, measured.behavior.measure.success
    succeeded = table.succeeded(success)
    found = []
    for wanted in (succeeded, ~succeeded & ~table.missing):
        candidates = np.flatnonzero(wanted & ~table.greedy)
        firsts = candidates[np.sort(np.unique(table.problem[candidates], return_index=True)[1])[:NUM_EXAMPLES]]
        found.append([_example(known[rollout.problem_id], rollout, success) for rollout in table.rows(firsts)])
    return ExamplesEntry(right=found[0], wrong=found[1])


def _example(problem: Problem, rollout: Rollout, success: float) -> ExampleEntry:
    return ExampleEntry(
        problem_id=problem.id,
        prompt=problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content,
        text=rollout.text,
        status=rollout.grade.status,
        success=bool(rollout.succeeded(success)),
        truncated=rollout.truncated,
        detail=rollout.grade.detail,
        extracted=rollout.grade.extracted,
        stop=rollout.stop,
        answer=problem.answer,
    )


def _references(likelihood: PathLikelihoodMeasurement | None) -> ReferencesEntry:
    """Return what the figures show of the reference paths: every step over all paths, and two paths token by token."""
    if likelihood is None or not likelihood.paths:
        return ReferencesEntry()
    steps = step_rows([(path.token_steps, path.policy_logprobs) for path in likelihood.paths])
    order = np.argsort(np.nan_to_num(likelihood.nll_per_token, nan=-np.inf), kind="stable")
    chosen: dict[str, int] = {"typical": int(order[(len(order) - 1) // 2]), "least_likely": int(order[-1])}
    if chosen["typical"] == chosen["least_likely"]:
        del chosen["least_likely"]
    excerpts: list[dict[str, Any]] = [
        {
            "which": which,
            "problem_id": likelihood.paths[index].problem_id,
            "tokens": likelihood.paths[index].token_texts,
            "steps": likelihood.paths[index].token_steps.tolist(),
            "logprobs": likelihood.paths[index].policy_logprobs.tolist(),
            "weakest_step": int(likelihood.weakest_step[index]),
        }
        for which, index in chosen.items()
    ]
    return ReferencesEntry(
        num_paths=len(likelihood.paths),
        steps=[StepEntry.model_validate(row) for row in steps],
        excerpts=[ExcerptEntry.model_validate(excerpt) for excerpt in excerpts],
    )
