"""Servers that stop in the midst of a reply, drip, flood, redirect or talk nonsense: each request ends within its time, and says why."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers.completion_servers import Reply, serve
from helpers.raw_server import HEAD, Write, reply_of, serve_raw
from helpers.refusals import refused

from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.openai.openai_engine import OpenAIEngine
from posttrain.diagnose.engines.openai.transport import Refused, Transport
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import PromptFormat, Sampling, StopReason

Send = Callable[[bytes], None]


def stop_half_way(send: Send, over: threading.Event) -> None:
    send(HEAD + b'Content-Length: 1000\r\n\r\n{"choices": [')
    over.wait(60)


def drip(send: Send, over: threading.Event) -> None:
    send(HEAD + b"Content-Length: 100000\r\n\r\n")
    while not over.wait(0.05):
        send(b" ")


def flood(send: Send, over: threading.Event) -> None:
    send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        send(b"100000\r\n" + b"a" * 0x100000 + b"\r\n")


def say_nothing(send: Send, over: threading.Event) -> None:
    over.wait(60)


def nest(send: Send, over: threading.Event) -> None:
    send(reply_of(b'{"choices": ' + b"[" * 200_000))


def say_no_json(send: Send, over: threading.Event) -> None:
    send(reply_of(b"<html>hello</html>"))


def say_a_list(send: Send, over: threading.Event) -> None:
    send(reply_of(b"[1]"))


def zip_badly(send: Send, over: threading.Event) -> None:
    send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello")


def say_no_http(send: Send, over: threading.Event) -> None:
    send(b"\x00\xff\r\n\r\n")


@pytest.mark.parametrize(
    "write", [stop_half_way, drip, flood, say_nothing, nest, say_no_json, say_a_list, zip_badly, say_no_http]
)
def test_a_request_ends_within_its_time(write: Write) -> None:
    transport = Transport(timeout=2.0, retries=2, first_wait=0.01, silence=0.3)
    with serve_raw(write) as url:
        start = time.monotonic()
        assert transport.ask("POST", f"{url}/v1/completions", {"prompt": "x"}) is None
        assert time.monotonic() - start < 20.0  # 2 s but for a busy machine; 600 s a try where nothing bounds it
    assert transport.last_failure


def test_all_tries_share_one_deadline() -> None:
    with serve(lambda path, body: Reply(503, {"error": "busy"})) as url:
        transport = Transport(timeout=0.5, retries=100, first_wait=0.1)
        start = time.monotonic()
        assert transport.ask("POST", f"{url}/v1/completions", {}) is None
        assert time.monotonic() - start < 10.0


def test_a_silence_in_a_reply_is_tried_again() -> None:
    asked: list[int] = []

    def write(send: Send, over: threading.Event) -> None:
        asked.append(1)
        if len(asked) == 1:
            stop_half_way(send, over)
        send(reply_of(b'{"fine": 1}'))

    with serve_raw(write) as url:
        transport = Transport(timeout=30.0, retries=2, first_wait=0.01, silence=0.3)
        assert transport.ask("POST", url, {}) == {"fine": 1}


def test_a_redirection_is_refused_and_not_followed() -> None:
    asked: list[str] = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        asked.append(path)
        return Reply(307, {}, {"Location": "/elsewhere"})

    with serve(answer) as url, refused(Refused, "redirected"):
        Transport(timeout=5.0).ask("POST", f"{url}/v1/completions", {})
    assert asked == ["/v1/completions"]


def test_a_server_that_is_gone_ends_the_run() -> None:
    with serve_raw(say_no_http) as url:
        transport = Transport(concurrency=4, timeout=5.0, retries=0, first_wait=0.01)
        with refused(SettingsError, "server_lost"):
            transport.post_all(url, [{"prompt": "x"}] * 40, lambda *_: None)


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_the_time_is_a_setting(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("POSTTRAIN_SERVER_SECONDS", seconds)
    with refused(SettingsError, "server_seconds"):
        open_engine("openai:http://127.0.0.1:9/v1", "m", [])
    monkeypatch.setenv("POSTTRAIN_SERVER_SECONDS", "1.5")
    start = time.monotonic()
    with serve_raw(say_nothing) as url, refused(SettingsError, "no_answer"):
        open_engine(f"openai:{url}/v1", "m", [])
    assert time.monotonic() - start < 20.0


ODD_CHOICES: list[Any] = [
    None, 3, "text", {}, [None], ["text"], [{"text": 3, "finish_reason": 7}], [{"index": "b"}, {"index": 0}],
    [{"text": "a", "finish_reason": "stop", "logprobs": [1]}],
    [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": ["x"], "tokens": 3}}],
    [{"text": "a", "finish_reason": "stop", "token_ids": ["a"]}],
]  # fmt: skip


@pytest.mark.parametrize("choices", ODD_CHOICES, ids=str)
def test_replies_of_another_form_are_missing_samples(choices: Any) -> None:
    """The first replies, when the engine is opened, are right."""
    num_right = 4

    def answer(path: str, body: dict[str, Any]) -> Reply:
        nonlocal num_right
        if path.endswith("/models"):
            return Reply(200, {"data": [3, {"id": "m", "max_model_len": "many"}]})
        num_right -= 1
        if num_right >= 0:
            return Reply(200, {"choices": [{"text": "a", "finish_reason": "length"}], "usage": "none"})
        return Reply(200, {"choices": choices, "usage": [1]})

    with serve(answer) as url:
        engine = OpenAIEngine.open(url, "m", retries=0)
        num_right = 0
        prompt = engine.codec.encode_prompt("What is it?", PromptFormat(format="completion"))
        ((one, two),) = engine.sample(
            [SampleRequest(key="a", prompt_ids=prompt.token_ids, num_samples=2)], Sampling(max_tokens=4), seed="s"
        )
    for sample in (one, two):
        assert sample.stop is StopReason.ERROR or isinstance(sample.text, str)
    assert json.dumps([one.text, two.text])


def test_what_one_server_cannot_sample_with_is_known_before_it_is_asked() -> None:
    asked: list[dict[str, Any]] = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        asked.append(body)
        if path.endswith("/models"):
            return Reply(200, {"data": [{"id": "m"}]})
        return Reply(200, {"choices": [{"text": "a", "finish_reason": "length"}]})

    with serve(answer) as url:
        engine = OpenAIEngine.open(url, "m", retries=0)
        num_asked = len(asked)
        with refused(SettingsError, "too_many_stops"):
            engine.check_sampling(Sampling(stop=("a", "b", "c", "d", "e")))
        with refused(SettingsError, "truncation_unsupported"):
            engine.check_sampling(Sampling(top_k=5))
        assert len(asked) == num_asked


def test_an_address_where_nothing_listens_is_told_within_seconds() -> None:
    """With the waits that a user has: a server that was there may come back, one that never was will not."""
    begin = time.monotonic()
    with refused(SettingsError, "no_answer"):
        open_engine("openai:http://127.0.0.1:9/v1", "m", ())
    assert time.monotonic() - begin < 5.0
