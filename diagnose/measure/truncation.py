"""Why samples run into `max_tokens`: the limit is short, nothing ends them, or the prompt is not written as the model knows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from posttrain.diagnose.engines.answer_turn import AnswerTurn, answer_turn
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.codec import TextCodec, chat_messages
from posttrain.diagnose.measure.check_values import Failure
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, PathScore, Rollout, ValidityCode

_BLANK_LINE = "\n\n"
_LONGEST_PERIOD = 32
_MANY_TOKENS = 512
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MOST_PROMPTS = 64
"""Prompts whose length is looked at."""


def ending_probability(paths: Sequence[PathScore]) -> float:
    """Return the median probability of the end token behind reference paths; NaN where none is known."""
    ends = np.array([np.exp(path.policy_logprobs[-1]) for path in paths if len(path.policy_logprobs)])
    ends = ends[np.isfinite(ends)]
    return float(np.median(ends)) if ends.size else np.nan


def explain_truncated(
    behavior: Behavior,
    engine: Engine,
    thresholds: Thresholds,
    truncated: Sequence[Rollout],
    paths: Sequence[PathScore],
    ran: str,
) -> Failure:
    """Say what keeps samples from ending, and the repair.

    Args:
        behavior: Whose samples.
        engine: What sampled.
        thresholds: From which probability on a model is said to end its answers.
        truncated: Some that ran into the limit.
        paths: Reference paths, scored behind the prompt as it is; empty where there are none.
        ran: How many ran into which limit, in words.
    """
    codec, stops = engine.codec, behavior.sampling.stop
    template = codec.template if isinstance(codec, TextCodec) else None
    is_chat = template is not None and isinstance(codec, TextCodec) and codec.writes_chat(behavior.prompt)
    ending, loops = ending_probability(paths), _mostly(truncated, lambda one: is_looping(one.token_ids))
    if is_chat and not stops and (turn := _unended_turn(behavior, engine)) is not None:
        stop = turn.ending
        repair = f"add what follows one, `sampling: {{stop: [{json.dumps(stop)}]}}`, or write" if stop else "write"
        text = f"{ran}; the chat template writes no end token behind an answer, so {repair} the model's end token there"
        return Failure(ValidityCode.NO_END, text)
    if (repeated := _repeated_prompt(behavior, truncated)) is not None:
        text = f"{ran}; the model goes on with a question of its own, so add `sampling: {{stop: [{json.dumps(repeated)}]}}`"
        return Failure(ValidityCode.NO_END, text)
    if ending >= thresholds.ends and not loops:
        return _too_short(behavior, engine, f"{ran}, and the model ends the references")
    if template is not None and not is_chat and (loops or ending < thresholds.never_ends):
        text = f"{ran}; the prompt lacks the chat template that the model has, so use `prompt: {{format: chat}}`, or add a text to sampling.stop"
        return Failure(ValidityCode.NO_TEMPLATE, text)
    if is_chat and loops and ending < thresholds.never_ends:
        text = (
            f"{ran}; the model repeats itself and gives the end token a probability of {ending:.1g} behind a reference, so the chat template is not "
            "that of its training: use that one, or `prompt: {format: completion}` with a text in sampling.stop"
        )
        return Failure(ValidityCode.WRONG_TEMPLATE, text)
    if loops or (template is None and not stops and ending < thresholds.never_ends):
        if _mostly(truncated, lambda one: _BLANK_LINE in one.text):
            text = f'{ran}; the model goes on after a blank line, so add `sampling: {{stop: ["\\n\\n"]}}`'
        else:
            text = (
                f'{ran}; the model ends no answer, so add what does, such as `sampling: {{stop: ["\\n"]}}`, or show one with '
                "`prompt: {examples: [...]}`"
            )
        return Failure(ValidityCode.NO_END, text)
    return _too_short(behavior, engine, ran)


def explain_unfinished(behavior: Behavior, engine: Engine, found: str) -> Failure:
    """Say that samples end within a thought, and the repair.

    Args:
        behavior: Whose samples.
        engine: What sampled.
        found: How many, in words.
    """
    codec = engine.codec
    template = codec.template if isinstance(codec, TextCodec) else None
    repair = _raised_limit(behavior, engine)
    if template is None or template.reads("enable_thinking"):
        repair += ", or turn thinking off, `prompt: {template_arguments: {enable_thinking: false}}`"
    return Failure(ValidityCode.UNFINISHED_THOUGHT, f"{found} open a thought and do not close it; {repair}")


def is_looping(token_ids: Sequence[int]) -> bool:
    """Return whether the second half of a sample is one sequence of at most 32 tokens, again and again, three times at least."""
    half = token_ids[len(token_ids) // 2 :]
    return any(
        all(half[i] == half[i - period] for i in range(period, len(half)))
        for period in range(1, min(_LONGEST_PERIOD, len(half) // 3) + 1)
    )


def repeats_itself(behavior: Behavior, rollout: Rollout) -> bool:
    """Return whether a sample goes on without end: as `is_looping`, or with one text over and over but for its numbers.

    Steps of a calculation may differ in their numbers alone, so that such a text counts only in samples of 512 tokens or more, where references tell how
    long an answer may be. It stands three times at least in the last third of the sample.
    """
    if is_looping(rollout.token_ids):
        return True
    if not behavior.has_references or len(rollout.token_ids) < _MANY_TOKENS:
        return False
    text = _NUMBER.sub("0", rollout.text)
    end = text[-(len(text) // 3) :]
    return any(end[period:] == end[:-period] for period in range(1, len(end) // 3 + 1))


def _mostly(rollouts: Sequence[Rollout], holds: Callable[[Rollout], bool]) -> bool:
    return 2 * sum(holds(one) for one in rollouts) > len(rollouts)


def _unended_turn(behavior: Behavior, engine: Engine) -> AnswerTurn | None:
    """Return what the chat template writes around an answer, where what follows one begins with no token that ends a sample."""
    codec, prompt = engine.codec, behavior.prompt
    assert isinstance(codec, TextCodec)
    assert codec.template is not None
    messages = chat_messages(behavior.problems[0].prompt, prompt)
    if messages[-1].role == "assistant":
        return None
    turn = answer_turn(codec.template, messages, tools=prompt.tool_schemas, arguments=prompt.template_variables)
    if turn is None:
        return None
    ids = codec.tokenizer((turn.after if turn.after.strip() else turn.next_turn).lstrip(), add_special_tokens=False)["input_ids"]
    return None if ids and ids[0] in codec.eos_ids else turn


def _repeated_prompt(behavior: Behavior, truncated: Sequence[Rollout]) -> str | None:
    """Return what questions begin with, where most samples go on with it."""
    asks = behavior.prompt.template.partition("{question}")[0].strip().splitlines()[:1]
    heads = {" ".join(problem.question.split()[:1]) for problem in behavior.problems[:16]}
    starts = tuple(heads) if len(heads) == 1 and next(iter(heads)).endswith(":") else ()
    for text in (*asks, *starts):
        if text and 2 * sum(text in one.text for one in truncated) > len(truncated):
            return text
    return None


def _too_short(behavior: Behavior, engine: Engine, found: str) -> Failure:
    return Failure(ValidityCode.TRUNCATED, f"{found}; {_raised_limit(behavior, engine)}")


def _raised_limit(behavior: Behavior, engine: Engine) -> str:
    """Say how to raise `max_tokens`: four times as much, as far as there is room in the context."""
    limit = 4 * behavior.sampling.max_tokens
    if engine.info.context is not None:
        some = behavior.problems[:_MOST_PROMPTS]
        longest = max(len(engine.codec.encode_prompt(one.prompt, behavior.prompt).token_ids) for one in some)
        limit = min(limit, engine.info.context - longest)
    if limit <= behavior.sampling.max_tokens:
        return f"the model's context of {engine.info.context} tokens holds no more: shorten the prompt, or measure a model with a longer one"
    return f"raise it: `sampling: {{max_tokens: {limit}}}` or --max-tokens {limit}"
