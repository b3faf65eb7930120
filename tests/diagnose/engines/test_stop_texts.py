"""Stop texts among tokens, and the tokens of a part of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers.character_engine import CHATML, THINKS, CharacterEngine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.engines.base import Completion, SampleRequest, ignore_tokens
from posttrain.diagnose.engines.codec import TextCodec, end_texts
from posttrain.diagnose.engines.hf.sampling_loop import SamplingLoop
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.engines.stop_texts import StopMatcher, count_tokens
from posttrain.diagnose.types import PromptFormat, Sampling, StopReason

THINK, CLOSE, TOOL, END = "<think>", "</think>", "<|tool|>", "<|end|>"


def byte_codec() -> TextCodec:
    """Write a token per byte, and four special tokens, of which the last ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, additional_special_tokens=[THINK, CLOSE, TOOL])
    return TextCodec(tokenizer, frozenset({tokenizer.convert_tokens_to_ids(END)}))


CODEC = byte_codec()


def ids_of(text: str) -> list[int]:
    return list(CODEC.tokenizer(text, add_special_tokens=False)["input_ids"])


class WrittenDecoder:
    """A decoder whose every sample is this list of tokens."""

    capacity = 1

    def __init__(self, ids: Sequence[int], vocabulary: int) -> None:
        self._ids, self._vocabulary, self._place = ids, vocabulary, 0

    def room(self, prompts: Sequence[tuple[int, ...]]) -> int:
        return min(1, len(prompts))

    def admit(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        self._place = 0
        return self._logits()

    def retire(self, rows: Sequence[int]) -> list[int]:
        return []

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        self._place += 1
        return self._logits()

    def _logits(self) -> torch.Tensor:
        logits = torch.zeros(1, self._vocabulary)
        logits[0, self._ids[self._place]] = 100.0
        return logits


def sampled(text: str, *stop: str) -> Completion:
    ids = ids_of(text)
    loop = SamplingLoop(WrittenDecoder(ids, len(CODEC.tokenizer)), CODEC, torch.device("cpu"))
    request = SampleRequest(key="p", prompt_ids=(5,), num_samples=1)
    sampling = Sampling(temperature=0.0, max_tokens=len(ids), stop=stop)
    ((completion,),) = loop.run([request], sampling, seed="0", on_tokens=ignore_tokens)
    return completion


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one\n\nQuestion: two three", ("\n\nQuestion:",), "one"),
        ("ab" + "🙂" * 6 + "cd", ("🙂" * 6,), "ab"),  # 24 tokens in six characters
        ("x🙂y", ("🙂",), "x"),
        ("naïve née", ("é",), "naïve n"),
        (f"12{TOOL}34", (TOOL,), "12"),
        (f"12{TOOL} call 34", (f"{TOOL} call",), "12"),
        (f"{THINK}12{CLOSE}15\n16", ("\n",), f"{THINK}12{CLOSE}15"),
        ("ab ac ad", ("ad", "ac"), "ab "),
    ],
)
def test_a_stop_text_ends_a_sample_wherever_its_tokens_lie(text: str, stop: tuple[str, ...], left: str) -> None:
    completion = sampled(text, *stop)
    assert (completion.stop, completion.text) == (StopReason.STOP, left)
    found = next(mark for mark in stop if text.startswith(left + mark))
    assert list(completion.token_ids) == ids_of(left + found)


def test_a_stop_text_that_does_not_appear_stops_nothing() -> None:
    completion = sampled(f"12{THINK}🙂", "🙃", "<think")
    assert (completion.stop, completion.text) == (StopReason.STOP, "12")
    completion = sampled(f"12{THINK}🙂", "🙃", TOOL)
    assert (completion.stop, completion.text) == (StopReason.LENGTH, f"12{THINK}🙂")


def test_tokens_that_are_no_text_stop_nothing() -> None:
    matcher = StopMatcher(CODEC, ["b"])
    first_byte = ids_of("🙂")[0]
    assert not any(matcher.found_after(token) for token in [first_byte] * 5)
    assert matcher.found_after(ids_of("b")[0])


def test_a_decoder_that_cannot_be_followed_is_read_whole() -> None:
    """A prefix's text that is no prefix of the text: this decoder turns every text around."""
    engine = CharacterEngine(None)
    matcher = StopMatcher(engine.codec, ["ab"])
    engine.tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ba", "ab")])
    assert [matcher.found_after(token) for token in engine.tokenizer("cba")["input_ids"]] == [False, False, True]


def test_special_tokens_that_end_nothing_are_kept() -> None:
    assert CODEC.decode(ids_of(f"{THINK}12{CLOSE}15{END}")) == f"{THINK}12{CLOSE}15"
    assert end_texts(CODEC) == [END]
    assert end_texts(ScriptedEngine({}).codec) == []


def test_the_tokens_of_a_thought_are_counted() -> None:
    text = f"{THINK}🙂 12{CLOSE}15"
    start = text.index("15")
    assert count_tokens(CODEC, [*ids_of(text), *ids_of(END)], start) == len(ids_of(text[:start])) == 9
    assert count_tokens(CODEC, [*ids_of(text), *ids_of(END)], len(text)) == len(ids_of(text))
    assert count_tokens(CODEC, ids_of(text), 0) == 0
    assert count_tokens(CODEC, [], 0) == 0


def test_the_first_stop_text_that_is_complete_ends_a_scripted_sample() -> None:
    engine = ScriptedEngine({"p": [("one. 🙂 two\nthree", 1.0)]})
    request = SampleRequest(key="p", prompt_ids=tuple(b"p"), num_samples=1)
    ((completion,),) = engine.sample([request], Sampling(stop=("\n", "🙂 two", "two")), seed="0")
    assert (completion.stop, completion.text) == (StopReason.STOP, "one. ")
    assert bytes(completion.token_ids).decode() == "one. 🙂 two"
    assert np.isfinite(completion.policy_logprobs).all()


def test_arguments_reach_the_chat_template() -> None:
    codec = CharacterEngine(THINKS).codec
    plain = codec.encode_prompt("a?", PromptFormat())
    without = codec.encode_prompt("a?", PromptFormat(template_arguments='{"enable_thinking": false}'))
    assert without.text == plain.text + "<think>\n\n</think>\n"
    assert without.token_ids != plain.token_ids
    assert CharacterEngine(CHATML).codec.encode_prompt("a?", PromptFormat()).text.endswith("assistant\n")
