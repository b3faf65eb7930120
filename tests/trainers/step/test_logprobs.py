"""Shared prefixes and chunked projection change nothing but the time it takes."""

from __future__ import annotations

import pytest
import torch
from helpers.training import gradient, plain_logprobs, random_rows, tiny_llama
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from posttrain.trainers.step.chunked_logprobs import project
from posttrain.trainers.step.logprobs import Shortcuts, find_shortcuts, logprobs_of, run_model, token_logprobs
from posttrain.trainers.step.packing import attention_mask, collate, pack_rows, plan_micro_batches


def run(model, rows, shortcuts: Shortcuts, *, max_tokens: int = 256) -> dict[int, torch.Tensor]:
    """Row → log-probabilities [T]; leaves the gradient of Σ n · logp_n."""
    found = {}
    packs = pack_rows(rows, range(len(rows)), share=shortcuts.shared_prefixes, hidden_size=16, max_tokens=max_tokens)
    for group in plan_micro_batches(packs, max_tokens):
        batch = collate(group)
        logprobs = token_logprobs(model, batch, shortcuts, dtype=model.dtype).logprobs
        found.update(zip(batch.rows, logprobs.split(list(batch.lengths)), strict=True))
    sum(((index + 1) * values).sum() for index, values in found.items()).backward()
    return {index: values.detach() for index, values in found.items()}


# Eager attention has a softmax in float32.
@pytest.mark.parametrize(("attention", "tolerance"), [("sdpa", 1e-9), ("eager", 1e-4)])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_shortcuts_equal_rows_computed_one_by_one(attention: str, tolerance: float, chunked: bool, shared: bool) -> None:
    model = tiny_llama(attn_implementation=attention, dtype=torch.float64)
    rows = random_rows(num_groups=3, group_size=4)
    expected = [plain_logprobs(model, row) for row in rows]
    sum(((index + 1) * values).sum() for index, values in enumerate(expected)).backward()
    expected_gradient = gradient(model)
    model.zero_grad()
    found = run(model, rows, Shortcuts(chunked_projection=chunked, shared_prefixes=shared))
    for index, values in enumerate(expected):
        torch.testing.assert_close(found[index], values.detach(), atol=tolerance, rtol=tolerance)
    for name, value in gradient(model).items():
        torch.testing.assert_close(value, expected_gradient[name], atol=tolerance, rtol=tolerance, msg=name)


FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def model_of(family: str, *, tied: bool) -> PreTrainedModel:
    """Return a small model whose biases and norms are not the neutral ones, so that a wrong gradient of them shows."""
    torch.manual_seed(0)
    make_config, make_model = FAMILIES[family]
    config = make_config(
        vocab_size=61, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=256, tie_word_embeddings=tied, initializer_range=0.15,
    )  # fmt: skip
    model = make_model(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def run_weighted(model: PreTrainedModel, shortcuts: Shortcuts, dtype: torch.dtype):
    """Row → (log-probabilities, entropies), and the gradient by name of a fixed weighting of all tokens."""
    model.zero_grad()
    rows = random_rows(num_groups=4, group_size=3, longest=30)
    packs = pack_rows(rows, range(len(rows)), share=shortcuts.shared_prefixes, hidden_size=64, max_tokens=10_000)
    batch = collate(packs)
    found = logprobs_of(run_model(model, batch, shortcuts, dtype=dtype), batch.targets, entropy=True)
    order = dict(zip(batch.rows, found.logprobs.split(list(batch.lengths)), strict=True))
    entropies = dict(zip(batch.rows, found.entropy.split(list(batch.lengths)), strict=True))
    logprobs = torch.cat([order[index] for index in range(len(rows))])
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return logprobs.detach(), torch.cat([entropies[index] for index in range(len(rows))]), gradient(model)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_shortcuts_equal_the_plain_forward_pass(family: str, tied: bool) -> None:
    model = model_of(family, tied=tied)
    both = Shortcuts(chunked_projection=True, shared_prefixes=True)
    assert find_shortcuts(model) == both
    found = run_weighted(model, both, torch.float32)
    expected = run_weighted(model, Shortcuts(chunked_projection=False, shared_prefixes=False), torch.float32)
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], expected[1], atol=1e-4, rtol=1e-4)
    for name, value in expected[2].items():
        assert float((found[2][name] - value).norm() / value.norm()) < 1e-3, name


@pytest.mark.parametrize("family", list(FAMILIES))
def test_shortcuts_under_bfloat16_are_as_near_to_float32_as_the_plain_forward_pass(family: str) -> None:
    model = model_of(family, tied=True)
    plain, both = (Shortcuts(chunked_projection=each, shared_prefixes=each) for each in (False, True))
    exact = run_weighted(model, plain, torch.float32)
    rough, found = (run_weighted(model, shortcuts, torch.bfloat16) for shortcuts in (plain, both))
    for of in (0, 1):
        assert float((found[of] - exact[of]).abs().mean()) < 1.5 * float((rough[of] - exact[of]).abs().mean()) + 1e-4
    mine, theirs = (
        {name: float((run[2][name] - value).norm() / value.norm()) for name, value in exact[2].items()} for run in (found, rough)
    )
    assert max(mine.values()) < 0.1
    assert sum(mine.values()) < 1.3 * sum(theirs.values())


def test_a_plain_llama_allows_both_shortcuts(model) -> None:
    assert find_shortcuts(model) == Shortcuts(chunked_projection=True, shared_prefixes=True)
    assert not find_shortcuts(model, share_prefixes=False).shared_prefixes


def test_a_sliding_window_keeps_prefixes_apart() -> None:
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        sliding_window=8,
    )  # fmt: skip
    assert find_shortcuts(MistralForCausalLM(config).eval()) == Shortcuts(chunked_projection=True, shared_prefixes=False)


def test_a_bias_that_grows_with_the_distance_keeps_prefixes_apart() -> None:
    """Between the first few tokens the biases of MPT lie below the tolerance; 60 tokens on they do not."""
    torch.manual_seed(0)
    config = MptConfig(vocab_size=64, d_model=16, n_heads=2, n_layers=2, max_seq_len=256, initializer_range=0.02)
    assert not find_shortcuts(MptForCausalLM(config).eval()).shared_prefixes


def test_logits_that_are_changed_behind_the_head_are_noticed(model) -> None:
    forward = model.forward

    def capped(**inputs):
        output = forward(**inputs)
        output.logits = 2 * torch.tanh(output.logits / 2)
        return output

    model.forward = capped
    assert not find_shortcuts(model).chunked_projection


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 10**9])
def test_chunked_projection_equals_log_softmax(with_bias: bool, chunk_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias, upstream = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((7, 5), (11, 5), (11,), (7,))
    )
    targets = torch.arange(7)
    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    plain = torch.log_softmax(hidden @ weight.T + (bias if with_bias else 0), -1)
    found = project(
        hidden, weight, bias if with_bias else None, targets, dtype=torch.float64, entropy=True, chunk_bytes=chunk_bytes
    )
    torch.testing.assert_close(found.logprobs, plain.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(found.entropy, -(plain.exp() * plain).sum(-1).detach())
    expected = torch.autograd.grad((plain.gather(1, targets[:, None])[:, 0] * upstream).sum(), inputs)
    for got, want in zip(torch.autograd.grad((found.logprobs * upstream).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("vocabulary", [61, 4099])
def test_chunked_projection_in_bfloat16_equals_log_softmax(vocabulary: int) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(37, 32).bfloat16().requires_grad_()
    weight = torch.randn(vocabulary, 32).bfloat16().float().requires_grad_()
    targets = torch.randint(0, vocabulary, (37,))
    upstream = torch.randn(37)
    found = project(hidden, weight, None, targets, dtype=torch.bfloat16, entropy=True)
    (found.logprobs * upstream).sum().backward()
    got = hidden.grad.float(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logprobs = torch.log_softmax((hidden @ weight.bfloat16().T).float(), -1)
    torch.testing.assert_close(found.logprobs, logprobs.gather(1, targets[:, None])[:, 0].detach(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, -(logprobs.exp() * logprobs).sum(-1).detach(), atol=2e-5, rtol=1e-5)
    (logprobs.gather(1, targets[:, None])[:, 0] * upstream).sum().backward()
    for mine, wanted in zip(got, (hidden.grad.float(), weight.grad), strict=True):
        assert float((mine - wanted).norm() / wanted.norm()) < 0.01


def test_log_softmax_is_float32_under_bfloat16(model) -> None:
    batch = collate(pack_rows(random_rows(), range(9), share=True, hidden_size=16, max_tokens=256))
    rough = token_logprobs(model, batch, find_shortcuts(model), dtype=torch.bfloat16)
    exact = token_logprobs(model, batch, find_shortcuts(model), dtype=torch.float32)
    assert rough.logprobs.dtype is torch.float32
    assert (rough.logprobs - exact.logprobs).abs().mean() < 0.1


def test_a_completion_sees_the_prompt_and_itself() -> None:
    seen = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    assert [[int(i) for i in row.nonzero()[:, 0]] for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 5]]


def test_micro_batches_keep_the_budget_and_lose_no_row() -> None:
    rows = random_rows(num_groups=5, group_size=4)
    packs = pack_rows(rows, range(len(rows)), share=True, hidden_size=16, max_tokens=24)
    groups = plan_micro_batches(packs, 24)
    assert sorted(index for group in groups for pack in group for index in pack.rows) == list(range(len(rows)))
    assert all(len(group) == 1 or len(group) * max(pack.length for pack in group) <= 24 for group in groups)
