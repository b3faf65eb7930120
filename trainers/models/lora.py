"""LoRA (arXiv 2106.09685): every chosen linear layer gets a low-rank adapter, and only the adapters are trained.

The model with the adapter off is the model before training, so no copy of it is needed as a reference. Sampling and checkpoints take the
merged weights: one matrix per layer again, which any engine and any loader understands. Several processes shard the model with its adapter,
and gather layer by layer what they merge.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.adapter_folder import SETTINGS_FILE, require_peft
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import ProcessGroup, full_tensor

FOLDER = "adapter"
"""Folder within a checkpoint that holds the adapter without the model."""


_WEIGHTS_FILE = "adapter_model.safetensors"
_TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
"""How the names of classifiers end, and what peft calls what they do."""


class LoraAdapter:
    """The adapter of one model, with a merged copy of its weights.

    Args:
        model: Gets the LoRA weights in place; everything else of it is frozen. Not sharded yet.
        config: Its `lora_rank` must be set.
        base: What the adapter's folder names as its base model; None takes the name that the model was loaded by.
        processes: That train together; None for this one alone.

    Raises:
        SettingsError: peft is not installed, or the model has no such layers, or one of them shares its weight.
    """

    def __init__(
        self, model: PreTrainedModel, config: TrainingConfig, *, base: str | None = None, processes: ProcessGroup | None = None
    ) -> None:
        peft = require_peft("lora_rank")
        targets = config.lora_targets
        settings = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=0.0,
            target_modules=targets if isinstance(targets, str) else list(targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            task_type="CAUSAL_LM",
        )
        self.model, self._processes = model, processes or ProcessGroup()
        self.merged: PreTrainedModel = self._processes.empty_like(model).requires_grad_(False)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning
            )  # it overlooks fused experts
            torch.manual_seed(config.seed)
            try:
                self._peft: Any = peft.get_peft_model(model, settings)
            except ValueError as error:
                raise SettingsError(
                    f"lora_targets: {' '.join(str(error).split())[:200]}; give all-linear, or a list of names like [q_proj, v_proj]",
                    code="unknown_lora_target",
                ) from error
        self._peft.peft_config["default"].base_model_name_or_path = base or model.name_or_path
        self._layers: dict[str, Any] = {
            _without_wrappers(f"{name}.{_adapted_name(module)}"): module
            for name, module in model.named_modules()
            if isinstance(module, peft.tuners.lora.LoraLayer)
        }
        """Name of an adapted weight in `merged` → the layer that adapts it; fused experts have several."""
        self._refuse_tied()
        model.eval()  # LoRA layers come in training mode
        if self._processes.size == 1:
            self._share_other_weights()

    def _share_other_weights(self) -> None:
        """Let the merged copy use the same memory for what has no LoRA weights."""
        mine = self._base_weights()
        for name, parameter in self.merged.named_parameters():
            if name not in self._layers:
                parameter.data = mine[name].data

    def _base_weights(self) -> dict[str, Tensor]:
        """Return the weights of the model, without LoRA weights, by their names in `merged`."""
        named = self.model.named_parameters(remove_duplicate=False)
        return {_without_wrappers(name): each for name, each in named if ".lora_" not in name}

    def _refuse_tied(self) -> None:
        """Refuse LoRA weights on one of two layers that share a weight: they cannot be merged."""
        weights = self._base_weights()
        for name in self._layers:
            found = [other for other, weight in weights.items() if weight is weights[name] and other != name]
            if found:
                raise SettingsError(
                    f"lora_targets: got {name}, which is also {found[0]}; allowed are layers with a weight of their own",
                    code="tied_lora_target",
                )

    def merge(self) -> PreTrainedModel:
        """Return the model with the LoRA weights as they are now merged in, on rank 0 at least; all processes must ask."""
        return self._processes.load_weights(self.merged, self.merged_weights())

    @torch.no_grad()
    def merged_weights(self) -> Iterator[Tensor]:
        """Yield the weights of `merged` as the LoRA weights are now, one by one; all processes must ask."""
        self._processes.reshard()
        weights = self._base_weights()
        for name, _ in self.merged.named_parameters():
            layer = self._layers.get(name)
            if layer is None:
                yield full_tensor(weights[name])
            else:
                layer = self._processes.gather_part(layer)
                yield layer.get_base_layer().get_parameter(_adapted_name(layer)) + layer.get_delta_weight("default")

    def lora_weights(self) -> dict[str, Tensor]:
        """Return the LoRA weights alone by name, on the processor, on rank 0 at least; all processes must ask."""
        self._processes.reshard()
        return {name: full_tensor(each).cpu() for name, each in self._peft.named_parameters() if ".lora_" in name}

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run a block with the model as it was before training."""
        with self._peft.disable_adapter():
            yield

    def save(self, weights: Mapping[str, Tensor], folder: Path, saved: PreTrainedModel) -> None:
        """Write the adapter alone, as peft and vLLM read it.

        Args:
            weights: The LoRA weights, from `lora_weights`.
            folder: Where to.
            saved: The model as it is saved, of which a classifier has a head that the base model lacks.
        """
        self._peft.save_pretrained(folder, state_dict=dict(weights), save_embedding_layers=False)  # the base model has these
        (folder / "README.md").unlink(missing_ok=True)  # an empty form
        task = next((task for ending, task in _TASKS.items() if type(saved).__name__.endswith(ending)), None)
        if task is None:
            return
        heads = [
            name for name, part in saved.named_children() if part is not saved.base_model and any(True for _ in part.parameters())
        ]
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        settings |= {"task_type": task, "modules_to_save": heads}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        tensors = load_file(folder / _WEIGHTS_FILE)
        for head in heads:
            tensors |= {
                f"base_model.model.{head}.{name}": value for name, value in saved.get_submodule(head).state_dict().items()
            }
        save_file(tensors, folder / _WEIGHTS_FILE)


def _adapted_name(layer: Any) -> str:
    """Return which parameter of its base layer a LoRA layer adapts; fused experts have one [experts, out, in] for each of their maps."""
    return str(getattr(layer, "parameter_name", "weight"))


def _without_wrappers(name: str) -> str:
    """Return the name that a parameter had before its layer was wrapped."""
    return name.replace(".base_layer", "")


class MergedEngine(TransformersEngine):
    """An engine that samples a model with an adapter by its merged weights."""

    is_live = True
    adapter: LoraAdapter

    @classmethod
    def from_adapter(
        cls, adapter: LoraAdapter, tokenizer: PreTrainedTokenizerBase, *, name: str, model_fingerprint: str
    ) -> MergedEngine:
        """Open an engine over the adapter's merged copy, for one process; call `refresh` after every update."""
        engine = cls(adapter.merged, tokenizer, name=name, model_fingerprint=model_fingerprint)
        engine.adapter = adapter
        return engine

    def refresh(self) -> None:
        """Merge the adapter, then take over the merged weights."""
        self.adapter.merge()
        super().refresh()
