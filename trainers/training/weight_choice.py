"""The weights that a run with retained behaviors saves: chosen on the line from those before training to those after it.

A point of the line often keeps most of the gain and loses less of what the model could do than the end (arXiv 2109.01903, 1812.06159). Which one
is a matter of measurement: each of a few points samples the dev slices of the target and of the retained behaviors, and the one with the highest
utility, gain on the target less λ times the fall on the retained behaviors, is saved. The start is one of them: a run that costs more than it
gains does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.interrupts import held_interrupts
from posttrain.trainers.distributed.processes import ProcessGroup, local_tensor
from posttrain.trainers.recipes.registry import can_retain
from posttrain.trainers.sources.policy import RolloutSampler, num_tokens, sampler_of
from posttrain.trainers.sources.retained import choose_problems
from posttrain.trainers.stage import Recipe, TrainingInputs
from posttrain.trainers.training.dev_evaluation import pass_at_1
from posttrain.trainers.training_types import TrainingRow, TrainingSet

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Points of the line that are measured, as shares of the way; of equal ones the first is taken, which is the furthest."""
MOST_PROBLEMS = 64
"""Dev problems of a behavior that are sampled at a point at most."""


class WeightLine:
    """The straight line from the weights as they are when it is made to those of the end of training.

    Each of several processes keeps its shards of the start, in the processor's memory.

    Args:
        parameters: What is trained.
        processes: That train together.
    """

    def __init__(self, parameters: Sequence[Tensor], processes: ProcessGroup) -> None:
        self.parameters, self._processes = tuple(parameters), processes
        self._start = [local_tensor(each).to("cpu", copy=True) for each in parameters]

    @contextmanager
    def at(self, share: float) -> Iterator[None]:
        """Put the weights at a share of the way within a block; after it they are bit for bit what they were."""
        if share == 1.0:
            yield
            return
        self._processes.reshard()  # an evaluation leaves some of the weights gathered
        end = [local_tensor(each).clone() for each in self.parameters]
        try:
            with held_interrupts():
                self._put([start.to(each.device).lerp(each, share) for start, each in zip(self._start, end, strict=True)])
            yield
        finally:
            with held_interrupts():
                self._processes.reshard()
                self._put(end)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            local_tensor(parameter).copy_(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinePoint:
    """What the dev slices say about a point of the line."""

    share: float
    """Of the way from the weights before training to those after it."""
    target: float
    """pass@1 on the dev slice of what is trained; NaN where nothing was graded."""
    retained: float
    """pass@1 on the dev slices of the retained behaviors, all samples alike."""
    tokens: float
    """Sampled to measure it."""

    def to_json(self) -> dict[str, Any]:
        """Return what is logged of it."""
        return {
            "event": "weight_choice",
            "share": self.share,
            "pass_at_1": self.target,
            "retained_pass_at_1": self.retained,
            "generated_tokens": self.tokens,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightChoice:
    """What was measured on the line, and which point is saved."""

    points: tuple[LinePoint, ...]
    chosen: LinePoint

    @property
    def tokens(self) -> int:
        """Tokens that were sampled to choose."""
        return int(sum(point.tokens for point in self.points))

    @property
    def cost_more(self) -> bool:
        """Whether what was gained is given up, since the retained behaviors would have lost more."""
        start, end = self.points[-1], self.points[0]
        return self.chosen is not end and self.chosen.target <= start.target

    @property
    def words(self) -> str:
        """What to tell people."""
        start, end, chosen = self.points[-1], self.points[0], self.chosen
        how = f"saved is {chosen.share:g} of the way from the weights before training to those after it"
        if chosen is end:
            how = "the weights after training are saved"
        elif chosen is start:
            how = "the weights before training are saved"
        if self.cost_more:
            how = f"warning: training costs the retained behaviors more than it gains; {how}"
        between = "" if chosen in (start, end) else f", there {chosen.target:.2f} and {chosen.retained:.2f}"
        return (
            f"{how} (dev pass@1 of target and retained behaviors before {start.target:.2f} and {start.retained:.2f}{between}, after {end.target:.2f} "
            f"and {end.retained:.2f}; --set retain_weight=null saves the last weights)"
        )


def choose_point(points: Sequence[LinePoint], weight: float) -> LinePoint:
    """Return the point with the highest utility; the end, which is the first, where a measurement is missing.

    Args:
        points: From the end to the start.
        weight: λ, of the fall of pass@1 on retained behaviors; what they gain counts for nothing.
    """
    start = points[-1]
    utilities = [point.target - start.target - weight * max(0.0, start.retained - point.retained) for point in points]
    if any(map(math.isnan, utilities)):
        return points[0]
    return points[utilities.index(max(utilities))]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightChooser:
    """Measures points of the line on dev slices, with the same seeds at each, and chooses one."""

    line: WeightLine
    sampler: RolloutSampler
    """Of the model in training."""
    target: TrainingSet
    retained: TrainingSet
    config: TrainingConfig

    def choose(self, log: Callable[[dict[str, Any]], object]) -> WeightChoice:
        """Measure all points, log each, and return the choice."""
        assert self.config.retain_weight is not None
        points = []
        for share in SHARES:
            points.append(self._measure(share))
            log(points[-1].to_json())
        return WeightChoice(points=tuple(points), chosen=choose_point(points, self.config.retain_weight))

    def _measure(self, share: float) -> LinePoint:
        """Return what the dev slices say about a point."""
        with self.line.at(share):
            self.sampler.engine.refresh()
            target, retained = (self._sample(each) for each in (self.target, self.retained))
        point = LinePoint(
            share=share,
            target=pass_at_1(target, self.target),
            retained=pass_at_1(retained, self.retained),
            tokens=num_tokens(target) + num_tokens(retained),
        )
        return self.sampler.processes.broadcast(point)

    def _sample(self, measured: TrainingSet) -> list[TrainingRow]:
        items = choose_problems(measured.dev, MOST_PROBLEMS, self.config.seed)
        seed = f"weight choice|{self.config.seed}"
        return self.sampler.sample_problems(items, num_samples=self.config.eval_samples, seed=seed)


def chosen_by_dev(retained: Sequence[object], config: TrainingConfig) -> bool:
    """Return whether settings let the weights be chosen on the line: something is retained, and nothing else chooses or averages them."""
    own = config.eval_every is None and config.ema_decay is None
    return bool(retained) and config.retain_share > 0 and config.retain_weight is not None and own


def make_chooser(
    recipe: Recipe[Any], inputs: TrainingInputs, config: TrainingConfig, trained: Sequence[Tensor]
) -> WeightChooser | None:
    """Return what chooses the weights of a run; None where nothing is to be chosen, or a dev slice is empty. Called before the first step."""
    retained = inputs.retained
    if retained is None or not can_retain(recipe) or not chosen_by_dev(retained.dev, config) or not inputs.training_set.dev:
        return None
    return WeightChooser(
        line=WeightLine(trained, inputs.processes),
        sampler=sampler_of(inputs),
        target=inputs.training_set,
        retained=retained,
        config=config,
    )
