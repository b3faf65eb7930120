"""Scoring of paths after prompts: packed without padding for Llama-like models, in padded batches for others.

Legend of shapes: B rows of a batch, N tokens of a pack, T path tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from posttrain.diagnose.engines.base import OnTokens, ScoreRequest, TokenScores
from posttrain.diagnose.engines.hf.cached_decoder import padded_left
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import read_pack
from posttrain.diagnose.engines.llama.packs import cut_packs
from posttrain.diagnose.engines.token_scoring import VocabularyScores, score_hidden, score_logits

_PACK_TOKENS = 2048
_PADDED_TOKENS = 8192
_PADDED_LOGITS = 2**26


def score_packed(layers: LlamaLayers, requests: Sequence[ScoreRequest], on_tokens: OnTokens) -> list[TokenScores]:
    """Score paths; return scores in the order of the requests. Prompts and beginnings of paths that several requests share are read once."""
    results: list[TokenScores | None] = [None] * len(requests)
    # The last token of a path is scored, not read.
    sequences = [(*request.prompt_ids, *request.path_ids)[:-1] for request in requests]
    for pack in cut_packs(sequences, _PACK_TOKENS):
        members = [requests[member] for member in pack.members]
        hidden = read_pack(layers, pack)
        positions = [place[len(one.prompt_ids) - 1 :] for place, one in zip(pack.places, members, strict=True)]
        targets = torch.tensor([token for one in members for token in one.path_ids])
        found = score_hidden(
            hidden, torch.cat(positions).to(layers.device), targets.to(layers.device), layers.project, layers.kernels.score_tokens
        )
        lengths = [len(one.path_ids) for one in members]
        for member, scores in zip(pack.members, _divided(found, lengths), strict=True):
            results[member] = scores
            on_tokens(len(scores.logprobs))
    return [scores for scores in results if scores is not None]


def score_padded(model: PreTrainedModel, requests: Sequence[ScoreRequest], on_tokens: OnTokens) -> list[TokenScores]:
    """Score paths with the model's own forward function; return scores in the order of the requests."""
    results: list[TokenScores | None] = [None] * len(requests)
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].path_ids), len(requests[i].prompt_ids)))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    position = 0
    while position < len(order):
        # Rows are taken in order of length; the batch grows while its logits [B, T, V] and its tokens stay below fixed sizes.
        size = 1
        longest = len(requests[order[position]].prompt_ids)
        while position + size < len(order):
            following = requests[order[position + size]]
            longest = max(longest, len(following.prompt_ids))
            path = len(following.path_ids)
            if (size + 1) * (path + 1) * vocabulary > _PADDED_LOGITS or (size + 1) * (longest + path) > _PADDED_TOKENS:
                break
            size += 1
        batch = order[position : position + size]
        for i, scores in zip(batch, _score_batch(model, [requests[i] for i in batch]), strict=True):
            results[i] = scores
            on_tokens(len(scores.logprobs))
        position += size
    return [scores for scores in results if scores is not None]


def _score_batch(model: PreTrainedModel, requests: list[ScoreRequest]) -> list[TokenScores]:
    rows = [(*request.prompt_ids, *request.path_ids) for request in requests]
    longest, longest_path = max(map(len, rows)), max(len(request.path_ids) for request in requests)
    inputs = padded_left(rows, longest, model)
    logits = model(**inputs, logits_to_keep=longest_path + 1, use_cache=False).logits[:, :-1]
    lengths = [len(request.path_ids) for request in requests]
    found = [score_logits(row[-t:], path[-t:]) for row, path, t in zip(logits, inputs["input_ids"], lengths, strict=True)]
    return [scores for one, t in zip(found, lengths, strict=True) for scores in _divided(one, [t])]


def _divided(found: VocabularyScores, lengths: list[int]) -> list[TokenScores]:
    parts = zip(*(field.cpu().split(lengths) for field in found), strict=True)
    return [
        TokenScores(logprobs=logprobs.numpy(), ranks=ranks.numpy(), mass_above=mass.numpy(), top_logprobs=top.numpy())
        for logprobs, ranks, mass, top in parts
    ]
