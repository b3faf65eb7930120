"""The process that reads the problems of an environment, started by `bootstrap.py`.

One JSON object on stdin: name, arguments, eval_arguments, split, size. On stdout one a line: `{"set", "name", "prompt", "answer", "entry"}` for each
problem, and at last `{"done": true, ...}` with what is known of the environment; or `{"failed": message, "code": code}`.

A process of its own, because environments take over signals, print, and import much.
"""

from __future__ import annotations

import logging
import signal
from typing import Any

from posttrain.diagnose.verifiers.environments.opening import OfflineGrader, open_environment
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused, one_line
from posttrain.diagnose.verifiers.sandbox.lines import Lines, take_standard_streams

TRIAL_SECONDS = 60
"""For one answer, after which the process is ended by SIGALRM."""


def main() -> None:
    """Read one request and answer it."""
    lines = take_standard_streams()
    logging.disable(logging.CRITICAL)
    request = lines.read()
    assert request is not None
    try:
        _list(request, lines)
    except EnvironmentRefused as error:
        lines.write({"failed": str(error), "code": error.code})
    except Exception as error:
        lines.write(
            {"failed": f"environment {request['name']}: cannot be read ({one_line(error)})", "code": "environment_failed"}
        )


def _list(request: dict[str, Any], lines: Lines) -> None:
    name, size = request["name"], request["size"]
    environment = open_environment(name, request["arguments"])
    environments, grader = {"train": environment, "eval": environment}, OfflineGrader()
    if request["eval_arguments"]:
        environments["eval"] = open_environment(name, {**request["arguments"], **request["eval_arguments"]})
    # An environment loaded for eval alone may call its problems otherwise, and one with a single set has no name for it.
    is_eval = bool(request["eval_arguments"]) or (request["split"] == "eval" and environment.has_one_set)
    for split in ("train", "eval") if request["split"] is None else (request["split"],):
        rows = environments[split].rows(split, size)
        if rows is None and split == "eval" and is_eval:
            rows = environments[split].rows("train", size)
        for number, row in enumerate(rows or ()):
            if number == 0:
                signal.alarm(TRIAL_SECONDS)
                grader.try_out(name, environments[split], row)
                signal.alarm(0)
            try:
                lines.write({"set": split, **row._asdict()})
            except TypeError as error:
                raise EnvironmentRefused(
                    f"environment {name}: problem {row.name} of its {split} set holds what JSON cannot ({one_line(error)}); allowed: texts, numbers, lists and "
                    "objects of such",
                    "environment_rows",
                ) from None
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
