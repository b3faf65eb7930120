"""From a finished run to the content of diagnosis.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from posttrain.analysis.plots.curves import step_rows
from posttrain.diagnose.dataclass_fields import fields_of
from posttrain.diagnose.importing.sample_columns import ENGINE as IMPORTED
from posttrain.diagnose.pipeline.forecast_run import behavior_forecast
from posttrain.diagnose.report.source_words import source_entry
from posttrain.diagnose.report.words import BOTTLENECKS
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile, PassAtKEntry, key_of, labelled
from posttrain.diagnose.types import (
    Contribution,
    LimitSource,
    PassAtK,
    PathLikelihoodMeasurement,
    ProbeResult,
    Problem,
    Rollout,
    Split,
    StageAdvice,
    TurnLimit,
)

NUM_EXAMPLES = 6
"""Samples to read of either kind, each of another problem."""


def diagnosis_file(run: DiagnosedRun) -> DiagnosisFile:
    """Return what diagnosis.json holds of a run."""
    behaviors = [
        behavior_entry(measured).model_copy(update={"group_signal": behavior_forecast(measured, run.settings)})
        for measured in run.behaviors
    ]
    return DiagnosisFile(
        run=run.run, model=run.model, settings=run.settings, source=source_entry(run.settings), behaviors=behaviors
    )


def behavior_entry(measured: DiagnosedBehavior) -> BehaviorEntry:
    """Return the entry of one behavior, without the forecast of groups."""
    diagnosis, behavior = measured.diagnosis, measured.behavior
    return BehaviorEntry.model_validate(
        {
            **fields_of(diagnosis),
            "source": behavior.source,
            "num_train_problems": len(behavior.split(Split.TRAIN)),
            "options": behavior.options,
            "label": BOTTLENECKS[diagnosis.bottleneck][0],
            "stage": _stage(diagnosis.stage),
            "caveats": [note.text for note in diagnosis.caveats],
            "caveat_codes": [note.code for note in diagnosis.caveats],
            "measure": asdict(behavior.measure),
            "verifier": {
                "kind": behavior.verifier.kind,
                "options": {name: value for name, value in behavior.verifier.options.items() if name != "folder"},
                "origin": behavior.verifier_origin,
            },
            "token_limit": None
            if behavior.limit_source is LimitSource.AUTO
            else {"max_tokens": behavior.sampling.max_tokens, "source": behavior.limit_source},
            "notes": behavior.notes,
            "pass_at_k": curve_entries(diagnosis.pass_at_k),
            "turn_limits": [_turn_limit(limit) for limit in measured.turn_limits],
            "problems": _problems(measured),
            "probes": [_probe(answer, diagnosis.contributions) for answer in measured.answers],
            "validity": measured.validity,
            "sampling": measured.plan,
            "examples": _examples(measured),
            "references": _references(measured.likelihood),
        }
    )


def curve_entries(curve: Sequence[PassAtK]) -> list[PassAtKEntry]:
    """Return the entries of a pass@k curve."""
    return [PassAtKEntry(k=point.k, **asdict(point.value), extrapolated=point.extrapolated) for point in curve]


def _turn_limit(limit: TurnLimit) -> dict[str, Any]:
    return {**asdict(limit), "pass_at_k": curve_entries(limit.pass_at_k), "label": BOTTLENECKS[limit.bottleneck][0]}


def _stage(stage: StageAdvice | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    return {**asdict(stage), "alternatives": [{"name": name, "why": why} for name, why in stage.alternatives]}


def _problems(measured: DiagnosedBehavior) -> list[dict[str, Any]]:
    """Return every problem, with what the probes found about it."""
    groups = {problem.id: problem.group for problem in measured.problems}
    greedy = dict(zip(measured.sampling.problem_ids, measured.sampling.greedy_correct.tolist(), strict=True))
    findings = [answer.finding for answer in measured.answers if answer.finding is not None]
    entries = []
    for problem in measured.diagnosis.problems:
        right = greedy.get(problem.id, math.nan)
        known = {"group": groups.get(problem.id), "greedy_correct": None if math.isnan(right) else bool(right)}
        found = [(key_of(key), value) for one in findings for key, value in one.problems.get(problem.id, {}).items()]
        entries.append({**dict(found), **problem._asdict(), **known})
    return entries


def _probe(answer: ProbeResult, contributions: Sequence[Contribution]) -> dict[str, Any]:
    """Return what became of one probe."""
    known, found = {"name": answer.probe, "question": answer.question}, answer.finding
    if found is None:
        return {**known, "skipped": answer.skipped_words, "skipped_code": answer.skipped or ""}
    return {
        **fields_of(found),
        **known,
        "contribution": next((one.words for one in contributions if one.probe == answer.probe), ""),
        "numbers": {key_of(label): labelled(label, value) for label, value in found.numbers.items()},
        "notes": [note.text for note in found.notes],
        "note_codes": [note.code for note in found.notes],
        "cost": found,
    }


def _examples(measured: DiagnosedBehavior) -> dict[str, Any]:
    """Return the first right and the first wrong sample of different problems."""
    known = {problem.id: problem for problem in measured.problems}
    table, success = measured.table, measured.behavior.measure.success
    succeeded = table.succeeded(success)
    found = []
    for wanted in (succeeded, ~succeeded & ~table.missing):
        candidates = np.flatnonzero(wanted & ~table.greedy)
        firsts = candidates[np.sort(np.unique(table.problem[candidates], return_index=True)[1])[:NUM_EXAMPLES]]
        shown = [
            rollout for rollout in table.rows(firsts) if rollout.text or rollout.engine != IMPORTED
        ]  # else there is nothing to read
        found.append([_example(known[rollout.problem_id], rollout, success) for rollout in shown])
    return {"right": found[0], "wrong": found[1]}


def _example(problem: Problem, rollout: Rollout, success: float) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "prompt": problem.question,
        "text": rollout.text,
        **fields_of(rollout.grade),
        "success": bool(rollout.succeeded(success)),
        "truncated": rollout.truncated,
        "stop": rollout.stop,
        "answer": problem.answer,
    }


def _references(likelihood: PathLikelihoodMeasurement | None) -> dict[str, Any]:
    """Return what the figures show of the reference paths: every step over all paths, and two paths token by token."""
    if likelihood is None or not likelihood.paths:
        return {}
    steps = step_rows([(path.token_steps, path.policy_logprobs) for path in likelihood.paths])
    order = np.argsort(np.nan_to_num(likelihood.nll_per_token, nan=-np.inf), kind="stable")
    chosen: dict[str, int] = {"typical": int(order[(len(order) - 1) // 2]), "least_likely": int(order[-1])}
    if chosen["typical"] == chosen["least_likely"]:
        del chosen["least_likely"]
    excerpts = [
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
    return {"num_paths": len(likelihood.paths), "steps": steps, "excerpts": excerpts}
