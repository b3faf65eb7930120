"""LoRA (arXiv 2106.09685): every chosen linear map gets a low-rank addend, and only the addends are trained.

The model with the addends off is the model before training, so no copy of it is needed as a reference. Sampling and checkpoints take the
merged weights: one matrix per map again, which any engine and any loader understands. Several processes shard the model with its addends, and
gather map by map what they merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.adapter_folder import require_peft
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import current, full_tensor

FOLDER = "adapter"
"""Of a checkpoint: the adapter alone, beside the merged weights."""


class LoraAdapter:
    """The addends of one model, with a merged copy of its weights.

    Args:
        model: Gets the addends in place; everything else of it is frozen. Not sharded yet.
        config: Its `lora_rank` must be set.
        base: What the adapter's folder names as its base model; None takes the name that the model was loaded by.

    Raises:
        SettingsError: peft is not installed, or the model has no such layers, or one of them shares its weight.
    """

    def __init__(self, model: PreTrainedModel, config: TrainingConfig, *, base: str | None = None) -> None:
        peft = require_peft("lora_rank")
        targets = config.lora_targets
        settings = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=0.0,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        self.model = model
        self.merged: PreTrainedModel = current().empty_like(model).requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            try:
                self._peft: Any = peft.get_peft_model(model, settings)
            except ValueError as error:
                raise SettingsError(
                    f"lora_targets: {' '.join(str(error).split())[:200]}; give all-linear, or a list of names like [q_proj, v_proj]"
                ) from error
        self._peft.peft_config["default"].base_model_name_or_path = base or model.name_or_path
        self._layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)
        }
        self._refuse_tied()
        model.eval()  # the addends come in training mode
        if current().size == 1:
            self._share_the_rest()

    def _share_the_rest(self) -> None:
        """Of what has no addend the merged copy holds the very same memory."""
        mine = dict(self.model.named_parameters())
        for name, parameter in self.merged.named_parameters():
            if name in mine:
                parameter.data = mine[name].data

    def _refuse_tied(self) -> None:
        """An addend to one of two maps with one weight cannot be merged."""
        owners: dict[int, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(name)
        for name, layer in self._layers.items():
            found = [owner for owner in owners[id(layer.get_base_layer().weight)] if not owner.startswith(f"{name}.")]
            if found:
                raise SettingsError(
                    f"lora_targets: got {name}, whose weight is also {found[0]}; allowed are maps with a weight of their own"
                )

    def merge(self) -> PreTrainedModel:
        """The model with the addends as they are now merged in, on the first process at least; all of them must ask."""
        return current().load_weights(self.merged, self.merged_weights())

    @torch.no_grad()
    def merged_weights(self) -> Iterator[Tensor]:
        """The weights of `merged` as the addends are now, one by one; all processes must ask."""
        current().reshard()
        for name, _ in self.merged.named_parameters():
            place, _, kind = name.rpartition(".")
            layer = self._layers.get(place)
            if layer is None:
                yield full_tensor(self.model.get_parameter(name))
            elif kind != "weight":
                yield full_tensor(layer.get_base_layer().get_parameter(kind))
            else:
                layer = current().gather_part(layer)
                yield layer.get_base_layer().weight + layer.get_delta_weight("default")

    def addends(self) -> dict[str, Tensor]:
        """The addends alone by name, on the processor, on the first process at least; all of them must ask."""
        current().reshard()
        return {name: full_tensor(each).cpu() for name, each in self._peft.named_parameters() if ".lora_" in name}

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model as it was before training."""
        with self._peft.disable_adapter():
            yield

    def save(self, folder: Path, addends: Mapping[str, Tensor]) -> None:
        """Write the adapter alone, as peft and vLLM read it, with these addends."""
        self._peft.save_pretrained(folder, state_dict=dict(addends), save_embedding_layers=False)  # the base model has these
        (folder / "README.md").unlink(missing_ok=True)  # an empty form


class MergedEngine(TransformersEngine):
    """Samples a model with an adapter by its merged weights."""

    is_live = True
    adapter: LoraAdapter

    @classmethod
    def from_adapter(
        cls, adapter: LoraAdapter, tokenizer: PreTrainedTokenizerBase, *, name: str, model_fingerprint: str
    ) -> MergedEngine:
        """Over the adapter's merged copy; call `refresh` after every update. For a process alone."""
        engine = cls(adapter.merged, tokenizer, name=name, model_fingerprint=model_fingerprint)
        engine.adapter = adapter
        return engine

    def refresh(self) -> None:
        """Merge, then renew what was copied of the merged weights."""
        self.adapter.merge()
        super().refresh()
