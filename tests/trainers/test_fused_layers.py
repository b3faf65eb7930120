"""The layers written out are as near to float32 as the model's own forward function under autocast, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.training import random_rows
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from posttrain.trainers.fused_layers import FusedLayers
from posttrain.trainers.native.library import load_training_library
from posttrain.trainers.step.chunked_logprobs import project
from posttrain.trainers.step.logprobs import Shortcuts, find_shortcuts, logprobs_of, run_model
from posttrain.trainers.step.packing import collate, pack_rows

LIBRARY, REASON = load_training_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no functions in C: {REASON}")


def build(**settings: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": 61, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.15,
            **settings,
        }
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # not all 1, or a wrong gradient of them would not show
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def gradients(model: LlamaForCausalLM, rows, shortcuts: Shortcuts, dtype: torch.dtype, *, share: bool):
    """(log-probabilities, entropies, gradient by name) of a fixed weighting of all tokens."""
    model.zero_grad()
    batch = collate(pack_rows(rows, range(len(rows)), share=share, hidden_size=64, max_tokens=10_000))
    said = logprobs_of(run_model(model, batch, shortcuts, dtype=dtype), batch.targets, entropy=True)
    weights = torch.linspace(-1, 1, len(batch.targets))
    (said.logprobs * weights).sum().backward()
    return said.logprobs.detach(), said.entropy, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("share", [False, True])
def test_gradients_are_as_near_to_float32_as_autocast(share: bool, tied: bool) -> None:
    model = build(tie_word_embeddings=tied)
    shortcuts = find_shortcuts(model)
    assert shortcuts.fused is not None
    rows = random_rows(num_groups=4, group_size=3, longest=30)
    plain = replace(shortcuts, fused=None)
    wanted = gradients(model, rows, plain, torch.float32, share=share)
    autocast = gradients(model, rows, plain, torch.bfloat16, share=share)
    fused = gradients(model, rows, shortcuts, torch.bfloat16, share=share)
    for of, limit in ((0, 1.5), (1, 1.5)):
        assert float((fused[of] - wanted[of]).abs().mean()) < limit * float((autocast[of] - wanted[of]).abs().mean()) + 1e-4
    ours, theirs = distance(fused[2], wanted[2]), distance(autocast[2], wanted[2])
    assert max(ours.values()) < 0.1
    assert sum(ours.values()) < 1.3 * sum(theirs.values())


def test_padding_does_not_matter() -> None:
    model = build()
    shortcuts = find_shortcuts(model)
    rows = random_rows(num_groups=5, group_size=1, longest=40)

    def run(indices):
        batch = collate(pack_rows(rows, indices, share=False, hidden_size=64, max_tokens=10_000))
        with torch.no_grad():
            return logprobs_of(run_model(model, batch, shortcuts, dtype=torch.bfloat16), batch.targets).logprobs

    together = run(range(5))
    alone = torch.cat([run([index]) for index in range(5)])
    torch.testing.assert_close(together, alone, atol=0.03, rtol=0)


def test_it_is_used_only_where_it_is_the_same_model(model) -> None:
    assert FusedLayers.of(model) is None  # heads of width 4
    assert FusedLayers.of(build(attention_bias=True)) is None
    assert FusedLayers.of(build().to(torch.bfloat16)) is None
    settings = {"vocab_size": 61, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 32}
    assert FusedLayers.of(Qwen3ForCausalLM(Qwen3Config(num_attention_heads=2, num_key_value_heads=2, **settings)).eval()) is None


@pytest.mark.parametrize("vocabulary", [61, 4099])
def test_the_projection_in_bfloat16_equals_log_softmax(vocabulary: int) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(37, 32).bfloat16().requires_grad_()
    weight = torch.randn(vocabulary, 32).bfloat16().float().requires_grad_()
    targets = torch.randint(0, vocabulary, (37,))
    slope = torch.randn(37)
    found = project(hidden, weight, None, targets, dtype=torch.bfloat16, entropy=True)
    (found.logprobs * slope).sum().backward()
    got = hidden.grad.float(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logprobs = torch.log_softmax((hidden @ weight.bfloat16().T).float(), -1)
    torch.testing.assert_close(found.logprobs, logprobs.gather(1, targets[:, None])[:, 0].detach(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, -(logprobs.exp() * logprobs).sum(-1).detach(), atol=2e-5, rtol=1e-5)
    (logprobs.gather(1, targets[:, None])[:, 0] * slope).sum().backward()
    for mine, wanted in zip(got, (hidden.grad.float(), weight.grad), strict=True):
        assert float((mine - wanted).norm() / wanted.norm()) < 0.01
