"""Sampling from prefixes: which rungs are sampled next, and how many ladders a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.diagnose.probes.base import ProbeContext, PromptRequest
from posttrain.diagnose.probes.prefix_ladder.ladder import Ladder
from posttrain.diagnose.types import Rollout

BATCH = 4
"""Samples of one problem in one round: with fewer, rounds are many and batches small; with more, a decided rung is sampled on."""
MOST_SAMPLES = 48
"""Samples of one ladder; what is undecided then lies at the threshold."""
EXPECTED_SAMPLES = 24
"""Samples that a ladder of eight rungs takes as a rule (simulated: 12 where nothing helps, 19 where a step decides, 35 where help is gradual)."""
BASELINE = 4
"""Fresh samples of each problem with nothing given: those that chose the problem are low by choice."""
PLACEBO_PROBLEMS = 6
PLACEBO_SAMPLES = 8
"""Of each of three conditions: its own prefix again (the samples that chose the rung are high by choice), and the two placebos."""
PLACEBO_SHARE = 1 / 3
"""Of the budget that is kept for placebos at most: a gain without them is no evidence."""
TOKEN_MARGIN = 1.5
"""How much longer than samples were so far a continuation is expected to be at most."""
MANY_SAMPLES = 32
"""Samples from which their mean length is known well enough for that margin."""

REFERENCE, OTHER, WRONG, AGAIN, NOTHING = (
    "reference",
    "other problem's prefix",
    "wrong step",
    "reference, sampled again",
    "nothing given",
)
"""Conditions, as the rows name them."""


def sample_baseline(context: ProbeContext, ladders: Sequence[Ladder]) -> None:
    """Sample every ladder with nothing given, as far as the budget allows."""
    few = fitting(context, ladders, BASELINE, context.sampler.tokens_left)
    prompt_requests = [PromptRequest(ladder.problem, ladder.prompt_ids, BASELINE) for ladder in few]
    for ladder, rollouts in zip(few, sample(context, prompt_requests, NOTHING), strict=True):
        ladder.base = context.count_outcomes(rollouts)


def search_rungs(context: ProbeContext, ladders: Sequence[Ladder]) -> None:
    """Sample round after round until every rung of every ladder is decided, or nothing is left of the budget."""
    while True:
        chosen: list[tuple[Ladder, int]] = []
        for ladder in ladders:
            rung = ladder.next_rung() if ladder.num_sampled < MOST_SAMPLES else None
            if rung is not None:
                chosen.append((ladder, rung))
        chosen = fitting(context, chosen, BATCH, context.sampler.tokens_left - placebo_reserve(context))
        if not chosen:
            return
        prompt_requests = [
            given_prefix(ladder, ladder.rungs[rung].tokens, BATCH, first=ladder.num_sampled) for ladder, rung in chosen
        ]
        for (ladder, rung), rollouts in zip(chosen, sample(context, prompt_requests, REFERENCE), strict=True):
            known, right = context.count_outcomes(rollouts)
            ladder.num[rung] += known
            ladder.right[rung] += right
            ladder.num_sampled += BATCH


def sample(context: ProbeContext, prompt_requests: Sequence[PromptRequest], condition: str) -> list[list[Rollout]]:
    """Sample where there is anything to sample."""
    return context.sampler.sample(prompt_requests, condition=condition) if prompt_requests else []


def given_prefix(ladder: Ladder, tokens: int, num: int, *, first: int = 0) -> PromptRequest:
    """Return a request for samples from the first tokens of a ladder's path."""
    return PromptRequest(ladder.problem, ladder.prompt_ids, num, ladder.path.token_ids[:tokens], ladder.texts[tokens], first)


def affordable_ladders(context: ProbeContext) -> int:
    """Return how many ladders are expected to be decided with what is left beside the placebos."""
    left = context.sampler.tokens_left - placebo_reserve(context)
    return max(0, int(left / ((BASELINE + EXPECTED_SAMPLES) * tokens_per_sample(context))))


def placebo_reserve(context: ProbeContext) -> int:
    """Return the tokens that are kept for placebos."""
    return int(min(PLACEBO_SHARE * context.sampler.budget, 3 * PLACEBO_PROBLEMS * PLACEBO_SAMPLES * tokens_per_sample(context)))


def fitting(context: ProbeContext, todo: Sequence[Any], samples: int, tokens: int) -> list[Any]:
    """Return the first of `todo`, as many as are expected to fit into the tokens."""
    return list(todo[: max(0, int(tokens / (samples * tokens_per_sample(context))))])


def tokens_per_sample(context: ProbeContext) -> float:
    """Return the tokens that a sample is expected to take, with a margin: as whole answers do, or as continuations once there are some."""
    taken, tokens = int(context.counts.num_sampled.sum()), int(context.counts.num_tokens.sum())
    if context.sampler.samples >= MANY_SAMPLES:
        taken, tokens = context.sampler.samples, context.sampler.generated_tokens
    longest = float(context.behavior.sampling.max_tokens)
    return min(longest, max(1.0, TOKEN_MARGIN * tokens / taken)) if taken else longest
