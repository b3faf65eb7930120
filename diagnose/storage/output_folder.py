"""The folder that a command writes to: one command at a time, and what a killed one left half-written is removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import is_temporary

LOCK = ".posttrain.lock"
"""File in a folder that is being written; it holds the number of the process."""


def content_of(folder: Path) -> list[Path]:
    """Return what lies in a folder, apart from the lock and from files that are not written to the end."""
    return sorted(entry for entry in folder.iterdir() if entry.name != LOCK and not is_temporary(entry))


@contextmanager
def locked_folder(folder: Path, *, named: str = "") -> Iterator[None]:
    """Hold a folder, so that no other process writes to it; it is made where there is none.

    The lock is the operating system's, so that it ends with the process, however that ends. A folder that is still empty at the end
    and was not there before is removed, and so are the folders above it that were made for it.

    Args:
        folder: To be written.
        named: What messages call it; `--out FOLDER` where empty.

    Raises:
        RunError: Another process holds it (`folder_in_use`), or it cannot be written (`not_writable`).
    """
    named, lock_file = named or f"--out {folder}", folder / LOCK
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    lock = FileLock(lock_file, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{named}: process {_holder(lock_file)} is writing there; wait until it has ended, or give another folder",
            code="folder_in_use",
        ) from error
    except OSError as error:
        raise RunError(
            f"{named}: cannot be written ({error.strerror}); give a folder that you may write to", code="not_writable"
        ) from error
    try:
        lock_file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        _remove_temporary(folder)
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that the file is gone
        lock.release()
        with suppress(OSError):  # there is something in it
            for each in filter(Path.exists, made):
                each.rmdir()


def _holder(lock_file: Path) -> str:
    """Return the number of the process that holds a lock; empty where it has not said so yet."""
    with suppress(OSError):
        return lock_file.read_text(encoding="utf-8").strip()
    return ""


def _remove_temporary(folder: Path) -> None:
    """Remove files that a killed process did not write to the end."""
    for path in folder.rglob(".*.tmp"):
        if is_temporary(path) and path.is_file():
            path.unlink(missing_ok=True)
