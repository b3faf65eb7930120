"""The embedded engine: hand-written layers against the model's own forward, shared beginnings against none, places that are filled again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from posttrain.diagnose.engines.base import Completion, SampleRequest, ScoreRequest
from posttrain.diagnose.engines.hardware import can_pack
from posttrain.diagnose.engines.hf.cached_decoder import CachedDecoder
from posttrain.diagnose.engines.hf.path_scoring import score_packed, score_padded
from posttrain.diagnose.engines.hf.sampling_loop import Decoder, SamplingLoop
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.llama.layers import LlamaLayers, is_llama_like
from posttrain.diagnose.engines.llama.packed_sequences import read_pack
from posttrain.diagnose.engines.llama.packs import cut_packs
from posttrain.diagnose.engines.llama.shared_prefix_decoder import SharedPrefixDecoder
from posttrain.diagnose.types import Sampling, StopReason

VOCABULARY = 73
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
STEPPED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_LIKE = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama, tied": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama, biases": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama, scaled rotary": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, rope_parameters={**STEPPED, "original_max_position_embeddings": 64}),
    ),
    "llama, yarn": (
        LlamaForCausalLM,
        LlamaConfig(
            **SIZES,
            rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32},
        ),
    ),
    "llama, one head each": (LlamaForCausalLM, LlamaConfig(**{**SIZES, "num_key_value_heads": 4})),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16)),
}
OTHERS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, eos_token_id=2)),
    "sliding window": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=8)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=8, sliding_window=8, query_pre_attn_scalar=8)),
}
FREE = Sampling(max_tokens=12)


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model_class, config = {**LLAMA_LIKE, **OTHERS}[kind]
    model = model_class(copy.deepcopy(config)).eval()
    for name, parameter in model.named_parameters():  # norms and biases of ones and zeros would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name or "ln" in name), std=0.2)
    return model


def tokens(num: int, seed: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, VOCABULARY, num))


def engine_of(model: PreTrainedModel, tiny_model: Path, dtype: str = "float32") -> TransformersEngine:
    return TransformersEngine.from_model(model, AutoTokenizer.from_pretrained(tiny_model), sample_dtype=dtype)


PROMPTS = [tokens(5, 0), tokens(40, 1), tokens(5, 0) + tokens(7, 2), tokens(1, 3), tokens(23, 4)]


def requests(num_samples: Sequence[int] = (3, 5, 2, 1, 4)) -> list[SampleRequest]:
    return [SampleRequest(key=f"p{i}", prompt_ids=PROMPTS[i], num_samples=num) for i, num in enumerate(num_samples)]


def families() -> list[ScoreRequest]:
    """Paths that share a prompt, a beginning, everything, or nothing."""
    prompt, start = tokens(20, 5), tokens(6, 6)
    paths = [start + tokens(3 + i, 7 + i) for i in range(4)] + [start, start, start[:3], tokens(9, 30)]
    alone = [ScoreRequest(prompt_ids=tokens(4 + 9 * i, 40 + i), path_ids=tokens(1 + 5 * i, 50 + i)) for i in range(4)]
    return [ScoreRequest(prompt_ids=prompt, path_ids=path) for path in paths] + alone


# --------------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@torch.no_grad()
def test_packed_layers_give_the_logits_of_the_models_own_forward(kind: str) -> None:
    model = build(kind)
    assert is_llama_like(model)
    layers = LlamaLayers(model, torch.float32, packed=False)
    sequences = [(*one.prompt_ids, *one.path_ids) for one in families()]
    met = []
    for pack in cut_packs(sequences, max_tokens=60):
        logits = layers.project(read_pack(layers, pack))
        for member, place in zip(pack.members, pack.places, strict=True):
            wanted = model(torch.tensor([sequences[member]])).logits[0]
            torch.testing.assert_close(logits[place], wanted, atol=1e-4, rtol=0)
            met.append(member)
    assert sorted(met) == list(range(len(sequences)))


@pytest.mark.parametrize("kind", [*OTHERS, "hooked", "adapted"])
def test_what_is_not_exactly_llama_goes_another_way(kind: str) -> None:
    model = build(kind if kind in OTHERS else "llama")
    if kind == "hooked":
        model.model.layers[0].register_forward_hook(lambda *_: None)
    if kind == "adapted":

        class Adapted(torch.nn.Linear):
            pass

        model.model.layers[1].mlp.up_proj = Adapted(32, 64, bias=False)
    assert not is_llama_like(model)


def test_common_beginnings_are_read_once() -> None:
    prompt = tokens(50, 0)
    pack = next(cut_packs([prompt + tokens(5, i) for i in range(1, 9)], max_tokens=1000))
    assert 50 + 8 <= len(pack.ids) <= 50 + 8 * 5


# ------------------------------------------------------------------------------------------------------------------- sampling


def drawn(decoder: Decoder, engine: TransformersEngine, sampling: Sampling, of: list[SampleRequest]) -> list[list[Completion]]:
    with torch.no_grad():
        return SamplingLoop(decoder, engine.codec, engine.device).run(of, sampling, seed="s", on_tokens=lambda _: None)


def same(a: list[list[Completion]], b: list[list[Completion]]) -> None:
    for mine, other in zip(a, b, strict=True):
        for one, two in zip(mine, other, strict=True):
            assert one.token_ids == two.token_ids
            assert one.stop is two.stop
            assert one.text == two.text
            np.testing.assert_allclose(one.policy_logprobs, two.policy_logprobs, atol=1e-4)
            np.testing.assert_allclose(one.sampler_logprobs, two.sampler_logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "sampling", [FREE, Sampling(max_tokens=12, repetition_penalty=1.3, top_p=0.9), Sampling(max_tokens=6, temperature=0.0)]
)
@pytest.mark.parametrize("capacity", [3, 256])
def test_refilled_places_draw_what_a_batch_without_refilling_draws(tiny_model: Path, sampling: Sampling, capacity: int) -> None:
    """Which samples lie beside each other changes neither the uniforms of a sample nor, but for rounding, its probabilities."""
    model = build("llama")
    engine = engine_of(model, tiny_model)
    layers = LlamaLayers(model, torch.float32, packed=False)
    plain = drawn(CachedDecoder(model, max_tokens=sampling.max_tokens), engine, sampling, requests())
    shared = SharedPrefixDecoder(layers, max_tokens=sampling.max_tokens, capacity=capacity)
    same(drawn(shared, engine, sampling, requests()), plain)


@pytest.mark.parametrize("kind", ["llama", "qwen3", *OTHERS])
def test_samples_and_scores_agree_for_every_kind_of_model(tiny_model: Path, kind: str) -> None:
    engine = engine_of(build(kind), tiny_model)
    done = engine.sample(requests(), FREE, seed="0")
    pairs = [(one, sample) for one, samples in zip(requests(), done, strict=True) for sample in samples]
    scored = engine.score([ScoreRequest(prompt_ids=one.prompt_ids, path_ids=sample.token_ids) for one, sample in pairs])
    for (_, sample), scores in zip(pairs, scored, strict=True):
        np.testing.assert_allclose(sample.policy_logprobs, scores.logprobs, atol=1e-4)
    assert {sample.stop for _, sample in pairs} <= {StopReason.EOS, StopReason.LENGTH}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_nothing_is_inherited_from_generation_settings(tiny_model: Path, kind: str) -> None:
    """Many models come with a repetition penalty and truncation, which samples of the policy must not have."""
    plain = engine_of(build(kind), tiny_model).sample(requests(), FREE, seed="s")
    model = build(kind)
    model.generation_config.update(
        do_sample=True, temperature=0.1, top_p=0.5, top_k=3, min_p=0.2, repetition_penalty=1.5, max_new_tokens=3
    )
    found = engine_of(model, tiny_model).sample(requests(), FREE, seed="s")
    assert [[one.token_ids for one in row] for row in found] == [[one.token_ids for one in row] for row in plain]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_sample_ends_with_any_of_the_end_tokens(tiny_model: Path, kind: str) -> None:
    """A turn often ends with another token than a text does; both stand in the generation settings."""
    model = build(kind)
    plain = [one for row in engine_of(model, tiny_model).sample(requests(), FREE, seed="s") for one in row]
    model.generation_config.eos_token_id = [2, *range(20, 30)]
    ended = [one for row in engine_of(model, tiny_model).sample(requests(), FREE, seed="s") for one in row]
    assert any(one.stop is StopReason.EOS and one.token_ids[-1] >= 20 for one in ended)
    for before, after in zip(plain, ended, strict=True):
        cut = next((i + 1 for i, token in enumerate(before.token_ids) if 20 <= token < 30), len(before.token_ids))
        assert after.token_ids == before.token_ids[:cut]
        assert (after.stop is StopReason.EOS) == (after.token_ids[-1] in {2, *range(20, 30)})


def test_prompts_with_very_different_numbers_of_samples(tiny_model: Path) -> None:
    """Groups of prompts are divided as their samples end."""
    model = build("llama")
    engine, of = engine_of(model, tiny_model), requests((40, 1, 3, 9, 2))
    sampling = Sampling(max_tokens=16)
    decoder = SharedPrefixDecoder(LlamaLayers(model, torch.float32, packed=False), max_tokens=16, capacity=24)
    same(drawn(decoder, engine, sampling, of), drawn(CachedDecoder(model, max_tokens=16), engine, sampling, of))


@pytest.mark.parametrize("num_tokens", [1, 60])
def test_prompts_that_do_not_fit_beside_each_other_wait(tiny_model: Path, num_tokens: int) -> None:
    model = build("llama")
    engine, layers = engine_of(model, tiny_model), LlamaLayers(model, torch.float32, packed=False)
    plain = drawn(CachedDecoder(model, max_tokens=12), engine, FREE, requests())
    shared = SharedPrefixDecoder(layers, max_tokens=12, prompt_bytes=num_tokens * 2 * 2 * 2 * 8 * 4)
    assert shared.room([PROMPTS[1], PROMPTS[1], PROMPTS[4]]) == (1 if num_tokens == 1 else 2)
    same(drawn(shared, engine, FREE, requests()), plain)
    same(drawn(CachedDecoder(model, max_tokens=12, cached_tokens=num_tokens), engine, FREE, requests()), plain)


def test_no_requests_and_no_samples(tiny_model: Path) -> None:
    engine = engine_of(build("llama"), tiny_model)
    assert engine.sample([], FREE, seed="0") == []
    assert engine.score([]) == []
    assert engine.sample([SampleRequest(key="p", prompt_ids=PROMPTS[0], num_samples=0)], FREE, seed="0") == [[]]


def test_a_trainer_finds_its_model_in_training_mode_after_an_interrupt(tiny_model: Path) -> None:
    model = build("gpt2").train()
    engine = engine_of(model, tiny_model)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    for interrupted in (
        lambda: engine.sample(requests(), FREE, seed="0", on_tokens=stop),
        lambda: engine.score(families(), on_tokens=stop),
    ):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert model.training


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_refresh_follows_live_weights(tiny_model: Path, kind: str, dtype: str) -> None:
    model = build(kind)
    engine = engine_of(model, tiny_model, dtype)
    before = engine.sample(requests(), FREE, seed="0")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    engine.refresh()
    after = engine.sample(requests(), FREE, seed="0")
    same(after, engine_of(copy.deepcopy(model), tiny_model, dtype).sample(requests(), FREE, seed="0"))
    assert [c.token_ids for row in before for c in row] != [c.token_ids for row in after for c in row]


def test_bfloat16_samples_lie_near_what_float32_scores(tiny_model: Path) -> None:
    engine = TransformersEngine.open(str(tiny_model), sample_dtype="bfloat16")
    done = engine.sample(requests(), FREE, seed="0")
    pairs = [(one, sample) for one, samples in zip(requests(), done, strict=True) for sample in samples]
    scored = engine.score([ScoreRequest(prompt_ids=one.prompt_ids, path_ids=sample.token_ids) for one, sample in pairs])
    differences = [np.abs(sample.policy_logprobs - scores.logprobs) for (_, sample), scores in zip(pairs, scored, strict=True)]
    assert np.concatenate(differences).mean() < engine.info.logprob_tolerance


def test_without_bfloat16_units_the_engine_does_not_pack(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX2 only, where torch refuses to pack a weight in bfloat16."""

    def refuse(*_: object) -> None:
        raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx_ne_convert or avx512bw")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    engine = engine_of(build("llama"), tiny_model, "bfloat16")
    assert any("no bfloat16 units" in note for note in engine.info.notes)
    sampled = engine.sample(requests(), FREE, seed="0")
    engine.refresh()
    same(sampled, engine.sample(requests(), FREE, seed="0"))
    monkeypatch.undo()
    units = engine_of(build("llama"), tiny_model, "bfloat16")
    assert can_pack(torch.bfloat16) == (not any("no bfloat16 units" in note for note in units.info.notes))


# -------------------------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding window"])
def test_scores_are_those_of_a_plain_softmax(tiny_model: Path, kind: str) -> None:
    model = build(kind)
    for one, scores in zip(families(), engine_of(model, tiny_model).score(families()), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([(*one.prompt_ids, *one.path_ids)])).logits[0, len(one.prompt_ids) - 1 : -1].double()
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(one.path_ids)[:, None])
        above = logprobs > chosen
        np.testing.assert_allclose(scores.logprobs, chosen[:, 0], atol=1e-4)
        np.testing.assert_array_equal(scores.ranks, above.sum(-1))
        assert scores.mass_above is not None
        assert scores.top_logprobs is not None
        np.testing.assert_allclose(scores.mass_above, (logprobs.exp() * above).sum(-1), atol=1e-4)
        np.testing.assert_allclose(scores.top_logprobs, logprobs.amax(-1), atol=1e-4)


def test_shared_beginnings_score_as_one_by_one() -> None:
    model = build("llama")
    layers = LlamaLayers(model, torch.float32, packed=False)
    counted: list[int] = []
    with torch.no_grad():
        together = score_packed(layers, families(), counted.append)
        alone = [score_packed(layers, [one], lambda _: None)[0] for one in families()]
        padded = score_padded(model, families(), lambda _: None)
    assert sum(counted) == sum(len(one.path_ids) for one in families())
    for mine, one, other in zip(together, alone, padded, strict=True):
        for name in ("logprobs", "mass_above", "top_logprobs"):
            np.testing.assert_allclose(getattr(mine, name), getattr(one, name), atol=1e-5)
            np.testing.assert_allclose(getattr(mine, name), getattr(other, name), atol=1e-4)
        np.testing.assert_array_equal(mine.ranks, one.ranks)


def test_long_paths_are_projected_in_parts() -> None:
    """More positions than are projected at a time, some of them with several tokens to score."""
    model = build("llama")
    layers = LlamaLayers(model, torch.float32, packed=False)
    long = tokens(300, 60)
    of = [ScoreRequest(prompt_ids=PROMPTS[0], path_ids=(*long[: 150 + 30 * i], i + 3)) for i in range(5)]
    with torch.no_grad():
        for mine, other in zip(score_packed(layers, of, lambda _: None), score_padded(model, of, lambda _: None), strict=True):
            np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)
            assert mine.mass_above is not None
            assert other.mass_above is not None
            np.testing.assert_allclose(mine.mass_above, other.mass_above, atol=1e-4)


def test_the_open_engine_uses_the_fast_way(tiny_model: Path) -> None:
    assert is_llama_like(AutoModelForCausalLM.from_pretrained(tiny_model))
