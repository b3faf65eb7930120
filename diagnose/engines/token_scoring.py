"""Scores of given tokens under logits: log-probability, rank, mass above, and the most likely token's log-probability.

The projection onto the vocabulary is the largest array of scoring; it is computed for some positions at a time, and read while it is in cache.

Legend of shapes: N positions, R rows of logits, M tokens to be scored, V vocabulary, C hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

_PROJECTED = 256
_READ = 16


class Project(Protocol):
    """Gives logits [., V] of hidden states [., C], in `out` where it can."""

    def __call__(self, hidden: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
        """Return `out` or its first rows where it wrote there, else a new tensor."""
        ...


class VocabularyScores(NamedTuple):
    """Scores [M] of tokens, each at some position; the fields mean what those of `TokenScores` mean."""

    logprobs: torch.Tensor
    ranks: torch.Tensor
    mass_above: torch.Tensor
    top_logprobs: torch.Tensor


ScoreTokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], VocabularyScores]
"""Called as `score_tokens`."""


def score_logits(logits: torch.Tensor, targets: torch.Tensor) -> VocabularyScores:
    """Score targets [M] under logits [M, V], a few rows at a time."""
    return _joined([_score(rows.float(), ids) for rows, ids in zip(logits.split(_READ), targets.split(_READ), strict=True)])


def score_tokens(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> VocabularyScores:
    """Score tokens [M] under the rows [M] of logits [R, V]; rows ascend, and every row occurs."""
    if len(rows) == len(logits):
        return score_logits(logits, tokens)
    parts = zip(rows.split(_READ), tokens.split(_READ), strict=True)
    return _joined([_score(logits[some].float(), few) for some, few in parts])


def score_hidden(
    hidden: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor, project: Project, score: ScoreTokens = score_tokens
) -> VocabularyScores:
    """Score targets [M] after the hidden states [N, C] at positions [M]; a position that occurs several times is projected once.

    Args:
        hidden: [N, C].
        positions: [M].
        targets: [M] token ids.
        project: The projection onto the vocabulary.
        score: Scores tokens under logits.
    """
    order = positions.argsort(stable=True)
    distinct, owner = positions[order].unique_consecutive(return_inverse=True)
    parts, room = [], None  # one array for all projections: to allocate it anew costs as much as to fill it
    for first in range(0, len(distinct), _PROJECTED):
        logits = project(hidden[distinct[first : first + _PROJECTED]], room)
        room = logits if room is None else room
        low, high = torch.searchsorted(owner, torch.tensor([first, first + len(logits)], device=owner.device)).tolist()
        parts.append(score(logits, owner[low:high] - first, targets[order[low:high]]))
    found = _joined(parts)
    back = order.argsort()
    return VocabularyScores(*(field[back] for field in found))


def _score(logits: torch.Tensor, targets: torch.Tensor) -> VocabularyScores:
    """Score targets [M] under fp32 logits [M, V]."""
    top = logits.amax(-1, keepdim=True)
    chosen = logits.gather(-1, targets[:, None])
    above = torch.gt(logits, chosen, out=torch.empty_like(logits))  # 1.0 or 0.0: sums of bools are slower
    ranks = above.sum(-1).to(torch.int32)
    weights = logits.sub(top).exp_()
    total = weights.sum(-1)
    mass = torch.linalg.vecdot(weights, above) / total
    normaliser = total.log()
    return VocabularyScores((chosen - top)[:, 0] - normaliser, ranks, mass, -normaliser)


def _joined(parts: list[VocabularyScores]) -> VocabularyScores:
    return VocabularyScores(*(torch.cat(field) for field in zip(*parts, strict=True)))
