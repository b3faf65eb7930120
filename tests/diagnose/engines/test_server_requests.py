"""What a server with vLLM's dialect is asked for: chats with the template's arguments, and special tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.completion_servers import Reply, answer_as_vllm, serve

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.openai.openai_engine import OpenAIEngine
from posttrain.diagnose.engines.openai.server_codecs import ServerCodec
from posttrain.diagnose.engines.openai.transport import Transport
from posttrain.diagnose.types import Message, PromptFormat, Sampling

pytestmark = pytest.mark.skipif(os.environ.get("POSTTRAIN_VLLM_TESTS") == "1", reason="needs no vLLM")


def test_a_server_writes_chats_with_the_arguments_of_the_template() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        bodies.append(body)
        return Reply(200, {"tokens": [1, 2]} if path == "/tokenize" else {"prompt": "written"})

    with serve(answer) as address:
        codec = ServerCodec(Transport(), address, "m")
        prompt = codec.encode_prompt(
            "a?", PromptFormat(template_arguments='{"enable_thinking": false}', tools='[{"type": "function"}]')
        )
        codec.encode_prompt((Message("user", "a?"), Message("assistant", "b")), PromptFormat())
    assert (prompt.token_ids, prompt.text) == ((1, 2), "written")
    asked, gone_on = (body for body in bodies[1:] if "messages" in body)
    assert (asked["chat_template_kwargs"], asked["tools"]) == ({"enable_thinking": False}, [{"type": "function"}])
    assert (asked["add_generation_prompt"], "continue_final_message" in asked) == (True, False)
    assert gone_on["messages"] == [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    assert (gone_on["add_generation_prompt"], gone_on["continue_final_message"]) == (False, True)
    assert not {"chat_template_kwargs", "tools"} & gone_on.keys()


def test_a_server_keeps_special_tokens(tiny_model: Path) -> None:
    """Else a special token would be no stop text there."""
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    whole = answer_as_vllm(TransformersEngine.open(str(tiny_model), sample_dtype="float32"), str(tiny_model), 512)
    bodies: list[dict[str, Any]] = []

    def answer(path: str, body: dict[str, Any]) -> Reply:
        bodies.append(body)
        return whole(path, body)

    with serve(answer) as address:
        engine = OpenAIEngine.open(address, str(tiny_model))
        engine.sample(
            [SampleRequest(key="p", prompt_ids=(5, 6), num_samples=1)], Sampling(max_tokens=2, stop=("<unk>",)), seed="0"
        )
    assert (bodies[-1]["skip_special_tokens"], bodies[-1]["stop"]) == (False, ["<unk>"])
