"""The process that reads the problems of an environment, started by `bootstrap.py`.

One JSON object on stdin: name, arguments, eval_arguments, split, size. On stdout one a line: `{"set", "name", "prompt", "answer", "entry"}` for each
problem, and at last `{"done": true, ...}` with what is known of the environment; or `{"failed": message, "code": code}`.

A process of its own, because environments take over signals, print, and import much. Everything is read twice: a behavior is a fixed set of problems,
and what is made anew each time would be trained on after it was measured.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from typing import Any

from posttrain.diagnose.verifiers.environments.base_environment import Environment, EnvironmentRow
from posttrain.diagnose.verifiers.environments.one_request import answer_request
from posttrain.diagnose.verifiers.environments.opening import OfflineGrader, open_environment
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused, one_line
from posttrain.diagnose.verifiers.sandbox.lines import Lines

TRIAL_SECONDS = 60
"""For one answer, after which the process is ended by SIGALRM."""


def main() -> None:
    """Read one request and answer it."""
    answer_request(_list)


def _list(request: dict[str, Any], lines: Lines) -> None:
    name, grader, environments = request["name"], OfflineGrader(), _open(request)
    before, tried = hashlib.sha256(), set[str]()
    for split, row in _rows(request, environments):
        if split not in tried:
            tried.add(split)
            signal.alarm(TRIAL_SECONDS)
            grader.try_out(name, environments[split], row)
            signal.alarm(0)
        try:
            line = lines.encode({"set": split, **row._asdict()})
        except TypeError as error:
            raise EnvironmentRefused(
                f"environment {name}: problem {row.name} of its {split} set holds what JSON cannot ({one_line(error)}); allowed: texts, numbers, lists and objects of "
                "such",
                "environment_rows",
            ) from None
        before.update(line)
        lines.write_bytes(line)
    again = hashlib.sha256()
    for split, row in _rows(request, _open(request)):
        again.update(lines.encode({"set": split, **row._asdict()}))
    if again.digest() != before.digest():
        raise EnvironmentRefused(
            f"environment {name}: its problems are others each time it is loaded, so that measured ones could be trained on; allowed: the same each time; give "
            "it a seed, as in `arguments: {seed: 0}`",
            "environment_changes",
        )
    ranges = [one.reward_range() for one in environments.values()]
    import verifiers

    lines.write(
        {
            "done": True,
            "low": min(one.low for one in ranges),
            "high": max(one.high for one in ranges),
            "reads_thoughts": any(one.reads_thoughts for one in environments.values()),
            "version": str(getattr(verifiers, "__version__", "")),
        }
    )


def _open(request: dict[str, Any]) -> dict[str, Environment]:
    """Return the environment of each set: one, unless the arguments differ."""
    name, arguments, own = request["name"], request["arguments"], request["eval_arguments"]
    environment = open_environment(name, arguments)
    return {"train": environment, "eval": open_environment(name, {**arguments, **own}) if own else environment}


def _rows(request: dict[str, Any], environments: dict[str, Environment]) -> Iterator[tuple[str, EnvironmentRow]]:
    """Yield the problems that are asked for, each with its set."""
    size = request["size"]
    # An environment loaded for eval alone may call its problems otherwise, and one with a single set has no name for it.
    is_eval = bool(request["eval_arguments"]) or (request["split"] == "eval" and environments["eval"].has_one_set)
    for split in ("train", "eval") if request["split"] is None else (request["split"],):
        rows = environments[split].rows(split, size)
        if rows is None and split == "eval" and is_eval:
            rows = environments[split].rows("train", size)
        yield from ((split, row) for row in rows or ())
