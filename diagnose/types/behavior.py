"""What is measured: a behavior, its problems and the settings under which they are sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from posttrain.diagnose.errors import SettingsError


class Purpose(StrEnum):
    """Why a behavior is measured."""

    TARGET = "target"
    """It should get better."""
    RETENTION = "retention"
    """It should not get worse."""


class Split(StrEnum):
    """What a problem may be used for. Only `TRAIN` rows may feed a stage."""

    TRAIN = "train"
    EVAL = "eval"
    FINAL = "final"


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """`system`, `user`, `assistant`, or what else a template knows, such as `tool`."""
    content: str
    """The text of the turn; that of its parts, one after the other, where it has parts."""
    extra: str = ""
    """A JSON object of what else a chat template reads of the turn (`tool_calls`, `reasoning_content`, `content` as parts); empty for nothing."""
    train: bool | None = None
    """Whether the turn is learned; None leaves it to the row."""

    def as_turn(self) -> dict[str, Any]:
        """Return the turn as a chat template reads it."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        return turn | json.loads(self.extra) if self.extra else turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A path that is known to be right, written out in one or more steps."""

    steps: tuple[str, ...]
    """The steps as they appear in the text, separators included: joining them with nothing gives the path."""

    @property
    def text(self) -> str:
        """Return the whole path."""
        return "".join(self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One prompt with what is needed to grade an answer to it."""

    id: str
    prompt: str | tuple[Message, ...]
    """The question alone (the behavior's prompt format is applied later), or a whole chat."""
    answer: str
    """What is right; empty where the verifier needs no answer and the row has none."""
    references: tuple[Reference, ...] = ()
    group: str | None = None
    """Problems of one group are related; intervals treat a group as one unit."""
    key: str
    """Canonical form under which two problems are the same one, e.g. `3*4` for both 3*4 and 4*3. Splits are made by it."""
    split: Split
    hint: str | None = None
    """What may be said beside the question to help, without the answer; only the scaffold probe and stages that amortise it use it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What a verifier may need beside the answer (a reasoning-gym entry, say)."""
    answers: tuple[str, ...] = ()
    """Further answers that are right as well, each written otherwise than `answer`."""

    @property
    def accepted_answers(self) -> tuple[str, ...]:
        """Return every answer that counts as right, `answer` first."""
        return (self.answer, *self.answers)

    @property
    def question(self) -> str:
        """Return what is asked: the prompt, or the last message of a chat."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1].content


Thinking = str | tuple[str, str]
"""Which markers a thought stands between: `auto` (all that are known), `none`, or an opening and a closing one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFormat:
    """How a question becomes a prompt."""

    system: str | None = None
    """System message of a chat; None leaves the template its default."""
    template: str = "{question}"
    examples: tuple[tuple[str, str], ...] = ()
    """Worked examples (question, answer) shown before the question: as chat turns, or as text in completion format."""
    format: str = "auto"
    """`chat`, `completion`, or `auto`: chat where the tokenizer has a chat template."""
    thinking: Thinking = "auto"
    """What is cut off a sample before its answer is read."""
    template_arguments: str = ""
    """A JSON object of further variables of the chat template, such as `enable_thinking`; empty for none."""
    tools: str = ""
    """A JSON list of schemas of tools that the chat template shows; empty for none. Rows of a data set have them, behavior files do not."""

    @property
    def template_variables(self) -> dict[str, Any]:
        """Return the further variables of the chat template."""
        return dict(json.loads(self.template_arguments)) if self.template_arguments else {}

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """Return the schemas of the tools that the chat template shows."""
        return list(json.loads(self.tools)) if self.tools else []

    def ask(self, question: str) -> str:
        """Return a question as `template` writes it."""
        return self.template.replace("{question}", question)


LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3
"""Beside 0: below, logits divided by it leave what a float32 holds; above, every token is as likely as any other."""


def check_temperature(temperature: float, where: str = "") -> float:
    """Return a temperature that can be sampled at.

    Args:
        temperature: To be checked.
        where: What a message begins with, where nothing else names the setting.

    Raises:
        SettingsError: It is neither 0 nor between `LEAST_TEMPERATURE` and `MOST_TEMPERATURE` (`temperature`).
    """
    if temperature != 0.0 and not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE:
        raise SettingsError(
            f"{where}got {temperature:g}; allowed are 0, which takes the most likely token, and {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}",
            code="temperature",
        )
    return temperature


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Every setting of the sampler. Nothing is inherited from a model's generation config."""

    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 64
    """Tokens of a sample at most; where `Behavior.limit_source` is `AUTO`, the number from which the limit is found."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample; they are cut off the text, not off the tokens."""
    known: bool = True
    """False where samples were imported and their source does not tell how they were sampled; the settings above say nothing then."""

    def __post_init__(self) -> None:
        """Refuse a temperature that cannot be sampled at."""
        check_temperature(self.temperature, "temperature: ")

    @property
    def greedy(self) -> bool:
        """Return whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def samples_the_policy(self) -> bool:
        """Return whether draws come from the policy itself: temperature 1, nothing truncated, nothing penalised.

        Only then does a missing success say something about support.
        """
        return self.known and self.temperature == 1.0 and self.keeps_all

    @property
    def keeps_all(self) -> bool:
        """Return whether draws come from the policy but for a positive temperature: nothing truncated, nothing penalised."""
        return not self.greedy and (self.top_p, self.top_k, self.min_p, self.repetition_penalty) == (1.0, 0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureSettings:
    """What counts, and at which scale."""

    primary_k: int = 16
    """The k of the primary pass@k, chosen before anything is seen."""
    epsilon: float
    """Success rate under which a behavior is out of support. It belongs to the behavior, not to the sampling budget."""
    success: float = 1.0
    """A score of at least this is a success."""
    group_size: int = 8
    """Samples per prompt that a group-based trainer would sample; the default epsilon follows from it."""


def default_epsilon(group_size: int, signal: float = 0.05) -> float:
    """Return the success rate at which a group of `group_size` samples holds a success in a share `signal` of draws.

    Solves 1 − (1−ε)^G = signal; about .0064 for G = 8.
    """
    return float(1.0 - (1.0 - signal) ** (1.0 / group_size))


class VerifierOrigin(StrEnum):
    """Why a behavior has the verifier that it has."""

    CHOSEN = "chosen"
    """The behavior names it."""
    GENERATOR = "generator"
    """The problems come with it."""
    LAYOUT = "layout"
    """It belongs to the published set whose columns the rows have."""
    GUESSED = "guessed"
    """It follows from the form of the answers."""


class LimitSource(StrEnum):
    """Where the number of tokens that a sample may have comes from."""

    GIVEN = "given"
    """The behavior, or an option beside it, names it."""
    REFERENCES = "references"
    """It is twice the longest reference path."""
    PILOT = "pilot"
    """Greedy samples came to their end within it."""
    DEFAULT = "default"
    """There are neither references nor a pilot."""
    AUTO = "auto"
    """It is not found yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierSpec:
    """Which verifier reads the answers, with its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behavior:
    """A fixed distribution of problems, a verifier and the settings under which it is measured."""

    name: str
    problems: tuple[Problem, ...]
    """All splits; use `split()`."""
    verifier: VerifierSpec
    verifier_origin: VerifierOrigin = VerifierOrigin.CHOSEN
    prompt: PromptFormat = PromptFormat()
    sampling: Sampling = Sampling()
    limit_source: LimitSource = LimitSource.GIVEN
    """Of `sampling.max_tokens`."""
    measure: MeasureSettings
    purpose: Purpose = Purpose.TARGET
    source: str = ""
    """Where it was read from: a path, or the name of a bundled behavior."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What was given beside it (`--max-tokens`, ...), as JSON; the fields above hold it already."""
    notes: tuple[str, ...] = ()
    """How its files were understood, for people: one line each."""
    fingerprint: str = ""
    """Hash of everything above that could change a number."""

    @property
    def has_references(self) -> bool:
        """Whether a problem, of any split, has a reference path."""
        return any(problem.references for problem in self.problems)

    def split(self, split: Split) -> tuple[Problem, ...]:
        """Return the problems of one split, in file order."""
        return tuple(problem for problem in self.problems if problem.split is split)
