"""Whether a folder can be written, asked before anything is computed for it."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.diagnose.errors import RunError


def is_text(name: str) -> bool:
    """Say whether a name can be written into a file of text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuse a folder that cannot be written or made; nothing is written.

    Args:
        path: The folder, which need not exist.
        option: What the user gave it as, for the message.

    Raises:
        RunError: Its name is no text, a file stands in its way, or the folder that would hold it may not be written to (`not_writable`).
    """
    if not is_text(str(path)):
        raise RunError(f"{option}: got a name that is no UTF-8 text ({str(path)!a}); give one that is", code="not_writable")
    nearest = path.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise RunError(
            f"{option} {path}: cannot be made, {nearest} is no folder; give a folder that you may write to", code="not_writable"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(
            f"{option} {path}: cannot be written, you may not write to {nearest}; give a folder that you may write to",
            code="not_writable",
        )
