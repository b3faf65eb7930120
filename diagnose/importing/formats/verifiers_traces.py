"""Episodes of verifiers 1: one per line of `traces.jsonl`, with a trace of what each agent and its environment said.

An episode has `id`, `env` {id, name}, `task` {type, data, key, hash}, `run`, `ok`, `errors` and `traces`; it has no trace where it failed before the model
was asked. A trace has `agent` {name, trainable, config}, `nodes` (messages, each with the index of the one before it; `sampled` where a model wrote it),
`calls` (one per answer of a model: model, sampling, finish_reason, usage), `rewards` {name: {score, weight}}, `metrics`, `ok` and `stop_condition`.
Agents that are not trainable, such as judges and simulated users, are no samples of the model.

Source: PrimeIntellect-ai/verifiers 0.4, `verifiers/v1/trace.py`, `episode.py` and `cli/output.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.importing.chat_messages import Prompt, find_prompt, read_messages, read_prompt, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, as_answer, as_answers, chosen_score
from posttrain.diagnose.importing.imported import ImportedSample, ReadOptions
from posttrain.diagnose.importing.source_rows import SourceRow
from posttrain.diagnose.types import Message, StopReason

TRACES = "traces.jsonl"
WANTED = "traces.jsonl of a verifiers evaluation, or its folder"
_LIMITS = frozenset({"max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "context_length"})
"""Stop conditions that end an episode before the model does."""
_ANSWERS = ("answer", "ground_truth", "expected_answer", "target", "solution")
"""Keys of a task's data under which environments keep what is right."""


@dataclass(slots=True)
class EpisodeReader:
    """Reads episodes, and keeps which agents and which sampler they name."""

    options: ReadOptions
    ids: ProblemIds = field(default_factory=ProblemIds)
    models: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    samplings: list[Mapping[str, Any]] = field(default_factory=list)
    """Different settings of the sampler, each once."""
    not_trainable: set[str] = field(default_factory=set)
    """Names of agents whose traces were passed over."""

    def read(self, row: SourceRow, path: Path, policy: str = "") -> Iterator[ImportedSample]:
        """Yield the samples of one episode.

        Args:
            row: The episode.
            path: Its file.
            policy: Step of a training run; empty where the models that were called tell policies apart.

        Raises:
            SourceError: It is no episode.
        """
        if "traces" not in row.values and "nodes" in row.values:  # a trace alone, as of mid-2026
            row = SourceRow(row.where, {"task": row.get("task"), "env": {"name": row.get("env_name")}, "traces": [row.values]})
        row.require("task", "traces", wanted=WANTED)
        task = row.mapping("task")
        env = row.mapping("env")
        behavior = str(env.get("name") or env.get("id") or task.get("type") or "verifiers")
        traces = row.objects("traces")
        if not traces:
            yield self._failed(row.inside("task"), behavior, path, policy)
        trained = [trace for trace in traces if trace.mapping("agent").get("trainable", True)]
        self.not_trainable |= {_agent(trace) for trace in traces} - {_agent(trace) for trace in trained}
        names = {_agent(trace) for trace in trained}
        for trace in trained:
            of_agent = f"{behavior}.{_agent(trace)}" if len(names) > 1 else behavior
            yield self._sample(trace, row.inside("task"), of_agent, path, policy)

    def _failed(self, task: SourceRow, behavior: str, path: Path, policy: str) -> ImportedSample:
        """Return a sample of which nothing is known, for an episode that failed before it had a trace."""
        return ImportedSample(
            behavior=behavior,
            problem=self._name(task, behavior, path),
            score=None,
            prompt=_prompt_of_task(task),
            answer=next(iter(_answers(task)), ""),
            answers=_answers(task)[1:],
            stop=StopReason.ERROR,
            policy=policy,
        )

    def _name(self, task: SourceRow, behavior: str, path: Path) -> str:
        return self.ids.name(_identity(task), behavior, _of_data(task), as_answer(_truth(task)), path)

    def _sample(self, trace: SourceRow, episode_task: SourceRow, behavior: str, path: Path, policy: str) -> ImportedSample:
        task = trace.inside("task") if trace.mapping("task") else episode_task
        prompt, chat = _said(trace)
        calls = trace.objects("calls")
        answers = _answers(task)
        self.versions |= {str(version) for version in [trace.mapping("verifiers").get("version")] if version}
        models = {str(call.get("model")) for call in calls if call.get("model")}
        self.models |= models
        for call in calls:
            if (sampling := call.get("sampling")) is not None and sampling not in self.samplings:
                self.samplings.append(sampling)
        failed = trace.get("ok") is False and not any(trace.mapping("rewards").values())
        return ImportedSample(
            behavior=behavior,
            problem=self._name(task, behavior, path),
            score=None if failed else self._score(trace),
            text=said_last(chat) if chat else None if failed else "",
            prompt=prompt or _prompt_of_task(task),
            answer=answers[0] if answers else "",
            answers=answers[1:],
            stop=StopReason.ERROR if failed else _stop(trace, calls),
            num_tokens=_generated(calls),
            turns=several_turns(chat),
            policy=policy or (models.pop() if len(models) == 1 else ""),
            metadata={"task": task.get("type")} if task.get("type") else {},
        )

    def _score(self, trace: SourceRow) -> float | None:
        """Return the sum of the weighted rewards, or the reward or metric that the user chose; None where one was not given."""
        named = trace.inside("rewards")
        if self.options.score:
            rewards = {name: named.mapping(name).get("score") for name in named.values}
            return chosen_score(trace.mapping("metrics") | rewards, self.options.score, None, trace.where)
        total = 0.0
        for reward in map(named.inside, named.values):
            score, weight = reward.number("score"), 1.0 if reward.get("weight") is None else reward.number("weight")
            if score is None or weight is None:
                return None
            total += score * weight
        return total if named.values else None


def _agent(trace: SourceRow) -> str:
    return str(trace.mapping("agent").get("name") or "agent")


def _identity(task: SourceRow) -> Any:
    return task.get("key") or task.get("hash")


def _of_data(task: SourceRow) -> str:
    """Return what tells a task from another one of the same key: its prompt, or all its data where the user of the episode opens it."""
    data = task.mapping("data")
    return json.dumps(data.get("prompt") or data, sort_keys=True, ensure_ascii=False)


def _prompt_of_task(task: SourceRow) -> Prompt | None:
    return find_prompt(task.mapping("data").get("prompt"), f"{task.where}: prompt")


def _truth(task: SourceRow) -> Any:
    data = task.mapping("data")
    return next((data[key] for key in _ANSWERS if data.get(key) is not None), None)


def _answers(task: SourceRow) -> tuple[str, ...]:
    return as_answers(_truth(task))


def _said(trace: SourceRow) -> tuple[Prompt | None, tuple[Message, ...]]:
    """Return what the model was asked first, and all that was said from then on, in the order in which it was said.

    The nodes are a tree: where the history of a long episode is shortened, or a part of it handed to another agent, a branch begins anew with messages that
    no model wrote. What an assistant is said to have written there counts as no turn.
    """
    nodes = [node.values for node in trace.objects("nodes") if isinstance(node.get("message"), Mapping)]
    first = next((i for i, node in enumerate(nodes) if node.get("sampled")), None)
    if first is None:
        return read_prompt([node["message"] for node in nodes], trace.where), ()
    asked: set[int] = set()
    before = nodes[first].get("parent")
    while isinstance(before, int) and 0 <= before < len(nodes) and before not in asked:
        asked.add(before)
        before = nodes[before].get("parent")
    later = [
        node["message"]
        for i, node in enumerate(nodes)
        if i not in asked and (node.get("sampled") or node["message"].get("role") != "assistant")
    ]
    return read_prompt([nodes[i]["message"] for i in sorted(asked)], trace.where), read_messages(later, trace.where)


def _stop(trace: SourceRow, calls: Sequence[SourceRow]) -> StopReason:
    if str(trace.get("stop_condition")) in _LIMITS:
        return StopReason.LENGTH
    answered = [call for call in calls if not call.get("error")]
    reason = answered[-1].get("finish_reason") if answered else None
    return StopReason.LENGTH if reason == "length" else StopReason.UNKNOWN if reason is None else StopReason.EOS


def _generated(calls: Sequence[SourceRow]) -> int | None:
    """Return the generated tokens of all turns; None where a call does not tell."""
    counts = [call.inside("usage").count("completion_tokens") for call in calls if not call.get("error")]
    return None if not counts or None in counts else sum(count for count in counts if count is not None)
