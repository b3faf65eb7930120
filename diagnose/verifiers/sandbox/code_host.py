"""The process that executes programs a model wrote: each in a fork that loads it, and calls its functions for tests that are elsewhere.

The first line says how to confine. A job is `{"program"}`, answered by the fork with `{"confined": true}`, and `{"loaded": true}` or
`{"raised": [type, message]}`. Each further line is a call, `{"id", "do", "on", ...}`, answered by `{"id", "value"}`, `{"id", "raised"}` or `{"id",
"unsendable"}`; `{"gone": true}` says that the fork has ended. `{"end": nonce}` ends the fork and is answered by `{"ended": nonce}`: the
fork never sees the nonce, so what comes before that line is its own, and what comes after is not. A program may change all of its
process, and gains no more than to choose what its own functions return.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

from posttrain.diagnose.verifiers.sandbox import confine
from posttrain.diagnose.verifiers.sandbox.code_values import Unsendable, decode, encode
from posttrain.diagnose.verifiers.sandbox.lines import Lines, silence, take_standard_streams

_TMP = Path("/tmp")
_OFTEN_USED = "bisect collections copy dataclasses datetime decimal enum fractions functools heapq itertools math operator random re string typing"


def main() -> None:
    """Serve until stdin ends."""
    lines = take_standard_streams()
    told = lines.read()
    assert told is not None
    for name in _OFTEN_USED.split():  # once, not in every fork
        importlib.import_module(name)
    confine.restrict_files(told["readable"])
    limits = confine.Limits(memory_bytes=told["memory_bytes"], cpu_seconds=told["cpu_seconds"])
    kept = set(_TMP.iterdir()) if told["private_tmp"] else set()
    while (job := lines.read()) is not None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            lines.close()
            silence(2)
            confine.finish(limits)
            _serve(Lines(theirs.fileno(), theirs.fileno()), str(job["program"]))
            os._exit(0)
        theirs.close()
        nonce = _relay(lines, ours)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        if told["private_tmp"]:
            _empty(_TMP, kept)
        if nonce is None:
            return
        lines.write_bytes(b"\n")  # where the program broke off within a line
        lines.write({"ended": nonce})


def _relay(lines: Lines, ours: socket.socket) -> str | None:
    """Hand lines to and fro until the parent ends it; return its nonce, None where the parent is gone."""
    alive = True
    while True:
        ready, _, _ = select.select([lines.incoming, *([ours.fileno()] if alive else [])], [], [])
        if ours.fileno() in ready:
            chunk = b""
            with contextlib.suppress(OSError):
                chunk = ours.recv(1 << 16)
            alive = bool(chunk)
            lines.write_bytes(chunk or b'\n{"gone": true}\n')
        if lines.incoming in ready:
            line = lines.read()
            if line is None or "end" in line:
                return None if line is None else str(line["end"])
            with contextlib.suppress(OSError):  # the fork is gone, as is told above
                ours.sendall(Lines.encode(line))


def _empty(folder: Path, kept: set[Path]) -> None:
    """Remove what a program left behind in the one place where it can write."""
    for path in set(folder.iterdir()) - kept:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _serve(lines: Lines, program: str) -> None:
    lines.write({"confined": True})
    host = _Host()
    lines.write(host.load(program))
    while (call := lines.read()) is not None:
        lines.write(host.answer(call))


class _Host:
    def __init__(self) -> None:
        # A module by name: data classes and pickles look for the module of their class.
        self._module = types.ModuleType("solution")
        sys.modules["solution"] = self._module
        self._objects: list[Any] = []

    def load(self, program: str) -> dict[str, Any]:
        """Run the program from top to bottom."""
        try:
            exec(compile(program, "solution.py", "exec"), self._module.__dict__)
        except BaseException as error:
            return {"raised": _describe(error)}
        return {"loaded": True}

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """Do what a test asks for."""
        reply: dict[str, Any] = {"id": call["id"]}
        try:
            reply["value"] = encode(self._do(call), self._name)
        except Unsendable as error:
            reply["unsendable"] = str(error)
        except BaseException as error:
            reply["raised"] = _describe(error)
        return reply

    def _do(self, call: dict[str, Any]) -> Any:
        on = call["on"]
        if isinstance(on, str):
            if not hasattr(self._module, on):
                raise NameError(f"name {on!r} is not defined")
            target = getattr(self._module, on)
        else:
            target = self._find(on)
        if call["do"] == "get":
            return getattr(target, call["name"])
        if call["do"] == "set":
            return setattr(target, call["name"], decode(call["value"], self._find))
        positional = [decode(one, self._find) for one in call["args"]]
        named = {name: decode(one, self._find) for name, one in call["kwargs"].items()}
        return target(*positional, **named)

    def _find(self, name: dict[str, Any]) -> Any:
        return getattr(builtins, name["builtin"]) if "builtin" in name else self._objects[name["number"]]

    def _name(self, value: Any) -> dict[str, Any]:
        number = next((number for number, known in enumerate(self._objects) if known is value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        try:
            truth = bool(value)
        except Exception:  # as arrays do
            truth = True
        return {"number": number, "type": type(value).__name__, "truth": truth}


def _describe(error: BaseException) -> list[str]:
    """Return the builtin type that an exception is one of, and its message."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        message = str(error)[:300]
    except BaseException:
        message = ""
    return [kinds[0], message if kinds[0] == type(error).__name__ else f"{type(error).__name__}: {message}"]
