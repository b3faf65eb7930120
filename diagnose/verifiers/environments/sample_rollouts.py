"""The process in which an environment's own loop samples a model on a server, started by `bootstrap.py`.

One JSON object on stdin, a `OwnLoopRequest`. On stdout one a line: what is known before a sample is taken; then, once a second object came in, with
what replaces keys of the first, a line for each rollout that was stored, and at last `{"done": true, ...}`; or `{"failed": message, "code": code}`. It ends with its stdin.

Rollouts are stored as the library stores them, in `results.jsonl` beside `metadata.json`, each when it ends. Asked again, it samples what is missing, and
again what failed. Unlike the library it stores no reward where a reward function failed.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import hashlib
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

from posttrain.diagnose.verifiers.environments.one_request import answer_request
from posttrain.diagnose.verifiers.environments.opening import open_with_own_loop
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused, one_line
from posttrain.diagnose.verifiers.environments.rubric_environment import (
    environments_in,
    has_rewards,
    note_failures,
    refuse_compared,
    rewards_of,
)
from posttrain.diagnose.verifiers.sandbox.lines import Lines

KEY_VARIABLE = "OPENAI_API_KEY"
CONCURRENCY = 64
"""Rollouts under way at a time."""
RETRIES = 5
"""Of a request, after its first try."""
_SECONDS_TO_CLEAN_UP = 10
_FAILURE = "reward_failure"
"""Key of a rollout under which stands what a reward function raised."""
_failures: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("failures", default=None)


class OwnLoopRequest(TypedDict):
    """What is to be sampled."""

    name: str
    """Of the environment."""
    arguments: dict[str, Any]
    split: str | None
    """Its train or its eval set; None for the latter where it has one."""
    size: int | None
    """The first problems of the set alone."""
    samples: int
    """Of each problem."""
    address: str
    """Of the server, before /chat/completions."""
    model: str
    sampling: dict[str, Any]
    """By the names of OpenAI's protocol."""
    seconds: float
    """For one answer of the server."""
    folder: str
    """Where rollouts are stored."""


def main() -> None:
    """Read one request and carry it out."""
    answer_request(_sample)


def _sample(request: OwnLoopRequest, lines: Lines) -> None:
    import verifiers as vf

    environment = open_with_own_loop(request["name"], request["arguments"])
    problems, split = _problems(environment, request)
    for leaf in environments_in(environment):
        refuse_compared(request["name"], leaf.rubric)
    low, high = rewards_of(environment) if all(has_rewards(one.rubric) for one in environments_in(environment)) else (0.0, 1.0)
    digest = hashlib.sha256(json.dumps(problems, sort_keys=True, default=str).encode()).hexdigest()[:16]
    version = str(getattr(vf, "__version__", ""))
    lines.write({"problems": len(problems), "set": split, "digest": digest, "version": version, "low": low, "high": high})
    served: Any = lines.read()
    if served is None:
        return
    request = {**request, **served}
    threading.Thread(target=_end_with_stdin, args=(lines,), daemon=True).start()
    store = _Store(Path(request["folder"]), request, version)
    there = store.keep()
    missing = [copy.deepcopy(row) for row in problems for _ in range(request["samples"] - there[str(row["example_id"])])]
    lines.write({"rollouts": there.total()})

    def stored(_: Any, new: list[dict[str, Any]], *__: Any) -> None:
        store.add(new)
        lines.write({"rollouts": len(new)})

    if missing:
        _note_failed_rewards(environment)
        client = vf.types.ClientConfig(
            api_key_var=KEY_VARIABLE, api_base_url=request["address"], timeout=request["seconds"], max_retries=RETRIES
        )
        sampled = environment.generate(
            missing,
            client=client,
            model=request["model"],
            sampling_args=request["sampling"],
            max_concurrent=CONCURRENCY,
            state_columns=[_FAILURE],
            independent_scoring=True,
            on_start=lambda *_: None,
            on_progress=stored,
        )
        asyncio.run(sampled)
    lines.write({"done": True, "failed": store.num_failed, "first_failure": store.first_failure})


def _problems(environment: Any, request: OwnLoopRequest) -> tuple[list[dict[str, Any]], str]:
    """Return the problems that are asked for, and the set that they are of."""
    found, split = None, request["split"] or "eval"
    if split == "eval":
        found = environment.build_eval_dataset()
    if found is None and request["split"] != "eval":
        found, split = environment.build_dataset(), "train"
    if found is None or len(found) == 0:
        asked = "no problems" if request["split"] is None else f"no {split} set, or an empty one"
        raise EnvironmentRefused(
            f"environment {request['name']}: it has {asked}; allowed: a set with problems; give other `arguments`",
            "environment_split",
        )
    size = request["size"]
    rows = (found if size is None else found.select(range(min(size, len(found))))).to_list()
    if len({str(row["example_id"]) for row in rows}) < len(rows):
        rows = [{**row, "example_id": number} for number, row in enumerate(rows)]
    return rows, split


def _note_failed_rewards(environment: Any) -> None:
    """Have each rollout keep what its reward functions raised: the library gives 0 for it."""
    for leaf in environments_in(environment):
        note_failures(leaf.rubric, _note)
    score = environment.rubric.score_rollout

    async def scored(state: dict[str, Any]) -> None:
        found: list[str] = []
        _failures.set(found)
        await score(state)
        state[_FAILURE] = found[0] if found else None

    environment.rubric.score_rollout = scored


def _note(failure: str) -> None:
    found = _failures.get()
    if found is not None:
        found.append(failure)


class _Store:
    """The files of the rollouts."""

    def __init__(self, folder: Path, request: OwnLoopRequest, version: str) -> None:
        self._path, self.num_failed, self.first_failure = folder / "results.jsonl", 0, ""
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {
            "env_id": request["name"],
            "env_args": request["arguments"],
            "model": request["model"],
            "sampling_args": request["sampling"],
            "rollouts_per_example": request["samples"],
            "version_info": {"vf_version": version},
        }
        (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")

    def keep(self) -> Counter[str]:
        """Drop rows that failed or were not written to the end, and return how many there are of each problem."""
        kept, there = [], Counter[str]()
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # a process was killed while it wrote this one
                continue
            if not row.get("error"):
                kept.append(f"{line}\n")
                there[str(row["example_id"])] += 1
        new = self._path.with_suffix(".new")
        new.write_text("".join(kept), encoding="utf-8")
        new.replace(self._path)
        return there

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rollouts. One whose reward failed has none."""
        lines = []
        for row in rows:
            if row.get(_FAILURE):
                row = {**row, "reward": None}
            if row.get("error"):
                self.num_failed += 1
                self.first_failure = self.first_failure or _in_words(row["error"])
            lines.append(json.dumps(row, default=_plain))
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


def _in_words(error: Any) -> str:
    if isinstance(error, BaseException):
        return one_line(error)
    said = (error.get("error_chain_repr") or error.get("error") or error) if isinstance(error, dict) else error
    return " ".join(str(said).split())[:300]


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else str(value)


def _end_with_stdin(lines: Lines) -> None:
    """End this process when its parent has gone, after a while to clean up."""
    while lines.read() is not None:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_SECONDS_TO_CLEAN_UP)
    os._exit(1)
