"""Token log-probabilities of a model: the shortcuts that it allows, found by trying them, and the forward pass that uses them.

Two shortcuts save most of the work: hidden states are projected to the vocabulary only where a completion token is predicted,
and rows that share a prompt run it once. Neither holds for every architecture (logits may be scaled or capped behind the head,
attention may have windows or a recurrent state), so both are tried on a few tokens before they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.diagnose.engines.limits import context_length, first_position
from posttrain.diagnose.types import Split
from posttrain.trainers.distributed.fsdp import RUN_DECODER, run_decoder
from posttrain.trainers.step.chunked_logprobs import Projected, project
from posttrain.trainers.step.packing import MicroBatch, attention_mask, collate, pack_rows
from posttrain.trainers.step.precision import autocast
from posttrain.trainers.training_types import TrainingRow

_LARGE_LOGIT = 1000.0
"""Far above every cap in use (20 to 50)."""
_FULL_ATTENTION = {"full_attention", "attention"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcuts:
    """What a model allows."""

    chunked_projection: bool
    """Logits are head(hidden state) with a linear head, and are not changed afterwards."""
    shared_prefixes: bool
    """Attention is full and takes a mask [B, 1, S, S]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """What a forward pass leaves at the N places where a completion token is predicted."""

    hidden: Tensor
    """[N, H] the last hidden states; [N, 0] where they were not needed."""
    logits: Tensor | None
    """[N, V] where the model does something between hidden state and logits that is not a linear head; else None."""
    model: PreTrainedModel
    dtype: torch.dtype
    num_ids: int | None = None
    """How many of the ids, from 0, the distributions are over; None: all V."""

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """[V, H] and [V]: the linear head and its bias."""
        head = self.model.get_output_embeddings()
        if self.num_ids is None:
            return head.weight, head.bias
        return head.weight[: self.num_ids], None if head.bias is None else head.bias[: self.num_ids]

    def over_first(self, num_ids: int) -> States:
        """Return the same with distributions over the first ids alone, renormalised."""
        return replace(self, logits=None if self.logits is None else self.logits[:, :num_ids], num_ids=num_ids)

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype of the product with the head."""
        return torch.bfloat16 if self.dtype is torch.bfloat16 else self.head[0].dtype


def run_model(
    model: PreTrainedModel, batch: MicroBatch, shortcuts: Shortcuts, *, dtype: torch.dtype, with_hidden: bool = False
) -> States:
    """Run the model over a micro-batch.

    Args:
        model: In eval mode, so that dropout is off.
        batch: On the model's device.
        shortcuts: From `find_shortcuts`.
        dtype: bfloat16 runs under autocast; anything else runs in the dtype of the weights.
        with_hidden: Whether the hidden states are wanted even where the logits do not come from them.
    """
    mask: Tensor | None
    if batch.shared:
        mask = attention_mask(batch.segments)
        if model.config._attn_implementation == "eager":  # adds its mask; the others understand True and False
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
    else:
        mask = None if bool((batch.segments >= 0).all()) else (batch.segments >= 0).long()
    positions = batch.position_ids + first_position(model.config)
    inputs = {"input_ids": batch.input_ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    with autocast(batch.input_ids.device, dtype):
        decode = getattr(model, RUN_DECODER, None) or partial(run_decoder, model)
        if shortcuts.chunked_projection:
            hidden = decode(**inputs).flatten(0, 1)[batch.predictors]
            return States(hidden=hidden, logits=None, model=model, dtype=dtype)
        logits = model(**inputs).logits.flatten(0, 1)[batch.predictors]
        # Asking the model itself for its hidden states would leave hooks in it.
        hidden = decode(**inputs).flatten(0, 1)[batch.predictors] if with_hidden else logits[:, :0]
        return States(hidden=hidden, logits=logits, model=model, dtype=dtype)


def logprobs_of(states: States, targets: Tensor, *, entropy: bool = False) -> Projected:
    """Return the log-probability of each of the N completion tokens.

    Args:
        states: Of the N places.
        targets: [N] token ids.
        entropy: Whether to compute the entropy of each token's distribution as well (nats, no gradient).

    Returns:
        Log-probabilities [N] in float32 or wider, with a graph where gradients are enabled.
    """
    if states.logits is not None:
        return _plain(states.logits, targets, entropy)
    weight, bias = states.head
    return project(states.hidden, weight, bias, targets, dtype=states.product_dtype, entropy=entropy)


def token_logprobs(
    model: PreTrainedModel, batch: MicroBatch, shortcuts: Shortcuts, *, dtype: torch.dtype, entropy: bool = False
) -> Projected:
    """Run the model, and return the log-probabilities of the completion tokens."""
    return logprobs_of(run_model(model, batch, shortcuts, dtype=dtype), batch.targets, entropy=entropy)


def _plain(logits: Tensor, targets: Tensor, entropy: bool) -> Projected:
    logprobs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    entropies = -(logprobs.detach().exp() * logprobs.detach()).sum(-1) if entropy else None
    return Projected(logprobs.gather(1, targets[:, None])[:, 0], entropies)


def find_shortcuts(model: PreTrainedModel, *, share_prefixes: bool = True) -> Shortcuts:
    """Try both shortcuts on some tokens and keep those that change nothing.

    The rows are as long as the positions of a small model allow, up to 64 tokens: what a shortcut changes, such as a bias that grows with the
    distance, may lie below the tolerance between neighbours.

    Args:
        model: In eval mode; float32 weights, as trainers load them.
        share_prefixes: False keeps prefix sharing off whatever the model allows.
    """
    device = model.get_input_embeddings().weight.device
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    linear = type(head) is nn.Linear and decoder is not None and decoder is not model and _logits_are_of_head(model)
    full = share_prefixes and _attention_is_full(model)
    rows = _example_rows(model)

    def run(*, share: bool, chunked: bool) -> Tensor:
        # So wide a model would always share, whatever attention costs.
        packs = pack_rows(rows, range(len(rows)), share=share, hidden_size=2**20, max_tokens=256)
        shortcuts = Shortcuts(chunked_projection=chunked, shared_prefixes=share)
        with torch.no_grad():
            return token_logprobs(model, collate(packs).to(device), shortcuts, dtype=torch.float32).logprobs

    plain = run(share=False, chunked=False)
    return Shortcuts(
        chunked_projection=linear and _agrees(plain, lambda: run(share=False, chunked=True)),
        shared_prefixes=full and _agrees(plain, lambda: run(share=True, chunked=False)),
    )


def _example_rows(model: PreTrainedModel) -> list[TrainingRow]:
    """Return three rows behind one prompt, of 64 tokens at most and of different lengths."""
    longest = min(64, context_length(model.config) or 64)
    vocabulary = min(model.get_input_embeddings().num_embeddings, 1000)
    ids = [1 + 7 * place % (vocabulary - 1) for place in range(3 * longest)]
    prompt, first = tuple(ids[: longest // 2]), longest // 2
    return [
        TrainingRow(
            behavior="",
            problem_id="",
            split=Split.TRAIN,
            group_id="",
            prompt_ids=prompt,
            completion_ids=tuple(ids[longest + number :][: max(1, first - 2 * number)]),
        )
        for number in range(3)
    ]


def _agrees(plain: Tensor, shortcut: Callable[[], Tensor]) -> bool:
    try:
        return torch.allclose(plain, shortcut(), atol=1e-3)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False  # the architecture does not take such inputs


@torch.no_grad()
def _logits_are_of_head(model: PreTrainedModel) -> bool:
    """Return whether the model's logits are its head's output on the last hidden states, however large they are.

    A cap (Gemma 2) hardly changes the small logits of a model at its start, and would be missed by comparing them; so the head's output is
    enlarged on its way.
    """
    head = model.get_output_embeddings()
    read: list[Tensor] = []
    written: list[Tensor] = []

    def enlarge(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out * (_LARGE_LOGIT / out.abs().max().clamp_min(torch.finfo(out.dtype).tiny))
        read.append(given[0])
        written.append(out.clone())
        return out

    ids = torch.tensor([[1, 2, 3, 4]], device=model.get_input_embeddings().weight.device)
    handle = head.register_forward_hook(enlarge)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = run_decoder(model, input_ids=ids, use_cache=False)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False  # the architecture does not take such inputs
    finally:
        handle.remove()
    if len(written) != 1 or logits.shape != written[0].shape or hidden.shape != read[0].shape:
        return False
    return torch.equal(logits, written[0].to(logits.dtype)) and torch.allclose(hidden, read[0], rtol=1e-4, atol=1e-5)


def _attention_is_full(model: PreTrainedModel) -> bool:
    """Return whether every layer attends to all earlier tokens; a sliding window does not show on a few tokens."""
    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", "eager"):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) <= _FULL_ATTENTION
    return not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))
