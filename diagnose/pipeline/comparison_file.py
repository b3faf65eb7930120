"""From a comparison to the content of compare.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from posttrain.diagnose.comparison.change_role import RoleVerdict
from posttrain.diagnose.comparison.compare_json import (
    BeforeAfterEntry,
    BehaviorChangeEntry,
    CompareFile,
    CrossingEntry,
    CurvesEntry,
    EquivalenceEntry,
    NeverSolvedEntry,
    PassAtOneEntry,
    PowerEntry,
    ProblemChangeEntry,
    RoleEntry,
    RoleTestEntry,
    SideEntry,
    SupportChangeEntry,
    SupportEntry,
    VerdictsEntry,
)
from posttrain.diagnose.comparison.comparison_words import note_words, role_note_words, role_words
from posttrain.diagnose.comparison.transition import BehaviorTransition, Transition
from posttrain.diagnose.pipeline.diagnosis_file import behavior_entry
from posttrain.diagnose.storage.diagnosis_json import (
    EstimateEntry,
    LabelledEstimate,
    PassAtKEntry,
    RunEntry,
    VerdictEntry,
    key_of,
    labelled,
)
from posttrain.diagnose.types import PassAtK, Split

_DRIFT = ("reference_path_nats_per_token", "nats_per_generated_token")
"""Keys of the side-by-side numbers that measure how far the policy moved."""


def comparison_file(transition: Transition, run: RunEntry, settings: Mapping[str, Any]) -> CompareFile:
    """Return what compare.json holds of a comparison.

    Args:
        transition: The comparison.
        run: Which command writes the file.
        settings: Settings that its page shows.
    """
    before, after = transition.before, transition.after
    return CompareFile(
        run=run,
        split=Split(after.settings["split"]),
        settings=dict(settings),
        before=SideEntry(run=str(before.path), model=before.model),
        after=SideEntry(run=str(after.path), model=after.model),
        null=transition.null,
        behaviors=[_behavior(transition, behavior) for behavior in transition.behaviors],
    )


def _behavior(transition: Transition, behavior: BehaviorTransition) -> BehaviorChangeEntry:
    report, sides = behavior.report, (transition.before[behavior.name], transition.after[behavior.name])
    measured = sides[0].behavior
    groups = {problem.id: problem.group for problem in measured.problems}
    beside = {
        key_of(row.name): BeforeAfterEntry(
            label=row.name, before=EstimateEntry.model_validate(row.before), after=EstimateEntry.model_validate(row.after)
        )
        for row in report.side_by_side
    }
    drift = {key: beside.pop(key) for key in _DRIFT if key in beside}
    verdicts = [VerdictEntry.model_validate(behavior_entry(side)) for side in sides]
    return BehaviorChangeEntry(
        name=report.name,
        purpose=measured.purpose,
        measure=asdict(measured.measure),
        trained=report.trained,
        stage=report.stage,
        role_observed=behavior.role_observed,
        role=_role(behavior.role, measured.measure.epsilon),
        num_problems=report.num_problems,
        pass_at_1=PassAtOneEntry(
            before=EstimateEntry.model_validate(report.pass_at_1_before),
            after=EstimateEntry.model_validate(report.pass_at_1_after),
            delta=EstimateEntry.model_validate(report.delta),
        ),
        pass_at_k=CurvesEntry(
            before=[_point(point) for point in report.pass_at_k_before], after=[_point(point) for point in report.pass_at_k_after]
        ),
        pass_at_k_delta=[_point(point) for point in report.pass_at_k_delta],
        crossing=CrossingEntry(k=EstimateEntry.model_validate(behavior.crossing.k), probability=behavior.crossing.probability),
        equivalence=EquivalenceEntry.model_validate(
            {
                **EstimateEntry.model_validate(behavior.equivalence.interval).model_dump(),
                "margin": behavior.equivalence.margin,
                "verdict": behavior.equivalence.verdict,
            }
        ),
        never_solved=NeverSolvedEntry(
            num_problems=behavior.never_solved.num_problems,
            naive_gain=behavior.never_solved.naive,
            gain=EstimateEntry.model_validate(behavior.never_solved.gain),
        ),
        detectable_rise=PowerEntry(num_samples=report.num_samples, rate=report.detectable_rise),
        support={
            row.name: SupportEntry(**asdict(row.value), null=EstimateEntry.model_validate(row.null)) for row in report.support
        },
        drift={**drift, **_divergences(transition, behavior.name)},
        beside=beside,
        problems=[
            ProblemChangeEntry(
                id=change.id,
                group=groups.get(change.id),
                num_samples=change.num_samples,
                before=change.before,
                after=change.after,
                state=change.state,
                q_value=change.q_value,
            )
            for change in report.changes
        ],
        notes=[
            *_role_notes(behavior.role, measured.measure.epsilon),
            *(note_words(note, report.num_samples) for note in report.notes),
        ],
        note_codes=[*behavior.role.notes, *report.notes],
        verdicts=VerdictsEntry(before=verdicts[0], after=verdicts[1]),
    )


def _divergences(transition: Transition, name: str) -> dict[str, LabelledEstimate]:
    """Return what the drift probe of the run after measured against the model before, where that is what it was given as the earlier one."""
    if transition.after.settings.get("earlier") != transition.before.model["source"]:
        return {}
    findings = [one.finding for one in transition.after[name].answers if one.probe == "drift" and one.finding is not None]
    numbers = {label: value for finding in findings for label, value in finding.numbers.items()}
    return {key_of(label): labelled(label, value) for label, value in numbers.items() if "_kl_" in key_of(label)}


def _point(point: PassAtK) -> PassAtKEntry:
    return PassAtKEntry(k=point.k, **asdict(point.value), extrapolated=point.extrapolated)


def _role_notes(role: RoleVerdict, epsilon: float) -> list[str]:
    return [role_note_words(note, role, epsilon) for note in role.notes]


def _role(role: RoleVerdict, epsilon: float) -> RoleEntry:
    tests = role.tests
    return RoleEntry(
        words=role_words(role),
        probability=role.probability,
        k=role.k,
        change=SupportChangeEntry(entered=role.entered, moved=role.moved, left=role.left),
        tests=[
            RoleTestEntry(name=name, observed=observed, expected=expected, adjusted_p=p)
            for name, observed, expected, p in zip(tests.names, tests.observed, tests.expected, tests.adjusted_p, strict=True)
        ],
        notes=_role_notes(role, epsilon),
    )
