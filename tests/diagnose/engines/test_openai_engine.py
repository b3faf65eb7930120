"""The OpenAI-compatible engine against servers that are busy, broken, slow or bare, and against `vllm serve`."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.completion_servers import Reply, answer_as_vllm, serve
from helpers.refusals import refused
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.engines.openai.openai_engine import OpenAIEngine
from posttrain.diagnose.engines.openai.server_codecs import ServerCodec
from posttrain.diagnose.engines.openai.transport import Refused, Transport
from posttrain.diagnose.errors import BehaviorError, ModelError, SettingsError, UserError
from posttrain.diagnose.types import Message, PromptFormat, Reference, Sampling, StopReason

IN_VLLM = os.environ.get("POSTTRAIN_VLLM_TESTS") == "1"
needs_vllm = pytest.mark.skipif(not IN_VLLM, reason="runs in the interpreter that test_vllm_engine.py starts")
outside = pytest.mark.skipif(IN_VLLM, reason="needs no vLLM")
PLAIN = PromptFormat(format="completion")


def bare(path: str, body: dict[str, Any], *, logprobs: bool = True, ids: bool = True) -> Reply:
    """Return a server that knows OpenAI's interface and nothing else: always says `4`, at log-probability −0.5."""
    if path == "/v1/models":
        return Reply(200, {"data": [{"id": "m"}]})
    if path != "/v1/completions":
        return Reply(404, {"error": "no such path"})
    if not ids and not isinstance(body["prompt"], str):
        return Reply(400, {"error": {"message": "prompt must be\na text"}})
    if unknown := set(body) - {"_key", "model", "prompt", "n", "seed", "max_tokens", "temperature", "top_p", "stop", "logprobs"}:
        return Reply(400, {"error": f"unknown {sorted(unknown)}"})
    choice: dict[str, Any] = {"index": 0, "text": "4", "finish_reason": "stop"}
    if logprobs and "logprobs" in body:
        choice["logprobs"] = {"tokens": ["4"], "token_logprobs": [-0.5], "top_logprobs": [{"4": -0.5}]}
    return Reply(200, {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}})


def open_bare(address: str, model: str = "m", **settings: Any) -> OpenAIEngine:
    return OpenAIEngine.open(address, model, first_wait=0.01, **settings)


def asked(num_samples: int, ids: tuple[int, ...] = (50, 32)) -> list[SampleRequest]:
    return [SampleRequest(key="p", prompt_ids=ids, num_samples=num_samples)]


# --------------------------------------------------------------------------------------------------------------- transport


@outside
def test_a_busy_server_is_asked_again() -> None:
    count, moments = itertools.count(), []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        moments.append(time.monotonic())
        n = next(count)
        return [
            Reply(429, "slow down", {"Retry-After": "0.3"}),
            Reply(503, "<html>"),
            Reply(200, "no json"),
            Reply(200, {"n": n}),
        ][n]

    with serve(answer) as address:
        assert Transport(first_wait=0.05).ask("POST", address, {}) == {"n": 3}
    assert moments[1] - moments[0] >= 0.3
    assert moments[2] - moments[1] >= 0.05 * 2 * 0.5


@outside
def test_what_never_answers_is_missing_and_the_rest_is_there() -> None:
    tried: dict[int, int] = {}

    def answer(path: str, body: dict[str, Any]) -> Reply:
        tried[body["n"]] = tried.get(body["n"], 0) + 1
        return Reply(500, "broken") if body["n"] % 2 else Reply(200, {"n": body["n"]})

    seen: dict[int, Any] = {}
    with serve(answer) as address:
        transport = Transport(retries=2, first_wait=0.01)
        replies = transport.post_all(address, [{"n": n} for n in range(6)], lambda number, reply: seen.update({number: reply}))
    assert replies == [{"n": 0}, None, {"n": 2}, None, {"n": 4}, None]
    assert seen == dict(enumerate(replies))
    assert tried == {0: 1, 1: 3, 2: 1, 3: 3, 4: 1, 5: 3}
    assert "500 broken" in transport.last_failure


@outside
def test_a_slow_server_and_one_that_is_not_there() -> None:
    with serve(lambda path, body: Reply(200, {}, seconds=1.0)) as address:
        start = time.monotonic()
        assert Transport(timeout=0.1, retries=1, first_wait=0.01).ask("POST", address, {}) is None
        assert time.monotonic() - start < 0.9
    with refused(SettingsError, "no_answer"):
        OpenAIEngine.open("http://127.0.0.1:9", "m", retries=1, first_wait=0.01)


@outside
def test_no_more_requests_than_allowed_run_at_a_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def answer(path: str, body: dict[str, Any]) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Reply(200, {})

    with serve(answer) as address:
        Transport(concurrency=3).post_all(address, [{}] * 20, lambda *_: None)
    assert 2 <= most <= 3


@outside
def test_a_refusal_takes_the_others_back_in_one_line() -> None:
    def answer(path: str, body: dict[str, Any]) -> Reply:
        return Reply(422, {"error": "what\nis this"}) if body["n"] == 3 else Reply(200, {}, seconds=0.02 * body["n"])

    with serve(answer) as address, refused(Refused, "refused_by_server") as caught:
        Transport(concurrency=2).post_all(address, [{"n": n} for n in range(50)], lambda *_: None)
    assert "422" in str(caught.value)
    assert "what" in str(caught.value)


@outside
def test_an_interrupt_takes_requests_back() -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with serve(lambda path, body: Reply(200, {}, seconds=body["n"])) as address:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Transport().post_all(address, [{"n": 0.0}, {"n": 5.0}], stop)
        assert time.monotonic() - start < 2


@outside
def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")

    def answer(path: str, body: dict[str, Any]) -> Reply:
        return bare(path, body) if body["_key"] == "Bearer sesame" else Reply(401, "who are you")

    with serve(answer) as address:
        engine = open_bare(address)
        assert "sesame" not in repr(engine.info) + repr(vars(engine)) + repr(vars(engine._transport))
        monkeypatch.delenv("OPENAI_API_KEY")
        with refused(SettingsError, "key_refused"):
            open_bare(address)


# ----------------------------------------------------------------------------------------------------------------- opening


@outside
@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with refused(SettingsError, "engine_address"):
        OpenAIEngine.open(url, "m")


@outside
def test_an_address_with_a_password_is_refused() -> None:
    with refused(SettingsError, "secret_in_address") as caught:
        OpenAIEngine.open("http://user:sesame@localhost/v1", "m")
    assert "sesame" not in str(caught.value)


@outside
def test_a_model_that_is_not_served_is_refused() -> None:
    with serve(bare) as address, refused(ModelError, "model_not_served"):
        open_bare(address, "other")


# ---------------------------------------------------------------------------------------------------------- bare servers


@outside
def test_a_bare_server_with_a_tokenizer(tiny_model: Path) -> None:
    """Ids go out; ids are exact only where the texts of the tokens are the server's."""

    def answer(path: str, body: dict[str, Any]) -> Reply:
        return Reply(200, {"data": [{"id": str(tiny_model)}]}) if path == "/v1/models" else bare(path, body)

    with serve(answer) as address:
        engine = open_bare(address, str(tiny_model))
        assert engine.capabilities.takes_token_ids
        assert engine.capabilities.logprobs == "policy"
        assert not engine.capabilities.scores
        prompt = engine.codec.encode_prompt("2 + 2 =", PLAIN)
        drawn = engine.sample(asked(3, prompt.token_ids), Sampling(max_tokens=4), seed="0")[0]
        four = engine.codec.tokenizer("4", add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
        assert [list(c.token_ids) for c in drawn] == [four] * 3
        assert all(c.policy_logprobs.tolist() == c.sampler_logprobs.tolist() == [-0.5] for c in drawn)
        cooler = engine.sample(asked(1, prompt.token_ids), Sampling(max_tokens=4, temperature=0.5), seed="0")[0][0]
        assert cooler.policy_logprobs.tolist() == [-0.5]
        assert np.isnan(cooler.sampler_logprobs).all()
        with refused(SettingsError, "server_cannot_score"):
            engine.score([ScoreRequest(prompt_ids=prompt.token_ids, path_ids=prompt.token_ids)])
        with refused(SettingsError, "truncation_unsupported"):
            engine.sample(asked(1), Sampling(top_k=5), seed="0")
        assert any("not known to be vLLM" in note for note in engine.info.notes)


@outside
def test_a_server_that_gives_no_log_probabilities_and_takes_text_alone() -> None:
    prompts = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        prompts.append(body.get("prompt"))
        return bare(path, body, logprobs=False, ids=False)

    with serve(answer) as address:
        engine = open_bare(address)
        assert not engine.capabilities.takes_token_ids
        assert engine.capabilities.logprobs == "none"
        prompt = engine.codec.encode_prompt("drei + fünf =", PLAIN)
        drawn = engine.sample(asked(2, prompt.token_ids), Sampling(max_tokens=4), seed="0")[0]
        assert prompts[-1] == "drei + fünf ="
        assert [c.text for c in drawn] == ["4", "4"]
        assert all(c.stop is StopReason.EOS and len(c.token_ids) == 1 and np.isnan(c.policy_logprobs).all() for c in drawn)
        assert len(engine.info.notes) == 5
        with refused(SettingsError, "paths_not_encodable"):
            engine.codec.encode_path(prompt, Reference(steps=("4",)))
        with refused(BehaviorError, "chat_template_unknown"):
            engine.codec.encode_prompt((Message("user", "x"),), PromptFormat())


@outside
@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_server_that_takes_text_alone_puts_the_begin_token_before_it_itself(
    adds_bos: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """What it reads is what the prompt's ids say: one begin token, whoever writes it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message.content }}:{% endfor %}"
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts: list[str] = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        prompts.append(body.get("prompt", ""))
        if path == "/v1/models":
            return Reply(200, {"data": [{"id": str(tmp_path / "model")}]})
        return bare(path, body, ids=False)

    with serve(answer) as address:
        engine = open_bare(address, str(tmp_path / "model"))
        for text, prompt_format in (("2+2=", PLAIN), ("2+2", PromptFormat(format="chat"))):
            prompt = engine.codec.encode_prompt(text, prompt_format)
            engine.sample(asked(1, prompt.token_ids), Sampling(max_tokens=4), seed="0")
            assert tuple(tokenizer(prompts[-1])["input_ids"]) == prompt.token_ids


@outside
def test_every_sample_has_its_own_seed() -> None:
    seeds = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        seeds.append(body.get("seed"))
        return bare(path, body)

    with serve(answer) as address:
        engine = open_bare(address)
        seeds.clear()
        engine.sample(asked(4), Sampling(max_tokens=4), seed="0")
        four = sorted(seeds)
        seeds.clear()
        engine.sample([SampleRequest(key="p", prompt_ids=(50,), num_samples=2, first_sample=2)], Sampling(max_tokens=4), seed="0")
        assert sorted(seeds) == four[2:]
        assert len(set(four)) == 4
        assert max(four) < 2**53


@outside
def test_samples_of_another_model_are_missing() -> None:
    """A gateway that falls back to another model says so in the reply alone."""
    names = itertools.chain(["m-2026", "m-2026", "m-2026"], itertools.repeat("small"))

    def answer(path: str, body: dict[str, Any]) -> Reply:
        reply = bare(path, body)
        return (
            Reply(200, {**reply.body, "model": next(names)}) if path == "/v1/completions" and body["max_tokens"] == 4 else reply
        )

    with serve(answer) as address:
        engine = open_bare(address, concurrency=1)
        stops = [one.stop for one in engine.sample(asked(5), Sampling(max_tokens=4), seed="0")[0]]
        assert sorted(stops) == sorted([StopReason.EOS] * 3 + [StopReason.ERROR] * 2)


@outside
def test_samples_that_failed_are_errors() -> None:
    """Those of one request fail for good; the other's are there."""

    def answer(path: str, body: dict[str, Any]) -> Reply:
        bad = body.get("prompt") in ([51], "3")
        return Reply(500, "broken") if bad else bare(path, body, ids=False)

    with serve(answer) as address:
        engine = open_bare(address, retries=1)
        requests = [SampleRequest(key=f"p{i}", prompt_ids=(i,), num_samples=2) for i in (50, 51)]
        good, bad = engine.sample(requests, Sampling(max_tokens=4), seed="0")
        assert [c.stop for c in good] == [StopReason.EOS] * 2
        assert [c.stop for c in bad] == [StopReason.ERROR] * 2
        assert all(c.token_ids == () and len(c.policy_logprobs) == 0 for c in bad)


@outside
def test_the_sampling_probe_counts_failed_samples_as_missing(sums_file: Path) -> None:
    """A server fails every fifth request for good."""
    from posttrain.diagnose.behaviors import load_behavior
    from posttrain.diagnose.sampling.shards import plan_greedy, sample_shards
    from posttrain.diagnose.types import Split
    from posttrain.diagnose.verifiers.grader import Grader

    behavior = load_behavior(sums_file)
    count = itertools.count()

    def answer(path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/completions" and "n" in body and next(count) % 5 == 0:
            return Reply(500, "broken")
        return bare(path, body)

    with serve(answer) as address, Grader(behavior) as grader:
        engine = open_bare(address, retries=0)
        shard = plan_greedy(behavior, Split.EVAL)[0]
        ((_, rollouts),) = sample_shards(engine, grader.grade, behavior, [shard], seed="0", on_tokens=lambda _: None)
    missing = [rollout for rollout in rollouts if rollout.stop is StopReason.ERROR]
    assert missing
    assert all(rollout.succeeded(1.0) is None for rollout in missing)
    assert len(missing) < len(rollouts)


# ------------------------------------------------------------------------------------------------------------ vLLM's dialect


@pytest.fixture
def vllm_like_server(tiny_model: Path) -> Iterator[str]:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    with serve(answer_as_vllm(TransformersEngine.open(str(tiny_model), sample_dtype="float32"), "served-name", 512)) as address:
        yield address


@outside
def test_without_the_tokenizer_vllm_writes_the_prompts(vllm_like_server: str) -> None:
    engine = OpenAIEngine.open(vllm_like_server, "served-name")
    assert engine.codec.tokenizer is None
    prompt = engine.codec.encode_prompt("2 + 2 =", PLAIN)
    assert prompt.format == "completion"
    drawn = engine.sample(asked(40, prompt.token_ids), Sampling(max_tokens=4), seed="0")[0]
    assert len(drawn) == 40
    assert all(len(c.policy_logprobs) == len(c.token_ids) for c in drawn)
    scores = engine.score([ScoreRequest(prompt_ids=prompt.token_ids, path_ids=drawn[0].token_ids)])[0]
    np.testing.assert_allclose(scores.logprobs, drawn[0].policy_logprobs, atol=1e-4)
    with refused(SettingsError, "paths_not_encodable"):
        engine.codec.encode_path(prompt, Reference(steps=("4",)))
    with refused(BehaviorError, "no_chat_template"):
        engine.codec.encode_prompt("x", PromptFormat(format="chat"))


@outside
def test_no_answer_to_a_score_is_one_line(tiny_model: Path) -> None:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    whole = answer_as_vllm(TransformersEngine.open(str(tiny_model), sample_dtype="float32"), str(tiny_model), 512)

    def answer(path: str, body: dict[str, Any]) -> Any:
        return Reply(500, "broken") if "prompt_logprobs" in body else whole(path, body)

    with serve(answer) as address:
        engine = OpenAIEngine.open(address, str(tiny_model), retries=1, first_wait=0.01)
        with refused(UserError, "no_answer"):
            engine.score([ScoreRequest(prompt_ids=(5, 6), path_ids=(7,))])


# ------------------------------------------------------------------------------------------------------------- vllm serve


@needs_vllm
def test_what_vllm_serve_can_do(vllm_server: str, wide_model: Path) -> None:
    engine = OpenAIEngine.open(f"{vllm_server}/v1", str(wide_model))
    can = engine.capabilities
    assert (can.is_vllm, can.takes_token_ids, can.gives_token_ids, can.logprobs, can.scores, can.context) == (
        True, True, True, "policy", True, 512,
    )  # fmt: skip
    assert engine.info.notes == ()
    assert engine.info.versions["server"].startswith("vLLM 0.")
    assert json.dumps(engine.info.versions)


@needs_vllm
def test_vllm_serve_without_the_tokenizer(vllm_server: str, wide_model: Path) -> None:
    """The prompts that /tokenize writes are those of the tokenizer here."""
    engine = OpenAIEngine.open(vllm_server, str(wide_model))
    codec = ServerCodec(Transport(), vllm_server, str(wide_model))
    assert codec.encode_prompt("2 + 3 =", PLAIN).token_ids == engine.codec.encode_prompt("2 + 3 =", PLAIN).token_ids


@needs_vllm
def test_vllm_serve_and_the_vllm_engine_score_alike(vllm_server: str, wide_model: Path, vllm_engine: Any) -> None:
    served = OpenAIEngine.open(vllm_server, str(wide_model))
    requests = [ScoreRequest(prompt_ids=(5, 6, 7), path_ids=tuple(range(8, 20 + i))) for i in range(3)]
    for one, other in zip(served.score(requests), vllm_engine.score(requests), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        np.testing.assert_array_equal(one.ranks, other.ranks)
        np.testing.assert_allclose(one.top_logprobs, other.top_logprobs, atol=1e-4)


@needs_vllm
def test_vllm_serve_draws_with_every_setting_named(vllm_server: str, wide_model: Path) -> None:
    """A top-k of 1 leaves one token; under the policy's log-probabilities the sampler's are not known."""
    engine = OpenAIEngine.open(vllm_server, str(wide_model))
    prompt = engine.codec.encode_prompt("2 + 3 =", PLAIN).token_ids
    drawn = engine.sample(asked(3, prompt), Sampling(max_tokens=6, top_k=1), seed="0")[0]
    greedy = engine.sample(asked(1, prompt), Sampling(max_tokens=6, temperature=0.0), seed="0")[0][0]
    assert {c.token_ids for c in drawn} == {greedy.token_ids}
    assert np.isnan(drawn[0].sampler_logprobs).all()
    np.testing.assert_allclose(drawn[0].policy_logprobs, greedy.policy_logprobs, atol=1e-4)
