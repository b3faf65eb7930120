"""Saves the model of a run as it is, or its moving average, with everything that belongs in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from posttrain.diagnose.errors import NonFiniteError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.models.checkpoint import save_checkpoint
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.stage import Recipe, TrainingInputs
from posttrain.trainers.step.optimizer import all_finite
from posttrain.trainers.training.dev_evaluation import DevEvaluation
from posttrain.trainers.training.model_card import write_model_card

CONFIG_FILE = "posttrain_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointWriter:
    """Saves the checkpoints of one run."""

    out: Path
    """Folder of the run."""
    recipe: Recipe[Any]
    config: TrainingConfig
    inputs: TrainingInputs
    adapter: LoraAdapter | None = None
    scalar_head: nn.Linear | None = None
    average: EmaWeights | None = None

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model is what is evaluated and saved."""
        return nullcontext() if self.average is None else self.average.swapped_in()

    def write(self, folder: str, num_steps: int, evaluations: Sequence[DevEvaluation]) -> None:
        """Save the model in a folder of the run; all processes must ask.

        Args:
            folder: Its name.
            num_steps: Optimizer steps taken.
            evaluations: On the dev slice, for the model card.

        Raises:
            NonFiniteError: A weight is NaN or infinite; nothing is written.
        """
        inputs, adapter, processes = self.inputs, self.adapter, self.inputs.processes
        with self.averaged():
            self._refuse_non_finite(num_steps)
            model = processes.gather_module(inputs.model) if adapter is None else adapter.merge()
            save_adapter = None if adapter is None else partial(adapter.save, adapter.lora_weights())
            head = None if self.scalar_head is None else processes.gather_module(self.scalar_head)
            if processes.is_rank_zero:
                card = write_model_card(
                    model, self.recipe, self.config, inputs.training_set, num_steps, evaluations, inputs.retained
                )
                save_checkpoint(
                    self.out / folder,
                    model,
                    inputs.tokenizer,
                    {CONFIG_FILE: self.config.model_dump_json(indent=2) + "\n", "README.md": card},
                    saves=self.recipe.saves,
                    dtype=self.config.checkpoint_dtype,
                    scalar_head=head,
                    save_adapter=save_adapter,
                )
            processes.all_gather(None)  # the others wait here, where there is no limit to it

    def _refuse_non_finite(self, num_steps: int) -> None:
        parts = [part for part in (self.inputs.model, self.scalar_head) if part is not None]
        named = [pair for part in parts for pair in part.named_parameters()]
        bad = next((name for name, weight in named if not all_finite([weight])), None)
        found = [name for name in self.inputs.processes.all_gather(bad) if name is not None]
        if found:
            raise NonFiniteError(
                f"the weight {found[0]} holds NaN or infinity after {num_steps} optimizer steps and is not saved"
            )
