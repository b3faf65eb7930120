"""What `posttrain check MODEL` says of a model or an adapter, before a sample is taken."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field

from posttrain.diagnose.storage.json_model import FileModel, Number, Text


class ModelWarning(StrEnum):
    """What may be wrong with a model. Those of the prompt are `ValidityCode`s."""

    NO_TEMPLATE = "no_template"
    """The tokenizer has no chat template: prompts are texts to be continued."""
    BEGIN_TWICE = "begin_twice"
    """The template writes a begin-of-text token, and the tokenizer adds another one to a text: who encodes the written prompt gets both."""
    PAD_ENDS = "pad_ends"
    """The padding token is one that ends an answer: trainers that leave padding out of the loss then never train the end."""
    NO_TURN_END = "no_turn_end"
    """The template writes no token behind an answer that could end it."""
    TURN_END_UNKNOWN = "turn_end_unknown"
    """The token that the template ends an answer with is none that the model's generation settings stop at."""
    END_UNLIKELY = "end_unlikely"
    """The model does not end a right answer."""
    OTHER_END = "other_end"
    """The model ends a right answer with another token than its template."""
    ADAPTER_UNUSED = "adapter_unused"
    """Tensors of the adapter belong to no module of its base."""
    ADAPTER_NO_EFFECT = "adapter_no_effect"
    """The model with the adapter is the base."""
    MERGED_DIFFERS = "merged_differs"
    """Merged into its base the adapter does something else than beside it."""
    SERVED_DIFFERS = "served_differs"
    """The server gives the same texts other probabilities."""


class ModelWarningEntry(FileModel):
    """One thing that may be wrong."""

    code: str
    """A `ModelWarning` or a `ValidityCode`."""
    words: str
    """For people, with what to do."""


class EndTokenEntry(FileModel):
    """A token that ends an answer."""

    token: Text
    id: int
    ends_turns: bool
    """Whether it is the one that the chat template writes behind an answer."""
    probability: Number
    """Behind a right answer, the median of several."""


class CheckedAnswer(FileModel):
    """A right answer under the model."""

    question: Text
    answer: Text
    nats_per_token: Number
    """Mean negative log-likelihood of its tokens."""
    end_probability: Number
    """Of all tokens that end an answer, behind it."""


class AdapterEntry(FileModel):
    """What an adapter does."""

    base: str
    num_tensors: int
    num_unused: int
    kl: Number
    """Mean KL divergence from the base, nats per token."""
    largest_change: Number
    """Of a log-probability, nats."""
    merged_gap: Number
    """Mean KL divergence of the merged model from the unmerged one, nats per token."""
    largest_merged_gap: Number


class ServedEntry(FileModel):
    """What a server makes of the same texts."""

    engine: str
    mean_gap: Number
    """Mean difference of the log-probability of a whole answer, nats."""
    largest_gap: Number


class ModelCheckFile(FileModel):
    """The whole result."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["model"] = "model"
    model: str
    prompt: Text
    """A prompt exactly as the model reads it."""
    has_template: bool
    begin: Text | None
    """Begin-of-text token."""
    pad: Text | None
    ends: Sequence[EndTokenEntry]
    end_probability: Number
    """Of all of them together, behind a right answer, the median of several."""
    answers: Sequence[CheckedAnswer]
    adapter: AdapterEntry | None = None
    served: ServedEntry | None = None
    warnings: Sequence[ModelWarningEntry] = ()
