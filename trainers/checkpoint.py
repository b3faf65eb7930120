"""Writes a checkpoint that any Hugging Face loader opens, all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.stage import Recipe
from posttrain.trainers.types import TrainingSet

CONFIG_FILE = "posttrain_config.json"


def save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: Recipe[TrainingConfig],
    config: TrainingConfig,
    training_set: TrainingSet,
    num_steps: int,
) -> Path:
    """Write model, tokenizer, resolved config and a model card to a temporary folder, then rename it to `path`.

    Args:
        path: The folder; one that is there already is replaced.
        model: Stored in `config.checkpoint_dtype`; the model itself stays as it is.
        tokenizer: Stored beside it.
        recipe: For the card.
        config: Stored as `posttrain_config.json`.
        training_set: For the card.
        num_steps: Optimizer steps taken.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _save_model(temporary, model, config)
        tokenizer.save_pretrained(temporary)
        (temporary / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_model_card(model, recipe, config, training_set, num_steps), encoding="utf-8")
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


def _save_model(folder: Path, model: PreTrainedModel, config: TrainingConfig) -> None:
    dtype = torch.bfloat16 if config.checkpoint_dtype == "bfloat16" else torch.float32
    if dtype is torch.float32:
        model.save_pretrained(folder)
        return
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["dtype"] = (
        config.checkpoint_dtype
    )  # save_pretrained writes the dtype of the model, not of the weights that it was given
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _sync(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _model_card(
    model: PreTrainedModel, recipe: Recipe[TrainingConfig], config: TrainingConfig, training_set: TrainingSet, num_steps: int
) -> str:
    base = str(getattr(model.config, "_name_or_path", "") or "unknown")
    behaviors = "\n".join(
        f"- {name}: {sum(item.behavior.name == name for item in training_set.train)} train problems (fingerprint "
        f"{behavior.fingerprint or 'none'})"
        for name, behavior in training_set.behaviors.items()
    )
    changed = "\n".join(f"- {key}: {value}" for key, value in config.model_dump(mode="json").items())
    return (
        f"---\nlibrary_name: transformers\ntags: [posttrain, {recipe.name}]\n---\n\n"
        f"# {Path(base).name or base}, after {recipe.name}\n\n"
        f"Trained with posttrain from `{base}`: {num_steps} optimizer steps of {recipe.name} "
        f"({recipe.provenance}, signal: {recipe.interface}, usual role: {recipe.role}).\n\n"
        f"## Behaviors\n\n{behaviors}\n\nProblems of the eval and final splits took no part. Measure the checkpoint before "
        "relying on it: "
        f"what was not trained may have been forgotten.\n\n## Settings\n\n{changed}\n"
    )
