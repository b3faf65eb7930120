"""Keep the grader of an environment off the network, and know that it asked for it.

Reward functions swallow what goes wrong, so that an error alone would pass for a wrong answer.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})


class NetworkWatch:
    """Refuses connections while it is on (child process). There is no way to take it off a process, so it is made once."""

    def __init__(self) -> None:
        self._is_on = False
        self._asked: list[str] = []
        sys.addaudithook(self._audit)

    @contextmanager
    def off_network(self) -> Iterator[list[str]]:
        """Refuse connections within, and return what was asked for: hosts or addresses, in order."""
        self._asked, self._is_on = [], True
        try:
            yield self._asked
        finally:
            self._is_on = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on or event not in _EVENTS:
            return
        first = arguments[0]
        if isinstance(first, socket.socket):
            if first.family not in (socket.AF_INET, socket.AF_INET6):
                return
            asked = arguments[1]
        else:
            asked = first
        host = asked[0] if isinstance(asked, tuple) and asked else asked
        self._asked.append(host.decode(errors="replace") if isinstance(host, bytes) else str(host))
        raise OSError("graders are kept off the network")


def read_data_offline() -> None:
    """Have data sets come from the local cache, where reading the problems put them."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
