"""A LoRA adapter's folder as a MODEL: which base it belongs to, and its weights merged into that base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.engines.models.model_files import model_files
from posttrain.diagnose.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS_FILE = "adapter_config.json"


def is_adapter(path: Path) -> bool:
    """Tell whether a folder holds an adapter, as transformers does: with its settings there, the base they name is what is loaded."""
    return (path / SETTINGS_FILE).exists()


def base_of(path: Path) -> str:
    """Return the MODEL that an adapter's settings name: a path as it stands or as seen from the adapter, or a hub id.

    Raises:
        ModelError: The settings cannot be read, or name none.
    """
    try:
        settings = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
        base = settings["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"model {path}: its {SETTINGS_FILE} names no base model ({error}); give a whole adapter folder",
            code="adapter_settings",
        ) from error
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"model {path}: its {SETTINGS_FILE} has base_model_name_or_path {base!r}; set it to the folder or hub id of the base model",
            code="adapter_settings",
        )
    beside = path / base
    if not Path(base).expanduser().exists() and beside.exists():
        return str(beside.resolve())
    return base


def adapter_files(path: Path) -> list[Path]:
    """List the files that make the adapter's numbers, and those of its own tokenizer."""
    return model_files(path)


def merge_adapter(base: PreTrainedModel, path: Path) -> PreTrainedModel:
    """Add an adapter to its base, in place, in the base's precision.

    Raises:
        SettingsError: The package peft is not installed.
    """
    peft = require_peft(f"model {path}")
    adapted = peft.PeftModel.from_pretrained(base, str(path))
    _untie(base, peft.tuners.tuners_utils.BaseTunerLayer)
    return adapted.merge_and_unload()


def _untie(model: PreTrainedModel, adapter_layer: Any) -> None:
    """Give the output layer a weight of its own where it shares the embedding's and the adapter changes one of both.

    Merged into the shared weight, what was trained for one would change the other too.
    """
    tied = [model.get_input_embeddings(), model.get_output_embeddings()]
    inner = [layer.get_base_layer() if isinstance(layer, adapter_layer) else layer for layer in tied]
    if any(layer is None for layer in inner) or inner[0].weight is not inner[1].weight:
        return
    if any(isinstance(layer, adapter_layer) for layer in tied):
        inner[1].weight = type(inner[1].weight)(inner[1].weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def require_peft(wanted_by: str) -> Any:
    """Import the package peft.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise SettingsError(
            f"{wanted_by}: LoRA needs the package peft; install it with `pip install 'posttrain[lora]'`",
            code="missing_package",
        ) from error
    return peft
