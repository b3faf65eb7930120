"""Samples that a verifier calls right, collected once before training: to be imitated, or paired with wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from posttrain.diagnose.types import reaches
from posttrain.trainers.config import PairConfig, TracesConfig
from posttrain.trainers.sources.policy import RolloutRequest, RolloutSampler, num_tokens, problem_prompts
from posttrain.trainers.sources.prepared import Made
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow, TrainingSet


def successes(training_set: TrainingSet) -> dict[str, float]:
    """Return the score that counts as a success, by the behavior's name."""
    return {name: behavior.measure.success for name, behavior in training_set.behaviors.items()}


def select_verified(rows: Sequence[TrainingRow], success: Mapping[str, float], max_per_problem: int) -> list[TrainingRow]:
    """Keep samples that are right, finished and distinct by text, at most `max_per_problem` of a problem.

    Args:
        rows: Graded samples; truncated ones have reward 0 and fall out.
        success: The score that counts as a success, by the behavior's name.
        max_per_problem: The first ones are kept, which is a random choice.
    """
    kept: dict[tuple[str, str], dict[str, TrainingRow]] = {}
    for row in rows:
        if row.reward is None or not reaches(row.reward, success[row.behavior]):
            continue
        texts = kept.setdefault((row.behavior, row.problem_id), {})
        if len(texts) < max_per_problem:
            texts.setdefault(row.text.strip(), row)
    return [row for texts in kept.values() for row in texts.values()]


def sample_verified(
    sampler: RolloutSampler,
    training_set: TrainingSet,
    config: TracesConfig,
    *,
    seed: str,
    build_requests: Callable[[], Sequence[RolloutRequest]] | None = None,
) -> Callable[[], Made]:
    """Return a function that samples every train problem once and keeps what is right.

    Args:
        sampler: Of a policy as it is at the start.
        training_set: Its train problems are sampled.
        config: Samples and temperature, and how many rows of a problem are kept.
        seed: Of sampling.
        build_requests: Gives the prompts; None takes the problems as they are.
    """

    def make() -> Made:
        asked = build_requests() if build_requests is not None else problem_prompts(sampler.engine, training_set.train)
        sampled = sampler.sample(asked, num_samples=config.num_samples, temperature=config.temperature, seed=seed)
        rows = select_verified(sampled, successes(training_set), config.max_per_problem)
        share = _share_without(rows, [request.item for request in asked])
        return rows, _sampling_metrics(sampled) | {"problems_without_success": share}

    return make


def _share_without(rows: Sequence[TrainingRow], items: Sequence[TrainingProblem]) -> float:
    return 1 - len({(row.behavior, row.problem_id) for row in rows}) / len(items) if items else float("nan")


def _sampling_metrics(sampled: Sequence[TrainingRow]) -> dict[str, float]:
    rewards = [row.reward for row in sampled if row.reward is not None]
    return {
        "sampled_rows": float(len(sampled)),
        "generated_tokens": num_tokens(sampled),
        "reward": sum(rewards) / len(rewards) if rewards else float("nan"),
    }


def make_pairs(rows: Sequence[TrainingRow], success: Mapping[str, float], max_per_problem: int) -> list[TrainingRow]:
    """Pair right with wrong answers to one prompt, chosen and rejected in turn, distinct by text.

    Args:
        rows: Graded samples, and demonstrations, which count as right and are used where no sample is.
        success: The score that counts as a success, by the behavior's name.
        max_per_problem: Pairs of one problem; its k-th right answer is paired with its k-th wrong one.
    """
    sides: dict[tuple[str, str], tuple[dict[str, TrainingRow], dict[str, TrainingRow]]] = {}
    for row in sorted(rows, key=lambda row: row.role is RowRole.DEMONSTRATION):
        right, wrong = sides.setdefault((row.behavior, row.problem_id), ({}, {}))
        if row.role is RowRole.DEMONSTRATION:
            right.setdefault(row.text.strip(), row)
        elif row.reward is not None:
            (right if reaches(row.reward, success[row.behavior]) else wrong).setdefault(row.text.strip(), row)
    pairs: list[TrainingRow] = []
    for (behavior, problem), (right, wrong) in sides.items():
        for number, (good, bad) in enumerate(zip(right.values(), wrong.values(), strict=False)):
            if number == max_per_problem:
                break
            group = f"{behavior}/{problem}#{number}"
            pairs += [replace(good, role=RowRole.CHOSEN, group_id=group), replace(bad, role=RowRole.REJECTED, group_id=group)]
    return pairs


def sample_pairs(
    sampler: RolloutSampler, training_set: TrainingSet, demonstrations: Sequence[TrainingRow], config: PairConfig
) -> Callable[[], Made]:
    """Return a function that samples every train problem once and pairs right answers with wrong ones.

    Args:
        sampler: Of a policy as it is at the start.
        training_set: Its train problems are sampled.
        demonstrations: Right answers for problems that have no right sample.
        config: How many samples and pairs of a problem, and the seed.
    """

    def make() -> Made:
        items = training_set.train
        sampled = sampler.sample_problems(items, num_samples=config.num_samples, seed=f"pairs|{config.seed}")
        pairs = make_pairs([*sampled, *demonstrations], successes(training_set), config.max_per_problem)
        return pairs, _sampling_metrics(sampled) | {"problems_without_pair": _share_without(pairs, items)}

    return make


def mismatched(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return the prompts of a batch with completions that were written for another prompt, for KTO's reference point.

    The rows are ordered by prompt and the completions moved on by as many places as the most frequent prompt has rows, so each completion is used
    once, and none stands behind its own prompt unless one prompt has more than half of the rows. Pairs that would are left out.
    """
    by_prompt: dict[tuple[int, ...], list[TrainingRow]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_ids, []).append(row)
    ordered = [row for members in by_prompt.values() for row in members]
    shift = max(map(len, by_prompt.values()), default=0)
    return [
        replace(
            row,
            completion_ids=other.completion_ids,
            token_weights=other.token_weights,
            sampler_logprobs=None,
            role=RowRole.MISMATCHED,
        )
        for row, other in zip(ordered, [*ordered[shift:], *ordered[:shift]], strict=True)
        if row.prompt_ids != other.prompt_ids
    ]
