"""The descriptors on which a child speaks with its parent, taken out of reach of what prints and reads."""

from __future__ import annotations

import json
import os
from typing import Any


def take_standard_streams() -> Lines:
    """Return the lines of stdin and stdout, which become the null device for all that prints or reads."""
    lines = Lines(os.dup(0), os.dup(1))
    silence(0, 1)
    return lines


def silence(*descriptors: int) -> None:
    """Make descriptors the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


class Lines:
    """JSON objects, one a line, over two descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._buffer = bytearray()

    @property
    def incoming(self) -> int:
        """Return the descriptor of what comes in, to wait for."""
        return self._incoming

    def read(self) -> dict[str, Any] | None:
        """Return the next object, None at the end.

        Reads no further than the line where the parent waits for each reply, so a forked process can go on in its place.

        Raises:
            ValueError: The line is no JSON object.
        """
        while b"\n" not in self._buffer:
            chunk = os.read(self._incoming, 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        value = json.loads(line)
        if not isinstance(value, dict):
            raise ValueError(f"got {type(value).__name__}; allowed: an object")
        return value

    def write(self, value: dict[str, Any]) -> None:
        """Send an object."""
        self.write_bytes(self.encode(value))

    @staticmethod
    def encode(value: dict[str, Any]) -> bytes:
        """Return an object as a line."""
        return json.dumps(value).encode() + b"\n"

    def write_bytes(self, content: bytes) -> None:
        """Send what somewhere else was made into lines."""
        while content:
            content = content[os.write(self._outgoing, content) :]

    def close(self) -> None:
        """Close both descriptors here; those of a forked process stay open."""
        for descriptor in {self._incoming, self._outgoing}:
            os.close(descriptor)
