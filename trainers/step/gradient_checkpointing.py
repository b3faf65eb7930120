"""Gradient checkpointing (arXiv 1604.06174): layers drop their activations and compute them again in backward.

Memory of activations falls from all layers' to one layer's, for about a third more time. The model stays in evaluation mode, so that
dropout is off: only the layers that compute again are set to training mode, and only while a forward pass with a gradient runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from posttrain.diagnose.errors import SettingsError


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Let the layers of a model drop their activations within `with_gradient_checkpointing`.

    Raises:
        SettingsError: The architecture cannot, or its layers drop out by the same flag, which would change the gradient.
    """
    layers = _layers(model)
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise SettingsError(
            f"gradient_checkpointing: {error} Leave it out, or lower micro_batch_tokens", code="unsupported_architecture"
        ) from error
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
        with with_gradient_checkpointing(model):
            same = bool(torch.equal(plain, model(input_ids=ids, use_cache=False).logits))
    if not layers or not same:
        raise SettingsError(
            f"gradient_checkpointing: the layers of {type(model).__name__} cannot be computed twice alike; leave it out, or lower "
            "micro_batch_tokens",
            code="not_reproducible",
        )


@contextmanager
def with_gradient_checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Enclose a forward pass with a gradient; does nothing for a model that was not enabled."""
    layers = [layer for layer in _layers(model) if layer.gradient_checkpointing]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
