"""The kernels in C against those in torch, and the decoder that samples with them against the one for torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.llama_models import KINDS, SIZES, build, tokens
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from posttrain.diagnose.engines import token_sampling
from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.engines.hf.path_scoring import score_packed
from posttrain.diagnose.engines.hf.sampling_loop import Decoder, SamplingLoop
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.llama.kernels.c_kernels import CKernels, SlotStep, load_functions
from posttrain.diagnose.engines.llama.kernels.compiler import load_library
from posttrain.diagnose.engines.llama.kernels.torch_kernels import Kernels
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.shared_prefix_decoder import SharedPrefixDecoder
from posttrain.diagnose.engines.llama.slot_decoder import SlotDecoder, tile_keys
from posttrain.diagnose.engines.llama.weights import RmsNorm
from posttrain.diagnose.engines.token_scoring import score_logits
from posttrain.diagnose.types import Sampling


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What the kernels compute with."""
    return request.param


@pytest.fixture(scope="module")
def kernels(dtype: torch.dtype) -> CKernels:
    library, why = load_functions(dtype)
    if library is None:
        assert shutil.which("cc") is None or "POSTTRAIN_NATIVE" in why, why
        pytest.skip(why)
    return CKernels(library, dtype, None)


def rounding(dtype: torch.dtype, bits: int) -> float:
    """What rounding may change: some bits of a bfloat16, or the last ones of a float."""
    return 2.0**-bits if dtype == torch.bfloat16 else 2e-5


def assert_as_near(own: float, torchs: float, dtype: torch.dtype) -> None:
    """Compare errors [nats, root mean square] of the kernels in C with those of torch; in float32 both are hardly more than rounding."""
    if dtype == torch.bfloat16:
        assert own <= 1.1 * torchs
        assert own < 0.05
    else:
        assert own <= max(2 * torchs, 1e-5)


def norm_of(weight: torch.Tensor, epsilon: float) -> RmsNorm:
    return RmsNorm(SimpleNamespace(weight=weight, variance_epsilon=epsilon), weight.dtype)


PROMPTS = [tokens(5, 0), tokens(40, 1), tokens(16, 2), tokens(1, 3), tokens(23, 4)]
REQUESTS = [SampleRequest(key=f"p{i}", prompt_ids=PROMPTS[i], num_samples=num) for i, num in enumerate((3, 5, 2, 1, 14))]


# ------------------------------------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize("with_delta", [True, False])
def test_norm(kernels: CKernels, dtype: torch.dtype, with_delta: bool) -> None:
    x, delta, weight = torch.randn(5, 80), torch.randn(5, 80).to(dtype), torch.rand(80).to(dtype)
    summed = x + delta.float() if with_delta else x.clone()
    y = kernels.add_and_norm(x, delta if with_delta else None, norm_of(weight, 1e-3))
    torch.testing.assert_close(x, summed)
    torch.testing.assert_close(
        y, functional.rms_norm(summed, (80,), weight.float(), 1e-3).to(dtype), atol=0, rtol=rounding(dtype, 7)
    )


def test_gate(kernels: CKernels, dtype: torch.dtype) -> None:
    both = torch.cat([torch.tensor([[0.0, -0.0, 90, -90, 1e-3, -1e-3, 5, -5] * 4]), torch.randn(1, 32)], dim=1).to(dtype)
    wanted = functional.silu(both[:, :32].float()) * both[:, 32:].float()
    torch.testing.assert_close(kernels.gate_joined(both).float(), wanted, atol=1e-30, rtol=rounding(dtype, 7))


def test_what_is_not_a_number_stays_so(kernels: CKernels, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 16)
    x[1, 3] = torch.nan
    y = kernels.add_and_norm(x, None, norm_of(torch.ones(16, dtype=dtype), 1e-3))
    assert y[0].isfinite().all()
    assert y[1].isnan().all()
    both = torch.full((1, 32), torch.nan, dtype=dtype)
    assert kernels.gate_joined(both).isnan().all()


@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 16), (6, 2, 32), (5, 1, 64), (8, 1, 16)])
@pytest.mark.parametrize("normed", [True, False])
def test_attention(kernels: CKernels, dtype: torch.dtype, heads: int, key_heads: int, width: int, normed: bool) -> None:
    """One layer of two; prompts of no, some and whole tiles; samples that have written none, some and whole tiles."""
    torch.manual_seed(0)
    lengths, writtens, layers, layer, columns = [0, 1, 16, 37, 37, 64], [0, 5, 15, 16, 31, 0], 2, 1, 32
    lines, slots = len(lengths), [4, 0, 5, 1, 3, 2]
    keys = [torch.randn(layers, key_heads, length, width).to(dtype) for length in lengths]
    values = [torch.randn(layers, key_heads, length, width).to(dtype) for length in lengths]
    tiles = [tile_keys(k, kernels.lanes) for k in keys]
    written_keys = torch.randn(layers, lines, key_heads, columns, width).to(dtype)
    own_values = torch.randn(layers, lines, key_heads, columns, width).to(dtype)
    own_keys = tile_keys(written_keys.flatten(0, 1), kernels.lanes).view(written_keys.shape)
    own_keys[layer, 4, :, kernels.lanes :] = torch.nan  # what was never written may be anything: slot 4 has written nothing
    qkv = torch.randn(lines, (heads + 2 * key_heads) * width).to(dtype)
    angle = torch.rand(lines, width // 2).repeat(1, 2) * 6
    norms = [norm_of(torch.rand(width).to(dtype), 1e-5) if normed else None for _ in range(2)]
    step = SlotStep(
        rotation=(angle.cos(), angle.sin()),
        scaling=0.3,
        own_keys=own_keys,
        own_values=own_values,
        slots=torch.tensor(slots),
        num_written=torch.tensor(writtens),
        prompt_keys=torch.tensor([t.data_ptr() for t in tiles]),
        prompt_values=torch.tensor([v.data_ptr() for v in values]),
        prompt_lengths=torch.tensor(lengths),
    )
    out = kernels.attend(layer, qkv, (norms[0], norms[1]), step)

    q, k, v = qkv.float().view(lines, -1, width).split([heads, key_heads, key_heads], dim=1)
    if normed:
        q, k = (
            functional.rms_norm(x, (width,), w.value.float(), 1e-5) for x, w in zip((q, k), norms, strict=True) if w is not None
        )
    half = torch.tensor([-1.0] * (width // 2) + [1.0] * (width // 2))
    q, k = (x * angle.cos()[:, None] + x.roll(width // 2, -1) * half * angle.sin()[:, None] for x in (q, k))
    for line, (slot, written) in enumerate(zip(slots, writtens, strict=True)):
        mine = written_keys[layer, slot, :, :written].float(), own_values[layer, slot, :, :written].float()
        all_k = torch.cat([keys[line][layer].float(), mine[0], k[line, :, None].to(dtype).float()], dim=1)
        all_v = torch.cat([values[line][layer].float(), mine[1], v[line, :, None]], dim=1)
        wanted = functional.scaled_dot_product_attention(q[line, :, None], *(
            x.repeat_interleave(heads // key_heads, 0) for x in (all_k, all_v)
        ), scale=0.3)  # fmt: skip
        torch.testing.assert_close(out[line].float(), wanted.flatten(), atol=rounding(dtype, 8), rtol=rounding(dtype, 7))


@pytest.mark.parametrize("normed", [True, False])
def test_rotation(kernels: CKernels, dtype: torch.dtype, normed: bool) -> None:
    both, angle = torch.randn(7, 5 * 32).to(dtype), torch.rand(7, 16).repeat(1, 2) * 6
    x, weight = both[:, 32:128].unflatten(1, (3, 32)), torch.rand(32).to(dtype)
    wanted = functional.rms_norm(x.float(), (32,), weight.float(), 1e-5) if normed else x.float()
    half = torch.tensor([-1.0] * 16 + [1.0] * 16)
    wanted = (wanted * angle.cos()[:, None] + wanted.roll(16, -1) * half * angle.sin()[:, None]) * 0.25
    found = kernels.rotate(x, (angle.cos(), angle.sin()), norm_of(weight, 1e-5) if normed else None, 0.25)
    torch.testing.assert_close(found.float(), wanted, atol=rounding(dtype, 10), rtol=rounding(dtype, 7))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_lie_as_near_as_those_of_torch(kernels: CKernels, dtype: torch.dtype, kind: str) -> None:
    model = build(kind).bfloat16().float()
    requests = [ScoreRequest(prompt_ids=prompt, path_ids=tokens(9 + i, 9)) for i, prompt in enumerate(PROMPTS * 2)]
    exact = score_packed(LlamaLayers(model, torch.float32, packed=False), requests, lambda _: None)
    layers = LlamaLayers(model, dtype, packed=True)
    assert isinstance(layers.kernels, CKernels)
    with_torch = LlamaLayers(model, dtype, packed=True, kernels=Kernels())
    own, torchs = (
        float(np.sqrt(np.mean([np.mean((one.logprobs - other.logprobs) ** 2) for one, other in zip(found, exact, strict=True)])))
        for found in (score_packed(layers, requests, lambda _: None), score_packed(with_torch, requests, lambda _: None))
    )
    assert_as_near(own, torchs, dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("vocabulary", [16, 73, 256, 1003])
def test_picked_tokens_are_those_of_torch(kernels: CKernels, dtype: torch.dtype, temperature: float, vocabulary: int) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(400, vocabulary) * 3).to(dtype)
    logits[::3, ::2] = -torch.inf
    u = torch.rand(400, dtype=torch.float64)
    u[:5] = torch.tensor([0.0, 1 - 2**-53, 1e-300, 0.5, 1 - 1e-9])
    ids, policy, sampler = kernels.pick_tokens(logits, Sampling(max_tokens=1, temperature=temperature), u, None)
    wanted = token_sampling.pick_tokens(logits, Sampling(max_tokens=1, temperature=temperature), u, None)
    assert (
        ids == wanted[0]
    ).float().mean() >= 0.99  # a draw may fall on the other side of a border between two tokens by rounding
    assert logits.gather(1, ids[:, None]).isfinite().all()
    mine = torch.log_softmax(logits.float(), -1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(policy, mine, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        sampler, torch.log_softmax(logits.float() / temperature, -1).gather(1, ids[:, None])[:, 0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("vocabulary", [16, 73, 256, 1003])
def test_scores_of_tokens_are_those_of_torch(kernels: CKernels, dtype: torch.dtype, vocabulary: int) -> None:
    torch.manual_seed(2)
    logits = (torch.randn(50, vocabulary) * 3).to(dtype)
    logits[::3, 1::2] = -torch.inf
    rows = torch.arange(50).repeat_interleave(2)
    tokens = torch.randint(0, (vocabulary + 1) // 2, (100,)) * 2 % vocabulary
    found, wanted = kernels.score_tokens(logits, rows, tokens), score_logits(logits[rows], tokens)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-5)


def test_the_number_of_threads_changes_nothing(kernels: CKernels, dtype: torch.dtype, one_thread_then_all: list[int]) -> None:
    logits, u = (torch.randn(50, 3000) * 2).to(dtype), torch.rand(50, dtype=torch.float64)
    found = []
    for num in one_thread_then_all:
        torch.set_num_threads(num)
        found.append(kernels.pick_tokens(logits, Sampling(max_tokens=1), u, None))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def one_thread_then_all() -> Iterator[list[int]]:
    before = torch.get_num_threads()
    yield [1, before]
    torch.set_num_threads(before)


# -------------------------------------------------------------------------------------------------------------------- decoder


def run(
    decoder: Decoder, model: PreTrainedModel, tiny_model: Path, sampling: Sampling
) -> list[tuple[SampleRequest, tuple[int, ...], np.ndarray]]:
    engine = TransformersEngine.from_model(model, AutoTokenizer.from_pretrained(tiny_model), sample_dtype="float32")
    with torch.no_grad():
        done = SamplingLoop(decoder, engine.codec, engine.device).run(REQUESTS, sampling, seed="s", on_tokens=lambda _: None)
    return [
        (one, sample.token_ids, sample.policy_logprobs) for one, samples in zip(REQUESTS, done, strict=True) for sample in samples
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [7, 256])
def test_samples_lie_as_near_to_full_precision_as_those_of_torch(
    kernels: CKernels, dtype: torch.dtype, tiny_model: Path, kind: str, capacity: int
) -> None:
    """Log-probabilities of what was drawn, against fp32 with the same rounded weights; places are filled again at capacity 3."""
    model = build(kind).bfloat16().float()
    layers = LlamaLayers(model, dtype, packed=True)
    assert isinstance(layers.kernels, CKernels)
    sampling = Sampling(max_tokens=20)
    errors = []
    with_torch = LlamaLayers(model, dtype, packed=True, kernels=Kernels())
    for decoder in (
        SlotDecoder(layers, layers.kernels, max_tokens=20, capacity=capacity),
        SharedPrefixDecoder(with_torch, max_tokens=20, capacity=capacity),
    ):
        drawn = run(decoder, model, tiny_model, sampling)
        engine = TransformersEngine.from_model(model, AutoTokenizer.from_pretrained(tiny_model), sample_dtype="float32")
        scored = engine.score([ScoreRequest(prompt_ids=one.prompt_ids, path_ids=ids) for one, ids, _ in drawn])
        errors.append(np.concatenate([mine - scores.logprobs for (_, _, mine), scores in zip(drawn, scored, strict=True)]))
    own, torchs = (float(np.sqrt(np.mean(np.square(error)))) for error in errors)
    assert_as_near(own, torchs, dtype)


def test_memory_for_prompts_is_bounded_and_given_back(kernels: CKernels, dtype: torch.dtype) -> None:
    layers = LlamaLayers(build("grouped"), dtype, packed=True, kernels=kernels)
    decoder = SlotDecoder(layers, kernels, max_tokens=16, capacity=8, prompt_bytes=45 * 2 * 3 * 2 * 16 * dtype.itemsize)
    assert decoder.room([PROMPTS[1], PROMPTS[1], PROMPTS[0], PROMPTS[4]]) == 3
    with torch.no_grad():
        decoder.admit([PROMPTS[1], PROMPTS[1]])
    assert decoder.room([PROMPTS[0], PROMPTS[4]]) == 1
    assert decoder.retire([0]) == [1]
    assert decoder.room([PROMPTS[4]]) == 0
    assert decoder.retire([0]) == []
    assert decoder.room([PROMPTS[4]]) == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("width of a head", {"head_dim": 24}),
        ("activation", {"hidden_act": "gelu"}),
        ("width of the layers", {"intermediate_size": 100}),
    ],
)
def test_what_the_functions_cannot_do_is_left_to_torch(dtype: torch.dtype, kind: str, change: dict[str, object]) -> None:
    config = LlamaConfig(**{**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, **change})
    assert type(LlamaLayers(LlamaForCausalLM(config), dtype, packed=True).kernels) is Kernels
    config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
    assert type(LlamaLayers(LlamaForCausalLM(config), torch.float32, packed=False).kernels) is Kernels


# -------------------------------------------------------------------------------------------------------------------- loading


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    load_library.cache_clear()
    yield tmp_path / "native"
    load_library.cache_clear()


def test_the_library_is_compiled_once(kernels: CKernels, dtype: torch.dtype, fresh_cache: Path) -> None:
    assert load_functions(dtype)[0] is not None
    (made,) = fresh_cache.iterdir()
    when = made.stat().st_mtime_ns
    load_library.cache_clear()
    assert load_functions(dtype)[0] is not None
    assert [file.stat().st_mtime_ns for file in fresh_cache.iterdir()] == [when]


def test_a_file_that_does_not_compile(kernels: CKernels, fresh_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.c").write_text("not C")
    library, why = load_library(tmp_path / "broken.c")
    assert library is None
    assert "broken.c" in why


@pytest.mark.parametrize(("variable", "value"), [("POSTTRAIN_NATIVE", "0"), ("PATH", "/nowhere")], ids=["off", "no compiler"])
def test_without_it_the_engine_goes_on(
    tiny_model: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    library, why = load_functions(torch.bfloat16)
    assert library is None
    engine = TransformersEngine.from_model(build("grouped"), AutoTokenizer.from_pretrained(tiny_model), sample_dtype="bfloat16")
    assert why in " ".join(engine.info.notes)
    assert len(engine.sample(REQUESTS[:1], Sampling(max_tokens=3), seed="0")[0]) == 3
