"""What `max_tokens: auto` stands for: twice the longest reference, else what the pilot's greedy samples need, else a default.

A limit is found once per run and recorded in run.json. Whatever goes on from a run (the same command again, `--before`, the rounds of a loop,
`train --from`) takes the limit from there, so that samples of one comparison have one limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.diagnose.engines.base import EncodedPrompt, Engine
from posttrain.diagnose.errors import SettingsError, UserError
from posttrain.diagnose.types import Behavior, GradeStatus, LimitSource, Problem, Rollout

LEAST = 64
"""Limits are multiples of it; it is the first one that a pilot without references tries."""
DEFAULT = 512
"""Where there are neither references nor a pilot."""
MOST = 4096
"""What a pilot tries at most."""
MOST_THOUGHT = 32_768
"""What a pilot tries at most where samples end within a thought, and the largest limit in any case."""
_NUM_ENCODED = 16
"""References that are encoded: those with the most characters."""


def start_limit(engine: Engine, behavior: Behavior, room: int) -> Behavior:
    """Return a behavior with the limit from which it is found, where it is not known: that of its references, or 64; its source stays `AUTO`.

    Args:
        engine: Its tokenizer counts.
        behavior: References of all its splits count, so that training and measuring have one limit.
        room: Tokens that a sample may have at most; see `room_for_samples`.
    """
    if behavior.limit_source is not LimitSource.AUTO:
        return behavior
    return with_limit(behavior, min(_twice_the_longest(engine, behavior) or LEAST, room), LimitSource.AUTO)


def limit_without_pilot(engine: Engine, behavior: Behavior, room: int) -> Behavior:
    """Return a behavior with a limit: that of its references, or else 512 tokens, within the room."""
    if behavior.limit_source is not LimitSource.AUTO:
        return behavior
    twice = _twice_the_longest(engine, behavior)
    source = LimitSource.DEFAULT if twice is None else LimitSource.REFERENCES
    return with_limit(behavior, min(twice or DEFAULT, room), source)


def next_limit(limit: int, rollouts: Sequence[Rollout], room: int) -> int:
    """Return the limit that a pilot tries next: twice the one before, within the room and what is tried at most; the same where there is none."""
    unfinished = any(one.truncated and one.grade.status is GradeStatus.UNFINISHED_THOUGHT for one in rollouts)
    return max(limit, min(2 * limit, room, MOST_THOUGHT if unfinished else MOST))


def with_limit(behavior: Behavior, limit: int, source: LimitSource) -> Behavior:
    """Return a behavior with a limit; its fingerprint stays that of `auto`."""
    return replace(behavior, sampling=replace(behavior.sampling, max_tokens=max(1, limit)), limit_source=source)


def recorded_limit(behavior: Behavior, record: Mapping[str, Any]) -> Behavior:
    """Return a behavior with the limit that a run recorded, where its own is not known.

    Args:
        behavior: One of the run's.
        record: The content of run.json.
    """
    entry = record.get("token_limits", {}).get(behavior.name)
    if behavior.limit_source is not LimitSource.AUTO or entry is None:
        return behavior
    return with_limit(behavior, int(entry["max_tokens"]), LimitSource(entry["source"]))


def limit_record(behaviors: Sequence[Behavior]) -> dict[str, dict[str, Any]]:
    """Return what run.json holds of the limits that were found."""
    return {
        one.name: {"max_tokens": one.sampling.max_tokens, "source": one.limit_source.value}
        for one in behaviors
        if one.limit_source not in (LimitSource.GIVEN, LimitSource.AUTO)
    }


def room_for_samples(engines: Sequence[Engine], behavior: Behavior, *, max_length: int | None = None) -> int:
    """Return how many tokens the contexts of all engines leave behind the longest prompt of any split; at most 32,768.

    Args:
        engines: That read the prompts.
        behavior: Its problems.
        max_length: Tokens of prompt and sample together at most, where that is less than what the engines read.
    """
    rooms = [MOST_THOUGHT]
    for engine in engines:
        lengths = [one for one in (engine.info.context, max_length) if one is not None]
        if lengths:
            prompts = (_written(engine, problem, behavior) for problem in behavior.problems)
            rooms.append(min(lengths) - max((len(one.token_ids) for one in prompts if one is not None), default=0))
    return max(1, min(rooms))


def _written(engine: Engine, problem: Problem, behavior: Behavior) -> EncodedPrompt | None:
    """Return a prompt; None where it cannot be written, which is told elsewhere where it matters."""
    try:
        return engine.codec.encode_prompt(problem.prompt, behavior.prompt)
    except UserError:
        return None


def _twice_the_longest(engine: Engine, behavior: Behavior) -> int | None:
    """Return twice the tokens of the longest reference, up to a multiple of 64; None where no reference can be counted."""
    paths = [(problem, reference) for problem in behavior.problems for reference in problem.references]
    longest = 0
    for problem, reference in sorted(paths, key=lambda one: -len(one[1].text))[:_NUM_ENCODED]:
        if (prompt := _written(engine, problem, behavior)) is None:
            continue
        try:
            path = engine.codec.encode_path(prompt, reference)
        except SettingsError:  # the tokens are known to a server alone
            return None
        longest = max(longest, len(path.token_ids) - 1)  # without the end token
    return -(-2 * longest // LEAST) * LEAST or None
