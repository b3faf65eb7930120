"""How requests are cut into pieces of work. The cut depends on the requests alone, never on who will do them.

What an engine computes together may change the last bit of a log-probability, so a piece must stay the same whichever
worker does it, and however often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, TypeVar

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest

Request = TypeVar("Request", SampleRequest, ScoreRequest)


@dataclass(frozen=True, kw_only=True, slots=True)
class PieceSize:
    """What a piece holds at most; a single request that is larger is a piece of its own."""

    samples: int = 256
    """As many as the embedded engine samples at once, and as a run directory keeps in one shard."""
    tokens: int = 2**16
    """Of prompts, and of the paths that are scored after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece(Generic[Request]):
    """Some samples of some prompts, or some paths to be scored."""

    requests: tuple[Request, ...]
    owners: tuple[int, ...]
    """Index of the request that each is a part of."""
    cost: int
    """Tokens to be read and at most generated."""


def cut_samples(requests: Sequence[SampleRequest], size: PieceSize, max_tokens: int) -> list[Piece[SampleRequest]]:
    """Cut requests into pieces of about equal numbers of samples, of prompts of about equal length.

    All samples of a prompt stay together, so that it is read once, unless they are more than a piece holds. The parts of one request
    come in the order of its samples.
    """
    parts = [
        (owner, part)
        for owner in sorted(range(len(requests)), key=lambda r: len(requests[r].prompt_ids))
        for part in _ranges(requests[owner], size.samples)
    ]
    groups = _fill(
        [part.num_samples for _, part in parts], [len(part.prompt_ids) for _, part in parts], size.samples, size.tokens
    )
    pieces = []
    for group in groups:
        # In the order of the requests: a piece that holds them all is the very call that was made.
        chosen = sorted((parts[i] for i in group), key=lambda chosen: chosen[0])
        held = tuple(part for _, part in chosen)
        cost = sum(len(part.prompt_ids) + part.num_samples * max_tokens for part in held)
        pieces.append(Piece(requests=held, owners=tuple(owner for owner, _ in chosen), cost=cost))
    return pieces


def cut_scores(requests: Sequence[ScoreRequest], size: PieceSize) -> list[Piece[ScoreRequest]]:
    """Cut requests into pieces of about equal numbers of tokens; paths of one prompt lie side by side, and short prompts come first."""
    lengths = [len(request.prompt_ids) + len(request.path_ids) for request in requests]
    order = sorted(range(len(requests)), key=lambda r: (len(requests[r].prompt_ids), requests[r].prompt_ids))
    groups = _fill([lengths[r] for r in order], [0] * len(order), size.tokens, size.tokens)
    pieces = []
    for group in groups:
        owners = tuple(sorted(order[i] for i in group))
        cost = sum(lengths[r] for r in owners)
        pieces.append(Piece(requests=tuple(requests[r] for r in owners), owners=owners, cost=cost))
    return pieces


def _ranges(request: SampleRequest, most: int) -> list[SampleRequest]:
    """Cut a request into ranges of its samples that differ by one sample at most."""
    num, parts = request.num_samples, math.ceil(request.num_samples / most)
    borders = [part * num // parts for part in range(parts)] + [num]
    return [
        replace(request, first_sample=request.first_sample + first, num_samples=end - first) for first, end in pairwise(borders)
    ]


def _fill(weights: Sequence[int], prompts: Sequence[int], most: int, most_tokens: int) -> list[list[int]]:
    """Put neighbours together up to an even share of the weights; as many groups as `most` makes necessary, or a few more."""
    if not weights:
        return []
    share = math.ceil(sum(weights) / math.ceil(sum(weights) / most))
    groups: list[list[int]] = []
    filled = tokens = 0
    for i, (weight, prompt) in enumerate(zip(weights, prompts, strict=True)):
        if not groups or filled + weight > share or tokens + prompt > most_tokens:
            groups.append([])
            filled = tokens = 0
        groups[-1].append(i)
        filled, tokens = filled + weight, tokens + prompt
    return groups
