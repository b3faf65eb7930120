"""Terms that teach a scalar head what is good: answers from pairs, steps from labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from posttrain.trainers.objectives.preferences import PairTerm
from posttrain.trainers.stage import ForwardScores, Level, Score, Term, TermLoss
from posttrain.trainers.training_types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class BradleyTerry(PairTerm):
    """−log σ(r(w) − r(l) − m) + c (r(w) + r(l))²: the reward of an answer is the head's output behind its last token (arXiv 2203.02155).

    m is the margin of the pair, 0 where it has none (Llama 2, arXiv 2307.09288).
    Rows end with a token that is never read, so that the position before it is the one behind the answer. `centering` c keeps the rewards near 0
    (arXiv 2312.09244), which pairs alone leave open.
    """

    centering: float = 0.0
    name: ClassVar[str] = "bradley_terry"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.VALUE})

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [P] losses."""
        assert scores.value is not None
        rewards = scores.row_last(scores.value)
        chosen, rejected = scores.pairs
        margin = rewards[chosen] - rewards[rejected]
        wanted = rewards.new_tensor([row.margin for row in scores.rows])[chosen]
        losses = -logsigmoid(margin - wanted) + self.centering * (rewards[chosen] + rewards[rejected]).square()
        found = margin.detach()
        return TermLoss(losses=losses, metrics={"margin": found, "pair_accuracy": (found > 0).to(found.dtype)})


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCorrectness(Term):
    """Cross-entropy between σ(head) behind the last token of each step and the step's label (arXiv 2305.20050)."""

    name: ClassVar[str] = "step_correctness"
    needs: ClassVar[frozenset[Score]] = frozenset({Score.VALUE})
    level: ClassVar[Level] = Level.ROW

    def applies_to(self, row: TrainingRow) -> bool:
        """Return whether the row has labelled steps."""
        return bool(row.step_ends)

    def loss(self, scores: ForwardScores) -> TermLoss:
        """Return [R] sums over the steps of a row; `step_mean` divides by the number of steps of the batch."""
        assert scores.value is not None
        starts = (scores.lengths.cumsum(0) - scores.lengths).long().tolist()
        # The head's output behind token t is the one before token t + 1.
        places = [start + end + 1 for start, row in zip(starts, scores.rows, strict=True) for end in row.step_ends]
        owners = [number for number, row in enumerate(scores.rows) for _ in row.step_ends]
        labels = scores.value.new_tensor([score for row in scores.rows for score in row.step_scores])
        said = scores.value[torch.tensor(places, device=scores.value.device)]
        losses = binary_cross_entropy_with_logits(said, labels, reduction="none")
        summed = losses.new_zeros(len(scores.rows)).index_add(0, torch.tensor(owners, device=losses.device), losses)
        right = ((said > 0) == (labels > 0.5)).to(losses.dtype)
        return TermLoss(losses=summed, metrics={"step_accuracy": right})
