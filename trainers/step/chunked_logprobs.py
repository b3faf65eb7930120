"""Log-probabilities from hidden states without ever holding [N, V] in float32.

The projection to the vocabulary is the largest tensor of a training step. It is computed chunk by chunk and dropped; backward
computes it again. Two numbers per token are kept, as in arXiv 2411.09009. The log-softmax is float32 even where the product is
bfloat16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_BYTES = 64 * 2**20
"""Size of one chunk in float32: 341 tokens of a vocabulary of 49152."""


class Projected(NamedTuple):
    """Numbers of N tokens."""

    logprobs: Tensor
    """[N] float32 (float64 for float64 weights), differentiable."""
    entropy: Tensor | None
    """[N] nats, no gradient; None where it was not needed."""


def project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    dtype: torch.dtype,
    entropy: bool,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Projected:
    """Return the log-probability of each target under softmax(hidden · weightᵀ + bias).

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V], or None.
        targets: [N] token ids.
        dtype: Of the product; the log-softmax is float32 at least.
        entropy: Whether to compute the entropy of each distribution too.
        chunk_bytes: Largest [tokens, V] held in float32.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropies = _ChunkedLogprobs.apply(hidden, weight, bias, targets, dtype, entropy, chunk_bytes)
    return Projected(logprobs, entropies if entropy else None)


def chunks(num_tokens: int, vocabulary: int, dtype: torch.dtype, chunk_bytes: int) -> list[slice]:
    """Cut N tokens into parts whose logits [n, V] in `dtype` hold at most `chunk_bytes`, or one token."""
    size = max(1, chunk_bytes // (vocabulary * dtype.itemsize))
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, sum_dtype: torch.dtype, temperature: float = 1.0) -> Tensor:
    """Return the logits [n, V] of hidden states [n, H] in a dtype; the product itself is in that of the factors."""
    logits = (hidden @ weight.T).to(sum_dtype)
    logits = logits if bias is None else logits + bias.to(sum_dtype)
    return logits if temperature == 1.0 else logits / temperature


class ProductGradient:
    """The gradients of hidden [N, H] · weightᵀ [H, V] + bias [V], summed chunk by chunk from gradients of the logits.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V], or None.
        dtype: Of the products.
        of_weight: Whether the weight has a gradient.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, of_weight: bool) -> None:
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.of_hidden = torch.empty_like(hidden)
        self.of_weight: Tensor | None = None
        self.of_bias = None if bias is None else torch.zeros_like(bias)
        self._weight_dtype, self._wants_weight = weight.dtype, of_weight

    def add(self, part: slice, logit_gradient: Tensor) -> None:
        """Add the gradient [n, V] of the logits of a part of the N positions."""
        if self.of_bias is not None:
            self.of_bias += logit_gradient.sum(0).to(self.of_bias.dtype)
        logit_gradient = logit_gradient.to(self.hidden.dtype)
        self.of_hidden[part] = (logit_gradient @ self.weight).to(self.of_hidden.dtype)
        if self._wants_weight:
            product = logit_gradient.T @ self.hidden[part]
            self.of_weight = product.to(self._weight_dtype) if self.of_weight is None else self.of_weight.add_(product)


class _ChunkedLogprobs(torch.autograd.Function):
    """∂ logp_n / ∂ logits_n = onehot(target_n) − softmax(logits_n), computed again from the hidden states in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        entropy: bool,
        chunk_bytes: int,
    ) -> tuple[Tensor, Tensor]:
        sum_dtype = torch.promote_types(dtype, torch.float32)
        rounded_hidden, rounded_weight = hidden.to(dtype), weight.to(dtype)
        normalisers = hidden.new_empty(len(targets), dtype=sum_dtype)
        logprobs = torch.empty_like(normalisers)
        entropies = torch.empty_like(normalisers) if entropy else normalisers.new_empty(0)
        parts = chunks(len(targets), weight.shape[0], sum_dtype, chunk_bytes)
        for part in parts:
            logits = head_logits(rounded_hidden[part], rounded_weight, bias, sum_dtype)
            normalisers[part] = torch.logsumexp(logits, dim=-1)
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - normalisers[part]
            if entropy:
                mean = torch.linalg.vecdot((logits - normalisers[part, None]).exp_(), logits)
                entropies[part] = normalisers[part] - mean
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers)
        ctx.dtype, ctx.parts = dtype, parts
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers = ctx.saved_tensors
        gradient = ProductGradient(hidden, weight, bias, ctx.dtype, of_weight=ctx.needs_input_grad[1])
        for part in ctx.parts:
            logit_gradient = head_logits(gradient.hidden[part], gradient.weight, bias, normalisers.dtype)
            logit_gradient.sub_(normalisers[part, None]).exp_().mul_(-grad[part, None])
            logit_gradient.scatter_add_(1, targets[part, None], grad[part, None])
            gradient.add(part, logit_gradient)
        return gradient.of_hidden, gradient.of_weight, gradient.of_bias, None, None, None, None
