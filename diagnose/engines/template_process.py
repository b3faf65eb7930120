"""Chat templates, rendered in a process of their own.

A chat template is a program that comes with a model. The sandbox of jinja2 keeps it from files and from the network, but not from running
without end (loops in loops) or from filling the memory (`'a' * 10**10`). So it runs in a child process with a deadline and a memory limit, by
transformers' own function. The child is started with the first chat, serves all tokenizers of this process, and is replaced when a template
makes it hang or end.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import BehaviorError, PosttrainError

RENDER_SECONDS = 10.0
"""Seconds that a template has for what takes milliseconds."""
_CHILD_SCRIPT = Path(__file__).with_name("template_child.py")
_START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderRequest:
    """A chat to be written. All of it is JSON."""

    chat: list[dict[str, Any]]
    settings: Mapping[str, Any]
    """Further arguments of transformers' `render_jinja_template` (`add_generation_prompt`, `tools`), and variables of the template."""


def render_chats(
    template: str, requests: Sequence[RenderRequest], *, seconds: float = RENDER_SECONDS, today: datetime | None = None
) -> list[str | BehaviorError]:
    """Write chats with a chat template, as `apply_chat_template(tokenize=False)` does.

    Args:
        template: Its source.
        requests: The chats; a few hundred at most, which share the time.
        seconds: What the template may take for them.
        today: What a template that asks for the time is told; None tells it the time.

    Returns:
        The text of each chat, or why there is none: the template refuses it or fails on it (`chat_refused_by_template`), or takes more time (`chat_template_too_slow`) or memory (`chat_template_too_large`) than it may.
    """
    reply = _CHILD.ask(
        {
            "template": template,
            "requests": [{"chat": request.chat, "settings": request.settings} for request in requests],
            "today": None if today is None else today.isoformat(),
        },
        seconds,
    )
    results = reply.get("results") or [reply] * len(requests)
    return [
        result["text"] if "text" in result else _failure(result, request.chat, seconds)
        for result, request in zip(results, requests, strict=True)
    ]


def _failure(result: Mapping[str, Any], chat: Sequence[Mapping[str, Any]], seconds: float) -> BehaviorError:
    """Say in one line what the template did."""
    roles = ", ".join(str(turn.get("role")) for turn in chat[:8]) + (", …" if len(chat) > 8 else "")
    kind, said = result["error"], " ".join(str(result.get("message", "")).split())[:200]
    if kind == "refused":
        return BehaviorError(
            f"the model's chat template refuses a chat of {roles} ({said}); change prompt.system or the messages, or use format: completion",
            code="chat_refused_by_template",
        )
    what, code = {
        "slow": (f"took more than {seconds:g} s for a chat of {roles}", "chat_template_too_slow"),
        "large": (f"took more memory than it may for a chat of {roles}", "chat_template_too_large"),
    }.get(kind, (f"fails on a chat of {roles} ({kind}: {said})", "chat_refused_by_template"))
    return BehaviorError(
        f"the model's chat template {what}; repair the template in the model's folder (chat_template.jinja or tokenizer_config.json), change the "
        "messages, or use format: completion",
        code=code,
    )


class _Child:
    """The process that renders. One thread asks at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owner = 0

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the reply to a request: `results`, or an `error` that holds for all of them."""
        line = json.dumps({**request, "seconds": seconds}, default=str).encode() + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                answer = self._replies.get(timeout=seconds)
            except queue.Empty:
                self.stop()
                return {"error": "slow"}
            except BrokenPipeError:
                answer = None
            except BaseException:  # the reply to an interrupted request must not be taken for that to the next one
                self.stop()
                raise
            if answer is None:  # ended by a limit of the system: of processor time, or of memory
                self.stop()
                return {"error": "large"}
            reply: dict[str, Any] = json.loads(answer)
            return reply

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():  # a forked process starts its own
            self._owner, self._replies = os.getpid(), queue.SimpleQueue()
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent
                env={**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"},
            )
            threading.Thread(target=_read_lines, args=(process, self._replies), daemon=True).start()
            try:
                ready = self._replies.get(timeout=_START_SECONDS)
            except queue.Empty:
                ready = None
            if ready is None:
                self.stop()
                raise PosttrainError(
                    "the process that renders chat templates cannot be started; is transformers installed whole?"
                )
        return self._process

    def stop(self) -> None:
        """End the process; asking again starts a new one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _read_lines(process: subprocess.Popen[bytes], replies: queue.SimpleQueue[bytes | None]) -> None:
    """Queue what the process says, and None at its end."""
    assert process.stdout is not None
    with process.stdout as stdout:
        for line in stdout:
            replies.put(line)
    replies.put(None)


_CHILD = _Child()
atexit.register(_CHILD.stop)
