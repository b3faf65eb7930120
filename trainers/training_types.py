"""What passes through a trainer: training rows, batches of them, and the one door through which problems come in.

Axis letters, here and in the other files: P problems, G samples of a problem, R rows (one completion each), T tokens of one
completion, N completion tokens of a micro-batch, B × S a padded model input, V the vocabulary, H the hidden width.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.types import Behavior, Floats, Grade, Problem, Rollout, Split

GradeFn = Callable[[Problem, Sequence[str]], list[Grade]]
"""Grades several texts as answers to one problem, in order; `Grader(behavior).grade` is one."""

OnStep = Callable[[Mapping[str, object]], None]
"""Called with what was just logged; may raise KeyboardInterrupt."""


class MeasuredProblemError(UserError):
    """A problem that is kept for measuring was about to be trained on."""

    default_code = "measured_problem"


class RowRole(StrEnum):
    """What a row stands for in its batch; a component of the loss may act on rows of some roles alone."""

    SAMPLE = "sample"
    """Sampled from the policy in training."""
    DEMONSTRATION = "demonstration"
    """To be imitated: a reference path, a teacher's answer."""
    CHOSEN = "chosen"
    """The better answer of a pair, or an answer labelled good."""
    REJECTED = "rejected"
    """The worse answer of a pair, or an answer labelled bad."""
    MISMATCHED = "mismatched"
    """An answer behind a prompt that is not its own, scored for KTO's reference point and never trained on."""
    RETAINED = "retained"
    """A right answer of the model before training to a problem of a retained behavior; imitated beside what the stage learns from."""


class Material(StrEnum):
    """What a data set or a finished run offers to a stage, in words for people."""

    DEMONSTRATIONS = "answers to imitate"
    PAIRS = "pairs of answers"
    LABELS = "answers labelled good or bad"
    STEPS = "labelled steps"
    SAMPLES = "graded samples of a run"
    PROMPTS = "prompts alone"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingRow:
    """One completion of one prompt, with what the loss needs to know about each of its T tokens."""

    behavior: str
    problem_id: str
    split: Split
    group_id: str
    """Rows of one group are compared with each other by the credit, e.g. `products/p1@12`."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """[T] what is learned from, the end token included where there is one."""
    sampler_logprobs: Floats | None = None
    """[T] log-probabilities under the distribution that the tokens were sampled from; None where they were not sampled."""
    reward: float | None = None
    """In [0, 1]; None where there is none, or where the grade is missing. `is_graded` says whether it can be learned from."""
    advantages: Floats | None = None
    """[T] filled in by the credit."""
    token_weights: Floats | None = None
    """[T] how much each token counts; None means 1 everywhere."""
    weight: float = 1.0
    """How much the row counts beside the others of its batch, whatever its loss; both rows of a pair have the same."""
    margin: float = 0.0
    """By how much the reward of a pair's better answer is to exceed the other's."""
    returns: Floats | None = None
    """[T] what a value function should have said; filled in by the credit."""
    old_values: Floats | None = None
    """[T] what it said; filled in by the credit."""
    baseline: float = 0.0
    """What the score of the row is compared with; filled in by the credit (KTO's reference point)."""
    role: RowRole = RowRole.SAMPLE
    teacher_prompt_ids: tuple[int, ...] | None = None
    """What the teacher reads before the completion, where that is not `prompt_ids`: a hint, worked examples."""
    step_ends: tuple[int, ...] = ()
    """Index of the last token of each step of the completion; empty where steps do not matter."""
    step_scores: tuple[float, ...] = ()
    """How right each step is, in [0, 1]; as many as `step_ends`."""
    truncated: bool = False
    """Whether it was cut at the length limit before it ended."""
    text: str = ""

    @property
    def is_graded(self) -> bool:
        """Whether the reward is known: a NaN from a broken verifier says as little as no reward."""
        return self.reward is not None and math.isfinite(self.reward)

    def __post_init__(self) -> None:
        """Refuse rows that cannot be scored.

        Raises:
            UserError: An empty prompt (the first token would have nothing to be predicted from), an empty completion, or an array
                of another length than the completion.
        """
        if not self.prompt_ids or not self.completion_ids:
            raise UserError(
                f"{self.behavior}/{self.problem_id}: a training row needs at least one prompt and one completion token",
                code="row_is_empty",
            )
        if len(self.step_ends) != len(self.step_scores):
            raise UserError(
                f"{self.behavior}/{self.problem_id}: {len(self.step_scores)} step scores for {len(self.step_ends)} steps",
                code="row_lengths_differ",
            )
        for name in ("sampler_logprobs", "advantages", "token_weights", "returns", "old_values"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.completion_ids):
                raise UserError(
                    f"{self.behavior}/{self.problem_id}: {name} has {len(values)} values for {len(self.completion_ids)} tokens",
                    code="row_lengths_differ",
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one visit to the source gives: the rows of one optimizer batch and what is worth logging about them."""

    rows: tuple[TrainingRow, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    num_updates: int = 1
    """Optimizer steps to make on these rows; from the second one on they are off-policy, which is what clipping is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProblem:
    """A problem that may be trained on, with the behavior it belongs to."""

    behavior: Behavior
    problem: Problem

    @property
    def name(self) -> str:
        """`behavior/problem id`: unique in a training set."""
        return f"{self.behavior.name}/{self.problem.id}"


class TrainingSet:
    """The only door for problems into a trainer: keeps train problems, and refuses what was or will be measured.

    A dev slice is cut off the train problems for early stopping and for choosing a checkpoint. It is cut by the hash of the
    canonical key, so it is the same in every run, and two forms of one problem never stand on both sides.

    Args:
        behaviors: Problems of other splits are left out silently: they are the measurement's.
        dev_share: Share of the distinct train keys that goes to dev; at least 4 keys, but never more than a quarter. 0 cuts
            nothing.

    Raises:
        MeasuredProblemError: A train problem has the key of an eval or final problem of its behavior.
        UserError: Two behaviors of one name, no train problem at all, or `dev_share` outside [0, 0.5].
    """

    def __init__(self, behaviors: Sequence[Behavior], *, dev_share: float = 0.1) -> None:
        if not 0.0 <= dev_share <= 0.5:
            raise UserError(f"dev_share is {dev_share}; it must lie in [0, 0.5]", code="dev_share_out_of_range")
        self.behaviors: Mapping[str, Behavior] = {behavior.name: behavior for behavior in behaviors}
        if len(self.behaviors) != len(behaviors):
            raise UserError(
                f"two behaviors of one name in {[behavior.name for behavior in behaviors]}; rename one", code="duplicate_behavior"
            )
        train: list[TrainingProblem] = []
        dev: list[TrainingProblem] = []
        for behavior in behaviors:
            problems = behavior.split(Split.TRAIN)
            self._refuse_measured_keys(behavior, problems)
            dev_keys = _dev_keys(behavior.name, {problem.key for problem in problems}, dev_share)
            for problem in problems:
                (dev if problem.key in dev_keys else train).append(TrainingProblem(behavior=behavior, problem=problem))
        if not train:
            raise UserError(
                "no problem of the train split; set split.train in the behavior file, or give a train file",
                code="no_train_problems",
            )
        self.train: tuple[TrainingProblem, ...] = tuple(train)
        """What stages learn from."""
        self.dev: tuple[TrainingProblem, ...] = tuple(dev)
        """What early stopping and checkpoint choice are decided on; never a verdict."""
        self._train_ids = {(item.behavior.name, item.problem.id) for item in train}

    def _refuse_measured_keys(self, behavior: Behavior, problems: Iterable[Problem]) -> None:
        measured = {problem.key: problem for problem in behavior.problems if problem.split is not Split.TRAIN}
        for problem in problems:
            if problem.key in measured:
                other = measured[problem.key]
                raise MeasuredProblemError(
                    f"{behavior.name}/{problem.id} is {problem.split} and equals {other.id} of the {other.split} split (key "
                    f"{problem.key!r}); only train problems may be trained on"
                )

    def without(self, names: frozenset[str]) -> TrainingSet:
        """Return the set without the problems of these names (`behavior/problem id`)."""
        other = copy.copy(self)
        other.train = tuple(item for item in self.train if item.name not in names)
        other.dev = tuple(item for item in self.dev if item.name not in names)
        other._train_ids = {(item.behavior.name, item.problem.id) for item in other.train}
        return other

    def admit_rows(self, rows: Sequence[TrainingRow], prompts: Sequence[TrainingProblem] = ()) -> None:
        """Let a data set in, which belongs to no problem of a behavior; `data.data_set` has compared it with what is measured."""
        self._train_ids |= {(row.behavior, row.problem_id) for row in rows}
        self._train_ids |= {(item.behavior.name, item.problem.id) for item in prompts}

    def require_train(self, rows: Iterable[Rollout | TrainingRow]) -> None:
        """Refuse rows that do not stem from a train problem of this set; the loop asks this about every batch.

        Both what the row says and what the behavior says now must be train: a split may have changed since the row was made.

        Raises:
            MeasuredProblemError: At the first such row. Dev rows are refused as well.
        """
        for row in rows:
            if row.split is not Split.TRAIN or (row.behavior, row.problem_id) not in self._train_ids:
                raise MeasuredProblemError(
                    f"{row.behavior}/{row.problem_id} (its row says {row.split}) is not among the {len(self.train)} train "
                    "problems; "
                    "measured problems are never trained on"
                )


def _dev_keys(behavior: str, keys: set[str], share: float) -> set[str]:
    """Return the keys with the smallest hashes."""
    if share == 0.0:
        return set()
    num_dev = min(max(round(share * len(keys)), 4), len(keys) // 4)
    return set(sorted(keys, key=lambda key: hashlib.sha256(f"dev|{behavior}|{key}".encode()).hexdigest())[:num_dev])
