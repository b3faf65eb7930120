"""A verdict in words: the sentence and the caveats, made from decided facts and never read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.analysis.stats import samples_to_resolve
from posttrain.diagnose.decide.checks import VerdictChecks
from posttrain.diagnose.decide.evidence import Measurements
from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.importing.source_facts import NOT_OF_VERDICT
from posttrain.diagnose.measure.sample_checks import UNPARSED
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Check, Note, Outcome, PlannedPart, Split, StageAdvice

_UNPARSED_NOTED = 0.1
"""Share of unparsed samples from which they are mentioned."""
_FEW_PROBLEMS = 10
"""Problems below which it is said that intervals are wide."""
UNTOLD_OF_VERDICT = {
    Untold.COMPLETENESS: "whether samples were left out, which shifts success rates",
    Untold.POLICY: "which model or step each sample is of",
    Untold.PROBLEM_IDS: "ids of problems, so that two with one prompt and answer count as one",
    Untold.STOP_REASONS: "why samples ended, so that truncated ones cannot be told from wrong ones",
}
"""What a verdict may be wrong for, where a source does not tell it."""
_ACTIONS = {
    "none": "do nothing",
    "fix_setup": "fix the setup first",
    "change_decoding": "decode greedily or cooler instead of training",
}


def write_caveats(
    measured: Measurements, label: Bottleneck, lenient: Bottleneck | None, checks: VerdictChecks, thresholds: Thresholds
) -> tuple[Note, ...]:
    """Return what a reader of the verdict should keep in mind.

    Args:
        measured: What the verdict rests on.
        label: What was decided.
        lenient: The label of a lenient reading, where that is why the label is `format`.
        checks: The checks of the verdict.
        thresholds: What they were held against.
    """
    counts, validity, epsilon = measured.counts, measured.validity, measured.behavior.measure.epsilon
    notes = [*_of_source(measured), *_without_train_problems(measured), *(Note("validity", note) for note in validity.notes)]
    if lenient is not None:
        read, total = int(counts.num_lenient_correct.sum()), int(counts.num_samples.sum())
        text = (
            f"A lenient reading of the same texts finds {read} of {total} samples right, and gives {lenient}: the answers are there, "
            "their format is not."
        )
        notes.append(Note("lenient_reading", text))
    fewest, needed = int(counts.num_samples.min()), samples_to_resolve(epsilon)
    if fewest < needed and (counts.num_correct == 0).any():
        text = (
            f"{fewest} sample{'s' * (fewest != 1)} of one problem cannot rule out a rate of epsilon = {epsilon:.2g} (that takes {needed}); "
            "whether problems without a success are in support is known from all problems together, if at all."
        )
        notes.append(Note("epsilon_not_resolved", text))
    for check in validity.checks:
        if check.outcome is Outcome.INCONCLUSIVE:
            text = f"Not decided: {check.name} is {check.estimate:.3g} [{check.low:.3g}, {check.high:.3g}], at most {check.threshold:g} is wanted."
            notes.append(Note("validity_undecided", text))
    for check in validity.checks:
        if check.name == UNPARSED and check.estimate > _UNPARSED_NOTED:
            notes.append(Note("unparsed", f"{check.estimate:.0%} of samples could not be read; failures, counted apart."))
    if label is Bottleneck.POOR_CHOICE and checks.greedy.n and checks.greedy.outcome is Outcome.INCONCLUSIVE:
        text = f"Greedy decoding reaches {_in_words(checks.greedy)}: if {thresholds.mastered:g} would do, decoding may be all that binds."
        notes.append(Note("greedy_undecided", text))
    if label is Bottleneck.MISSING_SUPPORT and measured.paths is not None:
        reachable = float((measured.paths.first_improbable_step < 0).mean())
        if reachable > 0.5:
            text = f"{reachable:.0%} of the reference paths have no step below epsilon: the paths look likely although no sample took them."
            notes.append(Note("likely_references", text))
    notes += [note for finding in measured.findings for note in finding.notes if note.code == "off_reference_paths"]
    blocked = any(note.code == "answer_at_the_start" for finding in measured.findings for note in finding.notes)
    ladders = any(finding.probe == "prefix_ladder" and finding.rows for finding in measured.findings)
    if blocked and not ladders and label in (Bottleneck.MISSING_SUPPORT, Bottleneck.MIXED, Bottleneck.INCONCLUSIVE):
        text = (
            "Whether a part of a reference path would be enough (guided_only) could not be looked at: each begins with its answer. References that "
            "write out their steps would tell."
        )
        notes.append(Note("guided_not_applicable", text))
    if len(counts.problem_ids) < _FEW_PROBLEMS:
        number = len(counts.problem_ids)
        text = f"Only {number} problem{'s' * (number > 1)}: intervals over problems are wide."
        notes.append(Note("few_problems", text))
    return tuple(notes)


def _of_source(measured: Measurements) -> list[Note]:
    """Return what is to be kept in mind of imported samples."""
    source = measured.source
    if source is None:
        return []
    notes = [note for note in source.notes if note.code not in NOT_OF_VERDICT]
    if untold := [words for name, words in UNTOLD_OF_VERDICT.items() if name in source.untold]:
        notes.append(Note("untold_by_source", f"The source does not tell {'; '.join(untold)}."))
    return notes


def _without_train_problems(measured: Measurements) -> list[Note]:
    """Return that there is nothing to train on, where there is not."""
    if measured.behavior.split(Split.TRAIN):
        return []
    which = "The imported problems" if measured.source is not None else "All problems"
    text = f"{which} are measured, so no stage is ever trained on them: it needs train problems of the same kind, in a behavior file with a verifier."
    return [Note("no_train_problems", text)]


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictFacts:
    """Hold what the sentence of a verdict says."""

    label: Bottleneck
    confidence: float
    checks: VerdictChecks
    stage: StageAdvice
    """What to do about it."""
    most_likely: Bottleneck | None
    """The most probable label, where none is decided."""
    undecided: str
    """Why none is decided."""
    plan: Sequence[PlannedPart]
    """Which part of the problems goes to which stage, where the behavior is mixed."""
    failures: Sequence[str]
    """Of the validity checks."""


def write_verdict(name: str, facts: VerdictFacts) -> str:
    """Return the verdict in one sentence.

    Args:
        name: The behavior.
        facts: What was decided.
    """
    checks, label = facts.checks, facts.label
    numbers = ", ".join(f"{check.name} {_in_words(check)}" for check in (checks.pass_1, checks.pass_k))
    action = _action(facts.stage)
    if label is Bottleneck.INCONCLUSIVE:
        leaning = f"; leans to {facts.most_likely}" if facts.most_likely else ""
        whichever = "if it is not" if facts.most_likely is Bottleneck.MASTERED else "whichever it is"
        either_way = f"; {whichever}, {action}" if STAGES[facts.stage.name].trains else ""
        return f"{name}: inconclusive ({numbers}): {facts.undecided}{leaning}{either_way}."
    parts = ", ".join(f"{part.share:.0%} {part.label}" for part in facts.plan)
    bodies = {
        Bottleneck.MISSING_SUPPORT: f"mostly out of reach ({numbers}): right answers are missing from what the model can produce",
        Bottleneck.POOR_CHOICE: f"reachable but unreliable ({numbers}): the model has right answers and does not choose them",
        Bottleneck.GUIDED_ONLY: f"out of reach from the prompt, within reach from a part of a reference path ({numbers})",
        Bottleneck.SCAFFOLD_BOUND: f"there with a scaffold, not without ({numbers} without)",
        Bottleneck.ATTRITION: f"lost: an earlier policy could do it ({numbers} now)",
        Bottleneck.MIXED: f"in parts ({numbers}): {parts}",
        Bottleneck.MASTERED: f"mastered ({numbers})",
        Bottleneck.FORMAT: f"right but not readable ({numbers} as read strictly): the answers are there, their format is not",
        Bottleneck.DECODING: f"unreliable only when sampled ({numbers}; greedy {_in_words(checks.greedy)})",
        Bottleneck.INVALID: f"no verdict, the measurement is invalid ({'; '.join(facts.failures[:2]) or 'a check is not met'})",
    }
    return f"{name}: {bodies[label]}; {action}. (confidence {_percent(facts.confidence)})"


def _action(stage: StageAdvice) -> str:
    """Say what to do."""
    if not STAGES[stage.name].trains:
        return _ACTIONS.get(stage.name, stage.name.replace("_", " "))
    return f"run {stage.name}" + " with --retain" * (Need.RETENTION in stage.needs)


def write_invalid(name: str, failures: Sequence[str]) -> str:
    """Return the verdict on a behavior without samples in one sentence."""
    why = "; ".join(failures[:2]) or "every sample is missing"
    return f"{name}: no verdict, the measurement is invalid ({why}); fix the setup first."


def _in_words(check: Check) -> str:
    """Return a number with its interval; bounds alone where the data do not identify the number."""
    if np.isnan(check.estimate):
        return f"not identified [{check.low:.2f}, {check.high:.2f}]"
    return f"{check.estimate:.2f} [{check.low:.2f}, {check.high:.2f}]"


def _percent(p: float) -> str:
    """Write a probability; one that is not 1 is not written as 1."""
    return ">99%" if p > 0.99 else f"{p:.0%}"
