"""Settings of a sampler, as other tools name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.importing.source_rows import MOST_COUNTED
from posttrain.diagnose.types import Sampling

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")
_NUMBERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

NAMES = (*_NUMBERS, "max_tokens")
"""Settings that a user may name."""


def read_sampling(settings: Any) -> Sampling | None:
    """Return the settings of a sampler; None where they do not tell its temperature, which a server then chooses.

    Truncation that is not named is taken as off, which is the default of OpenAI's protocol. A limit of tokens that is not named is 0: unknown.

    Args:
        settings: By the names of OpenAI's protocol or of vLLM; anything else tells nothing. vLLM's settings may stand under `extra_body`.
    """
    if not isinstance(settings, Mapping):
        return None
    further = settings.get("extra_body")
    named = {**(further if isinstance(further, Mapping) else {}), **settings}
    numbers: dict[str, Any] = {name: named[name] for name in _NUMBERS if _is_number(named.get(name))}
    if "temperature" not in numbers:
        return None
    if "top_k" in numbers:
        numbers["top_k"] = max(int(numbers["top_k"]), 0)  # vLLM writes -1 for all tokens
    limit = next((int(named[name]) for name in _LIMITS if _is_number(named.get(name))), 0)
    try:
        return Sampling(**numbers, max_tokens=limit)
    except UserError:  # a temperature that no sampler of ours takes
        return None


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number, none so large that no setting can be meant."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_COUNTED
