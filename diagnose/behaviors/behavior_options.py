"""Settings of a behavior that are given beside its file, such as `--max-tokens`: they count as if the file said so."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from posttrain.diagnose.behaviors.schema import BehaviorConfig, MaxTokens, SplitConfig, Temperature, VerifierConfig
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.strict_settings import StrictModel, explain
from posttrain.diagnose.types import LEAST_TEMPERATURE, MOST_TEMPERATURE, Problem, Split
from posttrain.diagnose.yaml_text import YamlTextError, parse_yaml

ALL = "all"


class BehaviorOptions(StrictModel):
    """Settings that win over those of a behavior file; None leaves what the file says."""

    max_tokens: MaxTokens | None = None
    """Tokens of a sample at most, or `auto`."""
    temperature: Temperature | None = None
    system: str | None = None
    """System message of every prompt."""
    verifier: dict[str, Any] | None = None
    """`kind` and its options."""
    limit: int | None = Field(default=None, ge=1)
    """Problems of each split at most: a choice that depends on `split.seed` and on nothing else; a smaller one is part of a larger one."""

    columns: dict[str, str] | None = None
    """Our name → column of the file."""
    split_eval: Literal["all"] | float | None = Field(default=None)
    """Share of the problems that is measured, or `all` of them, also those whose rows name another split."""

    @property
    def measures_all(self) -> bool:
        """Return whether every problem is measured, whatever the file says."""
        return self.split_eval in (ALL, 1.0)

    def given(self) -> dict[str, Any]:
        """Return what is given, as JSON."""
        return self.model_dump(exclude_none=True)

    def apply(self, config: BehaviorConfig) -> BehaviorConfig:
        """Return a behavior file's content with these settings in the place of its own."""
        sampling = {name: value for name in ("max_tokens", "temperature") if (value := getattr(self, name)) is not None}
        parts: dict[str, Any] = {"sampling": config.sampling.model_copy(update=sampling)}
        if self.system is not None:
            parts["prompt"] = config.prompt.model_copy(update={"system": self.system})
        if self.verifier is not None:
            parts["verifier"] = VerifierConfig.model_validate(self.verifier)
        if self.columns is not None and config.problems is not None:
            parts["columns"] = config.columns | self.columns
        if self.split_eval is not None:
            parts["split"] = self._divide(config.split or SplitConfig())
        return config.model_copy(update=parts)

    def _divide(self, split: SplitConfig) -> SplitConfig:
        """Return a division with the share of eval that is asked for; what remains goes to train and final in the proportion of before."""
        if self.measures_all:
            return SplitConfig(train=0.0, final=0.0, seed=split.seed)
        if isinstance(split.train, str):
            raise BehaviorError(
                f"--split-eval {self.split_eval}: the train problems are those of {split.train}; allowed beside it: all, which measures the others",
                code="split_given_twice",
            )
        assert isinstance(self.split_eval, float)
        before, usual = split.train + split.final, SplitConfig()
        assert isinstance(usual.train, float)
        ratio = split.train / before if before else usual.train / (usual.train + usual.final)
        rest = 1.0 - self.split_eval
        return SplitConfig(train=rest * ratio, final=rest * (1.0 - ratio), seed=split.seed)

    def choose(self, problems: Sequence[Problem], seed: int) -> tuple[Problem, ...]:
        """Return at most `limit` problems of each split, in file order.

        Args:
            problems: Of all splits.
            seed: Which problems are chosen depends on it and on their ids alone.
        """
        if self.limit is None:
            return tuple(problems)

        def place(problem: Problem) -> str:
            return hashlib.sha256(f"{seed}:{problem.id}".encode()).hexdigest()

        chosen = {
            problem.id
            for split in Split
            for problem in sorted((one for one in problems if one.split is split), key=place)[: self.limit]
        }
        return tuple(problem for problem in problems if problem.id in chosen)


def read_behavior_options(
    *,
    max_tokens: str | None = None,
    temperature: float | None = None,
    system: str | None = None,
    verifier: str | None = None,
    verifier_options: Sequence[str] = (),
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    split_eval: str | None = None,
) -> BehaviorOptions:
    """Return the settings that a command line gives.

    Args:
        max_tokens: A whole number, or `auto`.
        temperature: 0, or from `LEAST_TEMPERATURE` to `MOST_TEMPERATURE`.
        system: A text.
        verifier: A kind, or `kind:key=value,key=value` with values as YAML writes them.
        verifier_options: Further options of it, `key=value` each.
        limit: From 1 on.
        columns: `OUR NAME=COLUMN` each.
        split_eval: `all`, or a share above 0 and up to 1.

    Raises:
        SettingsError: One is malformed or out of range (`behavior_option`).
    """
    number = int(max_tokens) if max_tokens is not None and re.fullmatch(r"-?[0-9]+", max_tokens) else max_tokens
    given = {
        "max_tokens": number,
        "temperature": temperature,
        "system": system,
        "verifier": _read_verifier(verifier, verifier_options),
        "limit": limit,
        "columns": read_columns(columns) if columns else None,
        "split_eval": None if split_eval is None else _read_share(split_eval),
    }
    try:
        return BehaviorOptions.model_validate(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        allowed = {
            "max_tokens": "a whole number from 1 on, or auto",
            "temperature": f"0, or a number from {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}, such as 1.0",
        }
        said = allowed.get(name, "a whole number from 1 on" if name == "limit" else explain(error, BehaviorOptions))
        raise SettingsError(f"--{name.replace('_', '-')}: got {given[name]}; allowed: {said}", code="behavior_option") from None


def read_columns(words: Sequence[str], option: str = "--map", example: str = "prompt=question answer=target") -> dict[str, str]:
    """Return which column holds what.

    Args:
        words: `OUR NAME=COLUMN` each.
        option: What gives them on the command line.
        example: Words that are allowed, for error messages.

    Raises:
        SettingsError: One is no such pair, or a name stands twice (`behavior_option`).
    """
    found: dict[str, str] = {}
    for word in words:
        left, equals, right = (part.strip() for part in word.partition("="))
        if not (left and equals and right) or left in found:
            got = f"{left} twice" if left in found else repr(word)
            raise SettingsError(
                f"{option}: got {got}; allowed: OUR NAME=COLUMN, each name once, as in {option} {example}",
                code="behavior_option",
            )
        found[left] = right
    return found


def _read_share(text: str) -> str | float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if text != ALL and not 0.0 < share <= 1.0:
        raise SettingsError(
            f"--split-eval: got {text!r}; allowed: all, or a share of the problems above 0 and up to 1, such as 0.8",
            code="behavior_option",
        )
    return text if text == ALL else share


def _read_verifier(text: str | None, more: Sequence[str]) -> dict[str, Any] | None:
    """Read `kind:key=value,key=value` and further options; folders are taken from the working directory."""
    if text is None:
        if more:
            raise SettingsError(
                f"--option: got {more[0]!r} and no --verifier, whose option it would be; give --verifier KIND",
                code="behavior_option",
            )
        return None
    kind, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in (*(re.split(r",(?=[a-z_]+=)", rest) if rest else ()), *more):
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier() or key == "kind":
            raise SettingsError(
                f"--verifier: got {item!r} beside {text!r}; allowed: KIND, or KIND:KEY=VALUE,KEY=VALUE such as number:tolerance=0.01",
                code="behavior_option",
            )
        options[key] = _read_value(value)
    if kind == "python":
        options["folder"] = os.path.realpath(str(options.get("folder", "")))
    if isinstance(model := options.get("model"), str) and Path(model).is_dir():
        options["model"] = os.path.realpath(model)
    return {"kind": kind, **options}


def _read_value(text: str) -> Any:
    """Return a YAML scalar or list; what is none, such as a regular expression, is text."""
    try:
        value = parse_yaml(text)
    except YamlTextError:
        return text
    return value if isinstance(value, bool | int | float | list) else text


def option_words(given: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command line, which `read_behavior_options` reads back."""
    words = []
    for name, value in given.items():
        if name == "columns":
            words += ["--map", *(f"{ours}={theirs}" for ours, theirs in value.items())]
            continue
        if name == "verifier":
            rest = [f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in value.items() if key != "kind"]
            value = ":".join([value["kind"], *([",".join(rest)] if rest else [])])
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words
