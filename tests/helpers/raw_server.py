"""A server on loopback that writes bytes, right or wrong, to whoever connects."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Write = Callable[[Callable[[bytes], None], threading.Event], None]
"""Called for every request with what sends bytes, and with what is set when the test is over; the connection is closed when it returns."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


@contextmanager
def serve_raw(write: Write) -> Iterator[str]:
    """Serve in threads, and yield the address."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            write(connection.sendall, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def reply_of(body: bytes) -> bytes:
    """Return a whole answer with a body."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
