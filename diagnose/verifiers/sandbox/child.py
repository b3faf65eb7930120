"""The process that reads what a model wrote, started by `bootstrap.py`.

One JSON object per line on stdin and stdout. The first names kind, options, deadline and confinement and is answered by `{"ready":
true}`, or by `{"failed": reason}`; each further one is `{"id", "text", "payload"}`, answered by `{"id", "strict", "lenient"}`, `{"id",
"error"}` or `{"id", "late": true}`. No answer is ever sent here, except inside the payload of the kinds that score with it.

A kind that might execute a text reads each in a fork of its own, which holds no descriptor but the one for its result and is ended
with it: what a text does there is gone before the next one, and it cannot answer for another.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import time
from typing import Any

from posttrain.diagnose.types import VerifierSpec
from posttrain.diagnose.verifiers import build_verifier
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.sandbox import confine
from posttrain.diagnose.verifiers.sandbox.lines import Lines, silence, take_standard_streams

if sys.platform != "win32":  # there the parent's deadline is the only limit
    import resource

_LONGEST_RESULT = 16 << 20


def main() -> None:
    """Serve until stdin ends."""
    lines = take_standard_streams()
    hello = lines.read()
    assert hello is not None
    deadline, isolated = float(hello["deadline"]), bool(hello["isolated"])
    if isolated:
        confine.restrict_files(hello["readable"])
    verifier = build_verifier(VerifierSpec(kind=str(hello["kind"]), options=hello["options"]))
    assert isinstance(verifier, Verifier), "what asks a model runs in the parent"
    try:
        verifier.prepare()
    except Exception as error:
        lines.write({"failed": f"{type(error).__name__}: {error}"[:500]})
        return
    if not isolated:
        _limit_for_good(verifier.memory_bytes)
    lines.write({"ready": True})
    while (request := lines.read()) is not None:
        if isolated:
            reply = _read_in_fork(verifier, request, deadline, lines)
        else:
            _limit_next_text(deadline)
            reply = _read(verifier, request)
        lines.write({"id": request["id"], **reply})


def _read(verifier: Verifier, request: dict[str, Any]) -> dict[str, Any]:
    try:
        text, payload = request["text"], request.get("payload")
        strict = verifier.extract(text, lenient=False, payload=payload)
        lenient = verifier.extract(text, lenient=True, payload=payload)
    except Exception as error:  # whatever a text does to its reader is data about that text
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"strict": strict, "lenient": lenient}


def _read_in_fork(verifier: Verifier, request: dict[str, Any], deadline: float, lines: Lines) -> dict[str, Any]:
    result, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(result)
        lines.close()
        silence(2)
        confine.finish(confine.Limits(memory_bytes=verifier.memory_bytes, cpu_seconds=math.ceil(deadline) + 2))
        Lines(theirs, theirs).write(_read(verifier, request))
        os._exit(0)
    os.close(theirs)
    content, end = bytearray(), time.monotonic() + deadline
    try:
        while len(content) <= _LONGEST_RESULT:
            ready, _, _ = select.select([result], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return {"late": True}
            chunk = os.read(result, 1 << 16)
            if not chunk:
                break
            content += chunk
    finally:
        os.close(result)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return _checked(bytes(content), status)


def _checked(content: bytes, status: int) -> dict[str, Any]:
    """Return a fork's result with the fields that a result has, whatever was written."""
    try:
        found = json.loads(content)
        reply = {name: found[name] for name in ("strict", "lenient", "error") if name in found}
        well_formed = set(reply) in ({"strict", "lenient"}, {"error"}) and all(
            one is None or isinstance(one, str) for one in reply.values()
        )
    except (ValueError, TypeError, RecursionError):
        well_formed = False
    if not well_formed:
        how = f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "ended"
        return {"error": f"the process that read the text {how} without a result"}
    return reply


def _limit_for_good(memory_bytes: int) -> None:
    """Bound memory, files and core dumps. After the imports, which may need more address space than any text."""
    if sys.platform == "win32":
        return
    confine.set_limit(resource.RLIMIT_AS, confine.address_space() + memory_bytes)
    confine.set_limit(resource.RLIMIT_FSIZE, confine.Limits().file_bytes)
    confine.set_limit(resource.RLIMIT_CORE, 0)


def _limit_next_text(deadline: float) -> None:
    """Bound the processor time of one text. The parent's deadline comes first; this one holds when the parent is gone."""
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + deadline) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
