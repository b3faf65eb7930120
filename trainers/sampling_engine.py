"""The engine that samples a model in training: its live weights, its weights with an adapter merged in, or a copy beside shards."""

from __future__ import annotations

from pathlib import Path

from posttrain.diagnose.engines.transformers_engine import TransformersEngine, pick_dtype
from posttrain.trainers.adapters import LoraAdapter, MergedEngine
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.models import LoadedModel
from posttrain.trainers.parallel import current
from posttrain.trainers.types import LiveEngine


def open_live(loaded: LoadedModel, config: TrainingConfig) -> tuple[LiveEngine, LoraAdapter | None]:
    """The engine, and the adapter that the model is given where `lora_rank` is set.

    Raises:
        SettingsError: As for `LoraAdapter`.
    """
    processes = current()
    name, fingerprint = loaded.source, f"live:{config.seed}"
    sampled = processes.copy_for_sampling(loaded.model, pick_dtype("auto", processes.trains_on(loaded.model)))
    adapter = None
    if config.lora_rank is not None:
        base = str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name
        adapter = LoraAdapter(loaded.model, config, base=base)
        if processes.size == 1:
            return MergedEngine.from_adapter(adapter, loaded.tokenizer, name=name, model_fingerprint=fingerprint), adapter
    embedded = TransformersEngine.from_model(sampled, loaded.tokenizer, name=name, model_fingerprint=fingerprint)
    weights = None if adapter is None else adapter.merged_weights
    return processes.sampling(embedded, loaded.model, sampled, weights), adapter
