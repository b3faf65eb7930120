"""What every engine can do: encode, sample, score, take over weights, close. One contract test holds for all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from posttrain.diagnose.types import Floats, Ints, Message, PromptFormat, Reference, Sampling, StopReason

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

OnTokens = Callable[[int], None]
"""Called with the number of tokens just generated or scored; may raise KeyboardInterrupt."""


def ignore_tokens(num_tokens: int) -> None:
    """Ignore progress; the default callback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """Facts about the engine that made the numbers."""

    name: str
    model: str
    model_fingerprint: str
    fingerprint: str
    """Hash of the weights, the engine and its precision: rollouts with the same fingerprint come from the same distribution."""
    sample_dtype: str
    score_dtype: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    logprob_tolerance: float = 1e-3
    """Largest mean |sampler − scorer| log-probability per token, in nats, that the two precisions explain."""
    can_score: bool = True
    """Whether paths can be scored; `Codec.encode_path` and `score` are not to be called where they cannot."""
    context: int | None = None
    """Tokens of a prompt and its sample together; None where the engine does not know."""
    score_context: int | None = None
    """Tokens of a prompt and its path together, where a path is scored."""
    notes: tuple[str, ...] = ()
    """What its numbers lack, a sentence each. Unknown log-probabilities are NaN, unknown token ids −1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompt:
    """A prompt as the model reads it."""

    token_ids: tuple[int, ...]
    text: str
    format: str
    """`chat` or `completion`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPath:
    """A reference path as tokens that continue a prompt."""

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    token_steps: tuple[int, ...]
    """Index of the step that holds the last character of each token; the end token belongs to the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """Samples number `first_sample` … `first_sample + num_samples − 1` of one prompt."""

    key: str
    """Names the prompt in the key of its random generators: sample i of key k under seed s is sampled with the generator (s, k, i)."""
    prompt_ids: tuple[int, ...]
    num_samples: int
    first_sample: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sample."""

    token_ids: tuple[int, ...]
    policy_logprobs: Floats
    sampler_logprobs: Floats
    stop: StopReason
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """A path to be scored after a prompt."""

    prompt_ids: tuple[int, ...]
    path_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Scores of the T tokens of one path, under the untruncated policy at temperature 1."""

    logprobs: Floats
    """[T] natural log-probabilities."""
    ranks: Ints
    """[T] how many tokens are more likely; 0 is the most likely one."""
    mass_above: Floats | None = None
    """[T] probability of all more likely tokens together: top-p keeps a token while this is below p. None where the engine does not know."""
    top_logprobs: Floats | None = None
    """[T] log-probability of the most likely token: min-p keeps what lies within log min_p of it. None where the engine does not know."""


class Codec(Protocol):
    """Text to tokens and back, as one model reads and writes them."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The Hugging Face tokenizer; None where the tokens are known to a server alone, or are bytes."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer; empty where they are not known here."""
        ...

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """Write a problem's prompt as the model reads it.

        Raises:
            BehaviorError: The prompt cannot be written in this format.
        """
        ...

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        """Tokenise prompt and path together and cut ids, never text; the end token is added.

        Raises:
            SettingsError: Paths cannot be written as tokens here; `EngineInfo.can_score` is False then.
        """
        ...


class Sampler(Protocol):
    """Something that samples completions of prompts."""

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """Sample every request; the outer list is in the order of the requests, the inner one in the order of the samples.

        The same requests, settings and seed give the same completions.
        """
        ...


class Scorer(Protocol):
    """Something that scores given paths after prompts."""

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """Give log-probability and rank of every path token, in the order of the requests."""
        ...


class Engine(Sampler, Scorer, Protocol):
    """A model that can be sampled and scored."""

    @property
    def info(self) -> EngineInfo:
        """Facts about the engine and its numbers."""
        ...

    @property
    def codec(self) -> Codec:
        """What writes prompts and paths as the model's tokens."""
        ...

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse settings that it cannot sample with, before anything is sampled.

        Raises:
            SettingsError: It has no such setting.
        """
        ...

    @property
    def is_live(self) -> bool:
        """Whether it samples a model in training, whose weights `refresh` takes over."""
        ...

    def refresh(self) -> None:
        """Take over the weights of the model in training; nothing where the weights are frozen."""
        ...

    def close(self) -> None:
        """Free what was opened; the engine cannot be used after this. Nothing where nothing is to be freed."""
        ...


class BaseEngine:
    """What most engines have in common: weights that stay as they are, and nothing to be freed."""

    is_live = False

    def check_sampling(self, sampling: Sampling) -> None:
        """Accept: all settings are known."""

    def refresh(self) -> None:
        """Do nothing: the weights are frozen."""

    def close(self) -> None:
        """Do nothing: memory is freed with the engine."""


@runtime_checkable
class ManyBatches(Protocol):
    """An engine that works on several lists of requests at a time: a pool."""

    def sample_batches(
        self,
        batches: Sequence[Sequence[SampleRequest]],
        sampling: Sampling,
        *,
        seed: str,
        on_tokens: OnTokens = ignore_tokens,
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """Sample all lists; yield (index of a list, its completions as from `Sampler.sample`) as each is done."""
        ...


@runtime_checkable
class TakesWeights(Engine, Protocol):
    """An engine that can be given other weights of the same shapes."""

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]], *, model_fingerprint: str) -> None:
        """Replace all weights; tensors are named as in the model's Hugging Face checkpoint."""
        ...
