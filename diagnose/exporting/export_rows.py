"""What is exported of a run: its problems with their pass rates, and its samples; only train problems where others train on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from posttrain.diagnose.engines.codec import chat_messages, completion_text
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.rollout_table import SAMPLED
from posttrain.diagnose.types import Behavior, Problem, Rollout, Split

Turns = list[dict[str, object]]
"""Messages of a chat, as a chat template reads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to export."""

    behaviors: Sequence[str] = ()
    """Names; all of the run without any."""
    split: Split = Split.TRAIN
    """Which problems go into files that a model is trained on."""
    least_rate: float | None = None
    """Leave out problems with a lower pass rate."""
    most_rate: float | None = None
    """Leave out problems with a higher one."""
    per_problem: int = 4
    """Samples, or pairs, of a problem at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedProblem:
    """One problem, and what the run measured of it."""

    behavior: Behavior
    problem: Problem
    num_samples: int | None
    """With a known outcome; None where the run did not sample it."""
    num_correct: int | None

    @property
    def pass_rate(self) -> float | None:
        """Return the share of right samples; None without samples."""
        return self.num_correct / self.num_samples if self.num_samples and self.num_correct is not None else None

    @property
    def messages(self) -> Turns:
        """Return the prompt as messages of a chat."""
        return [message.as_turn() for message in chat_messages(self.problem.prompt, self.behavior.prompt)]

    @property
    def prompt(self) -> Turns | str:
        """Return the prompt as the behavior has it: messages, or the text of a completion."""
        if self.behavior.prompt.format == "completion":
            return completion_text(self.problem.prompt, self.behavior.prompt)
        return self.messages


@dataclass(frozen=True, kw_only=True)
class ExportedSamples:
    """One problem with its samples."""

    of: ExportedProblem
    right: list[Rollout] = field(default_factory=list)
    """Successes with distinct texts, in the order of sampling."""
    wrong: list[Rollout] = field(default_factory=list)
    """Failures that ended by themselves, with distinct texts."""


def training_problems(run: DiagnosedRun, options: ExportOptions) -> list[ExportedProblem]:
    """Return the problems of the asked split, with pass rates where the run sampled that split.

    Raises:
        RunError: There is none (`no_train_problems`, `no_problems`), or a rate is asked for and the run sampled another split (`no_rates`), or none has
            such a rate (`no_problems_with_rate`).
        SettingsError: As `chosen_behaviors`, or rates that no problem can have (`rate_out_of_range`).
    """
    _check_rates(options)
    rows: list[ExportedProblem] = []
    for measured in chosen_behaviors(run, options):
        counts = _counts(measured) if run.settings["split"] == options.split else {}
        rows += [
            ExportedProblem(
                behavior=measured.behavior, problem=problem, num_samples=counts.get(problem.id, (None, None))[0],
                num_correct=counts.get(problem.id, (None, None))[1],
            )
            for problem in measured.behavior.problems
            if problem.split is options.split
        ]  # fmt: skip
    if not rows:
        raise _no_problems(run, options)
    return _within_rates(run, rows, options)


def graded_problems(run: DiagnosedRun, options: ExportOptions) -> list[ExportedProblem]:
    """Return the problems of the asked split for a trainer that grades its samples by the answers.

    Raises:
        RunError: The source of an imported run tells no answers (`no_answers`); and as `training_problems`.
        SettingsError: As `training_problems`.
    """
    rows = training_problems(run, options)
    imported = [row for row in rows if row.behavior.verifier.kind == "imported"]
    if imported and not any(row.problem.answer for row in imported):
        raise RunError(
            f"export {run.path}: it was imported, and its source tells no answers, by which these rows would be graded; import it with an answer column, or "
            "export trl-sft, trl-pairs or counts",
            code="no_answers",
        )
    return rows


def training_samples(run: DiagnosedRun, options: ExportOptions) -> Iterator[ExportedSamples]:
    """Yield the problems of the asked split with their samples.

    Raises:
        RunError: The run sampled another split (`run_measured_split`), or kept no texts (`no_texts`); and as `training_problems`.
        SettingsError: As `training_problems`.
    """
    sampled = run.settings["split"]
    if sampled != options.split:
        hint = (
            f"measured problems are never trained on; {_how_to_train(run)}, or say --split {sampled} to give up the measurement"
            if options.split is Split.TRAIN
            else f"say --split {sampled}"
        )
        raise RunError(f"export {run.path}: it has samples of the {sampled} split alone; {hint}", code="run_measured_split")
    refuse_without_texts(run)
    wanted = {(one.behavior.name, one.problem.id): one for one in training_problems(run, options)}
    for measured in chosen_behaviors(run, options):
        yield from _samples(measured, wanted)


def chosen_behaviors(run: DiagnosedRun, options: ExportOptions) -> list[DiagnosedBehavior]:
    """Return the behaviors to export.

    Raises:
        SettingsError: One that the run does not have (`unknown_behavior`).
    """
    names = [measured.behavior.name for measured in run.behaviors]
    for name in options.behaviors:
        if name not in names:
            raise SettingsError(
                f"--behavior: got {name!r}, {run.path} measured {', '.join(names)}; give one of these", code="unknown_behavior"
            )
    return [measured for measured in run.behaviors if not options.behaviors or measured.behavior.name in options.behaviors]


def refuse_without_texts(run: DiagnosedRun) -> None:
    """Refuse an imported run whose source kept no texts.

    Raises:
        RunError: Code `no_texts`.
    """
    source = run.settings.get(KEY) or {}
    if Untold.TEXTS in source.get("untold", ()):
        raise RunError(
            f"export {run.path}: its source ({source.get('format')}) kept no texts of samples; export counts or prompts, or import files with texts",
            code="no_texts",
        )


def _samples(measured: DiagnosedBehavior, wanted: dict[tuple[str, str], ExportedProblem]) -> Iterator[ExportedSamples]:
    """Yield the problems of one behavior with their right and wrong samples, in the order of the behavior."""
    found = {key: ExportedSamples(of=of) for key, of in wanted.items() if key[0] == measured.behavior.name}
    seen: set[tuple[str, str]] = set()
    for rollout in sorted(measured.table.all_rows(), key=lambda one: one.sample_index):
        samples = found.get((rollout.behavior, rollout.problem_id))
        text = (rollout.problem_id, rollout.text)
        right = rollout.succeeded(measured.behavior.measure.success)
        if samples is None or rollout.decoding != SAMPLED or right is None or text in seen or not rollout.text.strip():
            continue
        if right or not rollout.truncated:
            seen.add(text)
            (samples.right if right else samples.wrong).append(rollout)
    yield from found.values()


def _counts(measured: DiagnosedBehavior) -> dict[str, tuple[int, int]]:
    """Return samples with a known outcome and successes of each problem that has some."""
    ids = [problem.id for problem in measured.problems]
    place, right = measured.table.known_outcomes(ids, measured.behavior.measure.success)
    n, c = (np.bincount(rows, minlength=len(ids)).tolist() for rows in (place, place[right]))
    return {name: (samples, correct) for name, samples, correct in zip(ids, n, c, strict=True) if samples}


def _how_to_train(run: DiagnosedRun) -> str:
    """Return how to get samples of problems to train on."""
    if KEY in run.settings:
        return "import the samples with --split train if these problems are for training"
    return "sample train problems with `posttrain diagnose --split train`"


def _no_problems(run: DiagnosedRun, options: ExportOptions) -> RunError:
    """Return why there is nothing to export."""
    splits = sorted({problem.split for measured in chosen_behaviors(run, options) for problem in measured.behavior.problems})
    if options.split is Split.TRAIN:
        return RunError(
            f"export {run.path}: no problem is for training (all are {', '.join(splits)}), and measured problems are never trained on; "
            f"{_how_to_train(run) if KEY in run.settings else 'split the behavior (split: {train: 0.5})'}, or say --split {splits[0]} to give up the "
            "measurement",
            code="no_train_problems",
        )
    return RunError(
        f"export {run.path}: no problem is of the split {options.split}; there are {', '.join(splits)}", code="no_problems"
    )


def _check_rates(options: ExportOptions) -> None:
    low, high = options.least_rate or 0.0, 1.0 if options.most_rate is None else options.most_rate
    if not 0.0 <= low <= high <= 1.0:
        raise SettingsError(
            f"--rates: got {low:g} to {high:g}; give two rates between 0 and 1, the lower one first, such as 0.2:0.8",
            code="rate_out_of_range",
        )
    if options.per_problem < 1:
        raise SettingsError(f"--per-problem: got {options.per_problem}; give a number from 1 on", code="per_problem_out_of_range")


def _within_rates(run: DiagnosedRun, rows: list[ExportedProblem], options: ExportOptions) -> list[ExportedProblem]:
    """Return the problems whose pass rate is asked for."""
    if options.least_rate is None and options.most_rate is None:
        return rows
    if all(row.pass_rate is None for row in rows):
        raise RunError(
            f"--rates: {run.path} did not sample the {options.split} split, so the pass rates of its problems are not known; sample it with `posttrain "
            f"diagnose --split {options.split}` and export that run",
            code="no_rates",
        )
    low, high = options.least_rate or 0.0, 1.0 if options.most_rate is None else options.most_rate
    kept = [row for row in rows if row.pass_rate is not None and low <= row.pass_rate <= high]
    if not kept:
        raise RunError(
            f"--rates: no problem of {run.path} has a pass rate from {low:g} to {high:g}; give a wider range",
            code="no_problems_with_rate",
        )
    return kept
