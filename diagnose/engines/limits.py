"""Shared parts of the engines: seeds, end tokens, room in the context, stop texts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import StopReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def hashed_seed(*names: object, bits: int = 63) -> int:
    """Hash names to a seed in [0, 2^bits); torch and JSON readers of 64-bit integers take 63 bits."""
    digest = hashlib.sha256("\x00".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - bits)


def short_hash(text: str) -> str:
    """Return 16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, shortened."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]


def end_ids(model: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end an answer: the tokenizer's, and those of the model's generation settings (or else of its configuration)."""
    from transformers import AutoConfig, GenerationConfig

    try:
        named = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        named = getattr(AutoConfig.from_pretrained(model), "eos_token_id", None)
    return known_ids(tokenizer.eos_token_id, named)


def known_ids(*named: int | list[int] | None) -> frozenset[int]:
    """Return the ids that a tokenizer and a configuration name: each one id, a list, or None."""
    ids = [i for value in named for i in (value if isinstance(value, list) else [value])]
    return frozenset(int(i) for i in ids if i is not None)


_BEHIND_PADDING = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Types of models whose positions begin behind the one of the padding token."""


def first_position(config: PretrainedConfig) -> int:
    """Return the position of the first token: 0, but where RoBERTa and its kind count from behind the padding token."""
    padding = getattr(config, "pad_token_id", None)
    return int(padding) + 1 if config.model_type in _BEHIND_PADDING and padding is not None else 0


def context_length(config: PretrainedConfig) -> int | None:
    """Return how many tokens a model can read: the positions that it knows, those of scaled rotary ones included.

    Attention windows are no limit. None where positions are not counted (ALiBi, recurrent states) or the configuration names no number.
    """
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1 or getattr(text, "alibi", False) or text.model_type == "rwkv":
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    # Some models have one set of rotary positions for each kind of layer.
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    scaled = [(each.get("factor"), each.get("original_max_position_embeddings") or longest) for each in kinds]
    return max(longest, *(int(factor * original) for factor, original in scaled if factor), longest) - first_position(text)


def check_sample_room(requests: Sequence[SampleRequest], max_tokens: int, context: int | None) -> None:
    """Refuse prompts that leave too little of the context for a sample.

    Raises:
        SettingsError: A prompt and `max_tokens` together are longer than `context` tokens, or a prompt is empty.
    """
    for request in requests:
        num = len(request.prompt_ids)
        if not num:
            raise SettingsError(
                f"prompt {request.key}: got no token, at least 1 is needed; give a prompt with some text", code="empty_prompt"
            )
        if context is not None and num + max_tokens > context:
            instead = f"lower sampling.max_tokens to {context - num}" if num < context else "shorten the prompt"
            raise SettingsError(
                f"prompt {request.key}: got {num} tokens and max_tokens {max_tokens}, the model's context holds {context}; {instead}",
                code="max_tokens_too_large" if num < context else "prompt_too_long",
            )


def check_score_room(requests: Sequence[ScoreRequest], context: int | None) -> None:
    """Refuse paths that do not fit into the context.

    Raises:
        SettingsError: A prompt and its path together are longer than `context` tokens.
    """
    for request in requests:
        num = len(request.prompt_ids) + len(request.path_ids)
        if context is not None and num > context:
            raise SettingsError(
                f"reference path: got {num} tokens with its prompt, the model's context holds {context}; shorten the reference or the prompt",
                code="path_too_long",
            )


def read_stop_reason(finish: str | None, stop: str | int | None) -> StopReason:
    """Read what a server says: `stop` for an end token and for a stop text; vLLM adds which, the text or the token's id (or nothing)."""
    if finish == "stop":
        return StopReason.STOP if isinstance(stop, str) else StopReason.EOS
    return StopReason.LENGTH if finish == "length" else StopReason.ERROR


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Cut a text before the first stop text in it."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
