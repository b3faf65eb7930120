"""What every further probe is: a question, what the answer would cost, whether it could change anything, and the answer.

The samples say *that* a behavior is out of reach or unreliable; further probes say *why*. Each is a module with a class that meets
`Probe`, with its line in `_PROBES` (`probes/__init__.py`). A probe samples through the `ProbeSampler` of its `ProbeContext`, which stores every
sample in the run directory, so that a stopped probe goes on where it was; its `Finding` is plain data, and the verdict is decided from
findings read back from disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.sampler import ProbeSampler
from posttrain.diagnose.probes.sampler import PromptRequest as PromptRequest
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    PathLikelihoodMeasurement,
    Problem,
    Rollout,
    SamplingMeasurement,
    SkipReason,
    Split,
)
from posttrain.diagnose.types import Finding as Finding
from posttrain.diagnose.types import LabelEvidence as LabelEvidence
from posttrain.diagnose.types import Note as Note


@dataclass(frozen=True, kw_only=True, slots=True)
class AvailableInputs:
    """Which inputs there are beside the model and its behaviors."""

    teacher: bool = False
    earlier: bool = False
    """An earlier checkpoint."""
    before: bool = False
    """An earlier run on the same behaviors."""
    data: bool = False
    """A data set that might be trained on."""

    @classmethod
    def of(cls, inputs: object) -> Self:
        """Return which of them stand in the attributes of the same names, where None says that there is none."""
        return cls(**{one.name: getattr(inputs, one.name) is not None for one in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCost:
    """What a probe would take at most, said before a token is generated."""

    generated_tokens: int = 0
    scored_tokens: int = 0
    when: str = ""
    """In words: under which finding of the samples it runs."""
    impossible: SkipReason | None = None
    """Why it cannot run at all; None where it can."""


@dataclass(frozen=True, kw_only=True)
class MeasuredBehavior:
    """A behavior with what its samples say."""

    behavior: Behavior
    split: Split
    counts: SamplingMeasurement
    """In the order of `problems`."""
    posterior: LabelPosterior
    rollouts: RolloutTable
    """The samples themselves."""
    paths: PathLikelihoodMeasurement | None
    """Likelihood of the references, where there are any."""

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Return the measured problems."""
        return self.behavior.split(self.split)

    def count_outcomes(self, rollouts: Sequence[Rollout]) -> tuple[int, int]:
        """Return how many rollouts have a known outcome, and how many of them are right."""
        known = [right for one in rollouts if (right := one.succeeded(self.behavior.measure.success)) is not None]
        return len(known), sum(known)


@dataclass(frozen=True, kw_only=True)
class ProbeContext(MeasuredBehavior):
    """What a probe works with: what was measured, the models, and the means to sample."""

    sampler: ProbeSampler
    thresholds: Thresholds
    policy: Engine
    teacher: Engine | None = None
    earlier: Engine | None = None
    earlier_rollouts: RolloutTable | None = None
    """Samples of the behavior in an earlier run."""
    data: tuple[DataRow, ...] | None = None
    """Rows of a data set that might be trained on."""

    @property
    def seed(self) -> str:
        """Return the random seed for sampling."""
        return self.sampler.seed

    @property
    def surely_mastered(self) -> bool:
        """Return whether the samples leave no doubt that the behavior is mastered."""
        return self.posterior.label is Bottleneck.MASTERED and self.posterior.confidence >= self.thresholds.confidence

    def generator(self, *purpose: str) -> np.random.Generator:
        """Return a generator for one purpose of the probe, from the seed of the run."""
        key = "\x00".join((self.seed, self.behavior.name, self.sampler.probe, *purpose))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))


class Probe(Protocol):
    """A question about why a behavior is as it is."""

    name: str

    @property
    def question(self) -> str:
        """What it answers, for people: one line that ends with a question mark."""
        return QUESTIONS[self.name]

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """Say what it would take at most, or why it cannot run; before anything is sampled."""
        ...

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """Say why it is not worth its cost, after sampling; None where it is."""
        ...

    def run(self, context: ProbeContext) -> Finding:
        """Sample and answer. The same counts and seed give the same finding."""
        ...
