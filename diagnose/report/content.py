"""What a report is made from: measured and decided elsewhere, only worded and drawn here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.diagnose.types import (
    Answer,
    Diagnosis,
    Estimate,
    PassAtK,
    PathLikelihoodMeasurement,
    ProblemChange,
    SamplingMeasurement,
    ValidityMeasurement,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sample to read, with what the verifier made of it."""

    problem_id: str
    prompt: str
    """The question, or the prompt as the model reads it."""
    text: str
    """What the model wrote, unchanged."""
    grade: str
    """In words: `right`, `wrong`, `unparsed: no number found`, ..."""
    extracted: str | None
    """The answer that was read out of the text."""
    stop: str
    """Why the sample ended, as in `StopReason`."""
    answer: str
    """The expected answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviorReport:
    """All there is to say about one behavior of one model."""

    diagnosis: Diagnosis
    validity: ValidityMeasurement
    path: PathLikelihoodMeasurement | None = None
    """None where no reference was scored."""
    sampling: SamplingMeasurement | None = None
    """None where nothing was sampled."""
    answers: tuple[Answer, ...] = ()
    """What became of the further probes, skipped ones included."""
    examples_right: tuple[Example, ...] = ()
    examples_wrong: tuple[Example, ...] = ()
    epsilon: float
    """Success rate under which a problem is out of support."""
    mastered_threshold: float
    """Success rate from which on a problem is mastered."""
    primary_k: int | None = None
    """The k chosen in advance."""
    source: str = ""
    """What to write for the behavior on a command line (a path or a bundled name); its name where empty."""
    next_command: str | None = None
    """The exact command of the next step. Without it one is derived from a stage that trains; other stages then have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemChangeRow:
    """One problem before and after."""

    id: str
    before: float
    """Success rate."""
    after: float
    state: ProblemChange
    q_value: float | None = None
    """Adjusted over all problems (Benjamini–Hochberg): of a change into or out of support where a side shows a rate below epsilon, else
    of any change; None where nothing was tested."""
    num_samples: int | None = None
    """Samples behind each of the two rates; None where they are not counts."""
    group: str | None = None
    """Name of its cluster, where problems are related."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportRow:
    """One number of support dynamics beside what the same model, drawn twice, gives at the same number of samples."""

    name: str
    """`SRR`, `NDR`, `SDS` or `NSCR`."""
    value: Estimate
    null: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """A number that explains a difference without being the goal: length, truncation, drift."""

    name: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """One behavior before and after, paired by problem."""

    name: str
    trained: bool
    """Whether a stage was trained on it; otherwise it is there to see what else changed."""
    stage: str | None
    """The stage between the two runs, None where nothing was trained."""
    num_problems: int
    """How many problems were measured in both runs."""
    pass_at_1_before: Estimate
    pass_at_1_after: Estimate
    delta: Estimate
    """Paired difference of pass@1."""
    pass_at_k_delta: tuple[PassAtK, ...] = ()
    """Paired difference of pass@k, per k."""
    pass_at_k_before: tuple[PassAtK, ...] = ()
    pass_at_k_after: tuple[PassAtK, ...] = ()
    changes: tuple[ProblemChangeRow, ...] = ()
    support: tuple[SupportRow, ...] = ()
    side_by_side: tuple[SideBySide, ...] = ()
    role: str = ""
    """What the stage did, in a few words: `expansion`, `policy reshaping`, `attrition`, `not distinguishable`."""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and words of further findings."""
    notes: tuple[str, ...] = ()
    """What to keep in mind, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """One page: a model, its behaviors and, for a loop, what changed."""

    title: str
    model: str
    date: str
    """ISO date or time, given by the caller so that the same content gives the same page."""
    command: str
    """The command that reproduces the page."""
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    behaviors: tuple[BehaviorReport, ...]
    comparisons: tuple[ComparisonReport, ...] = ()
    """Empty unless the page is about a loop or a comparison."""
    checkpoint: str | None = None
    """The model that `behaviors` speaks of and that a next stage starts from, where it is not `model` (the end of a loop)."""
    measured_in: str | None = None
    """The run that holds the diagnosis of `behaviors`, where it is not the directory of the page."""
