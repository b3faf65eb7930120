r"""Find LaTeX boxes: `\boxed{...}`, `\fbox{...}` and their variants, with nested braces, and without any (`\boxed 5`, `\boxed\frac{1}{2}`)."""

from __future__ import annotations

import re
from typing import NamedTuple

_COMMAND = r"\\(?:boxed|Boxed|fbox|framebox)"
_BRACES = re.compile(rf"\\\\|{_COMMAND}\s*\{{|\\[{{}}]|[{{}}]")
"""Line breaks and escaped braces are found so that they are passed over."""
_BARE = re.compile(
    rf"{_COMMAND}[ \t]{{0,3}}(?P<content>\\[A-Za-z]{{1,20}}(?:\s?\{{(?:[^{{}}]|\{{[^{{}}]{{0,80}}\}}){{0,200}}\}}){{0,3}}|[^\s{{}}\\$][^\s{{}}$]{{0,40}})"
)


class Box(NamedTuple):
    """One box that is closed."""

    start: int
    """Index of its command."""
    begin: int
    """Where its content begins."""
    stop: int
    """Where its content ends."""
    end: int
    """Where the box ends."""


def find_boxes(text: str) -> list[Box]:
    """Return the boxes of a text in their order, of nested ones the outermost; one that is never closed is none, and hides none behind it."""
    if "box" not in text and "Boxed" not in text:
        return []
    open_braces: list[tuple[int, int] | None] = []
    found = [Box(match.start(), match.start("content"), match.end("content"), match.end()) for match in _BARE.finditer(text)]
    for match in _BRACES.finditer(text):
        if match[0] == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                found.append(Box(*opened, match.start(), match.end()))
        elif match[0] == "{":
            open_braces.append(None)
        elif match[0].endswith("{") and match[0] != "\\{":
            open_braces.append((match.start(), match.end()))
    outermost: list[Box] = []
    for box in sorted(found, key=lambda one: (one.start, -one.end)):
        if not outermost or box.start >= outermost[-1].end:
            outermost.append(box)
    return outermost


def last_box(text: str) -> str | None:
    """Return what stands in the last box, in the innermost one where a box holds nothing but another; None where there is none."""
    content = None
    while boxes := find_boxes(text):
        box = boxes[-1]
        content = text[box.begin : box.stop].strip()
        if box.stop == box.end:  # without braces
            content = content.rstrip(".,;:")
        if content == text or not content.startswith("\\"):
            break
        inner = find_boxes(content)
        if [(one.start, one.end) for one in inner] != [(0, len(content))]:
            break
        text = content
    return content or None
