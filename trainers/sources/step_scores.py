"""How a sample is divided into steps, and how right each of them is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from posttrain.diagnose.engines.models.model_source import resolve_model
from posttrain.diagnose.errors import ModelError
from posttrain.diagnose.types import reaches
from posttrain.trainers.sources.policy import RolloutRequest, RolloutSampler, RowBuilder
from posttrain.trainers.sources.verified import successes
from posttrain.trainers.training_types import TrainingProblem, TrainingRow, TrainingSet

ScoreSteps = Callable[[Sequence[TrainingRow], int], Sequence[Sequence[float]]]
"""(rows divided into steps, step of training) → how right each step of each row is, in [0, 1]; NaN where nothing is known."""


def step_ends(tokenizer: PreTrainedTokenizerBase, completion_ids: Sequence[int], separator: str) -> tuple[int, ...]:
    """Return the index of the last token of each step: the one that completes a separator, and of the remaining text its last token.

    A separator that follows nothing but blanks and separators ends no step; it belongs to the step after it, or, at the very end, to the one
    before. End tokens are no part of a step's text, so that a step ends alike in an answer that was cut off and in one that was not. A
    token in which two steps end is the end of one.

    Args:
        tokenizer: Writes the text.
        completion_ids: [T], at least one.
        separator: Text that ends a step.

    Returns:
        At least one index, rising.
    """
    special = set(tokenizer.all_special_ids)
    last = next((place for place in reversed(range(len(completion_ids))) if completion_ids[place] not in special), 0)
    ends: list[int] = []
    text = ""
    for place, piece in enumerate(token_texts(tokenizer, completion_ids)):
        text += piece
        before, found, after = text.rpartition(separator) if separator in text else ("", "", text)
        if found and _says_something(before, separator):
            ends.append(place)
            text = after
    if not ends or (_says_something(text, separator) and ends[-1] != last):
        ends.append(last)
    return tuple(ends)


def _says_something(text: str, separator: str) -> bool:
    return bool(text.replace(separator, "").strip())


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[str]:
    """Yield what each token adds to the text; a character of several tokens comes with the last of them, special tokens add nothing.

    Each piece is decoded behind the piece before it, since some decoders drop a blank at the beginning of a text, and not behind all that
    stands before, which would take time quadratic in its length.
    """

    def decode(first: int, end: int) -> str:
        return str(tokenizer.decode(list(ids[first:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    context = start = 0
    for end in range(1, len(ids) + 1):
        known, whole = decode(context, start), decode(context, end)
        if whole.endswith("\ufffd") and end < len(ids):
            yield ""
            continue
        yield whole[len(known) :]
        context, start = start, end


def score_steps(tokenizer: PreTrainedTokenizerBase, separator: str, score: ScoreSteps) -> RowBuilder:
    """Divide the samples of a batch into steps and score them. A row with a step whose score is unknown stays undivided."""

    def build_rows(items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> list[TrainingRow]:
        ends = [step_ends(tokenizer, row.completion_ids, separator) for row in rows]
        divided = [
            replace(row, step_ends=places, step_scores=(0.0,) * len(places)) for row, places in zip(rows, ends, strict=True)
        ]
        return [
            replace(row, step_ends=(), step_scores=())
            if not np.isfinite(values).all()
            else replace(row, step_scores=tuple(float(value) for value in values))
            for row, values in zip(divided, score(divided, step), strict=True)
        ]

    return build_rows


def by_rollouts(
    sampler: RolloutSampler,
    training_set: TrainingSet,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_rollouts: int,
    seed: int,
) -> ScoreSteps:
    """Score a step by the share of continuations behind it that end right (Math-Shepherd, arXiv 2312.08935).

    The last step is as right as the whole answer. All steps of all rows are sampled at once. Missing grades are left out, not taken for wrong.
    """
    items = {(item.behavior.name, item.problem.id): item for item in training_set.train}
    success = successes(training_set)

    def score(rows: Sequence[TrainingRow], step: int) -> list[list[float]]:
        requests = []
        for number, row in enumerate(rows):
            for place in row.step_ends[:-1]:
                given = row.completion_ids[: place + 1]
                requests.append(
                    RolloutRequest(
                        item=items[row.behavior, row.problem_id],
                        prompt_ids=row.prompt_ids + given,
                        given=tokenizer.decode(list(given), skip_special_tokens=True),
                        name=f"{number}/{place}",
                    )
                )
        sampled = (
            sampler.sample(requests, num_samples=num_rollouts, temperature=1.0, seed=f"steps|{seed}|{step}") if requests else []
        )
        right: dict[str, list[bool]] = {}
        for one in sampled:
            if one.reward is not None:
                right.setdefault(one.group_id, []).append(reaches(one.reward, success[one.behavior]))
        scores = []
        for number, row in enumerate(rows):
            tried = [right.get(f"{number}/{place}", []) for place in row.step_ends[:-1]]
            whole = math.nan if row.reward is None else row.reward
            scores.append([sum(each) / len(each) if each else math.nan for each in tried] + [whole])
        return scores

    return score


def by_reward_model(source: str, device: torch.device) -> ScoreSteps:
    """Score a step by what a process reward model says behind its last token.

    Args:
        source: A folder that `posttrain train process_reward_model` wrote, or any token classifier with two labels, wrong and right, and
            the policy's tokenizer.
        device: Where to put it.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        model = AutoModelForTokenClassification.from_pretrained(str(resolve_model(source)), dtype=torch.float32).to(device).eval()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"step_feedback: {source} cannot be loaded as a token classifier ({' '.join(str(error).split())[:200]})",
            code="not_a_token_classifier",
        ) from error

    @torch.no_grad()
    def score(rows: Sequence[TrainingRow], step: int) -> list[list[float]]:
        scores = []
        for row in rows:
            ids = torch.tensor([row.prompt_ids + row.completion_ids], device=device)
            right = model(input_ids=ids).logits[0].float().softmax(-1)[:, -1]
            scores.append([float(right[len(row.prompt_ids) + place]) for place in row.step_ends])
        return scores

    return score
