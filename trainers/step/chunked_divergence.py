"""The divergence between a teacher's and the policy's next-token distributions over the vocabulary, without ever holding [N, V] in float32.

Generalised Jensen–Shannon divergence with M = β·teacher + (1 − β)·policy (GKD, arXiv 2306.13649):
β·KL(teacher‖M) + (1 − β)·KL(policy‖M); β = 0 is the forward KL(teacher‖policy), β = 1 the reverse KL(policy‖teacher).
As in `chunked_logprobs`, it is computed chunk by chunk, and again in backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.trainers.step.chunked_logprobs import ProductGradient, chunks, head_logits
from posttrain.trainers.step.logprobs import States

_CHUNK_BYTES = 32 * 2**20
"""Size of one chunk of one model's distribution in float32; about six such are held at a time."""


def divergence(
    policy: States, teacher: States, *, beta: float, temperature: float = 1.0, chunk_bytes: int = _CHUNK_BYTES
) -> Tensor:
    """Return the divergence of each token's two distributions.

    Args:
        policy: Of the model in training; gradients flow into it.
        teacher: At the same N places, over the same vocabulary; no gradient.
        beta: 0 ≤ β ≤ 1.
        temperature: Both distributions are softmax(logits / temperature).
        chunk_bytes: Largest [tokens, V] of one model held in float32.

    Returns:
        [N] nats, float32 or wider.
    """
    if policy.logits is not None or teacher.logits is not None:
        return _divergence(_all_logits(policy) / temperature, _all_logits(teacher).detach() / temperature, beta)
    weight, bias = policy.head
    with torch.autocast(policy.hidden.device.type, enabled=False):
        result: Tensor = _ChunkedDivergence.apply(
            policy.hidden, weight, bias, teacher, policy.product_dtype, beta, temperature, chunk_bytes
        )
    return result


def _all_logits(states: States) -> Tensor:
    logits = states.logits if states.logits is not None else torch.nn.functional.linear(states.hidden, *states.head)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _divergence(policy: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Return [n] divergences from logits [n, V] of both."""
    log_p, log_t = torch.log_softmax(policy, -1), torch.log_softmax(teacher, -1)
    if beta == 0.0:
        return (log_t.exp() * (log_t - log_p)).sum(-1)
    if beta == 1.0:
        return (log_p.exp() * (log_p - log_t)).sum(-1)
    log_m = _log_mixture(log_p, log_t, beta)
    return beta * (log_t.exp() * (log_t - log_m)).sum(-1) + (1 - beta) * (log_p.exp() * (log_p - log_m)).sum(-1)


def _log_mixture(log_p: Tensor, log_t: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(log_p + math.log1p(-beta), log_t + math.log(beta))


def _logit_gradient(policy: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Return [n, V] ∂ divergence / ∂ policy logits.

    Forward KL: p − t. Otherwise p·(g − Σ p·g) with g = log p − log t for the reverse KL and (1 − β)(log p − log m) between.
    """
    log_p, log_t = torch.log_softmax(policy, -1), torch.log_softmax(teacher, -1)
    p = log_p.exp()
    if beta == 0.0:
        return p.sub_(log_t.exp_())
    gain = log_p - log_t if beta == 1.0 else (1 - beta) * (log_p - _log_mixture(log_p, log_t, beta))
    return p.mul_(gain - (p * gain).sum(-1, keepdim=True))


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: States,
        dtype: torch.dtype,
        beta: float,
        temperature: float,
        chunk_bytes: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.teacher, ctx.dtype, ctx.beta, ctx.temperature = teacher, dtype, beta, temperature
        ctx.sum_dtype = torch.promote_types(dtype, torch.float32)
        ctx.parts = chunks(len(hidden), weight.shape[0], ctx.sum_dtype, chunk_bytes)
        out = hidden.new_empty(len(hidden), dtype=ctx.sum_dtype)
        for part, policy_logits, teacher_logits in _both_logits(ctx, hidden, weight, bias):
            out[part] = _divergence(policy_logits, teacher_logits, beta)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        gradient = ProductGradient(hidden, weight, bias, ctx.dtype, of_weight=ctx.needs_input_grad[1])
        for part, policy_logits, teacher_logits in _both_logits(ctx, hidden, weight, bias):
            logit_gradient = _logit_gradient(policy_logits, teacher_logits, ctx.beta).mul_(grad[part, None] / ctx.temperature)
            gradient.add(part, logit_gradient)
        return gradient.of_hidden, gradient.of_weight, gradient.of_bias, None, None, None, None, None


def _both_logits(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    """Yield (slice, policy logits, teacher logits) chunk by chunk."""
    teacher: States = ctx.teacher
    teacher_weight, teacher_bias = (None if each is None else each.detach() for each in teacher.head)
    assert teacher_weight is not None
    rounded_hidden, rounded_weight = hidden.to(ctx.dtype), weight.to(ctx.dtype)
    teacher_hidden = teacher.hidden.detach().to(teacher.product_dtype)
    teacher_weight = teacher_weight.to(teacher.product_dtype)
    for part in ctx.parts:
        policy_logits = head_logits(rounded_hidden[part], rounded_weight, bias, ctx.sum_dtype, ctx.temperature)
        teacher_logits = head_logits(teacher_hidden[part], teacher_weight, teacher_bias, ctx.sum_dtype, ctx.temperature)
        yield part, policy_logits, teacher_logits
