"""How much memory a run needs beside activations, counted on the models that it has loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.trainers.distributed.fsdp import GatheringEngine
from posttrain.trainers.distributed.processes import local_tensor
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.stage import TrainingInputs
from posttrain.trainers.step.forward_scores import ForwardScorer


def model_state_gigabytes(
    models: Iterable[nn.Module], trained: Iterable[Tensor], engines: Iterable[Engine], *, averaged: bool
) -> float:
    """Return the size of weights, gradients, Adam's two moments, the moving average, and the copies from which engines sample.

    Args:
        models: Everything loaded: in training, merged, frozen copy, teacher, scalar head. Memory that two of them share counts once.
        trained: The parameters that are trained.
        engines: One per model that is sampled; in another precision than float32 each copies its model's weights, at 2 bytes.
        averaged: Whether an average of the trained weights is kept.
    """
    held = [local_tensor(each) for model in models for each in model.parameters() if not each.is_meta]
    weights = {each.data_ptr(): each.numel() * each.itemsize for each in held}
    num_trained = sum(local_tensor(each).numel() for each in trained)
    copied = sum(
        2 * sum(each.numel() for each in engine.model.parameters())
        for engine in engines
        if isinstance(engine, TransformersEngine) and engine.info.sample_dtype != "float32"
    )
    return float(sum(weights.values()) + num_trained * (4 + 8 + (4 if averaged else 0)) + copied) / 1e9


def describe_run(
    scorer: ForwardScorer, inputs: TrainingInputs, trained: Sequence[Tensor], adapter: LoraAdapter | None, *, averaged: bool
) -> str:
    """Return, in one line, what is trained and how much memory it takes."""
    others = [one for one in (inputs.teacher, inputs.earlier) if one is not None]
    frozen = [each.model for each in (scorer.reference, scorer.teacher) if each is not None]
    merged = None if adapter is None else adapter.merged
    sampled = inputs.engine.sampled if isinstance(inputs.engine, GatheringEngine) else None
    models: list[nn.Module] = [scorer.model, *frozen, *(one.model for one in others)]
    models += [each for each in (scorer.scalar_head, merged, sampled) if each is not None]
    size = model_state_gigabytes(models, trained, [inputs.engine, *(one.engine for one in others)], averaged=averaged)
    every = sum(each.numel() for each in scorer.model.parameters())
    num_trained = sum(each.numel() for each in trained)
    if adapter is not None:
        weights = f"{num_trained / 1e6:,.3g} M of {every / 1e6:,.3g} M weights are trained"
    else:
        weights = f"{(num_trained or every) / 1e6:,.3g} M weights"
    num_processes = inputs.processes.size
    each_process = "" if num_processes == 1 else f" in each of {num_processes} processes"
    return (
        f"{weights}, about {size:.1f} GB and activations{each_process}; {len(inputs.training_set.train)} train problems, "
        f"{len(inputs.training_set.dev)} kept for development"
    )
