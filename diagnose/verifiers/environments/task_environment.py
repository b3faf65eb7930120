"""Environments that are a taskset: verifiers from 0.3 on, and alone from 0.4 on, where a task grades by its methods `@reward`.

A taskset is asked without tools, as by the harness `null` of the library, and a text is graded without a runtime, as by its command
`replay`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from posttrain.diagnose.strict_settings import explain
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
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused, RewardFailed, one_line

_HOOKS = ("setup", "finalize", "stage_verifier")
"""Methods of a task that work in a runtime."""


class TaskEnvironment(Environment):
    """A taskset whose tasks are one question each.

    Args:
        name: As the user names it.
        module: Its package.
        arguments: Settings of the taskset.

    Raises:
        EnvironmentRefused: A setting is unknown, it needs tools, a runtime or several agents, or its grader asks a model.
    """

    has_one_set = True

    def __init__(self, name: str, module: ModuleType, arguments: Mapping[str, Any]) -> None:
        import verifiers.v1 as vf

        self._name, self._vf = name, vf
        kind = vf.taskset_config_type(name)
        try:
            self._config = kind.model_validate({**arguments, "id": name})
        except ValidationError as error:
            raise EnvironmentRefused(f"environment {name}: arguments: {explain(error, kind)}", "environment_arguments") from None
        exported = [getattr(module, one, None) for one in getattr(module, "__all__", ())]
        if found := next((one for one in exported if isinstance(one, type) and issubclass(one, vf.Harness)), None):
            raise multi_turn(name, f"it brings a harness of its own, {found.__name__}")
        if (found := vf.environment_class(name)) is not vf.SingleAgentEnv:
            raise multi_turn(name, f"it is played by {found.__name__}, an environment of several agents or turns")
        try:
            self._taskset = vf.load_taskset(self._config)
        except Exception as error:
            raise EnvironmentRefused(
                f"environment {name}: its taskset fails ({one_line(error)}); give it other settings as `arguments: {{...}}`",
                "environment_failed",
            ) from error
        self._task = type(self._taskset).task_type()
        self._check_tasks()
        self._loop = asyncio.new_event_loop()

    def rows(self, split: str, size: int | None) -> Iterator[EnvironmentRow] | None:
        """Return the tasks, which are one set: asked for as `train`. There is no other."""
        if split != "train":
            return None
        if size is None and not getattr(self._taskset, "bounded", not self._taskset.INFINITE):
            raise EnvironmentRefused(
                f"environment {self._name}: its tasks never end; say how many to take, as in `environment: {{name: {self._name}, size: 100}}`",
                "endless_environment",
            )
        return self._read(size)

    def _read(self, size: int | None) -> Iterator[EnvironmentRow]:
        for number, task in enumerate(islice(self._taskset, size)):
            if type(task) is not self._task:
                raise EnvironmentRefused(
                    f"environment {self._name}: it gives tasks of {type(task).__name__} and declares {self._task.__name__}; declare what it gives, as in "
                    f"`Taskset[{type(task).__name__}]`",
                    "environment_version",
                )
            data = task.data
            if needs := next((one for one in ("image", "workdir", "skills", "artifacts") if getattr(data, one, None)), None):
                raise multi_turn(self._name, f"its tasks need a runtime ({needs})")
            yield EnvironmentRow(
                name=str(getattr(data, "id", None) or data.name or number),
                prompt=self._prompt(data),
                answer=plain_answer(getattr(data, "answer", None)),
                entry=data.model_dump(mode="json", exclude_defaults=True),
            )

    def reward_range(self) -> RewardRange:
        """Return where the weighted sum of the rewards lies."""
        return reward_range(getattr(one, "_vf_weight", 1.0) for one in self._rewards())

    def grade(self, entry: Mapping[str, Any], prompt: ChatTurns, text: str) -> float:
        """Return the reward of a text.

        Raises:
            RewardFailed: A reward or a metric raised.
        """
        task = self._task(self._task.data_type().model_validate(dict(entry)), self._config.task)
        trace = self._trace(task, prompt, text)
        try:
            self._loop.run_until_complete(task.score(trace))
        except Exception as error:
            raise RewardFailed(one_line(error)) from error
        if missing := [name for name, reward in trace.rewards.items() if reward is None]:
            raise RewardFailed(f"the reward {missing[0]} was not worked out")
        return float(trace.reward)

    def _prompt(self, data: Any) -> ChatTurns:
        dumped = data.prompt if isinstance(data.prompt, str) else [turn.model_dump() for turn in data.prompt or ()]
        prompt = plain_turns(self._name, dumped)
        if not data.system_prompt:
            return prompt
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return [{"role": "system", "content": data.system_prompt}, *turns]

    def _trace(self, task: Any, prompt: ChatTurns, text: str) -> Any:
        """Return the trace of a rollout in which a model was asked once and gave the text."""
        vf = self._vf
        from verifiers.v1.state import state_cls

        trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            state=state_cls(type(task))(),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
        )
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
        messages = [kinds[turn["role"]](content=turn["content"]) for turn in turns]
        for place, message in enumerate([*messages, vf.AssistantMessage(content=text)]):
            node = vf.MessageNode(parent=place - 1 if place else None, message=message, sampled=place == len(messages))
            trace.nodes.append(node)
        trace.calls.append(vf.ModelCall(node=len(messages), finish_reason="stop"))
        trace.ok = True
        trace.stop("agent_completed")
        return trace

    def _rewards(self) -> list[Any]:
        """Return the reward functions: those of the tasks, and those that the settings add."""
        blank = self._task.__new__(self._task)
        blank.config = self._config.task
        return list(blank.hooks("reward"))

    def _check_tasks(self) -> None:
        vf, name, task = self._vf, self._name, self._task
        if tools := [*task.toolsets(self._config.task), *type(self._taskset).toolsets(self._config)]:
            raise multi_turn(name, f"it offers tools ({type(tools[0]).__name__})")
        if changed := [hook for hook in _HOOKS if hasattr(vf.Task, hook) and getattr(task, hook) is not getattr(vf.Task, hook)]:
            raise multi_turn(name, f"its tasks work in a runtime ({task.__name__}.{changed[0]})")
        if task.NEEDS_CONTAINER:
            raise multi_turn(name, "its tasks need a container")
        if found := _judge_in(self._config, vf):
            raise asks_model(name, found)
        rewards = self._rewards()
        for function in rewards:
            given = inspect.signature(function).parameters.get("runtime")
            if given is not None and given.default is inspect.Parameter.empty:
                raise multi_turn(name, f"its reward {function.__name__} needs a runtime")
            if found := client_in(function, (vf.Judge,)):
                raise asks_model(name, f"{function.__name__} names {found}")
        if not rewards:
            raise EnvironmentRefused(
                f"environment {name}: its tasks have no reward; give the behavior a verifier of ours, such as `verifier: {{kind: exact}}`",
                "no_rewards",
            )


def _judge_in(settings: Any, vf: Any) -> str | None:
    """Return the name of a setting that describes a judge, in settings within settings as well."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, vf.JudgeConfig):
                return str(name)
            if isinstance(one, BaseModel) and (found := _judge_in(one, vf)):
                return f"{name}.{found}"
    return None
