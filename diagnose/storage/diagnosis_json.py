"""diagnosis.json, version 1: what a run measured and decided, as the JSON that pages, figures and others read.

Whatever a report shows stands here. Additions keep the version: readers ignore fields that they do not know. Words for people stand in `label`, `sentence`, `why`, `summary`, `what` and
`notes`; nothing is ever read back from them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import from_json

from posttrain.diagnose.storage.group_signal_json import GroupSignalEntry
from posttrain.diagnose.storage.json_model import FileModel, Number, Text
from posttrain.diagnose.storage.problem_json import ProblemEntry
from posttrain.diagnose.storage.source_json import SourceEntry
from posttrain.diagnose.types import (
    Bottleneck,
    Estimate,
    GradeStatus,
    LimitSource,
    Outcome,
    Purpose,
    Role,
    StopReason,
    ValidityCode,
    VerifierOrigin,
)


class EstimateEntry(FileModel):
    """A number with its interval."""

    estimate: Number
    low: Number
    high: Number
    method: str = ""


class LabelledEstimate(EstimateEntry):
    """A number under a key, with its name for people."""

    label: str = ""


class CheckEntry(FileModel):
    """A value held against a threshold."""

    name: str
    op: Literal[">=", "<="]
    estimate: Number
    low: Number
    high: Number
    threshold: Number
    n: int
    method: str
    outcome: Outcome
    what: str = ""
    """What the number is."""
    unit: str = ""
    """What `n` counts."""


class PassAtKEntry(FileModel):
    """One point of the pass@k curve."""

    k: int
    estimate: Number
    low: Number
    high: Number
    extrapolated: bool = False
    method: str = ""


class TurnLimitEntry(FileModel):
    """What a behavior comes to where only samples count that succeed within T turns of the model."""

    turns: int
    """T."""
    num_samples: int
    num_correct: int
    pass_at_k: Sequence[PassAtKEntry] = ()
    """pass@(k, T) for k = 1 and the largest k, up to the primary one, that every problem has samples for."""
    bottleneck: Bottleneck
    """The label from these samples alone."""
    label: str = ""
    """The same for people."""
    confidence: Number
    """Its probability, or that of `leans_to`."""
    leans_to: Bottleneck | None = None
    """The most probable label where it is `inconclusive`."""


class AlternativeEntry(FileModel):
    """A stage that could be run instead."""

    name: str
    why: str


class StageEntry(FileModel):
    """The stage that a diagnosis names."""

    name: str
    provenance: str
    interface: str
    why: str
    needs: Sequence[str] = ()
    predicted_gain: EstimateEntry | None = None
    """Of pass@1; null where no stage was measured on such behaviors."""
    predicted_loss: EstimateEntry | None = None
    """Fall of pass@1 on retention behaviors."""
    alternatives: Sequence[AlternativeEntry] = ()


class PlannedEntry(FileModel):
    """The problems of a mixed behavior that have one label, and the stage for them."""

    label: Bottleneck
    share: Number
    stage: str
    problems: Sequence[str] = ()


class SettlesEntry(FileModel):
    """The further effort that is expected to decide what is undecided."""

    samples: int
    tokens: int
    seconds: Number
    chance: Number


class ProbeCostEntry(FileModel):
    """What one probe took."""

    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0


class CostEntry(ProbeCostEntry):
    """What a behavior took. With `settles_with.seconds` and `run` the only part that may differ between two runs with one seed."""

    trained_tokens: int = 0
    """A key of version 1; a diagnosis trains nothing, so it is 0."""
    seconds: Number = 0.0


class ProbeEntry(FileModel):
    """What became of one probe: what it found, or why it was not run."""

    name: str
    question: str = ""
    skipped: str = ""
    """Why it was not run; empty where it was."""
    skipped_code: str = ""
    outcome: str = ""
    """What it found, as a code."""
    summary: str = ""
    contribution: str = ""
    """What it did to the verdict."""
    numbers: dict[str, LabelledEstimate] = Field(default_factory=dict)
    rows: Sequence[dict[str, Any]] = ()
    """The table behind its figure."""
    notes: Sequence[str] = ()
    note_codes: Sequence[str] = ()
    """The code of each note."""
    cost: ProbeCostEntry | None = None


class UnreadEntry(FileModel):
    """A sample in which no answer could be read, beside what it should say."""

    problem_id: str
    text: Text
    wanted: Text
    """The reference path, or the answer where there is none."""
    states_answer: bool = False
    """Whether it states the answer once blanks and punctuation are left out."""


class ValidityEntry(FileModel):
    """Whether the numbers of a behavior can be believed at all."""

    checks: Sequence[CheckEntry] = ()
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()
    failure_codes: Sequence[ValidityCode] = ()
    """The code of each failure."""
    unread: Sequence[UnreadEntry] = ()
    """Some of the samples in which no answer could be read."""
    share_stated: Number | None = None
    """Share of them that state the answer once blanks and punctuation are left out; null where all could be read."""
    prompt_example: Text = ""
    """One prompt exactly as the model reads it."""


class PilotEntry(FileModel):
    """What the first greedy samples showed."""

    num_samples: int = 0
    """0 where there was no pilot."""
    num_truncated: int = 0
    num_unread: int = 0
    """Samples that ended and in which no answer could be read."""
    codes: Sequence[ValidityCode] = ()
    """Why nothing more was sampled; empty where it was."""
    failures: Sequence[str] = ()
    """The same in words, with the repair."""


class SamplingEntry(FileModel):
    """How the samples were planned."""

    num_rounds: int = 0
    """Rounds of adaptive sampling; 0 where a number of samples was given."""
    ended_because: str = ""
    """Why no more rounds were sampled."""
    ended_code: str = ""
    """The same as a code."""
    pilot: PilotEntry = PilotEntry()


class ExampleEntry(FileModel):
    """One sample to read, with what the verifier made of it."""

    problem_id: str
    prompt: Text
    text: Text
    status: GradeStatus
    success: bool
    truncated: bool = False
    detail: Text = ""
    """Why it was not graded, such as `no number found`."""
    extracted: Text | None = None
    """The answer that was read out of the text."""
    answer_start: int = 0
    """Index in the text at which the answer begins, behind a thought."""
    stop: StopReason
    answer: Text
    """The expected answer."""


class ExamplesEntry(FileModel):
    """Samples to read, right and wrong ones."""

    right: Sequence[ExampleEntry] = ()
    wrong: Sequence[ExampleEntry] = ()


class StepEntry(FileModel):
    """Improbability of one step over all reference paths, nats: the median, and the middle 80 % of paths."""

    step: int
    """From 1."""
    estimate: Number
    low: Number
    high: Number
    n: int
    """Paths that have the step."""


class ExcerptEntry(FileModel):
    """One reference path, token by token."""

    which: Literal["typical", "least_likely"]
    """The path of median, or of lowest, likelihood per token."""
    problem_id: str
    tokens: Sequence[Text]
    steps: Sequence[int]
    """Step of each token, from 0."""
    logprobs: Sequence[Number]
    """Natural log-probability of each token under the policy."""
    weakest_step: int | None = None


class ReferencesEntry(FileModel):
    """The reference paths under the policy."""

    num_paths: int = 0
    steps: Sequence[StepEntry] = ()
    excerpts: Sequence[ExcerptEntry] = ()


class VerdictEntry(FileModel):
    """What was decided about one behavior."""

    name: str
    purpose: Purpose = Purpose.TARGET
    source: str = ""
    """What to write for the behavior on a command line."""
    num_train_problems: int = 0
    """Problems that a stage may learn from, or retain."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the behavior that were given beside it, such as `max_tokens`."""
    sentence: str = ""
    bottleneck: Bottleneck
    label: str = ""
    """The bottleneck for people."""
    confidence: Number
    leans_to: Bottleneck | None = None
    """The most probable label where the bottleneck is `inconclusive`; `confidence` is its probability then."""
    role: Role | None = None
    shares: dict[str, Number] = Field(default_factory=dict)
    stage: StageEntry | None = None
    plan: Sequence[PlannedEntry] = ()
    """What each part of a mixed behavior needs, for who would train the parts apart."""
    settles_with: SettlesEntry | None = None
    caveats: Sequence[str] = ()
    caveat_codes: Sequence[str] = ()


class VerifierEntry(FileModel):
    """What read the answers."""

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
    """Those that were given; the place of a function's module is left out."""
    origin: VerifierOrigin


class TokenLimitEntry(FileModel):
    """How long a sample may be."""

    max_tokens: int
    source: LimitSource
    """Where the number comes from."""


class BehaviorEntry(VerdictEntry):
    """One behavior: the verdict and everything that it rests on."""

    measure: dict[str, Any] = Field(default_factory=dict)
    """`primary_k`, `epsilon`, `success` and `group_size` of the behavior."""
    verifier: VerifierEntry | None = None
    """None in files of earlier versions."""
    token_limit: TokenLimitEntry | None = None
    """None where nothing was sampled before it was found, and in files of earlier versions."""
    notes: Sequence[str] = ()
    """How the files of the behavior were understood."""
    checks: Sequence[CheckEntry] = ()
    pass_at_k: Sequence[PassAtKEntry] = ()
    turn_limits: Sequence[TurnLimitEntry] = ()
    """pass@(k, T) by turns of the model; empty where no sample took more than one."""
    problems: tuple[ProblemEntry, ...] = ()
    group_signal: GroupSignalEntry | None = None
    """Groups of samples without a learning signal; None where no sample has a grade, and in files of earlier versions."""
    probes: Sequence[ProbeEntry] = ()
    validity: ValidityEntry = ValidityEntry()
    sampling: SamplingEntry = SamplingEntry()
    examples: ExamplesEntry = ExamplesEntry()
    references: ReferencesEntry = ReferencesEntry()
    cost: CostEntry = CostEntry()

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        for one in self.problems:
            if not 0 <= one.num_correct <= one.num_samples:
                raise ValueError(f"problem {one.id}: got {one.num_correct} successes in {one.num_samples} samples")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds, keys in the order of the fields."""
        content: dict[str, Any] = from_json(self.model_dump_json(exclude={"problems"}))
        content["problems"] = [one.to_json() for one in self.problems]
        return {name: content[name] for name in type(self).model_fields}


class RunEntry(FileModel):
    """Which command wrote a file, when and where."""

    path: str = ""
    """The run directory."""
    created: str = ""
    command: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


class DiagnosisFile(FileModel):
    """The whole file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: RunEntry = RunEntry()
    model: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    source: SourceEntry | None = None
    """Where imported samples come from; null where the run sampled itself."""
    behaviors: Sequence[BehaviorEntry]

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds, keys in the order of the fields."""
        content: dict[str, Any] = from_json(self.model_dump_json(by_alias=True, exclude={"behaviors"}))
        return {**content, "behaviors": [one.to_json() for one in self.behaviors]}

    def __getitem__(self, name: str) -> BehaviorEntry:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]


def key_of(label: str) -> str:
    """Return the key under which a number with a name for people stands: `pass_at_1_before` for `pass@1 before`."""
    return re.sub(r"\W+", "_", label.replace("@", "_at_").replace("ε", "epsilon")).strip("_").lower()


def labelled(label: str, value: Estimate) -> LabelledEstimate:
    """Return a number with its name for people."""
    return LabelledEstimate(label=label, **asdict(value))
