"""An engine with weights of its own, into which the weights of the model in training are copied before each sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from posttrain.diagnose.engines import base
from posttrain.diagnose.types import Sampling


class InPlaceEngine(base.BaseEngine):
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
        self, opener: Callable[[], base.TakesWeights], codec: base.Codec, weights: Callable[[], PreTrainedModel], *, name: str
    ) -> None:
        self._opener, self.codec, self._weights, self._name = opener, codec, weights, name
        self._engine: base.TakesWeights | None = None
        self._refreshes = 0

    @property
    def info(self) -> base.EngineInfo:
        """See `Engine`; opens it."""
        return self._refreshed().info

    def refresh(self) -> None:
        """Give the engine the live weights."""
        if self._engine is None:
            self._engine = self._opener()
        self._refreshes += 1
        self._engine.load_weights(checkpoint_tensors(self._weights()), model_fingerprint=f"{self._name}:{self._refreshes}")

    def _refreshed(self) -> base.TakesWeights:
        if self._engine is None:
            self.refresh()
        assert self._engine is not None
        return self._engine

    def sample(
        self,
        requests: Sequence[base.SampleRequest],
        sampling: Sampling,
        *,
        seed: str,
        on_tokens: base.OnTokens = base.ignore_tokens,
    ) -> list[list[base.Completion]]:
        """See `Engine`."""
        return self._refreshed().sample(requests, sampling, seed=seed, on_tokens=on_tokens)

    def score(
        self, requests: Sequence[base.ScoreRequest], *, on_tokens: base.OnTokens = base.ignore_tokens
    ) -> list[base.TokenScores]:
        """See `Engine`; in the precision of the engine."""
        return self._refreshed().score(requests, on_tokens=on_tokens)

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
