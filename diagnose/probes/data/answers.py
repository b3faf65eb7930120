"""Answers of a data set and of the policy itself, as tokens and as scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, ScoreRequest
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.types import Message, PromptFormat, Reference

COMPLETION, CHOSEN, REJECTED, BAD, OWN = "completion", "chosen", "rejected", "bad", "own"
"""What an answer in the table is: to be imitated, the two sides of a pair, labelled bad, the policy's own."""
Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """One answer under the policy."""

    row: int | None
    """Index of the data row; None for the policy's own."""
    group: str
    side: str
    nats: Floats64
    """[T] −log p of each token."""
    cut: bool = False
    """Whether only its first tokens were scored."""

    @property
    def total(self) -> float:
        """Return nats of the whole answer."""
        return float(self.nats.sum())

    @property
    def per_token(self) -> float:
        """Return nats per token."""
        return float(self.nats.mean())

    @property
    def worst(self) -> float:
        """Return nats of the least likely token."""
        return float(self.nats.max())


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedAnswer:
    """One answer of a data row as tokens."""

    row: int
    side: str
    request: ScoreRequest
    cut: bool


def encode_row(engine: Engine, prompt_format: PromptFormat, row: DataRow, longest: int) -> list[EncodedAnswer]:
    """Return the answers of a row as tokens. A text without a prompt is scored from its second word on, since a model cannot begin with nothing.

    Raises:
        BehaviorError: The model cannot read the prompt, a text has a single word, or the row holds a prompt alone.
    """
    if row.kind is RowKind.PROMPT:
        raise BehaviorError("its rows hold prompts alone, and there is no answer to score", code="no_answer")
    if row.kind is RowKind.TEXT:
        assert row.completion is not None
        first, *rest = row.completion.split(maxsplit=1)
        if not rest:
            raise BehaviorError(f"got a text of one word, {first!r}; there is nothing to score after it", code="one_word")
        head = row.completion[: row.completion.index(first) + len(first)]
        prompt = engine.codec.encode_prompt(head, PromptFormat(format="completion"))
        sides = {COMPLETION: row.completion[len(head) :]}
    else:
        assert row.prompt is not None
        prompt = _encode_prompt(engine, row.format_of_prompt(prompt_format), row.prompt)
        texts = {COMPLETION if row.label is not False else BAD: row.completion, CHOSEN: row.chosen, REJECTED: row.rejected}
        sides = {side: text for side, text in texts.items() if text is not None}
    encoded = []
    for side, text in sides.items():
        ids = engine.codec.encode_path(prompt, Reference(steps=(text,))).token_ids
        request = ScoreRequest(prompt_ids=prompt.token_ids, path_ids=ids[:longest])
        encoded.append(EncodedAnswer(row=row.index, side=side, request=request, cut=len(ids) > longest))
    return encoded


def _encode_prompt(engine: Engine, prompt_format: PromptFormat, prompt: str | tuple[Message, ...]) -> EncodedPrompt:
    """Return a prompt as the behavior writes its own; one that stands in the behavior's template already is not put into it again."""
    if isinstance(prompt, str):
        before, _, after = prompt_format.template.partition("{question}")
        if before + after and prompt.startswith(before) and prompt.endswith(after):
            prompt = prompt[len(before) : len(prompt) - len(after)]
    return engine.codec.encode_prompt(prompt, prompt_format)


def own_answers(context: ProbeContext, most: int, rng: np.random.Generator) -> list[ScoredAnswer]:
    """Return some of the policy's own answers, chosen at random; what it said of their tokens was kept."""
    table = context.rollouts
    places = table.places([problem.id for problem in context.problems])
    rows = np.flatnonzero((places >= 0) & ~table.greedy & (table.num_tokens > 0))
    rows = np.sort(rng.permutation(rows)[:most])
    return [
        ScoredAnswer(row=None, group=rollout.problem_id, side=OWN, nats=-rollout.policy_logprobs.astype(np.float64))
        for rollout in table.rows(rows)
    ]
