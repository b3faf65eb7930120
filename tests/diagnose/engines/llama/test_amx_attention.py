"""Attention on AMX tiles, over sequences that share what they begin with, beside float32."""

from __future__ import annotations

import pytest
import torch
from helpers.llama_models import build, tokens

from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.engines.hf.path_scoring import score_packed
from posttrain.diagnose.engines.llama.kernels.amx_attention import load_amx_attention
from posttrain.diagnose.engines.llama.kernels.c_kernels import CKernels, load_functions
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import read_pack
from posttrain.diagnose.engines.llama.packs import Pack, PackAttention, Span, cut_packs

pytestmark = pytest.mark.skipif(load_amx_attention() is None, reason="no AMX tiles or no C compiler here")


class CountingAttention:
    """Attends on AMX tiles, and counts how often."""

    def __init__(self) -> None:
        self.num_calls = 0

    def of_pack(self, pack: Pack) -> PackAttention:
        library = load_amx_attention()
        assert library is not None
        attend = library.of_pack(pack)

        def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.num_calls += 1
            return attend(q, k, v)

        return counted


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
    library = load_amx_attention()
    assert library is not None
    spans = [Span(0, len(place) - first) for place, first in zip(places, firsts, strict=True)]
    found = library.of_pack(Pack([], [], [], places, spans))(0.2 * q, k, v)
    assert not found[250].any()  # in no sequence
    for place, first in zip(places, firsts, strict=True):
        queries = (0.2 * q)[place].float().transpose(0, 1)
        keys, values = (part[place].float().repeat_interleave(heads // key_heads, dim=1).transpose(0, 1) for part in (k, v))
        seen = torch.ones(len(place), len(place), dtype=torch.bool).tril()
        weights = (queries @ keys.transpose(1, 2)).masked_fill(~seen, -torch.inf).softmax(-1)
        wanted = (weights @ values).transpose(0, 1)[first:]
        mine = found[place[first:]].float()
        assert float((mine - wanted).norm()) <= 0.005 * float(wanted.norm())


@torch.inference_mode()
def test_sequences_are_read_as_torch_reads_them() -> None:
    exact = build("eight share a key head")
    prompt = tokens(50, 9)
    sequences = [prompt + tokens(num, num) for num in (3, 40, 41, 90)] + [prompt[:20] + tokens(5, 5), tokens(200, 6)]
    (pack,) = cut_packs(sequences, 10_000)
    library, attention = load_functions(torch.bfloat16)[0], CountingAttention()
    assert library is not None
    with_tiles, without = (
        LlamaLayers(exact, torch.bfloat16, packed=True, kernels=CKernels(library, torch.bfloat16, amx_attention))
        for amx_attention in (attention, None)
    )
    here, there = read_pack(with_tiles, pack), read_pack(without, pack)
    assert attention.num_calls == with_tiles.num_layers
    wanted = read_pack(LlamaLayers(exact, torch.float32, packed=False), pack)
    assert float((here.float() - wanted).norm()) < 1.1 * float((there.float() - wanted).norm())


@torch.inference_mode()
def test_scores_in_bfloat16_stay_near_float32() -> None:
    exact = build("eight share a key head")
    requests = [ScoreRequest(prompt_ids=tokens(30, 1), path_ids=tokens(num, num)) for num in (5, 60, 100)]
    found = score_packed(LlamaLayers(exact, torch.bfloat16, packed=True), requests, lambda _: None)
    wanted = score_packed(LlamaLayers(exact, torch.float32, packed=False), requests, lambda _: None)
    for mine, theirs in zip(found, wanted, strict=True):
        assert abs(mine.logprobs - theirs.logprobs).mean() < 0.08
