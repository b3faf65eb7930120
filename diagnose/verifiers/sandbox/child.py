"""The process that reads what a model wrote, started by `bootstrap.py`.

One JSON object per line on stdin and stdout. The first names kind, options and deadline and is answered by `{"ready": true}`;
each further one is `{"id", "text", "payload"}`, answered by `{"id", "strict", "lenient"}` or `{"id", "error"}`. No answer is
ever sent here, except inside the payload of the kind `reasoning_gym`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import IO, Any

from posttrain.diagnose.types import VerifierSpec
from posttrain.diagnose.verifiers import build_verifier
from posttrain.diagnose.verifiers.base import ModelVerifier, Verifier

if sys.platform != "win32":  # there the parent's deadline is the only limit
    import resource

_MEMORY_BYTES = {"reasoning_gym": 4 << 30}
_DEFAULT_MEMORY_BYTES = 1 << 30
_FILE_BYTES = 1 << 20


def main() -> None:
    """Serve until stdin ends."""
    # The protocol gets descriptors of its own. What a scorer prints, or reads, goes to the null device.
    requests: IO[str] = os.fdopen(os.dup(0), encoding="utf-8")
    replies: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    hello = json.loads(requests.readline())
    kind = str(hello["kind"])
    verifier = build_verifier(VerifierSpec(kind=kind, options=hello["options"]))
    assert not isinstance(verifier, ModelVerifier), "what asks a model runs in the parent"
    if kind == "reasoning_gym":
        import reasoning_gym  # noqa: F401  its two seconds must not count against the first text
    _limit_for_good(_MEMORY_BYTES.get(kind, _DEFAULT_MEMORY_BYTES))
    _reply(replies, {"ready": True})
    for line in requests:
        _limit_next_text(float(hello["deadline"]))
        _reply(replies, _read(verifier, json.loads(line)))


def _read(verifier: Verifier, request: dict[str, Any]) -> dict[str, Any]:
    try:
        text, payload = request["text"], request.get("payload")
        strict = verifier.extract(text, lenient=False, payload=payload)
        lenient = verifier.extract(text, lenient=True, payload=payload)
    except Exception as error:  # whatever a text does to its reader is data about that text
        return {"id": request["id"], "error": f"{type(error).__name__}: {error}"[:500]}
    return {"id": request["id"], "strict": strict, "lenient": lenient}


def _reply(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _limit_for_good(memory_bytes: int) -> None:
    """Bound memory, files and core dumps. After the imports, which may need more address space than any text."""
    if sys.platform == "win32":
        return
    _set_limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
    _set_limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)


def _limit_next_text(deadline: float) -> None:
    """Bound the processor time of one text. The parent's deadline comes first; this one holds when the parent is gone."""
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + deadline) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _set_limit(which: int, value: int) -> None:
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(which)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (limit, limit))
    except (ValueError, OSError):  # macOS does not know every limit
        print(f"limit {which} cannot be set here", file=sys.stderr)


def _address_space() -> int:
    """Return bytes of address space in use."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  one line, before anything is served
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 1 << 30
