"""JSON files of this project as they are read back: with their version, and with a checksum that tells damage from data.

The checksum is taken of the content, not of the bytes, so that another layout or order of keys is no damage. A file without one (of an
earlier version, or written by another program) is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.analysis.input_error import InputError

VERSION = 1
"""Of every JSON file that is read back."""
CHECKSUM = "checksum"
"""Key of the checksum."""
AGAIN = "run the command that wrote it again"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file with its checksum as the last key; the values are those that JSON has."""
    plain = {key: value for key, value in content.items() if key != CHECKSUM}
    return {**plain, CHECKSUM: _checksum(plain)}


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
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise TypeError(f"got a {type(data).__name__}, not an object")
        found = data["schema"] if versioned else data.get("schema", version)
        checksum = data.pop(CHECKSUM, None)
        is_damaged = checksum is not None and checksum != _checksum(data)
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


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
