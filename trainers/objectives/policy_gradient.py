"""Terms that make what earned an advantage likelier, and the value function that advantages may be measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from posttrain.diagnose.types import Floats
from posttrain.trainers.stage import ForwardScores, Score, Term, TermLoss
from posttrain.trainers.training_types import RowRole, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyGradient(Term):
    """−min(r A, clip(r, 1 − eps_low, 1 + eps_high) A), r = π / π_old: PPO's clipped surrogate (arXiv 1707.06347).

    `ratio` chooses what r is the ratio of: each `token`; the `sequence_mean`, (Π r_t)^(1/T), for all tokens of a row (GSPO, arXiv 2507.18071);
    the whole `sequence`, Π r_t (RLOO, arXiv 2402.14740). With `detach_ratio` the loss is −min(r, 1 + eps_high) A log π with the
    weight held fixed, so that no token loses its gradient (CISPO, arXiv 2506.13585).

    On the first step on a batch π_old is π, r is exactly 1 and the gradient is REINFORCE's, −A ∇ log π (for the mean divided by T). With
    `importance_cap` each loss is also weighted by min(π_old / π_sampler, cap), at the same level, without a gradient: the engine samples
    in another precision than the trainer computes in, so that even fresh samples come from a slightly different policy.
    """

    eps_low: float = 0.2
    eps_high: float = 0.2
    ratio: str = "token"
    detach_ratio: bool = False
    importance_cap: float | None = None
    name: ClassVar[str] = "policy_gradient"

    @property
    def needs(self) -> frozenset[Score]:
        """The sampler's log-probabilities only where they are used, and the entropy for the log."""
        base = {Score.POLICY, Score.OLD, Score.ENTROPY}
        return frozenset(base if self.importance_cap is None else base | {Score.SAMPLER})

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether some token has an advantage."""
        return row.advantages is not None and bool((row.advantages != 0).any())

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses; log the share of tokens whose gradient is clipped away."""
        assert scores.old is not None
        ratio = self._at_level(scores, scores.policy - scores.old).exp()
        if self.detach_ratio:
            losses = -ratio.detach().clamp(max=1 + self.eps_high) * scores.advantages * scores.policy
            clipped = (ratio > 1 + self.eps_high) & (scores.advantages > 0)
        else:
            free = ratio * scores.advantages
            held = ratio.clamp(1 - self.eps_low, 1 + self.eps_high) * scores.advantages
            losses, clipped = -torch.minimum(free, held), held < free
        metrics: dict[str, Tensor] = {"clipped": clipped.to(losses.dtype)}
        if scores.entropy is not None:
            metrics["entropy"] = scores.entropy
        if self.importance_cap is not None:
            assert scores.sampler is not None
            weights = self._at_level(scores, scores.old - scores.sampler).exp()
            metrics["importance_capped"] = (weights > self.importance_cap).to(losses.dtype)
            losses = losses * weights.clamp(max=self.importance_cap)
        return TermLoss(losses=losses, metrics=metrics)

    def _at_level(self, scores: ForwardScores, log_ratio: Tensor) -> Tensor:
        """Return [N] log-ratios, of each token or of its row."""
        if self.ratio == "token":
            return log_ratio
        rows = scores.row_mean(log_ratio) if self.ratio == "sequence_mean" else scores.row_sum(log_ratio)
        return rows[scores.sequence]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapedImitation(Term):
    """−f(π) A on tokens of demonstrations, f(π) = π / (π + gamma): LUFFY's policy shaping (arXiv 2504.14945).

    There is no ratio, since the probability of a demonstration under its author is unknown. The gradient is A f'(π) ∇π, which weighs
    low-probability tokens more than π itself would.
    """

    gamma: float = 0.1
    name: ClassVar[str] = "shaped_imitation"

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row is a demonstration with an advantage."""
        return row.role is RowRole.DEMONSTRATION and row.advantages is not None and bool((row.advantages != 0).any())

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses."""
        probability = scores.policy.exp()
        shaped = probability / (probability + self.gamma)
        return TermLoss(losses=-shaped * scores.advantages, metrics={"demonstration_probability": probability.detach()})


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueLoss(Term):
    """½ max((V − R)², (clip(V, V_old ± clip) − R)²): PPO's value function (arXiv 1707.06347); V_old is what the returns were computed from.

    It never makes a step alone: what a value function has to learn from rewards that are all equal is no reason to move the policy's weights.
    """

    clip: float = 0.2
    name: ClassVar[str] = "value"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.VALUE})
    regularizer: ClassVar[bool] = True

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row has returns."""
        return row.returns is not None

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses, 0 for rows without returns, which may be here for the sake of another term; log the value."""
        assert scores.value is not None
        returns, old = (_or_value(scores, [getattr(row, name) for row in scores.rows]) for name in ("returns", "old_values"))
        held = old + (scores.value - old).clamp(-self.clip, self.clip)
        losses = 0.5 * torch.maximum((scores.value - returns).square(), (held - returns).square())
        return TermLoss(losses=losses, metrics={"value": scores.value.detach(), "value_loss": losses.detach()})


def _or_value(scores: ForwardScores, given: Sequence[Floats | None]) -> Tensor:
    """Return [N] numbers of the rows, and the value itself, without a gradient, for the tokens of rows that have none."""
    assert scores.value is not None
    lengths = [len(row.completion_ids) for row in scores.rows]
    filled = [np.full(num, np.nan) if each is None else np.asarray(each) for each, num in zip(given, lengths, strict=True)]
    found = torch.from_numpy(np.concatenate(filled)).to(scores.value)
    return torch.where(found.isnan(), scores.value.detach(), found)
