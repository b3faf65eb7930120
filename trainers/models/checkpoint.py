"""Checkpoint folders that any Hugging Face loader opens, written as a whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.trainers.models.lora import FOLDER as ADAPTER_FOLDER


def save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, str],
    *,
    saves: str = "policy",
    dtype: str = "float32",
    scalar_head: nn.Linear | None = None,
    save_adapter: Callable[[Path], None] | None = None,
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
        save_adapter: Writes the adapter that is merged into the model, where there is one, alone in a folder, `adapter/`.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        if save_adapter is not None:
            save_adapter(temporary / ADAPTER_FOLDER)
        _save_model(temporary, _as_saved(model, saves, scalar_head), dtype)
        tokenizer.save_pretrained(temporary)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        for file in temporary.rglob("*"):
            _sync(file)
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def _as_saved(model: PreTrainedModel, saves: str, scalar_head: nn.Linear | None) -> PreTrainedModel:
    """Return the model in the class that its checkpoint is loaded with; a reward model has the trunk and its own head."""
    if saves == "policy":
        return model
    assert scalar_head is not None
    weight = scalar_head.weight.detach().float().cpu()
    settings = copy.deepcopy(model.config)
    pad = settings.pad_token_id if settings.pad_token_id is not None else settings.eos_token_id
    settings.pad_token_id = pad[0] if isinstance(pad, list) else pad
    steps = saves == "process_reward_model"
    settings.id2label = {0: "wrong", 1: "right"} if steps else {0: "reward"}
    settings.label2id = {label: number for number, label in settings.id2label.items()}
    kind = AutoModelForTokenClassification if steps else AutoModelForSequenceClassification
    classifier = kind.from_config(settings).to(dtype=torch.float32, device="cpu")
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    head = classifier.score
    with torch.no_grad():  # two labels: the difference of their logits is what the head says
        head.weight.copy_(torch.cat([torch.zeros_like(weight), weight]) if steps else weight)
        if head.bias is not None and scalar_head.bias is not None:
            bias = scalar_head.bias.detach().float().cpu()
            head.bias.copy_(torch.cat([torch.zeros_like(bias), bias]) if steps else bias)
    return classifier


def _save_model(folder: Path, model: PreTrainedModel, dtype_name: str) -> None:
    dtype = torch.bfloat16 if dtype_name == "bfloat16" else torch.float32
    if dtype is torch.float32:
        model.save_pretrained(folder)
        return
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["dtype"] = dtype_name  # save_pretrained writes the dtype of the model, not of the weights that it was given
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _sync(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
