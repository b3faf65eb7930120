"""Sampling of the next token of every row: exact truncation, one uniform number per token, log-probabilities of policy and sampler both.

Sampling by inversion needs one random number and two short searches per row, where multinomial sampling over the vocabulary needs one
number per token of it; so it costs little beside the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from posttrain.diagnose.types import Sampling

Picked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Ids [B], log-probability of each under the policy [B], and under the distribution it was sampled from [B]."""
PickTokens = Callable[[torch.Tensor, Sampling, torch.Tensor, torch.Tensor | None], Picked]
"""Called as `pick_tokens`."""

_BLOCK = 256
_ROWS = 16
# Top-p looks among this many tokens first.
_LIKELY = 256


def uniforms(seed: str, key: str, sample_index: int, num: int) -> npt.NDArray[np.float64]:
    """Return `num` uniform numbers in [0, 1) that belong to one sample: they depend on (seed, key, sample_index) and nothing else."""
    digest = hashlib.sha256(f"{seed}\x00{key}\x00{sample_index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(num)


def sampler_logits(logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None) -> torch.Tensor:
    """Return the logits of the distribution that is sampled, −inf where it is truncated.

    The order is the usual one: repetition penalty (arXiv 1909.05858), temperature, top-k, top-p (arXiv 1904.09751), min-p (arXiv 2407.01082).
    Tokens as likely as the last one that stays, stay too.

    Args:
        logits: [B, V] fp32 logits of the policy.
        sampling: The settings; temperature must be positive.
        seen: [B, V] whether a token stands in the row already; needed for a repetition penalty only.
    """
    logits = _penalized(logits, sampling, seen) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        logits = logits.masked_fill(logits < _last_kept_logit(logits, sampling.top_p), -torch.inf)
    if sampling.min_p > 0.0:
        floor = logits.amax(-1, keepdim=True) + float(np.log(sampling.min_p))
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return logits


def _penalized(logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None) -> torch.Tensor:
    if sampling.repetition_penalty == 1.0:
        return logits
    assert seen is not None
    penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
    return torch.where(seen, penalised, logits)


def _last_kept_logit(logits: torch.Tensor, mass: float) -> torch.Tensor:
    """Return [B, 1], the logit of the last token that stays when a token stays while the mass before it is below `mass`; so the first one always does."""
    normaliser = logits.logsumexp(-1, keepdim=True)
    num = min(_LIKELY, logits.shape[-1])
    ordered = logits.topk(num, dim=-1).values
    probabilities = (ordered - normaliser).exp_()
    kept = (probabilities.cumsum(-1) - probabilities < mass).sum(-1, keepdim=True)
    last = ordered.gather(-1, kept - 1)
    if num < logits.shape[-1]:
        # Where the likely tokens do not hold the mass, all must be sorted.
        unresolved = (kept == num)[:, 0].nonzero()[:, 0]
        if len(unresolved):
            ordered = logits[unresolved].sort(dim=-1, descending=True).values
            probabilities = (ordered - normaliser[unresolved]).exp_()
            kept = (probabilities.cumsum(-1) - probabilities < mass).sum(-1, keepdim=True)
            last[unresolved] = ordered.gather(-1, kept - 1)
    return last


def sample_by_inversion(logits: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row, and return the log of each row's normaliser with it.

    Args:
        logits: [B, V], any float type; −inf for tokens that cannot be sampled.
        u: [B] float64 in [0, 1).

    Returns:
        Ids [B], and logsumexp(logits) [B] in fp32.
    """
    num_rows, vocabulary = logits.shape
    top = logits.amax(-1, keepdim=True).float()
    weights = functional.pad((logits.float() - top).exp_(), (0, -vocabulary % _BLOCK))
    blocks = weights.view(num_rows, -1, _BLOCK)
    cumulated = blocks.sum(-1).double().cumsum(-1)
    total = cumulated[:, -1]
    target = u * total
    rows = torch.arange(num_rows, device=logits.device)
    # The first block whose cumulated mass exceeds the target, then the first token inside it.
    block = torch.searchsorted(cumulated, target[:, None], right=True)[:, 0].clamp_(max=cumulated.shape[1] - 1)
    before = torch.where(block > 0, cumulated[rows, (block - 1).clamp(min=0)], torch.zeros_like(target))
    inside = blocks[rows, block].double().cumsum(-1)
    # Rounding may put the target past the last token with mass; stay on it.
    last = inside.argmax(-1)
    token = torch.minimum(torch.searchsorted(inside, (target - before)[:, None], right=True)[:, 0], last)
    return block * _BLOCK + token, top[:, 0] + total.log().float()


def pick_tokens(logits: torch.Tensor, sampling: Sampling, u: torch.Tensor, seen: torch.Tensor | None) -> Picked:
    """Sample the next token of every row; on a processor a few rows at a time, so that what is computed of them stays in cache.

    Args:
        logits: [B, V] raw logits of the policy.
        sampling: How to sample.
        u: [B] float64 uniforms.
        seen: As in `sampler_logits`.

    Returns:
        Ids, and log-probabilities under policy and sampler; see `Picked`.
    """
    size = _ROWS if logits.device.type == "cpu" else len(logits)
    starts = range(0, len(logits), size)
    parts = [
        _pick(logits[i : i + size], sampling, u[i : i + size], seen[i : i + size] if seen is not None else None) for i in starts
    ]
    ids, policy, sampler = (torch.cat(field) for field in zip(*parts, strict=True))
    return ids, policy, sampler


def _pick(logits: torch.Tensor, sampling: Sampling, u: torch.Tensor, seen: torch.Tensor | None) -> Picked:
    if sampling.samples_the_policy:
        ids, normaliser = sample_by_inversion(logits, u)
        policy = logits.gather(-1, ids[:, None])[:, 0].float() - normaliser
        return ids, policy, policy
    scores = logits.float()
    normaliser = scores.logsumexp(-1)
    if sampling.greedy:
        ids = _penalized(scores, sampling, seen).argmax(-1)
        policy = scores.gather(-1, ids[:, None])[:, 0] - normaliser
        return ids, policy, torch.zeros_like(policy)
    filtered = sampler_logits(scores, sampling, seen)
    ids, sampler_normaliser = sample_by_inversion(filtered, u)
    policy = scores.gather(-1, ids[:, None])[:, 0] - normaliser
    return ids, policy, filtered.gather(-1, ids[:, None])[:, 0] - sampler_normaliser
