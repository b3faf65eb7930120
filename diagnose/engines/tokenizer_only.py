"""The tokenizer of a model without its weights: how prompts are written, and how long they may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.limits import context_length, end_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerOnly:
    """What is known of a model without loading it."""

    source: str
    codec: TextCodec
    context: int | None
    """Tokens that the model reads; None where its configuration names no number."""
    width: int | None = None
    """Hidden size of the language model; None where its configuration names none."""


def open_tokenizer(model: str | Path) -> TokenizerOnly:
    """Load the tokenizer, chat template and configuration of a MODEL.

    Raises:
        ModelError: It cannot be found or loaded, or its tokenizer gives no character offsets.
    """
    from transformers import AutoConfig

    from posttrain.diagnose.engines.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    config = AutoConfig.from_pretrained(tokenizer.name_or_path)
    codec = TextCodec(tokenizer, end_ids(tokenizer.name_or_path, tokenizer))
    width = getattr(config.get_text_config(), "hidden_size", None)
    return TokenizerOnly(source=str(model), codec=codec, context=context_length(config), width=width)
