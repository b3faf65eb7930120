"""Environments that a function `load_environment` makes: verifiers before 0.4, where a rubric of reward functions grades.

An answer is graded by the environment's own loop, with a client in the place of a model that gives the text. So whatever the
environment does to state and messages is done, and one that asks twice, or asks something else than its data set, is found out.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.verifiers.environments.base_environment import (
    ChatTurns,
    Environment,
    EnvironmentRow,
    RewardRange,
    asks_model,
    client_in,
    multi_turn,
    plain_answer,
    plain_turns,
    reward_range,
)
from posttrain.diagnose.verifiers.environments.refusal import (
    RUN_THERE,
    SAMPLE_THERE,
    EnvironmentRefused,
    RewardFailed,
    one_line,
)


class RubricEnvironment(Environment):
    """A single-turn environment, or a group of such.

    Args:
        name: As the user names it.
        load: Its `load_environment`.
        arguments: Of that.

    Raises:
        EnvironmentRefused: It cannot be loaded, has several turns or tools, or its grader asks a model or compares samples.
    """

    def __init__(self, name: str, load: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        import verifiers as vf
        import verifiers.types

        self._name, self._vf = name, vf
        self._environment = load_checked(name, load, arguments)
        self._leaves = environments_in(self._environment)
        self._failures: list[str] = []
        for leaf in self._leaves:
            self._check(leaf)
        self._loop = asyncio.new_event_loop()
        self.reads_thoughts = any(_reads_thoughts(leaf.parser, vf) for leaf in self._leaves)

    def rows(self, split: str, size: int | None) -> Iterator[EnvironmentRow] | None:
        """Return the rows of its train or its eval set."""
        # `get_eval_dataset` falls back to the train set; these do not.
        build = self._environment.build_dataset if split == "train" else self._environment.build_eval_dataset
        found = build()
        if found is None:
            return None
        return self._read(found if size is None else found.select(range(min(size, len(found)))))

    def _read(self, dataset: Any) -> Iterator[EnvironmentRow]:
        for number, row in enumerate(dataset.to_list()):
            name = row.get("src_id") or row.get("example_id")
            yield EnvironmentRow(
                name=str(number if name is None else name),
                prompt=plain_turns(self._name, row["prompt"]),
                answer=plain_answer(row.get("answer")),
                entry={key: value for key, value in row.items() if key != "prompt"},
            )

    def reward_range(self) -> RewardRange:
        """Return where the weighted sum of the reward functions lies; the widest of a group of environments."""
        return rewards_of(self._environment)

    def grade(self, entry: Mapping[str, Any], prompt: ChatTurns, text: str) -> float:
        """Return the reward of a text.

        Raises:
            EnvironmentRefused: It asks twice, or something else than its data set.
            RewardFailed: A reward function raised, for which the library gives 0.
        """
        self._failures.clear()
        state = self._loop.run_until_complete(self._score({**entry, "prompt": prompt}, text))
        if self._failures:
            raise RewardFailed(self._failures[0])
        if state.get("error") is not None:
            raise RuntimeError(one_line(state["error"]))
        return float(state["reward"])

    async def _score(self, row: dict[str, Any], text: str) -> Any:
        client = _client(self._vf, text)
        state = await self._environment.rollout(row, client, "stored", {})
        if len(client.asked) != 1:
            raise multi_turn(self._name, f"it asks {len(client.asked)} times in one rollout", SAMPLE_THERE)
        if _contents(client.asked[0]) != _contents(row["prompt"]):
            raise multi_turn(self._name, "it asks something else than the prompt of its data set", SAMPLE_THERE)
        await self._environment.rubric.score_rollout(state)
        return state

    def _check(self, leaf: Any) -> None:
        vf, name, kind = self._vf, self._name, type(leaf).__name__
        if not isinstance(leaf, vf.SingleTurnEnv):
            raise multi_turn(name, f"got {kind}, an environment of several turns", SAMPLE_THERE)
        if leaf.tool_defs:
            raise multi_turn(name, f"it offers the tool {leaf.tool_defs[0].name}", SAMPLE_THERE)
        functions = [function for rubric in rubrics_in(leaf.rubric) for function in rubric.funcs]
        for rubric in rubrics_in(leaf.rubric):
            if isinstance(rubric, vf.JudgeRubric) or hasattr(rubric, "judge_client"):
                raise asks_model(name, type(rubric).__name__)
        for function in functions:
            if found := client_in(function, (vf.JudgeRubric,)):
                raise asks_model(name, f"{_called(function)} names {found}")
        refuse_compared(name, leaf.rubric)
        if not has_rewards(leaf.rubric):
            raise EnvironmentRefused(
                f"environment {name}: its rubric has no reward function with a weight; give the behavior a verifier of ours, such as "
                "`verifier: {kind: exact}`",
                "no_rewards",
            )
        note_failures(leaf.rubric, self._failures.append)


def load_checked(name: str, load: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return what `load_environment` makes.

    Raises:
        EnvironmentRefused: An argument is unknown, it fails, or it makes no environment of the library.
    """
    import verifiers as vf

    parameters = inspect.signature(load).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    for key in arguments:
        if key not in parameters and not takes_any:
            raise EnvironmentRefused(
                f"environment {name}: arguments: {unknown('argument', str(key), parameters)}", "environment_arguments"
            )
    try:
        environment = load(**arguments)
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("openai", "anthropic"):  # no key for a client
            raise asks_model(name, one_line(error, 120)) from None
        raise EnvironmentRefused(
            f"environment {name}: load_environment fails ({one_line(error)}); give it other arguments as `arguments: {{...}}`",
            "environment_failed",
        ) from error
    if not isinstance(environment, vf.Environment):
        raise EnvironmentRefused(
            f"environment {name}: load_environment gives {type(environment).__name__}; allowed: a SingleTurnEnv of verifiers; {RUN_THERE}",
            "environment_version",
        )
    return environment


def rewards_of(environment: Any) -> RewardRange:
    """Return where the weighted sum of an environment's reward functions lies; the widest of a group of environments."""
    leaves = environments_in(environment)
    ranges = [reward_range(weight for rubric in rubrics_in(leaf.rubric) for weight in rubric.weights) for leaf in leaves]
    return RewardRange(min(one.low for one in ranges), max(one.high for one in ranges))


def has_rewards(rubric: Any) -> bool:
    """Return whether a rubric, or one in it, has a reward function with a weight."""
    return any(weight for one in rubrics_in(rubric) for _, weight in zip(one.funcs, one.weights, strict=True))


def refuse_compared(name: str, rubric: Any) -> None:
    """Refuse rewards that say how good a sample is among those of its problem.

    Raises:
        EnvironmentRefused: There are such (`group_rewards`).
    """
    if rubric.has_group_rewards or getattr(rubric, "has_advantages", False):
        raise EnvironmentRefused(
            f"environment {name}: its rubric compares the samples of a problem with one another; allowed: reward functions of one sample; "
            f"give the behavior a verifier of ours, or {RUN_THERE}",
            "group_rewards",
        )


def note_failures(rubric: Any, note: Callable[[str], None]) -> None:
    """Have what a reward function with a weight raises noted in one line: the library gives 0 for it.

    Args:
        rubric: Of an environment; changed in place, with those in it.
        note: Takes the line.
    """
    for one in rubrics_in(rubric):
        for place, (function, weight) in enumerate(zip(one.funcs, one.weights, strict=True)):
            if weight:
                one.funcs[place] = _noted(function, note)


def _noted(function: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
    def failed(error: Exception) -> None:
        note(f"the reward function {_called(function)} failed ({one_line(error)})")

    async def wait(result: Awaitable[Any]) -> float:
        try:
            return float(await result)
        except Exception as error:
            failed(error)
            raise

    @functools.wraps(function)
    def noted(*given: Any, **named: Any) -> Any:
        try:
            result = function(*given, **named)
            return wait(result) if inspect.isawaitable(result) else float(result)
        except Exception as error:
            failed(error)
            raise

    return noted


def _called(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def environments_in(environment: Any) -> list[Any]:
    """Return the environments of a group, of groups in it as well; of another environment itself."""
    inner = getattr(environment, "envs", None)
    return [leaf for one in inner for leaf in environments_in(one)] if isinstance(inner, list) and inner else [environment]


def rubrics_in(rubric: Any) -> list[Any]:
    """Return a rubric and those in it."""
    return [rubric, *(found for one in getattr(rubric, "rubrics", ()) for found in rubrics_in(one))]


def _reads_thoughts(parser: Any, vf: Any) -> bool:
    """Return whether a parser wants to see the thought: it demands its tags, or has fields beside the answer."""
    if isinstance(parser, vf.MaybeThinkParser):
        return False
    return isinstance(parser, vf.ThinkParser) or (isinstance(parser, vf.XMLParser) and len(parser.get_fields()) > 1)


def _contents(prompt: Any) -> list[tuple[str, str]]:
    """Return role and text of each turn; a text alone is one of the user."""
    if isinstance(prompt, str):
        return [("user", prompt)]
    found = []
    for turn in prompt:
        turn = turn if isinstance(turn, Mapping) else turn.model_dump()
        role = "user" if turn["role"] == "text" else turn["role"]
        content = turn["content"]
        found.append((role, content if isinstance(content, str) else json.dumps(content, default=str)))
    return found


def _client(vf: Any, text: str) -> Any:
    """Return a client that answers every prompt with a text, and keeps what it was asked in `asked`."""
    types = vf.types

    async def respond(self: Any, prompt: Any, *_: Any, **__: Any) -> Any:
        self.asked.append(prompt)
        message = types.ResponseMessage(role="assistant", content=text, finish_reason="stop", is_truncated=False)
        return types.Response(id="stored", created=int(time.time()), model="stored", message=message)

    methods = dict.fromkeys(vf.Client.__abstractmethods__) | {"get_response": respond}
    client = type("StoredText", (vf.Client,), methods)(None)
    client.asked = []
    return client
