"""A stage = source × credit × terms × reduction: the four choices that tell post-training methods apart, as interfaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.types import Batch, GradeFn, TrainingRow, TrainingSet

Weights = npt.NDArray[np.float64]
ConfigT = TypeVar("ConfigT", bound=TrainingConfig, contravariant=True)


class Score(StrEnum):
    """Log-probabilities of the completion tokens that a term may ask for, by whose they are."""

    POLICY = "policy"
    """The model in training, with a gradient."""
    OLD = "old"
    """The same model before the first optimizer step on this batch."""
    SAMPLER = "sampler"
    """The engine's copy, in its precision, when it drew the tokens."""
    REFERENCE = "reference"
    """The model before training."""
    ENTROPY = "entropy"
    """Not a log-probability: the entropy of the policy's distribution at each token, nats, no gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Everything known about the N completion tokens of a micro-batch; what no term asked for is None."""

    policy: Tensor
    """[N]"""
    advantages: Tensor
    """[N]"""
    sequence: Tensor
    """[N] which row of the micro-batch each token belongs to."""
    old: Tensor | None = None
    sampler: Tensor | None = None
    reference: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TermLoss:
    """What a term says about the N tokens."""

    losses: Tensor
    """[N] before reduction."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """[N] numbers to log, averaged over tokens."""


class Term(Protocol):
    """One addend of the loss."""

    @property
    def name(self) -> str:
        """Names its numbers in the log."""
        ...

    @property
    def needs(self) -> frozenset[Score]:
        """The scores it reads."""
        ...

    @property
    def weight(self) -> float:
        """Its factor in the sum."""
        ...

    @property
    def regularizer(self) -> bool:
        """Whether it only holds the policy back: a batch on which nothing else acts is without signal."""
        ...

    def acts_on(self, row: TrainingRow) -> bool:
        """Whether the row can have a gradient; rows on which no term acts are not run at all."""
        ...

    def loss(self, scores: TokenScores) -> TermLoss:
        """The loss of each token."""
        ...


class Credit(Protocol):
    """Fills in the advantages of rows."""

    def assign(self, rows: Sequence[TrainingRow]) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Rows with advantages, in the same order, and what is worth logging."""
        ...


Reduction = Callable[[Sequence[TrainingRow]], list[Weights]]
"""Gives each token of a whole optimizer batch its share [T] of the loss, per row, so that the loss is Σ share · token loss.

Shares are known before the first backward pass, which is why micro-batches of any size give one and the same gradient.
"""


class Source(Protocol):
    """Where rows come from."""

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Get ready; how many batches there will be, and what is worth logging. 0 batches: nothing to learn from."""
        ...

    def batch(self, step: int) -> Batch:
        """The rows of a step, 0 ≤ step < the number of batches; asked in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A post-training method, ready for the loop."""

    source: Source
    credit: Credit
    terms: tuple[Term, ...]
    reduction: Reduction


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInputs:
    """What a recipe may build from."""

    engine: Engine
    training_set: TrainingSet
    graders: Mapping[str, GradeFn]
    """By the behavior's name."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[ConfigT]):
    """A named stage: what it is in the survey's terms (arXiv 2604.07941), its knobs, and how it is built from the four parts."""

    name: str
    provenance: str
    """`off_policy`, `on_policy` or `mixed`."""
    interface: str
    """How the signal is attached: `token_targets`, `verifier`, `pairs` or `teacher`."""
    role: str
    """What it usually does to the policy; a `diagnose.types.Role` value."""
    needs: tuple[str, ...]
    """What must be there: `references`, `verifier`."""
    config: type[TrainingConfig]
    build: Callable[[StageInputs, ConfigT], Stage]
