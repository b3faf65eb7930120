"""Environments to test with: a small stand-in for the library verifiers, and behavior files that name an environment.

The stand-in has what our side touches of verifiers 0.3 and nothing else. The library itself is tried in
tests/diagnose/verifiers/test_installed_environments.py, where it is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_LIBRARY = """
import asyncio, json, os, urllib.request
from abc import ABC, abstractmethod
from verifiers.types import Response, ResponseMessage

__version__ = "0.3.stand-in"

class Client(ABC):
    def __init__(self, config): pass
    @abstractmethod
    async def get_response(self, prompt, model): ...

class Parser: pass
class ThinkParser(Parser): pass
class MaybeThinkParser(Parser): pass
class XMLParser(Parser): pass

class Rubric:
    def __init__(self, funcs=(), weights=None):
        self.funcs = list(funcs)
        self.weights = weights or [1.0] * len(self.funcs)
        self.has_group_rewards = False
    async def score_rollout(self, state):
        state["reward"] = 0.0
        for function, weight in zip(self.funcs, self.weights):
            try:
                state["reward"] += weight * function(state["completion"], state["answer"])
            except Exception:
                pass  # as the library does

class JudgeRubric(Rubric): pass

class GroupRubric(Rubric):
    def __init__(self, **given):
        super().__init__(**given)
        self.has_group_rewards = True

def ask(client, model, sampling, messages):
    further = {**sampling, **sampling.get("extra_body", {})}
    further.pop("extra_body", None)
    body = json.dumps({"model": model, "messages": messages, **further}).encode()
    headers = {"Authorization": "Bearer " + os.environ.get(client.api_key_var, "EMPTY")}
    with urllib.request.urlopen(urllib.request.Request(client.api_base_url + "/chat/completions", body, headers)) as reply:
        return json.load(reply)["choices"][0]["message"]

class Rows(list):
    def to_list(self): return [dict(row) for row in self]
    def select(self, places): return Rows(self[place] for place in places)

class Environment:
    def __init__(self, dataset=None, eval_dataset=None, rubric=None, parser=None):
        self.sets, self.rubric, self.parser, self.tool_defs = (dataset, eval_dataset), rubric, parser or Parser(), []
    def build_dataset(self): return None if self.sets[0] is None else Rows(self.sets[0])
    def build_eval_dataset(self): return None if self.sets[1] is None else Rows(self.sets[1])

class MultiTurnEnv(Environment):
    num_turns = 2
    async def rollout(self, row, client, model, sampling_args):
        state = {**row, "error": None}
        for _ in range(self.num_turns):
            state["completion"] = (await client.get_response(row["prompt"], model)).message.content
        return state
    async def play(self, row, client, model, sampling, columns):
        state, chat = {**row, "error": None, "reward": 0.0}, [{"role": "user", "content": row["prompt"]}]
        try:
            for turn in range(self.num_turns):
                if turn:
                    chat.append({"role": "user", "content": "again"})
                chat.append(await asyncio.to_thread(ask, client, model, sampling, list(chat)))
            state["completion"] = chat[-1]["content"]
            await self.rubric.score_rollout(state)
        except OSError as error:
            state["error"] = {"error": "ModelError", "error_chain_repr": repr(error)}
        kept = {key: state.get(key) for key in ("example_id", "prompt", "answer", "reward", "error", *columns)}
        return {**kept, "completion": chat[1:], "is_truncated": False, "metrics": {}}
    async def generate(self, inputs, client, model, sampling_args, max_concurrent, state_columns, independent_scoring, on_start, on_progress):
        for played in asyncio.as_completed([self.play(row, client, model, sampling_args, state_columns) for row in inputs]):
            on_progress([], [await played], {})

class SingleTurnEnv(MultiTurnEnv):
    num_turns = 1
"""
_TYPES = """
from types import SimpleNamespace as Response, SimpleNamespace as ResponseMessage, SimpleNamespace as ClientConfig
"""
_SUMS = """
import time
import verifiers as vf

def rows(a, num):
    return [{"prompt": f"{a} + {i} =", "answer": str(a + i), "example_id": i} for i in range(num)]

def right(completion, answer):
    if completion == "raise": raise ValueError("cannot be read")
    if completion == "hang": time.sleep(100)
    if completion == "connect":
        import socket
        try: socket.create_connection(("192.0.2.1", 80), timeout=1)
        except OSError: return 1.0
    return {"much": 7.0, "debt": -2.0, "half": 0.5}.get(completion, float(completion.strip() == answer))

def anything(completion, answer):
    return 1.0

def load_environment(num_train=None, num_eval=None, shared=0, weight=1.0, kind="SingleTurnEnv", parser="Parser", rubric="Rubric", times=1, reward="", anew=False):
    class Impatient(vf.SingleTurnEnv):
        num_turns = times
    first = time.monotonic_ns() if anew else 1
    train = None if num_train is None else [*rows(first, num_train), *rows(2, shared)]
    made = getattr(vf, rubric)(funcs=[anything if reward == "any" else right], weights=[weight])
    return {"SingleTurnEnv": Impatient}.get(kind, getattr(vf, kind))(
        dataset=train, eval_dataset=None if num_eval is None else rows(2, num_eval), rubric=made, parser=getattr(vf, parser)()
    )
"""


def use_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in before an installed library, for this process and for those that it starts."""
    package = folder / "stand-in" / "verifiers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_LIBRARY)
    (package / "types.py").write_text(_TYPES)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    (folder / "sums_env.py").write_text(_SUMS)


def write_environment(folder: Path, arguments: dict[str, Any] | None = None, *, more: str = "", **settings: Any) -> Path:
    """Write a behavior file whose problems are those of an environment, by default the sums.

    Args:
        folder: Where.
        arguments: Of its `load_environment`.
        more: Further lines of the behavior file.
        settings: Further keys of `environment:`.

    Returns:
        The file.
    """
    path = folder / "b.yaml"
    content = {"name": "sums-env", "arguments": arguments or {}, **settings}
    path.write_text(f"environment: {json.dumps(content)}\n{more}\n")
    return path
