"""An engine with weights of its own, into which the weights of the model in training are copied before each sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from posttrain.diagnose.engines.base import BaseEngine, Codec, Completion, EngineInfo, TakesWeights, TokenScores


class InPlaceEngine(BaseEngine):
    """A live `Engine` around one that takes weights.

    It is opened when it first samples, so a stage that samples nothing never starts it, and gets the live weights then. Samples carry its own
    log-probabilities, with which importance weights and the logged gap compare those of the trainer.

    Args:
        opener: Opens the engine.
        codec: Of the model in training; texts are encoded here, without the engine.
        weights: Gives the model whose weights are to be sampled, as they are now, with the adapter merged in.
        name: Of the live weights; a number that counts the refreshes is added.
    """

    is_live = True

    def __init__(
        self, opener: Callable[[], TakesWeights], codec: Codec, weights: Callable[[], PreTrainedModel], *, name: str
    ) -> None:
        self._opener, self.codec, self._weights, self._name = opener, codec, weights, name
        self._engine: TakesWeights | None = None
        self._refreshes = 0

    @property
    def info(self) -> EngineInfo:
        """See `Engine`; opens it."""
        return self._refreshed().info

    def refresh(self) -> None:
        """Give the engine the live weights."""
        if self._engine is None:
            self._engine = self._opener()
        self._refreshes += 1
        self._engine.load_weights(checkpoint_tensors(self._weights()), model_fingerprint=f"{self._name}:{self._refreshes}")

    def _refreshed(self) -> TakesWeights:
        if self._engine is None:
            self.refresh()
        assert self._engine is not None
        return self._engine

    @property
    def sample(self) -> Callable[..., list[list[Completion]]]:
        """See `Engine`; opens it."""
        return self._refreshed().sample

    @property
    def score(self) -> Callable[..., list[TokenScores]]:
        """See `Engine`; in the precision of the engine. Opens it."""
        return self._refreshed().score

    def close(self) -> None:
        """Close the engine, where it was opened."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


def checkpoint_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model by their names in its Hugging Face checkpoint; of tied ones the first, as `save_pretrained` keeps it."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen and name not in (model._keys_to_ignore_on_save or ()):
            seen.add(id(value))
            state[name] = value.detach()
    # Some classes keep what the file has apart in one tensor, such as the experts of a mixture.
    yield from revert_weight_conversion(model, state).items()


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a checkpoint folder, one by one."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)
