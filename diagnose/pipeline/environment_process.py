"""The process in which an environment's own loop samples, as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.verifiers.sandbox.isolation import BOOTSTRAP

_SECONDS_TO_END = 15.0


class EnvironmentProcess:
    """Opens an environment in a process of its own, which ends with this object or with the process that made it.

    Args:
        request: A `OwnLoopRequest`.
        beside: The folder of the behavior file, where its module may lie and to which its relative paths belong.
        where: The behavior, for error messages.

    Raises:
        BehaviorError: The environment cannot be used; the code says why.
    """

    def __init__(self, request: Mapping[str, Any], beside: Path, where: str) -> None:
        self._name, self._where, folder = request["name"], where, beside.resolve()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(BOOTSTRAP), "rollouts", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # so that the order of a set is the same each time
        )
        try:
            self._send(request)
            self.known = self._receive()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> EnvironmentProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def sample(self, served: Mapping[str, Any], on_rollouts: Callable[[int], None]) -> dict[str, Any]:
        """Have it sample what is missing.

        Args:
            served: Keys of the request that the server decides.
            on_rollouts: Called with the number of rollouts that are there, then with that of those that were stored since.

        Returns:
            `failed` and `first_failure`: how many rollouts of this call failed, and why.

        Raises:
            BehaviorError: It ended before it had sampled all.
        """
        self._send(served)
        while not (line := self._receive()).get("done"):
            on_rollouts(line["rollouts"])
        return line

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then no line comes from it, either
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if "failed" in line and "code" in line:
            raise BehaviorError(f"{self._where}: {line['failed']}", code=str(line["code"]))
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            said = " ".join(self._said.read().decode(errors="replace").split())[-300:]
            raise BehaviorError(
                f"{self._where}: environment {self._name}: its process ended with code {code} ({said or 'it said nothing'}); the same command again samples "
                "what is missing",
                code="environment_failed",
            )
        return line

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
