"""Problems of an environment of the library verifiers, read in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.diagnose.behaviors.problem_rows import Row, read_prompt
from posttrain.diagnose.behaviors.schema import EnvironmentConfig
from posttrain.diagnose.behaviors.splits import default_key
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import SCORE_TOLERANCE, Split
from posttrain.diagnose.verifiers.environment import ENTRY, outside_range
from posttrain.diagnose.verifiers.sandbox.isolation import BOOTSTRAP


class EnvironmentProblems(NamedTuple):
    """What an environment holds."""

    rows: tuple[Row, ...]
    """With splits where it tells problems to train on from those to measure, or has the latter alone."""
    note: str
    """What was read, in one line."""
    low: float
    high: float
    """Between which numbers its rewards lie."""
    reads_thoughts: bool
    """Whether its parser reads the thought before an answer itself."""


def read_environment(config: EnvironmentConfig, beside: Path, where: str) -> EnvironmentProblems:
    """Read the problems of an environment.

    Where it has a train set and an eval set, what stands in the latter is left out of the former. An eval set alone is all measured, a
    train set alone has no splits yet.

    Args:
        config: The `environment:` part of a behavior.
        beside: The folder of the behavior file, where its module may lie and to which its relative paths belong.
        where: The behavior, for error messages.

    Raises:
        BehaviorError: The library or the environment is missing, it cannot be used (the code says why), or the set that is asked for is empty.
    """
    where = f"{where}: environment"
    if importlib.util.find_spec("verifiers") is None:
        raise BehaviorError(
            f'{where}: got {config.name}, which needs the package verifiers; install it with `pip install "posttrain[verifiers]"` (environments with a function '
            'load_environment need `pip install "verifiers<0.4"`), or give the problems as a file with `problems:`',
            code="no_verifiers",
        )
    found = _ask(config, beside, where)
    sets = {split: [one for one in found[:-1] if one["set"] == split] for split in ("train", "eval")}
    if not any(sets.values()):
        asked = "no problems" if config.split is None else f"no {config.split} set, or an empty one"
        instead = "give other `arguments`" if config.split is None else "leave out `split`, or give other `arguments`"
        raise BehaviorError(
            f"{where} {config.name}: it has {asked}; allowed: a set with problems; {instead}", code="environment_split"
        )
    rows = {split: _rows(config.name, split, sets, where) for split in sets}
    measured = {default_key(row.prompt) for row in rows["eval"]}
    train = [row for row in rows["train"] if default_key(row.prompt) not in measured]
    if measured:
        train = [row._replace(split=Split.TRAIN) for row in train]
    note = _note(config, found[-1]["version"], len(train), len(rows["eval"]), len(rows["train"]) - len(train))
    known = found[-1]
    return EnvironmentProblems(
        (*train, *(row._replace(split=Split.EVAL) for row in rows["eval"])),
        note,
        known["low"],
        known["high"],
        known["reads_thoughts"],
    )


def require_success(problems: EnvironmentProblems, name: str, success: float | None, where: str) -> None:
    """Refuse rewards that leave open what a right answer is, before there are samples.

    Raises:
        BehaviorError: They lie outside [0, 1] (`score_range`), or none reaches 1 (`no_success_score`), and `success` is not given.
    """
    if success is not None:
        return
    if problems.low < -SCORE_TOLERANCE or problems.high > 1.0 + SCORE_TOLERANCE:
        got = f"reward functions whose weights let rewards lie between {problems.low:g} and {problems.high:g}"
        raise BehaviorError(f"{where}: {outside_range(name, got, problems.high)}", code="score_range")
    if problems.high < 1.0 - SCORE_TOLERANCE:
        raise BehaviorError(
            f"{where}: environment {name}: got reward functions whose weights let rewards reach {problems.high:g} at most, and a right answer has 1; say from "
            f"which reward on an answer is right, such as measure: {{success: {problems.high:g}}}",
            code="no_success_score",
        )


def _ask(config: EnvironmentConfig, beside: Path, where: str) -> list[dict[str, Any]]:
    """Return what the process says: problems, and at last what is known of the environment."""
    folder = beside.resolve()
    done = subprocess.run(
        [sys.executable, "-P", str(BOOTSTRAP), "environment", str(folder)],
        input=config.model_dump_json().encode() + b"\n",
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},  # so that the order of a set is the same each time
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines[-1] if lines else {}
    if "failed" in last:
        raise BehaviorError(f"{where.removesuffix(': environment')}: {last['failed']}", code=str(last["code"]))
    if done.returncode == 0 and last.get("done"):
        return lines
    if done.returncode == -signal.SIGALRM:
        raise BehaviorError(
            f"{where} {config.name}: its grader took more than a minute for one answer; allowed: graders that compute; give the behavior a verifier of ours, such "
            "as `verifier: {kind: exact}`",
            code="environment_slow",
        )
    said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
    raise BehaviorError(
        f"{where} {config.name}: the process that read it ended with code {done.returncode} ({said or 'it said nothing'}); try it with `python -c 'import "
        f"{config.name.rsplit('/', 1)[-1].replace('-', '_')}'`",
        code="environment_failed",
    )


def _rows(name: str, split: str, sets: Mapping[str, Sequence[Mapping[str, Any]]], where: str) -> list[Row]:
    """Return the rows of a set, with ids that tell the sets apart where there are both."""
    found = sets[split]
    names = [one["name"] for one in found]
    if any(count > 1 for count in Counter(names).values()):
        names = [str(number) for number in range(len(found))]
    prefix = f"{split}-" if all(sets.values()) else "row-"
    return [
        Row(
            id=prefix + own,
            prompt=read_prompt(one["prompt"], f"{where} {name}: problem {own} of its {split} set"),
            answer=one["answer"],
            metadata={ENTRY: {"set": split, "entry": one["entry"]}},
        )
        for own, one in zip(names, found, strict=True)
    ]


def _note(config: EnvironmentConfig, version: str, num_train: int, num_eval: int, num_left_out: int) -> str:
    counts = {"train": num_train, "eval": num_eval}
    read = " and ".join(f"{num} problem{'s' * (num != 1)} of its {split} set" for split, num in counts.items() if num)
    said = f"environment {config.name} (verifiers {version}): {read}"
    return f"{said}; {num_left_out} of its train set stand in its eval set too and are left out" if num_left_out else said
