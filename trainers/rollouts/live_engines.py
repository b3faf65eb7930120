"""The engine that samples a model in training: its live weights, its weights with an adapter merged in, a copy of sharded weights, or vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from posttrain.diagnose.engines import parse_engine
from posttrain.diagnose.engines.base import Engine, TakesWeights
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.hardware import pick_dtype
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.limits import end_ids
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.models.loading import LoadedModel
from posttrain.trainers.models.lora import LoraAdapter, MergedEngine
from posttrain.trainers.rollouts.weight_sync import InPlaceEngine

EMBEDDED = "transformers"
TRAINABLE = (EMBEDDED, "vllm")
"""The engines that can sample weights which change."""


def check_engine(engine: str | Engine, num_processes: int = 1) -> None:
    """Refuse an engine that cannot sample the model in training.

    Args:
        engine: Its name, or an open one.
        num_processes: How many train together.

    Raises:
        SettingsError: It is none, samples weights that cannot be changed, or is not made for several processes.
    """
    if isinstance(engine, str):
        name, fits = engine, parse_engine(engine)[0] in TRAINABLE
    else:
        name, fits = f"an open {engine.info.name}", isinstance(engine, TakesWeights)
    if not fits:
        raise SettingsError(
            f"engine: got {name}, which cannot be given the weights of the model in training; allowed are {' and '.join(TRAINABLE)}, or "
            "from Python an open engine with load_weights; to learn from samples of any engine, sample them with diagnose --split train and "
            "give train --from",
            code="engine_not_trainable",
        )
    if num_processes > 1 and engine != EMBEDDED:
        raise SettingsError(
            f"engine: got {name} with {num_processes} processes; several processes sample with {EMBEDDED}; use that, or train in one process",
            code="engine_for_one_process",
        )


def open_live(
    loaded: LoadedModel,
    config: TrainingConfig,
    processes: ProcessGroup,
    *,
    given: TakesWeights | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Engine, LoraAdapter | None]:
    """Return the engine, and the adapter that the model gets where `lora_rank` is set.

    Args:
        loaded: The model in training.
        config: Names the engine.
        processes: That train together.
        given: An open engine, used in place of the one that is named.
        say: Called with a line for people when an engine of its own is started.

    Raises:
        SettingsError: As for `check_engine` and `LoraAdapter`.
    """
    check_engine(config.engine if given is None else given, processes.size)
    if given is None and config.engine == EMBEDDED:
        return _open_embedded(loaded, config, processes)
    opener = _vllm_opener(loaded, config, say) if given is None else _keep(given)
    adapter = _open_adapter(loaded, config, processes)
    weights = (lambda: loaded.model) if adapter is None else adapter.merge
    codec = TextCodec(loaded.tokenizer, end_ids(loaded.tokenizer.name_or_path, loaded.tokenizer))
    return InPlaceEngine(opener, codec, weights, name=_live_name(config)), adapter


def _open_embedded(loaded: LoadedModel, config: TrainingConfig, processes: ProcessGroup) -> tuple[Engine, LoraAdapter | None]:
    named = {"name": loaded.source, "model_fingerprint": _live_name(config)}
    sampled = processes.copy_for_sampling(loaded.model, pick_dtype("auto", processes.train_device(loaded.model)))
    adapter = _open_adapter(loaded, config, processes)
    if adapter is not None and processes.size == 1:
        return MergedEngine.from_adapter(adapter, loaded.tokenizer, **named), adapter
    embedded = TransformersEngine.from_model(sampled, loaded.tokenizer, **named)
    weights = None if adapter is None else adapter.merged_weights
    return processes.sampling_engine(embedded, loaded.model, sampled, weights), adapter


def _open_adapter(loaded: LoadedModel, config: TrainingConfig, processes: ProcessGroup) -> LoraAdapter | None:
    """Add an adapter to the model in place, where `lora_rank` is set."""
    if config.lora_rank is None:
        return None
    name = loaded.source
    base = str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name
    return LoraAdapter(loaded.model, config, base=base, processes=processes)


def _live_name(config: TrainingConfig) -> str:
    return f"live:{config.seed}"


def _keep(engine: TakesWeights) -> Callable[[], TakesWeights]:
    return lambda: engine


def _vllm_opener(loaded: LoadedModel, config: TrainingConfig, say: Callable[[str], None] | None) -> Callable[[], TakesWeights]:
    """Return what starts vLLM in a share of the memory, with the context length that fits.

    Raises:
        SettingsError: vLLM is not installed.
    """
    from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine, require_vllm

    require_vllm()

    def start() -> VllmEngine:
        if say is not None:
            say(f"starting vllm in {config.engine_memory:.0%} of the memory (engine_memory)")
        return VllmEngine.open(loaded.source, gpu_memory_utilization=config.engine_memory, max_model_len=-1)

    return start
