"""The process that holds the tests of programs. What is tested runs elsewhere; here its functions are proxies that ask for it.

The first line says how to confine. Each further one is a job, for which a process is forked: `{"nonce", "prelude", "setup", "tests",
"entry_point", "calls_check"}`. The job asks for calls with `{"nonce", "call"}`, answered by a line of `code_host.py` that the parent
hands on unread, and ends with `{"nonce", "verdict", "detail"}`.
"""

from __future__ import annotations

import ast
import builtins
import os
import types
from collections.abc import Callable
from typing import Any, NoReturn

from posttrain.diagnose.verifiers.sandbox import confine
from posttrain.diagnose.verifiers.sandbox.code_values import Unsendable, decode, encode
from posttrain.diagnose.verifiers.sandbox.lines import Lines, silence, take_standard_streams


def main() -> None:
    """Serve until stdin ends."""
    lines = take_standard_streams()
    told = lines.read()
    assert told is not None
    confine.restrict_files(told["readable"])
    while (job := lines.read()) is not None:
        pid = os.fork()
        if pid == 0:
            silence(2)
            confine.finish(confine.Limits(memory_bytes=told["memory_bytes"], cpu_seconds=told["cpu_seconds"]))
            verdict, detail = _Job(job, lines).run()
            lines.write({"nonce": job["nonce"], "verdict": verdict, "detail": detail})
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            lines.write({"nonce": job["nonce"], "verdict": "broken", "detail": "the process of the tests died"})


class _Stopped(BaseException):
    """The tests cannot go on. Not an `Exception`, so that tests which expect errors of the program do not catch it."""


class _Job:
    def __init__(self, job: dict[str, Any], lines: Lines) -> None:
        self._job, self._lines = job, lines
        self.num_calls = 0
        self._stop: tuple[str, str] | None = None

    def run(self) -> tuple[str, str]:
        """Run the tests; return a verdict (`passed`, `failed`, `unsupported` or `broken`) and what was seen."""
        try:
            namespace, tests = self._prepare()
        except BaseException as error:
            return "broken", f"the tests cannot be loaded: {_brief(error)}"
        try:
            exec(tests, namespace)
            if self._job["calls_check"]:
                namespace["check"](namespace[self._job["entry_point"]])
        except BaseException as error:
            return self._stop or ("failed", _brief(error))
        if self._stop is None and self.num_calls == 0:
            return "broken", "the tests never call the program"
        return self._stop or ("passed", "")

    def _prepare(self) -> tuple[dict[str, Any], types.CodeType]:
        module = types.ModuleType("tests")
        namespace = module.__dict__
        # What the prompt defines beside the function that is asked for: helpers and imports that tests use.
        try:
            exec(compile(self._job["prelude"], "prompt.py", "exec"), namespace)
        except Exception:
            namespace = types.ModuleType("tests").__dict__  # a prompt in words
        entry_point = self._job["entry_point"]
        source = f"{self._job['setup']}\n{self._job['tests']}\n"
        tree = ast.parse(source)
        for name in sorted(_names_used(tree)):
            if name not in namespace and not hasattr(builtins, name):
                namespace[name] = _Remote(self, name, name, True)
        if entry_point:
            namespace[entry_point] = _Remote(self, entry_point, entry_point, True)
        return namespace, compile(tree, "tests.py", "exec")

    def ask(self, call: dict[str, Any]) -> Any:
        """Have the program do something, and return or raise what comes of it."""
        if self._stop is not None:
            raise _Stopped
        self.num_calls += 1
        try:
            self._lines.write({"nonce": self._job["nonce"], "call": {"id": self.num_calls, **call}})
            reply = self._lines.read()
            if reply is None:
                self.stop("broken", "the parent is gone")
            if reply.get("id") != self.num_calls:
                self.stop("failed", "the program's process gave a reply that was not asked for")
            if "unsendable" in reply:
                self.stop("unsupported", f"the program returned {reply['unsendable']}")
            if "raised" in reply:
                kind, message = map(str, reply["raised"])
            else:
                return decode(reply["value"], self.find)
        except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
            self.stop("failed", f"the program's reply cannot be read: {_brief(error)}")
        raise _as_exception(kind, message)

    def stop(self, verdict: str, detail: str) -> NoReturn:
        """End the tests with a verdict that nothing changes."""
        self._stop = self._stop or (verdict, detail[:500])
        raise _Stopped

    def find(self, name: dict[str, Any]) -> _Remote:
        """Return the proxy of a value that stays with the program."""
        number = name["number"]
        if type(number) is not int:
            raise ValueError("not the number of an object")
        return _Remote(self, {"number": number}, str(name["type"])[:60], name["truth"] is True)

    def send(self, value: Any) -> Any:
        """Return an argument as JSON."""
        try:
            return encode(value, self._name)
        except Unsendable as error:
            self.stop("unsupported", f"the tests pass {error}")

    def _name(self, value: Any) -> dict[str, Any]:
        kind = value.__name__ if isinstance(value, type) else ""
        if kind and getattr(builtins, kind, None) is value:
            return {"builtin": kind}
        if type(value) is not _Remote:
            raise Unsendable(f"a value of type {type(value).__name__}")
        on = object.__getattribute__(value, "_on")
        if isinstance(on, str):
            raise Unsendable(f"{on} itself")
        return dict(on)


def _unsupported(operation: str) -> Callable[..., Any]:
    def refuse(self: Any, *_: Any) -> Any:
        job, kind = object.__getattribute__(self, "_job"), object.__getattribute__(self, "_kind")
        job.stop("unsupported", f"the tests use {operation} on a value of type {kind}, which cannot leave the program's process")

    return refuse


class _Remote:
    """A name of the program, or a value that stays with it. Asking it for more than a call or an attribute ends the tests."""

    def __init__(self, job: _Job, on: str | dict[str, Any], kind: str, truth: bool) -> None:
        for name, value in (("_job", job), ("_on", on), ("_kind", kind), ("_truth", truth)):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        job, on = object.__getattribute__(self, "_job"), object.__getattribute__(self, "_on")
        sent = {"args": [job.send(one) for one in args], "kwargs": {name: job.send(one) for name, one in kwargs.items()}}
        return job.ask({"do": "call", "on": on, **sent})

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return object.__getattribute__(self, name)
        return object.__getattribute__(self, "_job").ask({"do": "get", "on": object.__getattribute__(self, "_on"), "name": name})

    def __setattr__(self, name: str, value: Any) -> None:
        job = object.__getattribute__(self, "_job")
        job.ask({"do": "set", "on": object.__getattribute__(self, "_on"), "name": name, "value": job.send(value)})

    def __eq__(self, other: object) -> bool:
        if type(other) is _Remote and object.__getattribute__(self, "_on") == object.__getattribute__(other, "_on"):
            return True
        return bool(_unsupported("==")(self))

    def __bool__(self) -> bool:
        return bool(object.__getattribute__(self, "_truth"))

    def __hash__(self) -> int:
        return hash(repr(object.__getattribute__(self, "_on")))

    def __repr__(self) -> str:
        return f"<{object.__getattribute__(self, '_kind')}>"


for _name in [
    "iter",
    "len",
    "getitem",
    "setitem",
    "delitem",
    "contains",
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "floordiv",
    "rfloordiv",
    "mod",
    "rmod",
    "pow",
    "rpow",
    "and",
    "rand",
    "or",
    "ror",
    "xor",
    "rxor",
    "neg",
    "pos",
    "abs",
    "invert",
    "int",
    "float",
    "complex",
    "index",
    "round",
    "trunc",
    "floor",
    "ceil",
    "instancecheck",
    "subclasscheck",
    "enter",
    "exit",
    "str",
    "format",
]:
    setattr(_Remote, f"__{_name}__", _unsupported(_name))


def _names_used(tree: ast.AST) -> set[str]:
    """Return the names that tests read and do not bind themselves."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return {node.id for node in names} - bound


def _as_exception(kind: str, message: str) -> Exception:
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(message)
        except TypeError:
            pass
    return Exception(f"{kind}: {message}")


def _brief(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    except BaseException:
        return type(error).__name__
