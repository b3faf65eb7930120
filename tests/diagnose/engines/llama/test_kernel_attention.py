"""Attention on matrix units, over sequences that share what they begin with, beside float32."""

from __future__ import annotations

import pytest
import torch
from helpers.llama_models import build, tokens

from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.engines.hf.path_scoring import score_packed
from posttrain.diagnose.engines.llama import packed_sequences
from posttrain.diagnose.engines.llama.kernels.attention import Places, load_attention
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import packs, read

pytestmark = pytest.mark.skipif(load_attention() is None, reason="no AMX or no C compiler here")


@pytest.mark.parametrize(("heads", "key_heads", "width"), [(1, 1, 32), (6, 2, 64), (4, 4, 96)])
def test_it_equals_softmax_over_the_places(heads: int, key_heads: int, width: int) -> None:
    torch.manual_seed(0)
    prompt = torch.arange(40)
    places = [
        prompt,
        torch.cat([prompt, torch.arange(40, 73)]),
        torch.cat([prompt[:7], torch.arange(73, 74)]),
        prompt[:20],  # nothing new
        torch.arange(74, 250),
    ]
    firsts = [0, 40, 7, 20, 0]
    qkv = torch.randn(251, (heads + 2 * key_heads) * width).bfloat16()
    q, k, v = qkv.view(251, -1, width).split([heads, key_heads, key_heads], dim=1)
    library = load_attention()
    assert library is not None
    found = library.over_places(q, k, v, 0.2, Places.of(places, firsts))
    assert not found[250].any()  # in no sequence
    for place, first in zip(places, firsts, strict=True):
        queries = q[place].float().transpose(0, 1)
        keys, values = (part[place].float().repeat_interleave(heads // key_heads, dim=1).transpose(0, 1) for part in (k, v))
        seen = torch.ones(len(place), len(place), dtype=torch.bool).tril()
        weights = (0.2 * queries @ keys.transpose(1, 2)).masked_fill(~seen, -torch.inf).softmax(-1)
        wanted = (weights @ values).transpose(0, 1)[first:]
        mine = found[place[first:]].float()
        assert float((mine - wanted).norm()) <= 0.005 * float(wanted.norm())


@torch.inference_mode()
def test_sequences_are_read_as_torch_reads_them(monkeypatch) -> None:
    exact = build("eight share a key head")
    layers = LlamaLayers(exact, torch.bfloat16, packed=True)
    prompt = tokens(50, 9)
    sequences = [prompt + tokens(num, num) for num in (3, 40, 41, 90)] + [prompt[:20] + tokens(5, 5), tokens(200, 6)]
    (pack,) = packs(sequences, 10_000)
    called: list[int] = []
    library = load_attention()
    assert library is not None
    over_places = library.over_places
    monkeypatch.setattr(library, "over_places", lambda *given: called.append(1) or over_places(*given))
    here = read(layers, pack)
    assert len(called) == layers.num_layers
    monkeypatch.setattr(packed_sequences, "load_attention", lambda: None)
    there = read(layers, pack)
    wide = read(LlamaLayers(exact, torch.float32, packed=False), pack)
    assert float((here.float() - wide).norm()) < 1.1 * float((there.float() - wide).norm())


@torch.inference_mode()
def test_scores_in_bfloat16_stay_near_float32() -> None:
    exact = build("eight share a key head")
    requests = [ScoreRequest(prompt_ids=tokens(30, 1), path_ids=tokens(num, num)) for num in (5, 60, 100)]
    found = score_packed(LlamaLayers(exact, torch.bfloat16, packed=True), requests, lambda _: None)
    wanted = score_packed(LlamaLayers(exact, torch.float32, packed=False), requests, lambda _: None)
    for mine, theirs in zip(found, wanted, strict=True):
        assert abs(mine.logprobs - theirs.logprobs).mean() < 0.08
