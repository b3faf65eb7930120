"""Tries an isolation: a child that confines itself, and then does what must be impossible."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from posttrain.diagnose.verifiers.sandbox import confine


def main() -> None:
    """Print `confined` if files, network, processes and tracing are out of reach."""
    confine.restrict_files(json.loads(sys.stdin.read()))
    confine.finish(confine.Limits())
    tries: list[Callable[[], object]] = [
        lambda: Path("/etc/passwd").read_bytes(),
        lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        lambda: Path("/posttrain-probe").write_bytes(b""),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(("127.0.0.1", 9)),
        os.fork,
    ]
    for number, reach in enumerate(tries):
        try:
            reach()
        except OSError:
            continue
        sys.exit(f"try {number} was not stopped")
    sys.stdout.write("confined")
