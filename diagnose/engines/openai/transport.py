"""Requests to a web server: many at once, tried again with growing waits, and taken back when interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import queue
import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.errors import SettingsError

if TYPE_CHECKING:
    import httpx2

Reply = dict[str, Any]
OnReply = Callable[[int, Reply | None], None]
"""Called with the number of a request and its answer, None where there was none; may raise."""

_WORTH_ANOTHER_TRY = {408, 409, 425, 429}
_LONGEST_WAIT = 30.0
_CONNECT_SECONDS = 10.0


class Refused(SettingsError):
    """The server understood a request and will not answer it, however often it is asked."""

    default_code = "refused_by_server"


class Transport:
    """Speaks JSON with one server.

    The key of the environment variable OPENAI_API_KEY goes with every request where `sends_key` says so, and nowhere else.
    """

    def __init__(
        self, *, concurrency: int = 64, timeout: float = 600.0, retries: int = 5, first_wait: float = 0.5, sends_key: bool = True
    ):
        """Say how hard to try.

        Args:
            concurrency: Requests under way at a time.
            timeout: Seconds until an answer counts as lost.
            retries: Tries after the first one, on 408, 409, 425, 429, 5xx, lost connections and timeouts.
            first_wait: Seconds before the second try, twice as many before each further one, each ± half at random; what the server
                asks for in Retry-After comes first.
            sends_key: Whether the user, and not a file, chose the server.
        """
        if concurrency < 1 or timeout <= 0 or retries < 0:
            raise SettingsError(
                f"engine openai: got concurrency {concurrency}, timeout {timeout:g}, retries {retries}; at least 1, more than 0, and at "
                "least 0 are needed"
            )
        self.concurrency, self.timeout, self.retries, self.first_wait = concurrency, timeout, retries, first_wait
        self.sends_key = sends_key
        if importlib.util.find_spec("httpx2") is None:
            raise SettingsError("engine openai: httpx2 is not installed; pip install 'posttrain[openai]'")
        self.last_failure = ""
        """Why the last request without an answer had none."""

    def ask(self, method: str, url: str, body: Reply | None = None) -> Reply | None:
        """Send one request; return the answer, None where there was none.

        Raises:
            Refused: The server refuses it.
        """
        return self._gather([(method, url, body)], lambda *_: None)[0]

    def require(self, reply: Reply | None, url: str) -> Reply:
        """Return an answer that is there.

        Raises:
            SettingsError: There was none.
        """
        if reply is None:
            raise SettingsError(
                f"engine openai: no answer from {url} in {self.retries + 1} tries (last: {self.last_failure}); check that the server runs",
                code="no_answer",
            )
        return reply

    def post_all(self, url: str, bodies: Sequence[Reply], on_reply: OnReply) -> list[Reply | None]:
        """Send many requests; return the answers in their order, None where there was none.

        Raises:
            Refused: The server refuses one of them; the others are taken back.
        """
        return self._gather([("POST", url, body) for body in bodies], on_reply)

    def _gather(self, requests: Sequence[tuple[str, str, Reply | None]], on_reply: OnReply) -> list[Reply | None]:
        """Run an event loop in a thread of its own (a notebook has one running already); whatever is raised here cancels the rest."""
        arrived: queue.SimpleQueue[tuple[int, Reply | BaseException | None]] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        running = loop.create_task(self._run(requests, lambda number, reply: arrived.put((number, reply))))

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
                on_reply(number, reply)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(running.cancel)
            raise
        finally:
            thread.join()
        return replies

    async def _run(self, requests: Sequence[tuple[str, str, Reply | None]], put: OnReply) -> None:
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
                    put(number, await self._answer(client, *requests[number]))

            tasks = [asyncio.ensure_future(one(number)) for number in range(len(requests))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, client: httpx2.AsyncClient, method: str, url: str, body: Reply | None) -> Reply | None:
        import httpx2

        for attempt in range(self.retries + 1):
            wait = min(self.first_wait * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.5)
            try:
                response = await client.request(method, url, json=body)
                status = response.status_code
                if status < 300:
                    reply = response.json()
                    if isinstance(reply, dict):
                        return reply
                elif status < 500 and status not in _WORTH_ANOTHER_TRY:
                    raise _refusal(url, status, response.text)
                self.last_failure = f"{status} {_said(response.text)}"
                wait = max(wait, _retry_after(response))
            except (httpx2.TransportError, ValueError) as error:  # ValueError: an answer that is no JSON
                if isinstance(error, SettingsError):
                    raise
                self.last_failure = f"{type(error).__name__} {error}".strip()
            if attempt < self.retries:
                await asyncio.sleep(wait)
        return None


def _retry_after(response: httpx2.Response) -> float:
    """Return the seconds that the server asks to wait, at most the longest wait; 0 where it does not say (or says a date)."""
    try:
        return min(max(float(response.headers.get("retry-after", "0")), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0


def _refusal(url: str, status: int, text: str) -> Refused:
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
