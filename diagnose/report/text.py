"""Small wordings that all pages share, and the cleaning of model text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Protocol

from posttrain.analysis.number_format import format_interval, format_number
from posttrain.diagnose.storage.diagnosis_json import CheckEntry

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_LONGEST_TEXT = 6000


class HasInterval(Protocol):
    """A number with its interval, as the files hold it."""

    @property
    def estimate(self) -> float:
        """Return the estimate."""

    @property
    def low(self) -> float:
        """Return the lower bound."""

    @property
    def high(self) -> float:
        """Return the upper bound."""


def visible(text: str) -> str:
    """Return model text that can stand in a page: control characters as pictures, broken characters replaced, very long texts cut."""
    clean = text.replace("\r\n", "\n").translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= _LONGEST_TEXT:
        return clean
    return f"{clean[:_LONGEST_TEXT]}\n[{len(clean) - _LONGEST_TEXT} more characters, see the rollouts]"


def write_estimate(value: HasInterval, *, signed: bool = False) -> str:
    """Return an estimate with its interval, `0.56 [0.48, 0.64]`."""
    return format_interval(value.estimate, value.low, value.high, signed=signed)


def write_setting(value: object) -> str:
    """Return a setting on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def unique_slugs(names: Iterable[str]) -> list[str]:
    """Return a name for files and anchors per name: letters, digits, dash and underscore, none twice."""
    slugs: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "behavior"
        slug, count = base, 1
        while slug in slugs:
            count += 1
            slug = f"{base}-{count}"
        slugs.append(slug)
    return slugs


def counted(check: CheckEntry) -> str:
    """Return how many of what stand behind a check; the number alone where nothing says of what."""
    return format_number(check.n) + (f" {check.unit}" if check.unit else "")


class MethodNotes:
    """The methods that a page names, each with a number under which it is explained once."""

    def __init__(self) -> None:
        """Start without any."""
        self._numbers: dict[str, int] = {}

    def number(self, method: str) -> str:
        """Return the number of a method; empty where none is given."""
        return str(self._numbers.setdefault(method, len(self._numbers) + 1)) if method else ""

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Return number and words of each method, in the order in which they were met."""
        return [(str(number), method) for method, number in self._numbers.items()]
