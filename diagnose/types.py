"""The vocabulary: what a behavior, a rollout, a check and a diagnosis are.

Everything here is frozen data without torch, so that it can be made, stored and compared anywhere. Where a thing has more than two
states it is an enum, never a bool: why a sample ended, what a grade is, what a check says, what state a problem is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from posttrain.analysis.stats import Interval

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


# ---------------------------------------------------------------------------------------------------------------- behaviors


class Purpose(StrEnum):
    """Why a behavior is measured."""

    TARGET = "target"
    """It should get better."""
    RETENTION = "retention"
    """It should not get worse."""


class Split(StrEnum):
    """What a problem may be used for. Only `TRAIN` rows may feed a stage."""

    TRAIN = "train"
    EVAL = "eval"
    FINAL = "final"


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A path that is known to be right, written out in one or more steps."""

    steps: tuple[str, ...]
    """The steps as they appear in the text, separators included: joining them with nothing gives the path."""

    @property
    def text(self) -> str:
        """The whole path."""
        return "".join(self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One prompt with what is needed to grade an answer to it."""

    id: str
    prompt: str | tuple[Message, ...]
    """The bare question (the behavior's prompt format is applied later), or a whole chat."""
    answer: str
    references: tuple[Reference, ...] = ()
    group: str | None = None
    """Problems of one group are related; intervals treat a group as one unit."""
    key: str
    """Canonical form under which two problems are the same one, e.g. `3*4` for both 3*4 and 4*3. Splits are made by it."""
    split: Split
    hint: str | None = None
    """What may be said beside the question to help, without the answer; only the scaffold probe and stages that amortise it use it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What a verifier may need beside the answer (a reasoning-gym entry, say)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFormat:
    """How a question becomes a prompt."""

    system: str | None = None
    """System message of a chat; None leaves the template its default."""
    template: str = "{question}"
    examples: tuple[tuple[str, str], ...] = ()
    """Worked examples (question, answer) shown before the question: as chat turns, or as text in completion format."""
    format: str = "auto"
    """`chat`, `completion`, or `auto`: chat where the tokenizer has a chat template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Every setting of the sampler. Nothing is inherited from a model's generation config."""

    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    """Texts that end a sample; they are cut off the text, not off the tokens."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def samples_the_policy(self) -> bool:
        """Whether draws come from the policy itself: temperature 1, nothing truncated, nothing penalised.

        Only then does a missing success say something about support.
        """
        return self.temperature == 1.0 and self.keeps_all

    @property
    def keeps_all(self) -> bool:
        """Whether draws come from the policy but for a positive temperature: nothing truncated, nothing penalised."""
        return not self.greedy and (self.top_p, self.top_k, self.min_p, self.repetition_penalty) == (1.0, 0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureSettings:
    """What counts, and at which scale."""

    primary_k: int = 16
    """The k of the primary pass@k, chosen before anything is seen."""
    epsilon: float
    """Success rate under which a behavior is out of support. It belongs to the behavior, not to the sampling budget."""
    success: float = 1.0
    """A score of at least this is a success."""
    group_size: int = 8
    """Samples per prompt that a group-based trainer would draw; the default epsilon follows from it."""


def default_epsilon(group_size: int, signal: float = 0.05) -> float:
    """Success rate at which a group of `group_size` samples holds a success in a share `signal` of draws.

    Solves 1 − (1−ε)^G = signal; about .0064 for G = 8.
    """
    return float(1.0 - (1.0 - signal) ** (1.0 / group_size))


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierSpec:
    """Which verifier reads the answers, with its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behavior:
    """A fixed distribution of problems, a verifier and the settings under which it is measured."""

    name: str
    problems: tuple[Problem, ...]
    """All splits; use `split()`."""
    verifier: VerifierSpec
    prompt: PromptFormat = PromptFormat()
    sampling: Sampling = Sampling()
    measure: MeasureSettings
    purpose: Purpose = Purpose.TARGET
    source: str = ""
    """Where it was read from: a path, or the name of a bundled behavior."""
    fingerprint: str = ""
    """Hash of everything above that could change a number."""

    def split(self, split: Split) -> tuple[Problem, ...]:
        """The problems of one split, in file order."""
        return tuple(problem for problem in self.problems if problem.split is split)


# ------------------------------------------------------------------------------------------------------------------ samples


class StopReason(StrEnum):
    """Why a sample ended."""

    EOS = "eos"
    """The model ended its turn."""
    STOP = "stop"
    """A stop text appeared."""
    LENGTH = "length"
    """It ran into `max_tokens`: the sample is truncated."""
    ERROR = "error"
    """The engine failed; the sample is missing."""


class GradeStatus(StrEnum):
    """What a grade is. Unparsed is a failure, counted apart; only ERROR and TIMEOUT are missing."""

    SCORED = "scored"
    UNPARSED = "unparsed"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """A verifier's word on one text."""

    status: GradeStatus
    score: float | None
    """In [0, 1] when scored, 0 when unparsed, None when missing."""
    extracted: str | None = None
    """The answer that was read out of the text."""
    lenient_score: float | None = None
    """Score under a more forgiving reading of the same text; above `score` it points at format, not ability."""
    detail: str = ""
    """For people: why it was unparsed or failed."""

    @property
    def missing(self) -> bool:
        """Whether nothing is known about success."""
        return self.status in (GradeStatus.ERROR, GradeStatus.TIMEOUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sample of a problem, graded."""

    behavior: str
    problem_id: str
    split: Split
    sample_index: int
    decoding: str
    """`sampled` or `greedy`."""
    token_ids: tuple[int, ...]
    """What was generated, the end token included where one was drawn."""
    policy_logprobs: Floats
    """[T] natural log-probability of each token under the untruncated policy at temperature 1."""
    sampler_logprobs: Floats
    """[T] the same under the distribution it was drawn from."""
    stop: StopReason
    text: str
    grade: Grade
    engine: str
    """Fingerprint of engine, weights and precision."""

    @property
    def truncated(self) -> bool:
        """Whether the sample ran into the token limit."""
        return self.stop is StopReason.LENGTH

    def succeeded(self, success: float) -> bool | None:
        """Whether the sample is a success at this score; None when missing. Truncated samples are failures."""
        if self.grade.missing or self.stop is StopReason.ERROR:
            return None
        assert self.grade.score is not None
        return self.grade.score >= success and not self.truncated


@dataclass(frozen=True, kw_only=True, slots=True)
class PathScore:
    """How likely a reference path is under a policy, token by token, the end token last."""

    behavior: str
    problem_id: str
    split: Split
    reference_index: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    token_steps: Ints
    """[T] index of the step that each token belongs to."""
    policy_logprobs: Floats
    """[T]"""
    ranks: Ints
    """[T] 0 is the most likely token."""
    engine: str


# ------------------------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its interval; NaN where it is undefined."""

    estimate: float
    low: float
    high: float
    method: str
    """How it was got, in a few words."""

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """An interval of `analysis`."""
        return cls(estimate=float(interval.estimate), low=float(interval.low), high=float(interval.high), method=interval.method)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingMeasurement:
    """What the sampling probe counted, per problem (arrays of length P, in the order of `problem_ids`)."""

    behavior: str
    problem_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each problem, its id where it has none."""
    num_samples: npt.NDArray[np.int64]
    """Samples with a known outcome."""
    num_correct: npt.NDArray[np.int64]
    num_missing: npt.NDArray[np.int64]
    num_unparsed: npt.NDArray[np.int64]
    num_truncated: npt.NDArray[np.int64]
    num_lenient_correct: npt.NDArray[np.int64]
    """Successes under the lenient reading."""
    greedy_correct: npt.NDArray[np.float64]
    """1, 0, or NaN where the greedy sample is missing."""
    num_tokens: npt.NDArray[np.int64]
    """Generated tokens."""

    @property
    def drawn_equally(self) -> bool:
        """Whether every problem was drawn equally often, missing samples counted in; in rounds it depends on what was seen."""
        drawn = self.num_samples + self.num_missing
        return bool((drawn == drawn[:1]).all())


@dataclass(frozen=True, kw_only=True, slots=True)
class PathLikelihoodMeasurement:
    """Reference paths under the policy, per problem with a reference."""

    behavior: str
    paths: tuple[PathScore, ...]
    nll_per_token: npt.NDArray[np.float64]
    """[paths] mean negative log-likelihood, nats."""
    nll_per_path: npt.NDArray[np.float64]
    """[paths] summed, nats."""
    weakest_step: npt.NDArray[np.int64]
    """[paths] the step with the lowest probability."""
    first_improbable_step: npt.NDArray[np.int64]
    """[paths] the first step less likely than epsilon, −1 where there is none."""


class Outcome(StrEnum):
    """What a check says."""

    MET = "met"
    NOT_MET = "not_met"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A value held against a threshold: met when the whole interval is on the right side, not met when it is on the wrong one."""

    name: str
    op: str
    """`>=` or `<=`."""
    estimate: float
    low: float
    high: float
    threshold: float
    n: int
    """How many samples, problems or paths stand behind it."""
    method: str
    outcome: Outcome
    what: str = ""
    """One line for people: what the number is."""


def decide(op: str, low: float, high: float, threshold: float) -> Outcome:
    """Hold an interval against a threshold. An undefined interval is inconclusive."""
    if np.isnan(low) or np.isnan(high):
        return Outcome.INCONCLUSIVE
    if op == ">=":
        return Outcome.MET if low >= threshold else Outcome.NOT_MET if high < threshold else Outcome.INCONCLUSIVE
    assert op == "<=", op
    return Outcome.MET if high <= threshold else Outcome.NOT_MET if low > threshold else Outcome.INCONCLUSIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class PlumbingMeasurement:
    """Whether the numbers of a behavior can be believed at all."""

    behavior: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Findings that do not stop a verdict, in words."""
    failures: tuple[str, ...]
    """What broke, in words, with an example."""
    prompt_example: str
    """One prompt exactly as the model reads it."""


# ---------------------------------------------------------------------------------------------------------------- diagnosis


class Bottleneck(StrEnum):
    """What binds."""

    MISSING_SUPPORT = "missing_support"
    GUIDED_ONLY = "guided_only"
    POOR_CHOICE = "poor_choice"
    ATTRITION = "attrition"
    SCAFFOLD_BOUND = "scaffold_bound"
    FORMAT = "format"
    DECODING = "decoding"
    MASTERED = "mastered"
    INVALID = "invalid"
    INCONCLUSIVE = "inconclusive"


class Role(StrEnum):
    """What a stage does to the policy (arXiv 2604.07941)."""

    SUPPORT_EXPANSION = "support_expansion"
    POLICY_RESHAPING = "policy_reshaping"
    BEHAVIORAL_CONSOLIDATION = "behavioral_consolidation"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAdvice:
    """The stage that a diagnosis names."""

    name: str
    provenance: str
    interface: str
    why: str
    needs: tuple[str, ...]
    predicted_gain: Estimate | None
    alternatives: tuple[tuple[str, str], ...]
    """(name, why)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    """One point of the pass@k curve."""

    k: int
    value: Estimate
    extrapolated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemDiagnosis:
    """The state of one problem, as posterior probabilities."""

    id: str
    split: Split
    state: Bottleneck
    posterior: Mapping[str, float]
    num_samples: int
    num_correct: int
    num_missing: int
    num_unparsed: int
    num_truncated: int
    p: float
    p_low: float
    p_high: float
    p_method: str
    reference_nll_per_token: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SettlesWith:
    """The further effort that is expected to settle what is open."""

    samples: int
    tokens: int
    seconds: float
    """At the speed of the samples so far; NaN where it is not known."""
    chance: float
    """Share of simulated continuations that it settles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a measurement took. The only part of a diagnosis that may differ between two runs with one seed."""

    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """What a finding says to the verdict: `label` instead of one of `instead_of`."""

    label: Bottleneck
    instead_of: tuple[Bottleneck, ...]
    confidence: float
    """Probability that what it rests on is so; it counts from `Thresholds.confidence` on."""
    because: str
    """In words that go on from "because"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The answer of a probe about one behavior, as plain data."""

    probe: str
    behavior: str
    summary: str
    """What was found, in one or two sentences with their numbers."""
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    """What sums it up, each with its interval; names for people."""
    rows: tuple[Mapping[str, Any], ...] = ()
    """The table behind the picture: one row per point, all with the same keys, JSON values only."""
    problems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem id → what was found about it, JSON values only."""
    arguments: tuple[Argument, ...] = ()
    of_stages: Mapping[str, str] = field(default_factory=dict)
    """Stage → what was measured about it; stands where the stage is named or listed."""
    notes: tuple[str, ...] = ()
    """Caveats, in words."""
    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one probe: its finding, or why it was not run."""

    probe: str
    question: str
    finding: Finding | None = None
    skipped: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one probe did to the verdict."""

    probe: str
    words: str
    """Goes on from the name of the probe: `makes it guided_only instead of missing_support, because ...`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What binds one behavior, how sure that is, and what to do next."""

    name: str
    purpose: Purpose
    bottleneck: Bottleneck
    confidence: float
    """Posterior probability that the label is right."""
    role: Role | None
    shares: Mapping[str, float]
    """Posterior share of problems in each state."""
    stage: StageAdvice | None
    checks: tuple[Check, ...]
    pass_at_k: tuple[PassAtK, ...]
    problems: tuple[ProblemDiagnosis, ...]
    settles_with: SettlesWith | None
    cost: Cost
    caveats: tuple[str, ...]
    sentence: str
    """The verdict in one sentence."""
    contributions: tuple[Contribution, ...] = ()
    """Of the further probes that were run."""


# --------------------------------------------------------------------------------------------------------------- comparison


class ProblemChange(StrEnum):
    """What happened to a problem between two runs, where the data can tell."""

    PRESERVED = "preserved"
    EXPANDED = "expanded"
    ATTRITED = "attrited"
    OUT_OF_SUPPORT = "out_of_support"
    UNDETERMINED = "undetermined"
