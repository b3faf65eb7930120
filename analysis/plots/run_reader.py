"""Run directories, as far as figures and tables need them: `diagnosis.json`, `compare.json` and `loop.json`, only read.

Fields that are not known are ignored, as the files' version 1 asks of every reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from posttrain.analysis.input_error import InputError
from posttrain.analysis.stored_json import read_stored_json


class Takes(StrEnum):
    """Which folders a figure is made from, in the words that people read."""

    RUNS = "folders of `posttrain diagnose`"
    SIDES = "folders of `posttrain diagnose`, or of `posttrain compare` and `loop` (their two sides)"
    COMPARISONS = "folders of `posttrain compare` or `posttrain loop`"
    LOOPS = "folders of `posttrain loop`"
    CHECKPOINTS = "folders of `posttrain compare` with three or more runs"


@dataclass(frozen=True, slots=True)
class Side:
    """One behavior as one folder has it: measured once, or compared."""

    label: str
    """What a legend calls it."""
    folder: Path
    behavior: Mapping[str, Any]
    """An entry of `behaviors` in diagnosis.json, compare.json or loop.json."""
    settings: Mapping[str, Any]
    """Settings of the run; empty for a comparison; the rounds, for a loop; the checkpoints, for several."""

    def need(self, key: str) -> Any:
        """Return a field of the behavior.

        Raises:
            InputError: The file has no such field.
        """
        if key not in self.behavior:
            again = f"posttrain report {self.folder}" if self.settings else "posttrain compare"
            raise InputError(
                f"{self.folder}: {self.behavior.get('name')} has no {key!r} there, it was written by an earlier version; run `{again}` again",
                code="missing_field",
            )
        return self.behavior[key]


def read_sides(
    folders: Sequence[str | Path], takes: Takes, *, behaviors: Sequence[str] = (), labels: Sequence[str] = ()
) -> dict[str, list[Side]]:
    """Read folders.

    Args:
        folders: Run directories, in the order in which they are to be shown.
        takes: What is wanted of them.
        behaviors: Names of the behaviors wanted; all of them without any.
        labels: What to call the sides; without them, what tells their folders apart.

    Returns:
        Behavior → its sides, behaviors and sides in the order of the files. A comparison counts as two sides, before and after,
        where sides are wanted.

    Raises:
        InputError: A folder is not what is wanted, cannot be read, or no behavior of that name is there.
    """
    if not folders:
        raise InputError(f"no folder was given; give {takes}", code="no_folder")
    paths = [Path(folder) for folder in folders]
    for option, given in (("--behavior", behaviors), ("--label", labels)):
        if twice := next((name for number, name in enumerate(given) if name in given[:number]), None):
            raise InputError(f"{option}: got {twice!r} twice; give each name once", code="name_twice")
    names = distinct_names(paths)
    read = [entry for path, name in zip(paths, names, strict=True) for entry in _read(path, name, takes, alone=len(paths) == 1)]
    if labels and len(labels) != len(read):
        raise InputError(
            f"--label: got {len(labels)} labels for {len(read)} series ({', '.join(label for label, *_ in read)}); give one each",
            code="number_of_labels",
        )
    found: dict[str, list[Side]] = {}
    for index, (name, path, entries, settings) in enumerate(read):
        label = labels[index] if labels else name
        for entry in entries:
            found.setdefault(str(entry.get("name")), []).append(Side(label, path, entry, settings))
    unknown = [name for name in behaviors if name not in found]
    if unknown:
        raise InputError(f"--behavior: got {unknown[0]!r}, measured there: {', '.join(found)}", code="unknown_behavior")
    return {name: sides for name, sides in found.items() if not behaviors or name in behaviors}


_Entry = tuple[str, Path, list[dict[str, Any]], Mapping[str, Any]]


def _read(path: Path, name: str, takes: Takes, *, alone: bool) -> list[_Entry]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give {takes}", code="missing_folder")
    is_run, is_comparison = (path / "diagnosis.json").exists(), (path / "compare.json").exists()
    if takes is Takes.LOOPS and (path / "loop.json").exists():
        data = _json(path / "loop.json")
        return [(name, path, data["behaviors"], rounds_of(data))]
    if takes is Takes.CHECKPOINTS and (path / "checkpoints.json").exists():
        data = _json(path / "checkpoints.json")
        return [(name, path, data["behaviors"], checkpoints_of(data))]
    if takes in (Takes.RUNS, Takes.SIDES) and is_run:
        data = _json(path / "diagnosis.json")
        return [(name, path, data["behaviors"], data.get("settings", {}))]
    if takes in (Takes.SIDES, Takes.COMPARISONS) and is_comparison:
        entries = _json(path / "compare.json")["behaviors"]
        if takes is Takes.COMPARISONS:
            return [(name, path, entries, {})]
        return [
            (side if alone else f"{name}, {side}", path, [one_side(path, entry, side) for entry in entries], {})
            for side in ("before", "after")
        ]
    code = "wrong_folder"
    inner = sorted(child.parent for child in path.glob("*/diagnosis.json"))
    if takes is Takes.LOOPS:
        hint = "it holds no loop.json"
    elif takes is Takes.CHECKPOINTS:
        hint = "it holds no checkpoints.json; compare the runs first: posttrain compare RUN RUN RUN... --out DIR"
    elif (path / "checkpoints.json").exists():
        hint = "it compares several checkpoints; draw the figure checkpoints, or give one of its runs"
    elif is_run:
        hint = f"compare it with another run first: posttrain compare {path} OTHER --out DIR"
    elif is_comparison and not inner:
        data = _json(path / "compare.json")
        hint = "give " + " or ".join(str(data.get(side, {}).get("run", f"the run {side}")) for side in ("before", "after"))
    elif inner:
        hint = f"give {inner[0]}"
    elif (path / "run.json").exists():
        hint, code = "it is not measured to the end; run the same command again to resume it", "unfinished_run"
    else:
        hint = "it is none"
    raise InputError(f"{path}: this figure takes {takes}; {hint}", code=code)


def rounds_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figure of a loop needs beside its behaviors: where each round started, its stage, and which round is kept."""
    return {
        "started_from": [one["started_from"] for one in data["rounds"]],
        "stages": [one["stage"] for one in data["rounds"]],
        "kept": (data.get("keep") or {}).get("round"),
    }


def checkpoints_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figure of several checkpoints needs beside its behaviors: their labels and steps, and which one to keep."""
    return {
        "labels": [one["label"] for one in data["checkpoints"]],
        "steps": [one.get("step") for one in data["checkpoints"]],
        "kept": (data.get("keep") or {}).get("index"),
    }


def one_side(path: Path, entry: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return a side of a comparison with the keys of diagnosis.json.

    Args:
        path: The folder of the comparison.
        entry: An entry of `behaviors` in compare.json.
        side: `before` or `after`.
    """
    whole = Side(side, path, entry, {})
    problems = [{**problem, **counted} for problem in whole.need("problems") if (counted := _counts_of_side(problem, side))]
    return {
        "name": entry["name"],
        "measure": entry.get("measure", {}),
        "pass_at_k": whole.need("pass_at_k")[side],
        "crossing": entry.get("crossing"),
        "problems": problems,
    }


def _counts_of_side(problem: Mapping[str, Any], side: str) -> dict[str, int]:
    """Return samples and successes of a problem on one side; nothing where they are not told. Earlier files hold the rate alone."""
    if (n := problem.get(f"n_{side}")) is not None:
        return {"num_samples": n, "num_correct": problem[f"c_{side}"]}
    if (n := problem.get("num_samples")) is not None:
        return {"num_samples": n, "num_correct": round(problem[side] * n)}
    return {}


def _json(path: Path) -> dict[str, Any]:
    data = read_stored_json(path)
    try:
        names = [entry["name"] for entry in data["behaviors"]]
        settings = data.get("settings", {})
        if not isinstance(settings, Mapping):
            raise TypeError("settings is no object")
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); run the command that wrote it again",
            code="unreadable_file",
        ) from error
    if not names:
        raise InputError(f"{path}: holds no behavior; measure one", code="no_behavior")
    return data


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({index})" for index, path in enumerate(paths, start=1)]
