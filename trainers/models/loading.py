"""Loads a model for training: float32 weights, no dropout, no cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_model, load_tokenizer
from posttrain.trainers.distributed.processes import best_device
from posttrain.trainers.stage import FrozenModel


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str


def load_for_training(source: str, *, device: torch.device | None = None) -> LoadedModel:
    """Load a MODEL with float32 master weights.

    Args:
        source: A Hugging Face directory or id, or a GGUF file.
        device: Where to put it; None takes the best one.

    Raises:
        ModelError: It cannot be found or loaded.
    """
    model = load_model(source, dtype=torch.float32).to(device or best_device())
    model.eval()  # dropout off; gradients flow in eval mode too
    model.requires_grad_(True)
    return LoadedModel(model=model, tokenizer=load_tokenizer(source), source=source)


def load_frozen(source: str, *, device: torch.device) -> FrozenModel:
    """Load a teacher or an earlier checkpoint: float32, frozen, with an engine that samples it.

    Raises:
        ModelError: It cannot be found or loaded.
    """
    fingerprint = fingerprint_model(source)
    model = load_model(source, dtype=torch.float32).to(device).eval()
    model.requires_grad_(False)
    tokenizer = load_tokenizer(source)
    engine = TransformersEngine(model, tokenizer, name=source, model_fingerprint=fingerprint)
    return FrozenModel(source=source, fingerprint=fingerprint, model=model, tokenizer=tokenizer, engine=engine)
