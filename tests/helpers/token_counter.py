"""A scripted engine that counts the tokens it samples, with a context and a codec of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain.diagnose.engines.base import Codec, Completion, SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.types import Behavior, Sampling


class TokenCounter(ScriptedEngine):
    """Counts in `tokens` what all of its kind have sampled."""

    tokens = 0

    @classmethod
    def with_context(cls, behaviors: Sequence[Behavior], context: int | None = None, codec: Codec | None = None) -> TokenCounter:
        """Script right answers in half of the samples; `context` is how many tokens prompt and sample have together."""
        engine = cls.for_behaviors(behaviors, 0.5)
        assert isinstance(engine, TokenCounter)
        engine.info = replace(engine.info, context=context, score_context=context)
        engine.codec = codec or engine.codec
        return engine

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, **rest: Any) -> list[list[Completion]]:
        """Sample and count."""
        sampled = super().sample(requests, sampling, **rest)
        TokenCounter.tokens += sum(len(one.token_ids) for row in sampled for one in row)
        return sampled
