"""Terms that make one answer likelier than another, and KTO's, which makes good answers likelier and bad ones less so.

Below, w is the chosen and l the rejected answer of a pair, log π(y) a sum over the tokens of y, and Δ(y) = log π(y) − log π_ref(y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.trainers.stage import ForwardScores, Level, Score, Term, TermLoss
from posttrain.trainers.training_types import RowRole, TrainingRow


class PairTerm(Term):
    """A term on the two answers of each pair."""

    __slots__ = ()
    level: ClassVar[Level] = Level.PAIR

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row is an answer of a pair, or one labelled good or bad."""
        return row.role in (RowRole.CHOSEN, RowRole.REJECTED)


def _margins(scores: ForwardScores, values: Tensor) -> Tensor:
    """Return [P] differences between the [R] values of the two rows of each pair."""
    chosen, rejected = scores.pairs
    return values[chosen] - values[rejected]


def _pair_loss(losses: Tensor, scores: ForwardScores, values: Tensor) -> TermLoss:
    """Return [P] losses, and the margins between the [R] values of the two rows of each pair for the log."""
    margin = _margins(scores, values.detach())
    won = (margin > 0).to(margin.dtype)
    return TermLoss(
        losses=losses, metrics={"margin": margin, "pair_accuracy": won, "chosen_score": values.detach()[scores.pairs[0]]}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceMargin(PairTerm):
    """A loss of the margin m = Δ(w) − Δ(l) between the gains of the two answers over the model before training.

    `shape` is `logistic`, −log σ(β m) (DPO, arXiv 2305.18290), or `squared`, (m̄ − 1/(2β))² with the mean per token in place of the sum
    (IPO, arXiv 2310.12036; the mean is what its authors used). At π = π_ref they are log 2 and 1/(4β²).
    """

    beta: float = 0.1
    shape: str = "logistic"
    name: ClassVar[str] = "reference_margin"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY, Score.REFERENCE})

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [P] losses."""
        assert scores.reference is not None
        over_rows = scores.row_sum if self.shape == "logistic" else scores.row_mean
        gains = over_rows(scores.policy - scores.reference)
        margin = _margins(scores, gains)
        losses = -logsigmoid(self.beta * margin) if self.shape == "logistic" else (margin - 1 / (2 * self.beta)).square()
        return _pair_loss(losses, scores, gains)


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodMargin(PairTerm):
    """−log σ(β m − γ) with the margin of the likelihoods themselves, without a reference.

    With sums, m = log π(w) − log π(l), and γ = 0 it is CPO's (arXiv 2401.08417); with `per_token` means and a target margin γ SimPO's
    (arXiv 2405.14734).
    """

    beta: float = 0.1
    gamma: float = 0.0
    per_token: bool = False
    name: ClassVar[str] = "likelihood_margin"

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [P] losses."""
        likelihoods = scores.row_mean(scores.policy) if self.per_token else scores.row_sum(scores.policy)
        return _pair_loss(-logsigmoid(self.beta * _margins(scores, likelihoods) - self.gamma), scores, likelihoods)


@dataclass(frozen=True, kw_only=True, slots=True)
class OddsRatio(PairTerm):
    """−log σ(log odds(w) − log odds(l)), odds(y) = p / (1 − p), p the geometric mean of the tokens' probabilities.

    ORPO (arXiv 2403.07691).
    """

    name: ClassVar[str] = "odds_ratio"

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [P] losses."""
        likelihoods = scores.row_mean(scores.policy)
        log_odds = likelihoods - _log1mexp(likelihoods)
        return _pair_loss(-logsigmoid(_margins(scores, log_odds)), scores, likelihoods)


def _log1mexp(values: Tensor) -> Tensor:
    """Return log(1 − exp(x)) for x < 0, without cancellation; x = 0 counts as the largest x below it."""
    values = values.clamp(max=-torch.finfo(values.dtype).eps)
    return torch.where(values > -math.log(2), torch.log(-torch.expm1(values)), torch.log1p(-values.exp()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Kto(PairTerm):
    """w (1 − σ(β(Δ − z))) for good answers and w (1 − σ(β(z − Δ))) for bad ones: KTO (arXiv 2402.01306).

    z ≥ 0 is the reference point, an estimate of KL(π‖π_ref) that the credit has put into each row's `baseline`.
    """

    beta: float = 0.1
    good_weight: float = 1.0
    bad_weight: float = 1.0
    name: ClassVar[str] = "kto"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.POLICY, Score.REFERENCE})
    level: ClassVar[Level] = Level.ROW

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [R] losses."""
        assert scores.reference is not None
        gains = scores.row_sum(scores.policy - scores.reference)
        good = torch.tensor([row.role is RowRole.CHOSEN for row in scores.rows], device=gains.device)
        baseline = gains.new_tensor([row.baseline for row in scores.rows])
        sign = torch.where(good, 1.0, -1.0).to(gains)
        weight = torch.where(good, self.good_weight, self.bad_weight).to(gains)
        losses = weight * (1 - torch.sigmoid(self.beta * sign * (gains - baseline)))
        detached = gains.detach()
        return TermLoss(
            losses=losses, metrics={"good_score": detached[good], "bad_score": detached[~good], "reference_point": baseline}
        )
