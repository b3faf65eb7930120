"""Checkpoint folders that any Hugging Face loader opens, written as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.trainers.models.lora import FOLDER as ADAPTER_FOLDER
from posttrain.trainers.models.saved_model import SavedModel, as_saved


def save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, str],
    *,
    saves: str = "policy",
    dtype: str = "float32",
    scalar_head: nn.Linear | None = None,
    save_adapter: Callable[[Path, PreTrainedModel], None] | None = None,
) -> Path:
    """Write a model folder to a temporary name, then rename it to `path`.

    Args:
        path: The folder; one that is there already is replaced.
        model: With full weights.
        tokenizer: Stored beside it.
        texts: Name → content of further files, such as the model card.
        saves: What is made of the model: a `policy`, a `reward_model` (one number a text) or a `process_reward_model` (one a step).
        dtype: Of the stored weights, float32 or bfloat16; the model in training stays as it is.
        scalar_head: Stored with a reward model.
        save_adapter: Writes the adapter that is merged into the model, where there is one, alone in a folder, `adapter/`, with the head of the
            saved model, where it has one.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    temporary, replaced = (Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)) for _ in range(2))
    try:
        saved = as_saved(model, tokenizer, saves, scalar_head)
        if save_adapter is not None:
            save_adapter(temporary / ADAPTER_FOLDER, saved.model)
        _save_model(temporary, saved, dtype)
        saved.tokenizer.save_pretrained(temporary)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        for file in temporary.rglob("*"):
            _sync(file)
        temporary.chmod(0o755)
        if path.exists():
            path.rename(replaced / path.name)
        temporary.rename(path)
    finally:
        for left in (temporary, replaced):
            shutil.rmtree(left, ignore_errors=True)
    return path


def _save_model(folder: Path, saved: SavedModel, dtype_name: str) -> None:
    dtype = torch.bfloat16 if dtype_name == "bfloat16" else torch.float32
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in saved.weights.items()}
    saved.model.save_pretrained(folder, state_dict=state)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["dtype"] = dtype_name  # save_pretrained writes the dtype of the model, not of the weights that it was given
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _sync(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
