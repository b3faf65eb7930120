"""The terms of a loss. Each declares the scores it needs, so that every model runs forward once whatever the sum is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posttrain.trainers.stage import Score, TermLoss, TokenScores
from posttrain.trainers.types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Nll:
    """−log π(y_t): imitate every token."""

    weight: float = 1.0
    name: ClassVar[str] = "nll"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY})
    regularizer: ClassVar[bool] = False

    def acts_on(self, row: TrainingRow) -> bool:
        """Always."""
        return True

    def loss(self, scores: TokenScores) -> TermLoss:
        """[N] nats."""
        return TermLoss(losses=-scores.policy)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyGradient:
    """−min(r A, clip(r, 1 − eps_low, 1 + eps_high) A), r = π / π_old: PPO's clipped surrogate (arXiv 1707.06347).

    On the first step on a batch π_old is π, r is exactly 1 and the gradient is REINFORCE's, −A ∇ log π. With `importance_cap`
    each token is also weighted by min(π_old / π_sampler, cap), without a gradient: the engine draws in another precision than
    the trainer computes, so that even fresh samples come from a slightly different policy.
    """

    eps_low: float = 0.2
    eps_high: float = 0.2
    importance_cap: float | None = None
    weight: float = 1.0
    name: ClassVar[str] = "policy_gradient"
    regularizer: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Score]:
        """The sampler's log-probabilities only where they are used; the entropy for the log."""
        base = {Score.POLICY, Score.OLD, Score.ENTROPY}
        return frozenset(base if self.importance_cap is None else base | {Score.SAMPLER})

    def acts_on(self, row: TrainingRow) -> bool:
        """Where some token has an advantage."""
        return row.advantages is not None and bool((row.advantages != 0).any())

    def loss(self, scores: TokenScores) -> TermLoss:
        """[N]; logs the share of tokens whose gradient is clipped away."""
        assert scores.old is not None
        ratio = (scores.policy - scores.old).exp()
        free = ratio * scores.advantages
        held = ratio.clamp(1 - self.eps_low, 1 + self.eps_high) * scores.advantages
        losses = -torch.minimum(free, held)
        metrics: dict[str, Tensor] = {"clipped": (held < free).to(losses.dtype)}
        if scores.entropy is not None:
            metrics["entropy"] = scores.entropy
        if self.importance_cap is not None:
            assert scores.sampler is not None
            weights = (scores.old - scores.sampler).exp()
            metrics["importance_capped"] = (weights > self.importance_cap).to(losses.dtype)
            losses = losses * weights.clamp(max=self.importance_cap)
        return TermLoss(losses=losses, metrics=metrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class KlToReference:
    """r − 1 − log r with r = π_ref / π: the k3 estimate of KL(π‖π_ref), never negative (used as a loss in arXiv 2402.03300)."""

    weight: float
    name: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY, Score.REFERENCE})
    regularizer: ClassVar[bool] = True

    def acts_on(self, row: TrainingRow) -> bool:
        """Always."""
        return True

    def loss(self, scores: TokenScores) -> TermLoss:
        """[N] nats."""
        assert scores.reference is not None
        log_ratio = scores.reference - scores.policy
        losses = log_ratio.exp() - 1 - log_ratio
        return TermLoss(losses=losses, metrics={"kl": losses.detach()})
