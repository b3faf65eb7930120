"""Which files of a folder make a model: those that are loaded, all inside the folder, and all in its fingerprint."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from posttrain.diagnose.errors import ModelError

_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
_NOTES = {"posttrain_config.json", "trainer_state.json"}
"""Notes about training make no numbers."""
_TEMPLATES = "additional_chat_templates"


def check_index_files(folder: Path) -> None:
    """Refuse a folder whose index files name weights outside it: they would be loaded, and be no part of what people think the model is.

    Raises:
        ModelError: A name leads out of the folder (`weights_outside_folder`), or an index cannot be read (`index_unreadable`).
    """
    _indexed_files(folder)


def model_files(folder: Path) -> list[Path]:
    """List the files that make the numbers of a model or an adapter: weights, configuration, tokenizer, chat templates and code.

    Raises:
        ModelError: As for `check_index_files`.
    """
    beside = {file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.name not in _NOTES and file.is_file()}
    templates = set((folder / _TEMPLATES).glob("*.jinja"))
    return sorted(beside | templates | set(_indexed_files(folder)))


def _indexed_files(folder: Path) -> list[Path]:
    """Return the weights that the index files of a folder name, as far as they are there."""
    return [
        folder / name
        for kind in ("safetensors", "bin")
        for index in sorted(folder.glob(f"*.{kind}.index.json"))
        for name in _names_in(index)
    ]


def _names_in(index: Path) -> list[str]:
    """Return the files that an index names, each once."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) and name for name in names):
            raise TypeError("a file name is no text")
        for name in names:
            with suppress(FileNotFoundError, NotADirectoryError):
                (index.parent / name).lstat()  # raises where no file can have such a name
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(
            f"model {index.parent}: its {index.name} cannot be read ({type(error).__name__}: {error}); give a whole Hugging Face directory",
            code="index_unreadable",
        ) from error
    for name in sorted(names):
        if not _is_inside(index.parent, name):
            raise ModelError(
                f"model {index.parent}: its {index.name} names the weights {name[:100]!r}, which lie outside the folder; put them into the folder, "
                "and name them without a path",
                code="weights_outside_folder",
            )
    return sorted(name for name in names if (index.parent / name).is_file())


def _is_inside(folder: Path, name: str) -> bool:
    """Tell whether a name leads to a file in a folder. The hub's cache may keep its contents in `blobs` beside `snapshots`."""
    plain = PurePosixPath(name)
    if plain.is_absolute() or PureWindowsPath(name).is_absolute() or ".." in plain.parts or ".." in PureWindowsPath(name).parts:
        return False
    target, here = Path(os.path.realpath(folder / name)), Path(os.path.realpath(folder))
    if target.is_relative_to(here):
        return True
    return here.parent.name == "snapshots" and target.is_relative_to(here.parent.parent / "blobs")
