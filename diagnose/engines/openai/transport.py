"""Requests to a web server: many at once, tried again with growing waits, and taken back when interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.errors import SettingsError

if TYPE_CHECKING:
    import httpx2

Reply = dict[str, Any]
OnReply = Callable[[int, Reply | None], None]
"""Called with the number of a request and its answer, None where there was none; may raise."""

REQUEST_SECONDS = 600.0
"""How long an answer may take, all tries together, where nothing else is asked for."""
_WORTH_ANOTHER_TRY = {408, 409, 425, 429}
_LONGEST_WAIT = 30.0
_CONNECT_SECONDS = 10.0
_FACT_SECONDS = 60.0
"""For what a server knows without thinking, such as its list of models."""
_FACT_RETRIES = 2
"""Tries after the first one where a server is asked what it is and nothing listens there."""
_LARGEST_REPLY = 256 << 20
_SAY_EVERY = 30.0
_LOG = logging.getLogger("posttrain.server")


class Refused(SettingsError):
    """The server understood a request and will not answer it, however often it is asked."""

    default_code = "refused_by_server"


class Transport:
    """Speaks JSON with one server.

    The key of the environment variable OPENAI_API_KEY goes with every request where `sends_key` says so, and nowhere else.
    """

    def __init__(
        self,
        *,
        concurrency: int = 64,
        timeout: float = REQUEST_SECONDS,
        retries: int = 5,
        first_wait: float = 0.5,
        silence: float = 30.0,
        sends_key: bool = True,
    ):
        """Say how hard to try.

        Args:
            concurrency: Requests under way at a time.
            timeout: Seconds until an answer counts as lost, all tries together.
            retries: Tries after the first one, on 408, 409, 425, 429, 5xx, lost connections and timeouts.
            first_wait: Seconds before the second try, twice as many before each further one, each ± half at random; what the server
                asks for in Retry-After comes first.
            silence: Seconds without a byte in the midst of a reply until the connection counts as lost. Before its first byte a server may think.
            sends_key: Whether the user, and not a file, chose the server.
        """
        if concurrency < 1 or timeout <= 0 or retries < 0:
            raise SettingsError(
                f"engine openai: got concurrency {concurrency}, timeout {timeout:g}, retries {retries}; at least 1, more than 0, and at "
                "least 0 are needed"
            )
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self.first_wait, self.silence, self.sends_key = first_wait, silence, sends_key
        if importlib.util.find_spec("httpx2") is None:
            raise SettingsError("engine openai: httpx2 is not installed; pip install 'posttrain[openai]'")
        self.last_failure = ""
        """Why the last request without an answer had none."""
        self._said_at = -math.inf
        self._lost_in_a_row = 0

    def ask(self, method: str, url: str, body: Reply | None = None) -> Reply | None:
        """Send one request; return the answer, None where there was none.

        Raises:
            Refused: The server refuses it.
        """
        seconds = min(self.timeout, _FACT_SECONDS) if method == "GET" else self.timeout
        return self._gather([(method, url, body)], lambda *_: None, seconds)[0]

    def is_reachable(self, url: str) -> bool:
        """Tell whether a server answers at an address, whatever it says; `last_failure` says why not."""
        import httpx2

        for attempt in range(min(self.retries, 2) + 1):
            if attempt:
                time.sleep(self.first_wait * 2.0**attempt)
            try:
                with httpx2.stream("GET", url, timeout=min(self.timeout, _CONNECT_SECONDS)):
                    return True
            except httpx2.TransportError as error:
                self.last_failure = f"{type(error).__name__} {error}".strip()
        return False

    def require(self, reply: Reply | None, url: str) -> Reply:
        """Return an answer that is there.

        Raises:
            SettingsError: There was none.
        """
        if reply is None:
            raise SettingsError(
                f"engine openai: no answer from {url} in spite of repeated tries (last: {self.last_failure}); check that the server runs",
                code="no_answer",
            )
        return reply

    def post_all(self, url: str, bodies: Sequence[Reply], on_reply: OnReply) -> list[Reply | None]:
        """Send many requests; return the answers in their order, None where there was none.

        Raises:
            Refused: The server refuses one of them; the others are taken back.
            SettingsError: Nothing was answered for so long that the server must be gone (`server_lost`).
        """
        return self._gather([("POST", url, body) for body in bodies], on_reply, self.timeout)

    def _gather(self, requests: Sequence[tuple[str, str, Reply | None]], on_reply: OnReply, seconds: float) -> list[Reply | None]:
        """Run an event loop in a thread of its own (a notebook has one running already); whatever is raised here cancels the rest."""
        arrived: queue.SimpleQueue[tuple[int, Reply | BaseException | None]] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        running = loop.create_task(self._run(requests, lambda number, reply: arrived.put((number, reply)), seconds))

        def work() -> None:
            asyncio.set_event_loop(loop)
            try:
                loop.run_until_complete(running)
            except BaseException as error:
                arrived.put((-1, error))
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        thread = threading.Thread(target=work, name="posttrain-openai", daemon=True)
        thread.start()
        replies: list[Reply | None] = [None] * len(requests)
        try:
            for _ in requests:
                number, reply = arrived.get()
                if isinstance(reply, BaseException):
                    raise reply
                replies[number] = reply
                self._count(reply, requests[number][1])
                on_reply(number, reply)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(running.cancel)
            raise
        finally:
            thread.join()
        return replies

    def _count(self, reply: Reply | None, url: str) -> None:
        """Give up on a server that has answered nothing to as many requests in a row as are under way twice over."""
        self._lost_in_a_row = self._lost_in_a_row + 1 if reply is None else 0
        if self._lost_in_a_row >= 2 * self.concurrency:
            raise SettingsError(
                f"engine openai: {url} has answered none of the last {self._lost_in_a_row} requests (last: {self.last_failure}); see that the server runs, "
                "then give the same command again, which goes on where it was",
                code="server_lost",
            )

    async def _run(self, requests: Sequence[tuple[str, str, Reply | None]], put: OnReply, seconds: float) -> None:
        import httpx2

        key = os.environ.get("OPENAI_API_KEY") if self.sends_key else None
        slots = asyncio.Semaphore(self.concurrency)
        limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        async with httpx2.AsyncClient(
            timeout=httpx2.Timeout(self.timeout, connect=min(_CONNECT_SECONDS, self.timeout)),
            limits=limits,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        ) as client:

            async def one(number: int) -> None:
                async with slots:  # kept while it waits: a server that is too busy is asked less
                    put(number, await self._answer(client, *requests[number], seconds))

            tasks = [asyncio.ensure_future(one(number)) for number in range(len(requests))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, client: httpx2.AsyncClient, method: str, url: str, body: Reply | None, seconds: float
    ) -> Reply | None:
        """Send a request until it is answered, refused, tried often enough, or out of time."""
        import httpx2

        end = time.monotonic() + seconds
        for attempt in range(self.retries + 1):
            wait = min(self.first_wait * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.5)
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    status, headers, content = await _exchange(client, method, url, body, self.silence)
                if status < 300:
                    reply = json.loads(content)
                    if isinstance(reply, dict):
                        return reply
                text = content.decode(errors="replace")
                if 300 <= status < 500 and status not in _WORTH_ANOTHER_TRY:
                    raise _refusal(url, status, text, headers.get("location"))
                self.last_failure = f"{status} {_said(text)}"
                wait = max(wait, _retry_after(headers.get("retry-after")))
            except TimeoutError:
                self.last_failure = f"no whole answer within {seconds:g} s"
                return None
            except _TooLongError as error:
                self.last_failure = str(error)
                return None
            except (httpx2.TransportError, httpx2.DecodingError, ValueError, RecursionError) as error:  # the last two: no JSON
                if isinstance(error, SettingsError):
                    raise
                self.last_failure = f"{type(error).__name__} {error}".strip()
                if body is None and attempt >= _FACT_RETRIES and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                    return None  # there is no server, and nothing was asked of one yet
            if attempt == self.retries or time.monotonic() + wait >= end:
                return None
            self._say_failure(url, attempt)
            await asyncio.sleep(wait)
        return None

    def _say_failure(self, url: str, attempt: int) -> None:
        """Tell the user that a server is asked again, now and then: the others that wait have the same to say."""
        if time.monotonic() - self._said_at >= _SAY_EVERY:
            self._said_at = time.monotonic()
            _LOG.warning("no answer from %s (%s); asking again, %d tries left", url, self.last_failure, self.retries - attempt)


class _TooLongError(Exception):
    """A reply is longer than any that was asked for."""


async def _exchange(
    client: httpx2.AsyncClient, method: str, url: str, body: Reply | None, silence: float
) -> tuple[int, httpx2.Headers, bytes]:
    """Return status, headers and body of one answer. Thinking takes time, and a body comes at once: a silence within it is a lost connection."""
    import httpx2

    async with client.stream(method, url, json=body) as response:
        content = bytearray()
        parts = response.aiter_bytes()
        while True:
            try:
                async with asyncio.timeout(silence):
                    part = await anext(parts, None)
            except TimeoutError as error:
                raise httpx2.ReadTimeout(f"the reply stopped for {silence:g} s") from error
            if part is None:
                return response.status_code, response.headers, bytes(content)
            content += part
            if len(content) > _LARGEST_REPLY:
                raise _TooLongError(f"a reply of more than {_LARGEST_REPLY >> 20} MB")


def _retry_after(said: str | None) -> float:
    """Return the seconds that the server asks to wait, at most the longest wait; 0 where it does not say (or says a date)."""
    try:
        return min(max(float(said or "0"), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0


def _refusal(url: str, status: int, text: str, location: str | None) -> Refused:
    if status < 400:
        return Refused(
            f"engine openai: {url} redirects to {_said(location or 'nowhere')} ({status}), and keys and prompts are sent to no other address than "
            "the one given; give that address",
            code="redirected",
        )
    if status in (401, 403):
        return Refused(
            f"engine openai: got {status} from {url}; set OPENAI_API_KEY to a key that this server takes", code="key_refused"
        )
    if status == 404:
        return Refused(
            f"engine openai: got 404 from {url} ({_said(text)}); give the address that ends before /completions, such as "
            "openai:http://localhost:8000/v1, and a model that is served there"
        )
    return Refused(f"engine openai: the server refuses a request to {url} ({status}: {_said(text)})")


def _said(text: str) -> str:
    """Shorten an error page to one line."""
    return " ".join(text.split())[:300]
