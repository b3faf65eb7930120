"""JSON files of this project as they are read back: with their version, and with a checksum that tells damage from data.

The checksum is the last key, and is taken of the bytes before it but for blanks and line ends, so that another layout is no damage. A file without one
(of an earlier version, or written by another program) is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from posttrain.analysis.input_error import InputError

VERSION = 1
"""Of every JSON file that is read back."""
CHECKSUM = "checksum"
"""Key of the checksum."""
AGAIN = "run the command that wrote it again"
_BLANKS = b" \t\r\n"
_DIGITS_OF_EARLIER = 16
"""Length of the checksum of earlier versions, which is of the content with sorted keys."""


def with_checksum(text: bytes) -> bytes:
    """Return the JSON text of an object, which has keys, with its checksum as the last one."""
    body = text.rstrip(_BLANKS).removesuffix(b"}").rstrip(_BLANKS)
    return b'%b,\n "%b": "%b"\n}\n' % (body, CHECKSUM.encode(), _digest(body.translate(None, _BLANKS)))


def read_stored_json(
    path: Path, *, remedy: str = AGAIN, versioned: bool = True, version: int = VERSION, sealed: bool = False
) -> dict[str, Any]:
    """Read an object from a file.

    Args:
        path: The file.
        remedy: What to do where it cannot be read, for the message.
        versioned: Whether the key `schema` must be there; where it is, it must be the version that this reads in any case.
        version: That this reads.
        sealed: Whether it must have a checksum: every version of it was written with one.

    Returns:
        Its content without the checksum.

    Raises:
        InputError: It cannot be read (`unreadable_file`), is of another version (`unknown_version`), or has changed since it was written
            (`damaged_file`).
    """
    try:
        text = path.read_bytes()
        data = from_json(text)
        if not isinstance(data, dict):
            raise TypeError(f"got a {type(data).__name__}, not an object")
        found = data["schema"] if versioned else data.get("schema", version)
        checksum = data.pop(CHECKSUM, None)
        is_damaged = checksum is not None and not _is_whole(text, data, checksum)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error.args[0]!r}" if isinstance(error, KeyError) else " ".join(str(error).split())[:80]
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}", code="unreadable_file") from error
    if type(found) is not int or found != version:
        raise InputError(
            f"{path}: is of version {json.dumps(found)[:20]}, this reads version {version}; use the posttrain that wrote it",
            code="unknown_version",
        )
    if is_damaged or (sealed and checksum is None):
        reason = "its checksum is another" if is_damaged else "it has lost its checksum"
        raise InputError(f"{path}: has changed since it was written, {reason}; {remedy}", code="damaged_file")
    return data


def _is_whole(text: bytes, content: Mapping[str, Any], checksum: Any) -> bool:
    """Return whether a file is as it was written: its bytes, its content without the checksum, and the checksum that it holds."""
    if isinstance(checksum, str) and len(checksum) == _DIGITS_OF_EARLIER:
        sorted_keys = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return checksum == hashlib.sha256(sorted_keys.encode()).hexdigest()[:_DIGITS_OF_EARLIER]
    body, _, last = text.translate(None, _BLANKS).rpartition(f',"{CHECKSUM}":"'.encode())
    return last == _digest(body) + b'"}'


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).hexdigest().encode()
