"""A `vllm serve` on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vllm_server(wide_model: Path) -> Iterator[str]:
    """Return the address of a `vllm serve` on loopback."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(wide_model), "--dtype", "float32"]
    process = subprocess.Popen(
        [*command, "--enforce-eager", "--no-enable-chunked-prefill", "--host", "127.0.0.1", "--port", str(port)],
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, "vllm serve ended"
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
