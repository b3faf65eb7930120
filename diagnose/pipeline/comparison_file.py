"""From a comparison to the content of compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.diagnose.comparison import compare_json
from posttrain.diagnose.comparison.change_role import RoleVerdict
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, RoleEntry, RoleTestEntry
from posttrain.diagnose.comparison.comparison_words import note_words, role_note_words, role_words
from posttrain.diagnose.comparison.transition import BehaviorTransition, Transition
from posttrain.diagnose.dataclass_fields import fields_of
from posttrain.diagnose.pipeline.diagnosis_file import behavior_entry, curve_entries
from posttrain.diagnose.storage.diagnosis_json import LabelledEstimate, RunEntry, VerdictEntry, key_of, labelled
from posttrain.diagnose.types import Split

_DRIFT = ("reference_path_nats_per_token", "nats_per_generated_token")
"""Keys of the side-by-side numbers that measure how far the policy moved."""


def comparison_file(transition: Transition, run: RunEntry, settings: Mapping[str, Any]) -> compare_json.CompareFile:
    """Return what compare.json holds of a comparison.

    Args:
        transition: The comparison.
        run: Which command writes the file.
        settings: Settings that its page shows.
    """
    before, after = transition.before, transition.after
    return compare_json.CompareFile(
        run=run,
        split=Split(after.settings["split"]),
        settings=dict(settings),
        before=compare_json.SideEntry(run=str(before.path), model=before.model),
        after=compare_json.SideEntry(run=str(after.path), model=after.model),
        null=transition.null,
        behaviors=[_behavior(transition, behavior) for behavior in transition.behaviors],
    )


def _behavior(transition: Transition, behavior: BehaviorTransition) -> BehaviorChangeEntry:
    sides = transition.before[behavior.name], transition.after[behavior.name]
    measured, role = sides[0].behavior, behavior.role
    groups = {problem.id: problem.group for problem in measured.problems}
    beside = {key_of(row.name): {"label": row.name, "before": row.before, "after": row.after} for row in behavior.side_by_side}
    drift = {key: beside.pop(key) for key in _DRIFT if key in beside}
    verdicts = [VerdictEntry.model_validate(behavior_entry(side)) for side in sides]
    role_notes = [role_note_words(note, role, measured.measure.epsilon) for note in role.notes]
    return BehaviorChangeEntry.model_validate(
        {
            **fields_of(behavior),
            "purpose": measured.purpose,
            "measure": asdict(measured.measure),
            "role_observed": role.role,
            "role": _role(role, role_notes),
            "pass_at_1": {"before": behavior.pass_at_1_before, "after": behavior.pass_at_1_after, "delta": behavior.delta},
            "pass_at_k": {"before": curve_entries(behavior.pass_at_k_before), "after": curve_entries(behavior.pass_at_k_after)},
            "pass_at_k_delta": curve_entries(behavior.pass_at_k_delta),
            "equivalence": {**fields_of(behavior.equivalence), **asdict(behavior.equivalence.interval)},
            "detectable_rise": {"num_samples": behavior.detectable_rise_samples, "rate": behavior.detectable_rise},
            "support": {row.name: {**asdict(row.value), "null": row.null} for row in behavior.support},
            "drift": {**drift, **_divergences(transition, behavior.name)},
            "beside": beside,
            "problems": [
                {
                    **fields_of(change),
                    "group": groups.get(change.id),
                    "num_samples": change.n_before if change.n_before == change.n_after else None,
                }
                for change in behavior.changes
            ],
            "notes": [*role_notes, *(note_words(note, behavior) for note in behavior.notes)],
            "note_codes": [*role.notes, *behavior.notes],
            "verdicts": {"before": verdicts[0], "after": verdicts[1]},
        }
    )


def _divergences(transition: Transition, name: str) -> dict[str, LabelledEstimate]:
    """Return what the drift probe of the run after measured against the model before, where that is what it was given as the earlier one."""
    if transition.after.settings.get("earlier") != transition.before.model["source"]:
        return {}
    findings = [one.finding for one in transition.after[name].answers if one.probe == "drift" and one.finding is not None]
    numbers = {label: value for finding in findings for label, value in finding.numbers.items()}
    return {key_of(label): labelled(label, value) for label, value in numbers.items() if "_kl_" in key_of(label)}


def _role(role: RoleVerdict, notes: Sequence[str]) -> RoleEntry:
    tests = role.tests
    columns = zip(tests.names, tests.observed, tests.expected, tests.adjusted_p, strict=True)
    shown = [RoleTestEntry(name=name, observed=seen, expected=mean, adjusted_p=p) for name, seen, mean, p in columns]
    return RoleEntry.model_validate(
        {**fields_of(role), "words": role_words(role), "change": role, "tests": shown, "notes": notes}
    )
