"""Terms that hold the policy near another one: its own start, or a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posttrain.trainers.stage import ForwardScores, Score, Term, TermLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class KlToReference(Term):
    """r − 1 − log r with r = π_ref / π: the k3 estimate of KL(π‖π_ref), never negative (used as a loss in arXiv 2402.03300)."""

    name: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY, Score.REFERENCE})
    regularizer: ClassVar[bool] = True

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses, nats."""
        assert scores.reference is not None
        log_ratio = scores.reference - scores.policy
        losses = log_ratio.exp() - 1 - log_ratio
        return TermLoss(losses=losses, metrics={"kl": losses.detach()})


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherDivergence(Term):
    """β KL(teacher‖M) + (1 − β) KL(π‖M), M = β·teacher + (1 − β)·π, over the full vocabulary (GKD, arXiv 2306.13649).

    β = 0 is the forward KL(teacher‖π), β = 1 the reverse KL(π‖teacher).
    """

    beta: float = 0.5
    temperature: float = 1.0
    name: ClassVar[str] = "teacher_divergence"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY, Score.DIVERGENCE})

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses, nats."""
        assert scores.divergence is not None
        losses = scores.divergence(self.beta, self.temperature)
        return TermLoss(losses=losses, metrics={"teacher_divergence": losses.detach()})
