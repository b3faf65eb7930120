"""What a small model says, with probabilities: a tree of continuations in which branches of little probability are thinned without bias.

All continuations of a prompt are followed with their exact probability as long as that is at least 1/N. A branch below 1/N lives on with
probability 1/N where a random number says so, and ends else, so that every text keeps its probability on average. The estimate of a success
rate has at most the variance of N independent samples, and none at all where every path is likelier than 1/N.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, LlamaForCausalLM

N = 2048
MOST_ROWS = 6000
"""Branches that are followed at once; more prompts than fit are worked through in parts."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """One text that a model may write."""

    token_ids: tuple[int, ...]
    """Without the end token."""
    ended: bool
    """False where it ran into the limit."""
    probability: float


def continuations(
    model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], limit: int, *, temperature: float = 1.0, seed: int = 0, n: int = N
) -> list[list[Continuation]]:
    """Return what follows each prompt.

    Args:
        model: A model in evaluation mode, on the CPU.
        prompts: Token ids.
        limit: Tokens of a continuation at most, the end token included.
        temperature: 0 for the most likely token at every place.
        seed: Of the thinning.
        n: The number of samples that the precision is at least worth.
    """
    found: list[list[Continuation]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for places in by_length.values():
            for first in range(0, len(places), 40):
                part = places[first : first + 40]
                _follow(model, [prompts[place] for place in part], part, limit, temperature, generator, n, found)
    return found


def _follow(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    places: Sequence[int],
    limit: int,
    temperature: float,
    generator: torch.Generator,
    n: int,
    found: list[list[Continuation]],
) -> None:
    """Follow prompts of one length."""
    end = model.config.eos_token_id
    cache = DynamicCache()
    logits = model(input_ids=torch.tensor(prompts), past_key_values=cache, use_cache=True).logits[:, -1]
    weights = torch.ones(len(prompts), dtype=torch.float64)
    owners = torch.tensor(places)
    written = torch.empty((len(prompts), 0), dtype=torch.long)
    for step in range(limit):
        rows, tokens, weights = _branch(logits, weights, temperature, generator, n)
        owners, written = owners[rows], torch.cat([written[rows], tokens[:, None]], dim=1)
        going = tokens != end
        if step == limit - 1:
            going = torch.zeros_like(going)
        for row in torch.nonzero(~going)[:, 0].tolist():
            ids = written[row].tolist()
            ended = ids[-1] == end
            found[int(owners[row])].append(Continuation(tuple(ids[:-1] if ended else ids), ended, float(weights[row])))
        if not going.any():
            return
        rows, tokens, weights, owners, written = rows[going], tokens[going], weights[going], owners[going], written[going]
        cache.batch_select_indices(rows)
        logits = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]


def _branch(
    logits: torch.Tensor, weights: torch.Tensor, temperature: float, generator: torch.Generator, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows, tokens and weights of the branches that live on.

    Args:
        logits: [R, V]
        weights: [R] probability of each row.
        temperature: 0 for the most likely token.
        generator: Of the thinning.
        n: As for `continuations`.
    """
    if temperature == 0.0:
        return torch.arange(len(logits)), logits.argmax(dim=1), weights
    mass = torch.softmax(logits.double() / temperature, dim=1) * weights[:, None]
    lives = torch.rand(mass.shape, generator=generator, dtype=torch.float64) < mass * n
    rows, tokens = torch.nonzero(lives, as_tuple=True)
    return rows, tokens, mass[rows, tokens].clamp(min=1.0 / n)
