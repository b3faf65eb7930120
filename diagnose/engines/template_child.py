"""The process that renders chat templates, started by `template_process.py` as `python -P template_child.py`.

One JSON object per line on stdin and stdout: `{"template", "requests": [{"chat", "settings"}], "today", "seconds"}` is answered by `{"results"}`, a
`{"text"}` or an `{"error", "message"}` for each request, or by an `{"error"}` for all of them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from datetime import datetime
from typing import IO, Any

if sys.platform != "win32":  # there the parent's deadline is the only limit
    import resource

_MEMORY_BYTES = 512 << 20
"""Address space beyond that of the imports."""


def main() -> None:
    """Serve until stdin ends."""
    requests: IO[str] = os.fdopen(os.dup(0), encoding="utf-8")
    replies: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(template: str, request: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        try:
            (text,), _ = render_jinja_template([request["chat"]], chat_template=template, **variables, **request["settings"])
        except TemplateError as error:
            return {"error": "refused", "message": str(error)[:1000]}
        except MemoryError:
            return {"error": "large"}
        except Exception as error:  # a template may raise whatever an expression can
            return {"error": type(error).__name__, "message": str(error)[:1000]}
        return {"text": text}

    _limit_memory()
    _reply(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        _limit_time(float(request["seconds"]))
        variables = {} if request["today"] is None else {"strftime_now": datetime.fromisoformat(request["today"]).strftime}
        _reply(replies, {"results": [render(request["template"], one, variables) for one in request["requests"]]})


def _reply(replies: IO[str], reply: dict[str, Any]) -> None:
    try:
        text = json.dumps(reply)
    except MemoryError:
        text = json.dumps({"error": "large"})
    replies.write(text + "\n")
    replies.flush()


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  one line, before anything is served
            in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY_BYTES,) * 2)
    except (OSError, ValueError):  # macOS does not know this limit
        return


def _limit_time(seconds: float) -> None:
    """Bound the processor time of one request: this limit holds when the parent, whose deadline comes first, is gone."""
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 2, hard))


if __name__ == "__main__":
    main()
