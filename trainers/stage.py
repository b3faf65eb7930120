"""A stage = source × credit × terms × reduction: the four choices in which post-training methods differ, as interfaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from posttrain.diagnose import stage_catalogue
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.types import Floats
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.row_lengths import LengthLimit
from posttrain.trainers.training_types import Batch, GradeFn, Material, RowRole, TrainingProblem, TrainingRow, TrainingSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Weights = npt.NDArray[np.float64]
Transform = Callable[[], Mapping[str, float]]
"""Changes the weights of the model in training, and returns what is worth logging; `moved` is the relative length of the way."""
ConfigT = TypeVar("ConfigT", bound=TrainingConfig)


class Score(StrEnum):
    """A number per completion token that a term may ask for; log-probabilities are named by whose they are."""

    POLICY = "policy"
    """The model in training, with a gradient."""
    OLD = "old"
    """The same model before the first optimizer step on this batch."""
    SAMPLER = "sampler"
    """The engine's copy, in its precision, when it sampled the tokens."""
    REFERENCE = "reference"
    """The model before training."""
    TEACHER = "teacher"
    """The teacher, behind its own prompt where the row has one."""
    DIVERGENCE = "divergence"
    """Not a log-probability: the divergence between the full distributions of teacher and policy, with a gradient."""
    ENTROPY = "entropy"
    """Not a log-probability: the entropy of the policy's distribution at each token, nats, no gradient."""
    VALUE = "value"
    """Not a log-probability: the scalar head's output before each token, with a gradient."""


Divergences = Callable[[float, float], Tensor]
"""(beta, temperature) → [N] generalised Jensen–Shannon divergence of each token's two distributions, nats."""


@dataclass(frozen=True, kw_only=True)
class ForwardScores:
    """Hold the scores of the N completion tokens of a micro-batch of R rows; what no term needs is None."""

    rows: tuple[TrainingRow, ...]
    """[R] in the order of their tokens; no row is ever divided between micro-batches."""
    policy: Tensor
    """[N]"""
    advantages: Tensor
    """[N] 0 where the credit gave none."""
    sequence: Tensor
    """[N] which of the R rows each token belongs to."""
    old: Tensor | None = None
    sampler: Tensor | None = None
    reference: Tensor | None = None
    teacher: Tensor | None = None
    entropy: Tensor | None = None
    value: Tensor | None = None
    divergence: Divergences | None = None

    @cached_property
    def lengths(self) -> Tensor:
        """[R] completion tokens of each row."""
        return torch.tensor([len(row.completion_ids) for row in self.rows], device=self.policy.device, dtype=self.policy.dtype)

    @cached_property
    def learned(self) -> Tensor:
        """[N] bool: tokens that are learned; those of other speakers in a chat are not."""
        counted = [
            np.ones(len(row.completion_ids), bool) if row.token_weights is None else row.token_weights > 0 for row in self.rows
        ]
        return torch.from_numpy(np.concatenate(counted)).to(self.policy.device)

    def row_sum(self, values: Tensor) -> Tensor:
        """Return [R] sums over the learned tokens of each row."""
        if any(row.token_weights is not None for row in self.rows):
            values = values.where(self.learned, 0.0)
        return values.new_zeros(len(self.rows)).index_add(0, self.sequence, values)

    def row_mean(self, values: Tensor) -> Tensor:
        """Return [R] means over the learned tokens of each row."""
        if all(row.token_weights is None for row in self.rows):
            return self.row_sum(values) / self.lengths
        return self.row_sum(values) / self.row_sum(torch.ones_like(values)).clamp(min=1)

    def row_last(self, values: Tensor) -> Tensor:
        """Return [R] values at the last token of each row."""
        return values[self.lengths.long().cumsum(0) - 1]

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """([P], [P]) the chosen and the rejected row of each pair, in the order of the chosen ones."""
        rejected = {row.group_id: index for index, row in enumerate(self.rows) if row.role is RowRole.REJECTED}
        chosen = [index for index, row in enumerate(self.rows) if row.role is RowRole.CHOSEN]
        partners = [rejected[self.rows[index].group_id] for index in chosen]
        device = self.policy.device
        return torch.tensor(chosen, device=device, dtype=torch.long), torch.tensor(partners, device=device, dtype=torch.long)

    def of_roles(self, roles: frozenset[RowRole] | None) -> tuple[ForwardScores, Tensor | None]:
        """Return the scores of the rows of some roles, and the [N] mask that chose their tokens; None for all of them."""
        if roles is None or all(row.role in roles for row in self.rows):
            return self, None
        kept = torch.tensor([row.role in roles for row in self.rows], device=self.policy.device)
        mask = kept[self.sequence]
        numbers = kept.long().cumsum(0) - 1
        chosen: dict[str, Any] = {
            each.name: value[mask] for each in fields(self) if isinstance(value := getattr(self, each.name), Tensor)
        }
        chosen["sequence"] = numbers[chosen["sequence"]]
        if self.divergence is not None:
            divergence = self.divergence
            chosen["divergence"] = lambda beta, temperature: divergence(beta, temperature)[mask]
        return replace(self, rows=tuple(row for row in self.rows if row.role in roles), **chosen), mask


class Level(StrEnum):
    """What a term gives one loss each of."""

    TOKEN = "token"
    ROW = "row"
    PAIR = "pair"
    """A chosen and a rejected row of one group; they always stand in one micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermLoss:
    """Hold the losses of a term on a micro-batch."""

    losses: Tensor
    """[N], [R] or [P] by the term's level, before reduction."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Numbers to log, averaged."""


class Term(ABC):
    """One term of the loss. By default it reads the policy alone and gives one loss a token of every row."""

    __slots__ = ()
    name: ClassVar[str]
    """Names its numbers in the log."""
    level: ClassVar[Level] = Level.TOKEN
    """What it gives one loss each of."""
    regularizer: ClassVar[bool] = False
    """Whether it only regularises: a batch to which no other term applies has no learning signal."""

    @property
    def needs(self) -> frozenset[Score]:
        """The scores it reads."""
        return frozenset({Score.POLICY})

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row can have a gradient; rows to which no term applies are not run at all."""
        return True

    @abstractmethod
    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return the losses, before reduction: [N] of tokens, [R] of rows or [P] of pairs, nats."""


Reduction = Callable[[Sequence[TrainingRow]], list[Weights]]
"""Gives every loss of an optimizer batch its weight, per row, so that the loss is Σ weight · loss.

[T] weights per row for losses of tokens, [1] for those of rows and of pairs (a pair's weight stands at its chosen row). Weights are known
before the first backward pass, which is why micro-batches of any size give the same gradient.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A term with what is averaged, how much it counts, and the rows it applies to."""

    term: Term
    reduction: Reduction
    weight: float | Callable[[int], float] = 1.0
    """Its factor in the sum; may change with the step, from 0."""
    roles: frozenset[RowRole] | None = None
    """Rows of these roles only, in the losses and in the denominator; None means all."""

    whole_batch: bool = False
    """Whether the denominator counts all rows of the batch, so that components of one batch share it."""

    def weight_at(self, step: int) -> float:
        """Return the factor at a step."""
        return self.weight if isinstance(self.weight, int | float) else self.weight(step)

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row has one of its roles."""
        return self.roles is None or row.role in self.roles


class RowScorer(Protocol):
    """Score rows without a gradient, before the step."""

    def __call__(self, rows: Sequence[TrainingRow], score: Score) -> list[Floats]:
        """Return [T] numbers for each row."""
        ...


class Credit:
    """Fill in the advantages of rows, or the baseline that a row is compared with; here neither: every row counts alike, as in imitation."""

    __slots__ = ()

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return rows with advantages, in the same order, and what to log. Rows that only serve to compute them are left out."""
        return tuple(rows), {}


class Source(Protocol):
    """Give the rows to train on."""

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Prepare; return how many batches there will be, and what to log. 0 batches: nothing to learn from."""
        ...

    def batch(self, step: int) -> Batch:
        """Return the rows of a step, 0 ≤ step < the number of batches; called in order."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Keep what a source knows from earlier steps, where its batches depend on more than the step, the weights and `prepare`."""

    def state(self) -> dict[str, Any]:
        """Return JSON values and training rows. Called after every step, so it must be cheap, and copy what changes."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore it, after `prepare`; rows come as `row_json.row_to_json` wrote them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A post-training method, ready for the training loop."""

    source: Source
    components: tuple[Component, ...]
    """The terms, each with its reduction."""
    credit: Credit = field(default_factory=Credit)
    scalar_head: nn.Linear | None = None
    """[H] → 1, trained with the model: a value function, or what makes a reward model of it."""
    teaches_itself: bool = False
    """Whether the teacher is the model before training, even where another one is given."""

    @property
    def needs(self) -> frozenset[Score]:
        """The scores that its terms read."""
        return frozenset[Score]().union(*(component.term.needs for component in self.components))


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenModel:
    """A model beside the one in training: a teacher, or an earlier checkpoint. Frozen."""

    source: str
    fingerprint: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingInputs:
    """Hold what a recipe may build from."""

    engine: Engine
    training_set: TrainingSet
    graders: Mapping[str, GradeFn]
    """By the behavior's name."""
    model: PreTrainedModel
    """The model in training, as it is at the start."""
    tokenizer: PreTrainedTokenizerBase
    """The model's."""
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    """Those that train together."""
    fingerprint: str = ""
    """Of the model in training at the start; empty where it is not known."""
    data: tuple[TrainingRow, ...] = ()
    """Rows of a data set or of a finished run, which are used in place of what the problems offer."""
    data_fingerprint: str = ""
    """Of the file that they were read from; empty where there is none."""
    prompts: tuple[TrainingProblem, ...] = ()
    """Prompts of a data set, which are sampled in place of the train problems. Answers to them are not graded."""
    teacher: FrozenModel | None = None
    earlier: FrozenModel | None = None
    lengths: LengthLimit = field(default_factory=LengthLimit)
    """How long rows may be; counts what was too long."""
    retained: TrainingSet | None = None
    """Behaviors that are not to be lost; their train problems are sampled once, and right answers imitated beside what the stage learns from."""

    def require_train(self, rows: Sequence[TrainingRow]) -> None:
        """Refuse rows that do not stem from a train problem, of the stage's own behaviors or of the retained ones.

        Raises:
            MeasuredProblemError: At the first such row.
        """
        self.training_set.require_train(row for row in rows if row.role is not RowRole.RETAINED)
        if replayed := [row for row in rows if row.role is RowRole.RETAINED]:
            assert self.retained is not None, "only retained behaviors have such rows"
            self.retained.require_train(replayed)


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[ConfigT]):
    """A named stage: its settings, and how it is built. Its provenance, interface, role and needs stand in `stage_catalogue`."""

    name: str
    config: type[ConfigT]
    build: Callable[[TrainingInputs, ConfigT], Stage] | None = None
    """Puts the stage together; None where the recipe takes no steps."""
    transform: Callable[[TrainingInputs, ConfigT], Transform] | None = None
    """Checks what is given, and returns what changes the weights at once, where the recipe takes no steps."""
    reads: frozenset[Material] = frozenset()
    """What it learns from where a data set or a finished run is given; anything else is refused."""
    reads_margins: bool = False
    """Whether its loss has a place for the margins of pairs; elsewhere a data set with margins is refused."""
    saves: str = "policy"
    """What the checkpoint is: a `policy`, a `reward_model` (one number a text) or a `process_reward_model` (one a step)."""

    @property
    def description(self) -> stage_catalogue.StageDescription:
        """What is known of it: provenance, interface, role, needs, paper."""
        return stage_catalogue.STAGES[self.name]
