"""What a LoRA adapter does to its base, and whether merging it does the same: three passes over a few texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.engines.limits import first_line
from posttrain.diagnose.engines.models.adapter_folder import base_of, require_peft
from posttrain.diagnose.engines.models.loading import load_model
from posttrain.diagnose.errors import ModelError

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterEffect:
    """How the next-token distributions of base, adapter and merged model differ on the same texts."""

    base: str
    """MODEL that the adapter names."""
    num_tensors: int
    """In the adapter's file."""
    num_unused: int
    """Of them, those that no module of the base takes up."""
    kl: float
    """Mean KL divergence of the adapted model from its base, nats per token."""
    largest_change: float
    """Largest change of a log-probability by the adapter, nats."""
    merged_gap: float
    """Mean KL divergence of the merged model from the unmerged one, nats per token."""
    largest_merged_gap: float
    """Largest difference of a log-probability between merged and unmerged, nats."""


def measure_adapter(adapter: Path, requests: Sequence[ScoreRequest]) -> AdapterEffect:
    """Run base, adapter and merged model over some texts, in single precision.

    Args:
        adapter: Its folder.
        requests: Prompts with answers; distributions are compared at the tokens of the answers.

    Raises:
        ModelError: The base or the adapter cannot be loaded.
        SettingsError: The package peft is not installed.
    """
    peft = require_peft(f"model {adapter}")
    source = base_of(adapter)
    base = load_model(source, dtype=torch.float32)
    before = _distributions(base, requests)
    try:
        with warnings.catch_warnings():  # what peft warns of, tensors without a module, is counted below
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
            used = set(peft.get_peft_model_state_dict(adapted))
    except Exception as error:
        raise ModelError(
            f"model {adapter}: does not fit its base {source} ({type(error).__name__}: {first_line(error)}); give the base that it was trained on",
            code="adapter_not_loadable",
        ) from error
    stored = _stored_names(adapter)
    unmerged = _distributions(adapted, requests)
    del adapted, base
    merged = _distributions(load_model(adapter, dtype=torch.float32), requests)
    change, gap = _compare(unmerged, before), _compare(merged, unmerged)
    return AdapterEffect(
        base=source,
        num_tensors=len(stored),
        num_unused=len(stored - used),
        kl=change[0],
        largest_change=change[1],
        merged_gap=gap[0],
        largest_merged_gap=gap[1],
    )


@torch.no_grad()
def _distributions(model: Any, requests: Sequence[ScoreRequest]) -> list[Tensor]:
    """Return [T, V] log-probabilities at the T answer tokens of each request."""
    found = []
    for request in requests:
        ids = torch.tensor([(*request.prompt_ids, *request.path_ids)])
        logits = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1]
        found.append(torch.log_softmax(logits.float(), dim=-1))
    return found


def _compare(new: Sequence[Tensor], old: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean KL divergence of `new` from `old`, nats per token, and the largest difference of a log-probability, over the tokens of both."""
    divergences, largest = [], 0.0
    for first, second in zip(new, old, strict=True):
        size = min(first.shape[-1], second.shape[-1])
        p, q = first[:, :size], second[:, :size]
        divergences.append((p.exp() * (p - q)).sum(dim=-1).clamp(min=0.0))
        likely = torch.maximum(p, q) > -20.0  # below, rounding is all there is
        largest = max(largest, float((p - q).abs()[likely].max()))
    return float(torch.cat(divergences).mean()), largest


def _stored_names(adapter: Path) -> set[str]:
    """Return the names of the tensors in an adapter's file; none where it is of another kind."""
    if not (adapter / WEIGHTS).exists():
        return set()
    from safetensors import safe_open

    with safe_open(str(adapter / WEIGHTS), framework="pt") as file:
        return set(file.keys())
