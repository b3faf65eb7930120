"""The pilot: eight greedy samples that show within seconds whether the settings of a behavior fit the model.

They are the first of the behavior's greedy samples, so that nothing is sampled twice. Where most of them run into `max_tokens` or cannot be read, the
behavior is not sampled further, and where a setup check failed it is not sampled at all: its diagnosis is `invalid`, with the lines of YAML that repair
it, and the command ends with exit code 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.measure.check_values import Checked, Failure, counted
from posttrain.diagnose.measure.format_check import as_given
from posttrain.diagnose.measure.truncation import ending_probability, explain_truncated, explain_unfinished, repeats_itself
from posttrain.diagnose.measure.unread_samples import UnreadSamples, explain_unread, show_unread
from posttrain.diagnose.measure.validity_checks import with_format_check
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import PilotEntry
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, GradeStatus, PathScore, Rollout, ValidityCode, check_estimate, reaches

SETUP_FAILED = "setup_failed"
"""`ended_code` of a behavior that was not sampled, because a setup check failed."""
PILOT_STOPPED = "pilot_stopped"
"""`ended_code` of a behavior that was not sampled beyond its pilot."""
GO_ON = "--pilot off samples all the same"
_FEWEST = 4
"""Samples below which nothing is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """What the samples of a pilot show."""

    entry: PilotEntry = field(default_factory=PilotEntry)
    checked: tuple[Checked, ...] = ()
    """The checks that are not met; empty where the behavior is to be sampled."""
    unread: UnreadSamples = field(default_factory=UnreadSamples)


def judge_pilot(
    behavior: Behavior,
    engine: Engine,
    rollouts: Sequence[Rollout],
    thresholds: Thresholds,
    score_formats: Callable[[], Sequence[PathScore]],
) -> Pilot:
    """Say what the samples of a pilot show.

    Args:
        behavior: Whose settings are tried.
        engine: With what.
        rollouts: One greedy sample of each of some problems.
        thresholds: Their share that is too much.
        score_formats: Scores references with the prompt in several formats, where they can be; asked only where something is wrong.
    """
    truncated = unended = [one for one in rollouts if one.truncated]
    unread = [one for one in rollouts if _is_unread(one, behavior.measure.success)]
    unfinished = [one for one in rollouts if one.grade.status is GradeStatus.UNFINISHED_THOUGHT]
    num, most, limit = len(rollouts), thresholds.max_pilot * len(rollouts), behavior.sampling.max_tokens
    failures: list[Failure] = []
    checked: list[Checked] = []
    shown = UnreadSamples()
    formats = score_formats() if num >= _FEWEST and max(len(truncated), len(unread), len(unfinished)) > most else ()
    if ending_probability(as_given(formats)) >= thresholds.never_ends:
        # The model ends such answers: what repeats itself in greedy decoding may well come to an end when it is sampled.
        unended = [one for one in truncated if not repeats_itself(behavior, one)]
    if num >= _FEWEST and max(len(unended), len(unread), len(unfinished)) > most:
        if len(unfinished) > most:
            failures.append(
                explain_unfinished(behavior, engine, f"{len(unfinished)} of {num} pilot samples (max_tokens={limit})")
            )
        elif len(unended) > most:
            ran = f"{len(unended)} of {num} pilot samples ran into max_tokens={limit}"
            failures.append(explain_truncated(behavior, engine, thresholds, unended, as_given(formats), ran))
        if len(unread) > most:
            shown = show_unread(behavior.problems, unread)
            failures.append(explain_unread(behavior, f"{len(unread)} of {num} pilot samples", shown))
        value, what = counted(0.0), "the first greedy samples show no fault of the settings"
        check = check_estimate("validity: pilot", ">=", value, 1.0, n=num, what=what, unit="samples")
        checked = with_format_check(engine, behavior, thresholds, formats, [(check, failures)])
    failures = [failure for _, failures in checked for failure in failures]
    entry = PilotEntry(
        num_samples=num,
        num_truncated=len(truncated),
        num_unread=len(unread),
        codes=tuple(failure.code for failure in failures),
        failures=tuple(failure.words for failure in failures),
    )
    return Pilot(entry=entry, checked=tuple(checked), unread=shown)


def needs_longer(behavior: Behavior, engine: Engine, rollouts: Sequence[Rollout], most: float) -> bool:
    """Return whether a share of samples above `most` ran into the limit, and would come to an end with a higher one.

    Those that repeat themselves, or go on with a question of their own, would not; a thought that was cut off would.
    """
    truncated = [one for one in rollouts if one.truncated and not repeats_itself(behavior, one)]
    if len(truncated) <= most * len(rollouts):
        return False
    unscored: tuple[PathScore, ...] = ()  # without these no threshold counts
    return explain_truncated(behavior, engine, Thresholds(), truncated, unscored, "").code is ValidityCode.TRUNCATED


def reopen_stopped(directory: RunDirectory, behavior: str) -> None:
    """Take the mark of a finished measurement from a behavior that was left after its pilot; its samples stay."""
    with suppress(RunError):  # a damaged mark is set aside, and the behavior measured again, before anything is sampled
        if directory.is_done(behavior) and directory.read_part("done", behavior).get("ended_code") == PILOT_STOPPED:
            directory.part("done", behavior).unlink()


def refuse_stopped(run: DiagnosedRun) -> None:
    """Say that behaviors were not sampled, or not beyond their pilot; the files of the run are written.

    Raises:
        SettingsError: Code `setup_failed`, or `pilot_stopped` where only pilots stopped.
    """
    stopped = {
        code: [f"{one.behavior.name}: {'; '.join(one.validity.failures)}" for one in run.behaviors if one.plan.ended_code == code]
        for code in (SETUP_FAILED, PILOT_STOPPED)
    }
    words = []
    if stopped[SETUP_FAILED]:
        words.append(f"not sampled: {'; '.join(stopped[SETUP_FAILED])}")
    if stopped[PILOT_STOPPED]:
        words.append(f"stopped after the pilot: {'; '.join(stopped[PILOT_STOPPED])}; or {GO_ON}")
    if words:
        raise SettingsError("; ".join(words), code=SETUP_FAILED if stopped[SETUP_FAILED] else PILOT_STOPPED)


def _is_unread(rollout: Rollout, success: float) -> bool:
    """Return whether a sample that came to its end could not be read, not even leniently as a success."""
    grade = rollout.grade
    return grade.status is GradeStatus.UNPARSED and not rollout.truncated and not reaches(grade.lenient_score or 0.0, success)
