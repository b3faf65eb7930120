"""What may stand in a behavior file. Unknown keys are refused: a misspelt setting must not pass for a default."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import (
    LimitSource,
    MeasureSettings,
    PromptFormat,
    Purpose,
    Sampling,
    check_temperature,
    default_epsilon,
)

NonEmpty = Annotated[str, StringConstraints(min_length=1)]
AUTO: Final = "auto"


def _is_limit(value: Any) -> Any:
    if value != AUTO and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"got {shorten(value)}; allowed: a whole number from 1 on, or auto")
    return value


MaxTokens = Annotated[int | Literal["auto"], BeforeValidator(_is_limit)]
"""Tokens of a sample at most; `auto` finds a number that fits the references or the model."""
Temperature = Annotated[float, AfterValidator(lambda temperature: check_temperature(temperature))]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"})
"""What a chat template is given in any case."""


def _require_json(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"got {shorten(arguments)}; allowed: what JSON can hold; write dates in quotes") from error
    return arguments


class ExampleConfig(StrictModel):
    """A worked example shown before the question."""

    question: NonEmpty
    answer: NonEmpty


class PromptConfig(StrictModel):
    """How a question becomes a prompt."""

    system: str | None = None
    template: str = "{question}"
    examples: tuple[ExampleConfig, ...] = ()
    format: Literal["auto", "chat", "completion"] = "auto"
    thinking: Literal["auto", "none"] | tuple[NonEmpty, NonEmpty] = "auto"
    template_arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("thinking", mode="before")
    @classmethod
    def _names_markers(cls, thinking: Any) -> Any:
        pair = (
            isinstance(thinking, list | tuple)
            and len(thinking) == 2
            and all(isinstance(one, str) and one.strip() for one in thinking)
        )
        if thinking not in ("auto", "none") and not (pair and thinking[0].strip() != thinking[1].strip()):
            raise ValueError(
                f"got {shorten(thinking)}; allowed: auto, none, or an opening and a closing marker, as in ['<think>', '</think>']"
            )
        return thinking

    @field_validator("template_arguments")
    @classmethod
    def _are_variables(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OWN_VARIABLES & arguments.keys()):
            raise ValueError(
                f"got {taken[0]!r}, which the prompt sets itself; allowed: variables that the chat template reads beside the messages, such as "
                "enable_thinking"
            )
        return _require_json(arguments)

    @field_validator("template")
    @classmethod
    def _names_the_question(cls, template: str) -> str:
        if template.count("{question}") != 1:
            raise ValueError(f"got {template!r}; the text {{question}} must stand in it exactly once")
        return template

    def build(self) -> PromptFormat:
        """Return the frozen form that engines read."""
        examples = tuple((example.question, example.answer) for example in self.examples)
        return PromptFormat(
            system=self.system,
            template=self.template,
            examples=examples,
            format=self.format,
            thinking=self.thinking,
            template_arguments=json.dumps(self.template_arguments, sort_keys=True) if self.template_arguments else "",
        )


class SamplingConfig(StrictModel):
    """The sampler, all of it."""

    temperature: Temperature = 1.0
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, lt=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    max_tokens: MaxTokens = AUTO
    stop: tuple[NonEmpty, ...] = ()
    known: bool = True
    """False in the behavior files of imported runs whose source does not tell how it sampled."""

    def build(self) -> Sampling:
        """Return the frozen form that engines read."""
        settings = self.model_dump(exclude={"max_tokens"} if self.max_tokens == AUTO else None)
        return Sampling(**settings)

    @property
    def limit_source(self) -> LimitSource:
        """Return whether the limit is given."""
        return LimitSource.AUTO if self.max_tokens == AUTO else LimitSource.GIVEN


class MeasureConfig(StrictModel):
    """What counts, and at which scale."""

    primary_k: int = Field(default=16, ge=1)
    epsilon: float | None = Field(default=None, gt=0.0, lt=1.0)
    success: float | None = None
    """Above 0 and up to 1, but for environments, whose rewards may lie elsewhere. None takes what fits the verifier: 1, or .5 where a model scores the
    answers."""
    group_size: int = Field(default=8, ge=2)

    def build(self, default_success: float = 1.0) -> MeasureSettings:
        """Return the frozen form; epsilon follows from the group size, and success from the verifier, unless they were given."""
        success = default_success if self.success is None else self.success
        epsilon = default_epsilon(self.group_size) if self.epsilon is None else self.epsilon
        return MeasureSettings(primary_k=self.primary_k, epsilon=epsilon, success=success, group_size=self.group_size)


class SplitConfig(StrictModel):
    """How problems are divided: by fractions of the keys, or with a file of their own for train."""

    train: float | str = 0.5
    final: float = Field(default=0.1, ge=0.0, lt=1.0)
    by: Literal["key"] = "key"
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_something_to_measure(self) -> SplitConfig:
        train = self.train if isinstance(self.train, float) else 0.0
        if not (math.isfinite(train) and train >= 0.0):
            raise ValueError(
                f"train: got {self.train}; allowed: a fraction from 0 up to below 1, or a file of problems such as train.jsonl"
            )
        if train + self.final >= 1.0:
            raise ValueError(
                f"got train {train:g} and final {self.final:g}, which leaves no problem in eval;"
                " their sum must stay below 1, as in {train: 0.5, final: 0.1}"
            )
        return self


class VerifierConfig(StrictModel):
    """Which verifier reads the answers; every other key is an option of that kind and checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the kind."""
        return dict(self.model_extra or {})


class GeneratorConfig(StrictModel):
    """Problems from reasoning-gym; every key that is not named here is a setting of the data set and checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    dataset: NonEmpty
    size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    question: NonEmpty | None = None
    """Template of the question; its fields are those that the data set's adapter offers."""
    answer: NonEmpty | None = None
    """Template of the answer, where it is not the data set's own."""
    references: bool | tuple[NonEmpty, ...] = True
    """Whether to write reference paths, or the templates of the steps of one."""
    where: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Filters of the data set's adapter."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the data set's own settings."""
        return dict(self.model_extra or {})


class EnvironmentConfig(StrictModel):
    """Problems and grader of an environment of the library verifiers."""

    name: NonEmpty
    """Its package, or a module beside the behavior file; a hub id `owner/name` too."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Of its function `load_environment`, or settings of its taskset."""
    eval_arguments: dict[str, Any] = Field(default_factory=dict)
    """What differs for the problems that are measured, such as `{split: test}`."""
    split: Literal["train", "eval"] | None = None
    """Which of its sets alone is read; None reads both."""
    size: int | None = Field(default=None, ge=1)
    """Problems of each set at most, the first ones."""

    @field_validator("arguments", "eval_arguments")
    @classmethod
    def _are_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return _require_json(arguments)

    @model_validator(mode="after")
    def _has_something_to_measure(self) -> EnvironmentConfig:
        if self.split is not None and self.eval_arguments:
            raise ValueError(f"got split {self.split} and eval_arguments; give one of the two: eval_arguments read a second set")
        return self


def _names_environment(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class BehaviorConfig(StrictModel):
    """A behavior file."""

    name: Name | None = None
    problems: NonEmpty | None = None
    columns: dict[NonEmpty, NonEmpty] = Field(default_factory=dict)
    """Of `problems`: our name → the file's column, where it cannot be guessed."""
    reasoning_gym: GeneratorConfig | None = None
    environment: Annotated[EnvironmentConfig, BeforeValidator(_names_environment)] | None = None
    verifier: VerifierConfig | None = None
    prompt: PromptConfig = PromptConfig()
    sampling: SamplingConfig = SamplingConfig()
    measure: MeasureConfig = MeasureConfig()
    split: SplitConfig | None = None
    purpose: Purpose = Purpose.TARGET

    @model_validator(mode="after")
    def _has_one_source(self) -> BehaviorConfig:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"got {' and '.join(given) or 'none'} of {', '.join(SOURCES)}; give exactly one: where do the problems come from?"
            )
        if self.problems is None and self.split is not None and isinstance(self.split.train, str):
            raise ValueError(
                f"split.train: got {self.split.train!r} beside {given[0]}; allowed: a fraction such as 0.5; a file of problems to train on goes with `problems:`"
            )
        return self


SOURCES: Final = ("problems", "reasoning_gym", "environment")
"""Keys that say where the problems come from."""
