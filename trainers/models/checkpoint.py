"""Writes a checkpoint that any Hugging Face loader opens, all of it or nothing."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.models.lora import FOLDER as ADAPTER_FOLDER
from posttrain.trainers.stage import Recipe
from posttrain.trainers.training.dev_evaluation import DevEvaluation
from posttrain.trainers.training_types import TrainingSet

CONFIG_FILE = "posttrain_config.json"


def save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: Recipe[Any],
    config: TrainingConfig,
    training_set: TrainingSet,
    num_steps: int,
    scalar_head: nn.Linear | None = None,
    save_adapter: Callable[[Path], None] | None = None,
    looks: Sequence[DevEvaluation] = (),
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
        scalar_head: Stored with the model where the recipe makes a reward model of it.
        save_adapter: Writes the adapter that is merged into the model, where there is one, alone in a folder, `adapter/`.
        looks: At the dev slice: before training, and at what is stored; for the card.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        if save_adapter is not None:
            save_adapter(temporary / ADAPTER_FOLDER)
        _save_model(temporary, _as_saved(model, recipe, scalar_head), config)
        tokenizer.save_pretrained(temporary)
        (temporary / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_model_card(model, recipe, config, training_set, num_steps, looks), encoding="utf-8")
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


def _as_saved(model: PreTrainedModel, recipe: Recipe[Any], scalar_head: nn.Linear | None) -> PreTrainedModel:
    """The model in the class that the recipe's checkpoint is loaded with; a reward model has the trunk and its own head."""
    if recipe.saves == "policy":
        return model
    assert scalar_head is not None
    weight = scalar_head.weight.detach().float().cpu()
    settings = copy.deepcopy(model.config)
    pad = settings.pad_token_id if settings.pad_token_id is not None else settings.eos_token_id
    settings.pad_token_id = pad[0] if isinstance(pad, list) else pad
    steps = recipe.saves == "process_reward_model"
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


_MEASURED = {
    "pass_at_1": "pass@1",
    "reference_logprob": "log-probability of references, nats per token",
    "entropy": "entropy at own samples, nats per token",
    "kl_to_start": "KL(policy‖start) at own samples, nats per token",
    "truncated": "share of samples cut at the length limit",
    "length": "mean length of samples, tokens",
}


def _measured(looks: Sequence[DevEvaluation], training_set: TrainingSet, config: TrainingConfig) -> str:
    """What was seen of the dev slice, as a table; empty where nobody looked."""
    if not looks:
        return ""
    names = [name for name in _MEASURED if all(name in look.metrics for look in looks)]
    heads = ["before", "after"] if len(looks) > 1 else ["before"]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(looks)) + "|"]
    lines += [f"| {_MEASURED[name]} | {' | '.join(f'{look.metrics[name]:.4g}' for look in looks)} |" for name in names]
    return (
        f"## Measured on the dev slice\n\n{len(training_set.dev)} problems cut from the train split, {config.eval_samples} samples each where "
        "they are sampled. The checkpoint was chosen by the same slice, so these numbers flatter it.\n\n"
        + "\n".join(lines)
        + "\n\n"
    )


def _model_card(
    model: PreTrainedModel,
    recipe: Recipe[Any],
    config: TrainingConfig,
    training_set: TrainingSet,
    num_steps: int,
    looks: Sequence[DevEvaluation],
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
        f"({recipe.description.provenance}, signal: {recipe.description.interface}, usual role: {recipe.description.role or 'none'}).\n\n"
        f"## Behaviors\n\n{behaviors}\n\nProblems of the eval and final splits took no part. Measure the checkpoint before "
        "relying on it: "
        f"what was not trained may have been forgotten.\n\n{_measured(looks, training_set, config)}## Settings\n\n{changed}\n"
    )
