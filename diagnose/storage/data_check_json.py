"""What `posttrain check` says of a file of problems: what was read of it, how texts are graded, and what may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from posttrain.diagnose.storage.json_model import FileModel, Text
from posttrain.diagnose.types import GradeStatus, VerifierOrigin


class DataWarning(StrEnum):
    """What may be wrong with a data set. Those of the verifier's self-test are `ValidityCode`s."""

    DUPLICATE_PROBLEMS = "duplicate_problems"
    """Problems have the same key; they share a split."""
    CONTRADICTING_ANSWERS = "contradicting_answers"
    """Problems have the same key and different answers."""
    ANSWER_IN_PROMPT = "answer_in_prompt"
    """The right answer stands in the question."""
    CONSTANT_ANSWER = "constant_answer"
    """One answer is right nearly everywhere."""
    NEAR_OVERLAP = "near_overlap"
    """Problems that are measured differ from those to train on in punctuation alone."""
    LONG_PROMPTS = "long_prompts"
    """Prompts are much longer than a model reads at ease, or than this one reads."""
    NOT_WRITTEN = "not_written"
    """A prompt cannot be written for this model."""


class DataWarningEntry(FileModel):
    """One kind of thing that may be wrong."""

    code: str
    """A `DataWarning`, or a `ValidityCode` of the verifier's self-test."""
    num: int
    """Problems, or texts of the self-test."""
    of: int
    examples: Sequence[str] = ()
    """Ids of problems."""
    words: str
    """For people, with what to do."""


class GradedExample(FileModel):
    """A text whose grade is known, and what the verifier made of it."""

    kind: Literal["answer", "reference", "wrong_answer", "empty", "other_answer"]
    problem: str
    text: Text
    is_right: bool | None
    """What it should be; None where that is not certain, as for another problem's answer."""
    accepted: bool | None
    """What the verifier says; None where it failed."""
    status: GradeStatus
    extracted: Text | None = None
    detail: str = ""


class CheckedPrompt(FileModel):
    """A prompt."""

    problem: str
    text: Text
    """As the model reads it, special tokens included; without a model, the turns with their roles."""
    num_tokens: int | None = None


class PromptLengths(FileModel):
    """How long prompts are."""

    unit: Literal["tokens", "characters"]
    median: float
    max: int
    context: int | None = None
    """Tokens that the model reads."""


class CheckedVerifier(FileModel):
    """The verifier."""

    kind: str
    options: Mapping[str, Any]
    origin: VerifierOrigin


class DataCheckFile(FileModel):
    """What `posttrain check DATA --json` prints."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["problems"] = "problems"
    source: str
    name: str
    fingerprint: str
    num_rows: int
    splits: Mapping[str, int]
    num_with_references: int
    num_steps: int
    """Steps of the reference path with the most of them; 0 without references."""
    verifier: CheckedVerifier
    notes: Sequence[str]
    """How the file was understood."""
    model: str | None = None
    prompt: CheckedPrompt
    lengths: PromptLengths
    graded: Sequence[GradedExample]
    """Empty where the verifier asks a model."""
    warnings: Sequence[DataWarningEntry]
