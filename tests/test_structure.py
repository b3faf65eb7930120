"""The shape of the tree: sizes of modules and functions, and names that mean one thing."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("posttrain", "diagnose", "trainers", "analysis")
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef

LONG_FUNCTIONS: dict[str, str] = {}
"""`path:function` of each longer function that is allowed, with the reason."""

MANY_PARAMETERS = {
    "posttrain/cli/check.py:check": "typer makes the options of a verb from the parameters of its function",
    "posttrain/cli/diagnose.py:diagnose": "typer makes the options of a verb from the parameters of its function",
    "posttrain/cli/import_.py:import_": "the same",
    "posttrain/cli/loop.py:loop": "the same",
    "posttrain/cli/train.py:train": "the same",
    "trainers/train_stage.py:train": "the Python call takes the options of the verb by the same names",
    "tests/helpers/probes.py:context_over": "everything that a test of a probe varies",
    "trainers/step/chunked_divergence.py:forward": "torch.autograd.Function takes every tensor as a parameter of its own",
}
"""`path:function` of each function with more parameters that is allowed, with the reason."""

SAME_MODULE_NAME: dict[str, str] = {
    "base": "what the members of a folder have in common: the protocol and the small helpers",
    "registry": "the dictionary of the members of a folder, by name",
    "answers": "which answers of the policy each probe uses",
    "conditions": "of a gate, and under which a probe samples",
    "finding": "what each probe that is a folder puts together; `probe` is its class",
    "loading": "of a model to measure, and of a model to train, which uses it",
    "probe": "the class of each probe that is a folder",
    "reward_model": "the stage that trains one, and the verifier that asks it",
    "steps": "of a reference path, in a probe and in the credit of single steps",
    "teacher": "the probe that asks whether one is worth distilling, and the credit that one gives",
    "words": "of the sentences that each folder writes",
}
"""Module names that stand in several folders, with the reason."""

SAME_CLASS_NAME: dict[str, str] = {}
"""Classes of one name in several modules, with the reason."""

NAMED_AFTER_OTHERS = ("posttrain/cli/", "analysis/figures/")
"""Folders whose modules are named like what they call or show: a verb, a measurement."""


@cache
def tracked(*suffixes: str) -> tuple[str, ...]:
    """Return the tracked files with these suffixes, relative to the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(
        name for name in listed if name.endswith(suffixes) and (ROOT / name).is_file() and not (ROOT / name).is_symlink()
    )


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def functions(name: str) -> Iterator[Function]:
    for node in ast.walk(parsed(name)):
        if isinstance(node, Function):
            yield node


def product_modules() -> list[str]:
    return [name for name in tracked(".py") if name.split("/")[0] in PRODUCT]


def num_parameters(function: Function) -> int:
    """Count the parameters but self and cls."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (bool(names) and names[0] in ("self", "cls"))


def long_modules() -> list[str]:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in tracked(".py")}
    return [f"{name}: {count} lines" for name, count in lines.items() if count > MAX_MODULE_LINES]


def long_functions() -> list[str]:
    return [
        f"{name}:{function.name}: {length} lines"
        for name in tracked(".py")
        for function in functions(name)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
        and f"{name}:{function.name}" not in LONG_FUNCTIONS
    ]


def functions_with_many_parameters() -> list[str]:
    return [
        f"{name}:{function.name}: {count} parameters"
        for name in tracked(".py")
        for function in functions(name)
        if (count := num_parameters(function)) > MAX_PARAMETERS and f"{name}:{function.name}" not in MANY_PARAMETERS
    ]


def module_names_used_twice() -> list[str]:
    places = defaultdict(list)
    for name in product_modules():
        stem = Path(name).stem
        if not stem.startswith("__") and not name.startswith(NAMED_AFTER_OTHERS):
            places[stem].append(name)
    return [f"{', '.join(found)}: one name" for stem, found in places.items() if len(found) > 1 and stem not in SAME_MODULE_NAME]


def class_names_used_twice() -> list[str]:
    places = defaultdict(list)
    for name in product_modules():
        for node in parsed(name).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    return [
        f"{', '.join(found)}: class {name}" for name, found in places.items() if len(found) > 1 and name not in SAME_CLASS_NAME
    ]


def modules_named_like_a_function() -> list[str]:
    """Find modules with the name of a function that the package above them exports."""
    found = []
    for name in product_modules():
        package = Path(name)
        if package.name != "__init__.py":
            continue
        modules = {path.stem for path in (ROOT / package.parent).glob("*.py")} | {
            path.name for path in (ROOT / package.parent).iterdir() if (path / "__init__.py").exists()
        }
        exported: set[str] = set()
        for node in ast.walk(parsed(name)):
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
                exported |= set(ast.literal_eval(node.value))
            elif isinstance(node, ast.ImportFrom):
                exported |= {alias.name for alias in node.names if alias.asname == alias.name}
        found += [f"{package.parent}/{one}: module and exported name" for one in exported & modules]
    return found


@pytest.mark.parametrize(
    "rule",
    [
        long_modules,
        long_functions,
        functions_with_many_parameters,
        module_names_used_twice,
        class_names_used_twice,
        modules_named_like_a_function,
    ],
    ids=lambda rule: rule.__name__,
)
def test_the_tree_keeps_the_rule(rule) -> None:  # type: ignore[no-untyped-def]
    assert rule() == []


def test_every_exception_is_still_needed() -> None:
    names = {f"{name}:{function.name}" for name in tracked(".py") for function in functions(name)}
    assert set(LONG_FUNCTIONS) | set(MANY_PARAMETERS) <= names
