"""Terms that make given tokens likelier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from posttrain.trainers.stage import ForwardScores, Term, TermLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class Nll(Term):
    """−w · log π(y_t): imitate every token.

    `token_weight` chooses w, which has no gradient: `one` for all alike (SFT); `probability`, w = π(y_t), so that low-probability tokens
    do not dominate (DFT, arXiv 2508.05629); `doubt`, w = π(y_t)(1 − π(y_t)), which leaves out known and out-of-support tokens (CHORD-φ,
    arXiv 2508.11408).
    """

    token_weight: str = "one"
    name: ClassVar[str] = "nll"

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses, nats."""
        losses = -scores.policy
        metrics = {"nll": losses.detach()[scores.learned]}
        if self.token_weight == "one":
            return TermLoss(losses=losses, metrics=metrics)
        probability: Tensor = scores.policy.detach().exp()
        weight = probability if self.token_weight == "probability" else probability * (1 - probability)
        return TermLoss(losses=weight * losses, metrics=metrics | {"token_weight": weight})


@dataclass(frozen=True, kw_only=True, slots=True)
class RetainedNll(Term):
    """−log π(y_t) of the rows of retained behaviors. It holds what the model can do and is nothing to learn: without another term there is no step."""

    name: ClassVar[str] = "retained_nll"
    regularizer: ClassVar[bool] = True

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [N] losses, nats."""
        losses = -scores.policy
        return TermLoss(losses=losses, metrics={self.name: losses.detach()})
