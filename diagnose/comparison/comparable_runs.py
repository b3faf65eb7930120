"""Checks that two runs, and a null, can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from posttrain.diagnose.comparison.imported_alike import are_imported, check_imported_alike
from posttrain.diagnose.comparison.nulls import are_coupled
from posttrain.diagnose.comparison.paired_samples import pair_counts
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Behavior, LimitSource, Split

_OF_SAMPLES = ("model_fingerprint", "seed", "engine", "samples_digest")
"""Settings that are the same where samples are."""
_MOST_DIFFERENCES = 4


def check_comparable(before: DiagnosedRun, after: DiagnosedRun) -> None:
    """Refuse two runs that share no behavior, measured it differently, or have the same samples.

    Raises:
        RunError: Codes `no_shared_behavior`, `other_behavior`, `other_token_limit`, `other_split`, `train_split`, `same_samples`; of imported
            runs those of `check_imported_alike`.
    """
    mine, other = before.settings["behaviors"], after.settings["behaviors"]
    shared = sorted(set(mine) & set(other))
    if not shared:
        imported = KEY in before.settings and KEY in after.settings
        remedy = "import both under one name, with --behavior NAME" if imported else "give two runs with a behavior in common"
        raise RunError(
            f"compare: {before.path} measured {', '.join(mine)}, {after.path} measured {', '.join(other)}; {remedy}",
            code="no_shared_behavior",
        )
    for name in shared:
        if are_imported(before, after, name):
            check_imported_alike(before, after, name)
        elif mine[name] != other[name]:
            raise RunError(
                f"compare: {name} is not the same behavior in {before.path} and {after.path} "
                f"({_say_differences(before[name].behavior, after[name].behavior)}); measure both with one behavior file and the same options",
                code="other_behavior",
            )
        _check_limits(before, after, name)
    if before.settings["split"] != after.settings["split"]:
        raise RunError(
            f"compare: {before.path} measured the {before.settings['split']} split, {after.path} the {after.settings['split']} split; measure the same one",
            code="other_split",
        )
    if before.settings["split"] == Split.TRAIN:
        raise RunError(
            f"compare: {before.path} and {after.path} measured the train split, whose samples are for training and prove nothing; compare runs "
            "of the eval split",
            code="train_split",
        )
    same = {key: before.settings.get(key) == after.settings.get(key) for key in _OF_SAMPLES}
    if all(same.values()) or (
        same["model_fingerprint"] and any(are_coupled(before[name].table, after[name].table) for name in shared)
    ):
        raise RunError(
            f"compare: the rollouts in {before.path} and {after.path} are identical, or more alike than two runs of one model would be, "
            "so they show nothing; use another --seed for a second run",
            code="same_samples",
        )


def _say_differences(first: Behavior, second: Behavior) -> str:
    """Return what two behaviors of one name have otherwise, the first one's value before the second's."""
    mine, other = _settings(first), _settings(second)
    names = [name for name in mine | other if mine.get(name) != other.get(name)]
    told = [f"{name}: {shorten(mine.get(name))} and {shorten(other.get(name))}" for name in names[:_MOST_DIFFERENCES]]
    if first.problems != second.problems and not told:
        told = ["their problems are others"]
    return "; ".join(told) + (f"; and {len(names) - _MOST_DIFFERENCES} more" if len(names) > _MOST_DIFFERENCES else "")


def _settings(behavior: Behavior) -> dict[str, Any]:
    parts = {name: asdict(getattr(behavior, name)) for name in ("sampling", "verifier", "prompt", "measure")}
    problems = {f"{split} problems": len(behavior.split(split)) for split in Split}
    return problems | {f"{part}.{key}": value for part, held in parts.items() for key, value in held.items()}


def _check_limits(before: DiagnosedRun, after: DiagnosedRun, name: str) -> None:
    """Refuse samples of two lengths: a longer limit alone makes answers right."""
    sides = [(run.path, run[name].behavior) for run in (before, after)]
    if any(behavior.limit_source is LimitSource.AUTO for _, behavior in sides):  # nothing was sampled there
        return
    (mine, first), (other, second) = ((path, behavior.sampling.max_tokens) for path, behavior in sides)
    if first != second:
        remedy = f"measure {other} again with --before {mine}, which takes its limit over, or both with --max-tokens {max(first, second)}"
        if are_imported(before, after, name):
            remedy = "import samples that were taken with one limit"
        raise RunError(
            f"compare: samples of {name} had at most {first} tokens in {mine} and {second} in {other}; {remedy}",
            code="other_token_limit",
        )


def check_null(before: DiagnosedRun, null: DiagnosedRun, shared: Sequence[str]) -> None:
    """Refuse a null that is not a second run of the model before on the shared behaviors.

    Raises:
        RunError: Codes `null_lacks_behavior`, `null_of_other_model`, `null_without_samples`, and those of `check_comparable`.
    """
    lacking = sorted(set(shared) - set(null.settings["behaviors"]))
    if lacking:
        raise RunError(
            f"compare: --null {null.path} did not measure {', '.join(lacking)}; measure the same behaviors",
            code="null_lacks_behavior",
        )
    if null.settings["model_fingerprint"] != before.settings["model_fingerprint"]:
        raise RunError(
            f"compare: --null {null.path} measured another model than {before.path}; measure the model before again, with another --seed",
            code="null_of_other_model",
        )
    check_comparable(before, null)
    unsampled = sorted(name for name in shared if not pair_counts(before[name], null[name]).known.any())
    if unsampled:
        raise RunError(
            f"compare: --null {null.path} has no samples of {', '.join(unsampled)}; see the validity checks in its report",
            code="null_without_samples",
        )
