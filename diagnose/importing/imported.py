"""What a reader of a foreign format returns: samples with their grades, and what the source does and does not tell of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from posttrain.diagnose.types import Message, Note, Sampling, StopReason

UNKNOWN_MODEL = "unknown"
"""Where a source names no model."""
_MOST_PATHS = 2
"""Files that stand in the place of a model's name."""


class Untold(StrEnum):
    """What a source does not tell. Reports and verdicts say so, and whatever needs it is left out."""

    TEXTS = "texts"
    """What the model wrote: samples are counted, but cannot be graded again."""
    PROMPTS = "prompts"
    ANSWERS = "answers"
    """What is right: samples can be graded again only by a verifier that needs no answer."""
    PROBLEM_IDS = "problem_ids"
    """Samples were grouped by prompt and answer; two problems with one text count as one."""
    LOGPROBS = "logprobs"
    """Natural log-probabilities of sampled tokens."""
    STOP_REASONS = "stop_reasons"
    """Whether samples ran into a token limit."""
    TOKEN_COUNTS = "token_counts"
    SAMPLING = "sampling"
    """Temperature and truncation of the sampler: without them a missing success says nothing about support."""
    COMPLETENESS = "completeness"
    """Whether samples were left out, such as groups without signal or empty completions."""
    POLICY = "policy"
    """Which model, or which step of a training run, each sample is of."""


@dataclass(kw_only=True, slots=True)
class ImportedSample:
    """One sample of a problem, as another tool stored it. No field is set again; a frozen class takes four times as long to make, and there may be 10^6."""

    behavior: str
    """Task, data set or environment that the problem is of."""
    problem: str
    """What tells the problem from others of its behavior; `problem_of_text` makes one where the source has none."""
    score: float | None
    """What the source says; None where it was not graded, or grading failed. Never NaN."""
    text: str | None = None
    """What the model wrote, special tokens left out; None where the source does not keep it. Of several turns: what it wrote last."""
    prompt: str | tuple[Message, ...] | None = None
    """What it was asked, as the source has it."""
    answer: str = ""
    """What is right; empty where the source does not tell."""
    answers: tuple[str, ...] = ()
    """Further answers that are right as well, each written otherwise than `answer`."""
    stop: StopReason = StopReason.UNKNOWN
    num_tokens: int | None = None
    """Generated tokens; None where the source does not tell."""
    turns: tuple[Message, ...] = ()
    """All that was said after the prompt, tools included, where there was more than one turn of the model."""
    turn_count: int | None = None
    """Turns of the model, where the source counts them and does not keep what was said."""
    group: str | None = None
    """Problems of one group are related (a subject, a document)."""
    policy: str = ""
    """Step of a training run, or name of a model, where the source holds samples of several; empty for one."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of the problem, beside prompt and answer: JSON values."""

    @property
    def num_turns(self) -> int:
        """Return how many turns the model took; 1 where the source does not tell."""
        if self.turn_count is not None:
            return self.turn_count
        return sum(turn.role == "assistant" for turn in self.turns) if self.turns else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSource:
    """What is known of the samples as a whole."""

    format: str
    """Name of the format, as on the command line."""
    model: str = UNKNOWN_MODEL
    """As the source names it."""
    version: str = ""
    """Of the tool that wrote it, where it says so."""
    sampling: Sampling | None = None
    """None where the source does not tell. Its `max_tokens` is 0 where the limit alone is not known."""
    untold: frozenset[Untold] = frozenset()
    notes: tuple[Note, ...] = ()
    """What a reader must know: what was passed over, what may be biased and in which direction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSamples:
    """Samples of one source. Order within a problem is the order of samples."""

    source: SampleSource
    samples: Sequence[ImportedSample]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """What a user says about a source. A reader refuses what it has no use for."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name (`problem`, `correct`, `prompt`, `answer`, `text`, `group`, ...) → column or key of the source."""
    score: str | None = None
    """Which metric, scorer or reward of several counts."""
    filter: str | None = None
    """Which filter of several counts."""
    behavior: str | None = None
    """Name of the behavior where the source has one alone, or which of several to take."""
    tokenizer: str | None = None
    """Path or name of the tokenizer that turns token ids into texts, for a source that keeps ids alone; without it texts are untold."""
    accept_biased: bool = False
    """Take a source although samples were left out in a way that shifts success rates; the report then says so."""


class Reader(Protocol):
    """Reads files of one format."""

    def __call__(self, paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
        """Return the samples of these files, or of the folders that hold them.

        Raises:
            SourceError: The files are not of this format, are damaged, or lack what is asked for.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format that can be imported."""

    name: str
    """On the command line."""
    title: str
    """Of the tool."""
    files: str
    """Which files it reads, in a few words."""
    read: Reader


def model_words(format: str, model: str, policy: str, paths: Sequence[str] = ()) -> str:
    """Return the model that samples are of; where the source names none, the step and the files they are from.

    Args:
        format: Of the files.
        model: As the source has it; `unknown`, or `unknown, step 7`, where it names none.
        policy: Which of several policies is meant; a number is a step.
        paths: Names of the files.
    """
    name, _, step = model.partition(", step ")
    step = policy or step
    if name not in ("", UNKNOWN_MODEL):
        return name if step in ("", name) else f"{name}, step {step}" if step.isdecimal() else f"{name} {step}"
    if step and not step.isdecimal():
        return step
    source = (
        f"{', '.join(paths[:_MOST_PATHS])}{', ...' if len(paths) > _MOST_PATHS else ''} ({format})"
        if paths
        else f"samples of {format}"
    )
    return f"step {step} of {source}" if step else f"unnamed, of {source}"


def problem_of_text(prompt: str | tuple[Message, ...], answer: str = "") -> str:
    """Return a name for a problem that has none: a digest of its prompt and answer, so that two with one text are one problem."""
    text = prompt if isinstance(prompt, str) else "\x1e".join(f"{turn.role}\x1f{turn.content}\x1f{turn.extra}" for turn in prompt)
    return hashlib.sha256(f"{text}\x1d{answer}".encode()).hexdigest()[:12]
