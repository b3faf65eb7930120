"""Servers on loopback: any, and one that answers as `vllm serve` does, with an engine of ours behind it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from posttrain.diagnose.engines.base import Engine, SampleRequest, ScoreRequest
from posttrain.diagnose.types import Sampling


class Reply(NamedTuple):
    """What a server answers."""

    status: int
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012
    seconds: float = 0.0


Answer = Callable[[str, dict[str, Any]], Reply]
"""Path and body of a request (empty for GET) → what to answer."""


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """Serve on loopback, in a thread, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            body["_key"] = self.headers.get("Authorization", "")
            reply = answer(self.path, body)
            time.sleep(reply.seconds)
            content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            try:
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # whoever asked has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def answer_as_vllm(engine: Engine, name: str, context: int) -> Answer:
    """Answers as `vllm serve` does, with an engine of ours behind it: sample j of a request depends on its seed + j alone."""
    lock = threading.Lock()
    tokenizer: Any = engine.codec.tokenizer

    def answer(path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/models":
            return Reply(200, {"data": [{"id": name, "owned_by": "vllm", "root": name, "max_model_len": context}]})
        if path == "/version":
            return Reply(200, {"version": "0.0.test"})
        if path == "/tokenize":
            if "messages" in body:
                return Reply(400, {"error": "no chat template"})
            return Reply(200, {"tokens": tokenizer(body["prompt"])["input_ids"]})
        if path != "/v1/completions":
            return Reply(404, {"error": "no such path"})
        with lock:
            return Reply(200, _scored(engine, body) if "prompt_logprobs" in body else _sampled(engine, body))

    return answer


class ChatServer:
    """Answers chats of the model `m`, as vLLM names itself, and keeps what it was asked.

    Args:
        reply: The turns of a chat → what to say: a text, or a message with calls of tools.
    """

    def __init__(self, reply: Callable[[list[dict[str, Any]]], str | dict[str, Any]]) -> None:
        self.reply, self.asked = reply, list[dict[str, Any]]()
        self.most: int | None = None
        """Chats that are answered; further ones meet an error of the server."""

    def __call__(self, path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/models":
            return Reply(200, {"data": [{"id": "m", "owned_by": "vllm"}]})
        if path != "/v1/chat/completions":
            return Reply(404, {"error": "no such path"})
        self.asked.append(body)
        if self.most is not None and len(self.asked) > self.most:
            return Reply(500, {"error": "out of memory"})
        said = self.reply(body["messages"])
        message = {"role": "assistant", **(said if isinstance(said, dict) else {"content": said})}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
        head = {"id": str(len(self.asked)), "object": "chat.completion", "created": 1, "model": "m"}
        return Reply(200, {**head, "choices": [choice], "usage": usage})


def _sampled(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
    sampling = Sampling(stop=tuple(body.get("stop", ())), **{name: body[name] for name in names if name in body})
    ids = tuple(body["prompt"])
    requests = [SampleRequest(key=str(body["seed"] + j), prompt_ids=ids, num_samples=1) for j in range(body.get("n", 1))]
    choices = []
    for index, (one,) in enumerate(engine.sample(requests, sampling, seed="server")):
        reason = {"eos": ("stop", None), "stop": ("stop", "text"), "length": ("length", None)}[one.stop.value]
        values = [float(value) for value in one.policy_logprobs]
        choices.append(
            {
                "index": index,
                "text": one.text,
                "token_ids": list(one.token_ids),
                "finish_reason": reason[0],
                "stop_reason": reason[1],
                "logprobs": {"token_logprobs": values, "tokens": [""] * len(values), "top_logprobs": [{"x": -1.0}] * len(values)},
            }
        )
    return {"choices": choices, "usage": {"prompt_tokens": len(ids)}}


def _scored(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    ids = tuple(body["prompt"])
    (scores,) = engine.score([ScoreRequest(prompt_ids=ids[:1], path_ids=ids[1:])])
    rows: list[dict[str, Any] | None] = [None]
    for token, logprob, rank in zip(ids[1:], scores.logprobs, scores.ranks, strict=True):
        rows.append({str(token): {"logprob": float(logprob), "rank": int(rank) + 1}})
    return {"choices": [{"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": rows}]}
