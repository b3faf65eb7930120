"""Rows that a policy drew and a verifier confirmed, collected once before training: imitated, or set against what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.sources.policy import Ask, bare, draw, num_tokens
from posttrain.trainers.sources.prepared import Made
from posttrain.trainers.training_types import GradeFn, Part, TrainingProblem, TrainingRow, TrainingSet


def successes(training_set: TrainingSet) -> dict[str, float]:
    """The score that counts as a success, by the behavior's name."""
    return {name: behavior.measure.success for name, behavior in training_set.behaviors.items()}


def select_verified(rows: Sequence[TrainingRow], success: Mapping[str, float], max_per_problem: int) -> list[TrainingRow]:
    """Right, finished, distinct by text, at most so many per problem; a problem with a single success keeps it.

    Args:
        rows: Graded samples; truncated ones have reward 0 and fall out.
        success: The score that counts as a success, by the behavior's name.
        max_per_problem: The first ones drawn are kept, which is a random choice.
    """
    kept: dict[tuple[str, str], dict[str, TrainingRow]] = {}
    for row in rows:
        if row.reward is None or row.reward < success[row.behavior]:
            continue
        texts = kept.setdefault((row.behavior, row.problem_id), {})
        if len(texts) < max_per_problem:
            texts.setdefault(row.text.strip(), row)
    return [row for texts in kept.values() for row in texts.values()]


def draw_verified(
    engine: Engine,
    graders: Mapping[str, GradeFn],
    training_set: TrainingSet,
    *,
    num_samples: int,
    temperature: float,
    max_per_problem: int,
    seed: str,
    asks: Callable[[], Sequence[Ask]] | None = None,
) -> Callable[[], Made]:
    """What draws from every train problem once and keeps what is right.

    Args:
        engine: Samples a policy as it is at the start.
        graders: By the behavior's name.
        training_set: Its train problems are drawn from.
        num_samples: n per problem.
        temperature: Of the draw.
        max_per_problem: Rows kept per problem.
        seed: Of the draw.
        asks: The prompts; None takes the problems as they are.
    """

    def make() -> Made:
        asked = asks() if asks is not None else bare(engine, training_set.train)
        drawn = draw(engine, graders, asked, num_samples=num_samples, temperature=temperature, seed=seed)
        rows = select_verified(drawn, successes(training_set), max_per_problem)
        return rows, _drawn_metrics(drawn) | {"problems_without_success": _share_without(rows, [ask.item for ask in asked])}

    return make


def _share_without(rows: Sequence[TrainingRow], items: Sequence[TrainingProblem]) -> float:
    return 1 - len({(row.behavior, row.problem_id) for row in rows}) / len(items) if items else float("nan")


def _drawn_metrics(drawn: Sequence[TrainingRow]) -> dict[str, float]:
    rewards = [row.reward for row in drawn if row.reward is not None]
    return {
        "sampled_rows": float(len(drawn)),
        "generated_tokens": num_tokens(drawn),
        "reward": sum(rewards) / len(rewards) if rewards else float("nan"),
    }


def make_pairs(rows: Sequence[TrainingRow], success: Mapping[str, float], max_per_problem: int) -> list[TrainingRow]:
    """Right against wrong answers to one prompt, chosen and rejected in turn: pair by pair, distinct by text.

    Args:
        rows: Graded samples, and demonstrations, which count as right and are used where no sample is.
        success: The score that counts as a success, by the behavior's name.
        max_per_problem: Pairs of one problem; its k-th right answer is set against its k-th wrong one.
    """
    sides: dict[tuple[str, str], tuple[dict[str, TrainingRow], dict[str, TrainingRow]]] = {}
    for row in sorted(rows, key=lambda row: row.part is Part.DEMONSTRATION):
        right, wrong = sides.setdefault((row.behavior, row.problem_id), ({}, {}))
        if row.part is Part.DEMONSTRATION:
            right.setdefault(row.text.strip(), row)
        elif row.reward is not None:
            (right if row.reward >= success[row.behavior] else wrong).setdefault(row.text.strip(), row)
    pairs: list[TrainingRow] = []
    for (behavior, problem), (right, wrong) in sides.items():
        for number, (good, bad) in enumerate(zip(right.values(), wrong.values(), strict=False)):
            if number == max_per_problem:
                break
            group = f"{behavior}/{problem}#{number}"
            pairs += [replace(good, part=Part.CHOSEN, group_id=group), replace(bad, part=Part.REJECTED, group_id=group)]
    return pairs


def draw_pairs(
    engine: Engine,
    graders: Mapping[str, GradeFn],
    training_set: TrainingSet,
    demonstrations: Sequence[TrainingRow],
    *,
    num_samples: int,
    max_per_problem: int,
    seed: str,
) -> Callable[[], Made]:
    """What draws from every train problem once and sets right answers against wrong ones.

    Args:
        engine: Samples a policy as it is at the start.
        graders: By the behavior's name.
        training_set: Its train problems are drawn from.
        demonstrations: Right answers for problems that have no right sample.
        num_samples: n per problem.
        max_per_problem: Pairs kept per problem.
        seed: Of the draw.
    """

    def make() -> Made:
        asked = bare(engine, training_set.train)
        drawn = draw(engine, graders, asked, num_samples=num_samples, temperature=1.0, seed=seed)
        pairs = make_pairs([*drawn, *demonstrations], successes(training_set), max_per_problem)
        return pairs, _drawn_metrics(drawn) | {"problems_without_pair": _share_without(pairs, [ask.item for ask in asked])}

    return make


def mismatched(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Each prompt of a batch with the completion of the next one, for KTO's reference point."""
    if len(rows) < 2:
        return []
    return [
        replace(row, completion_ids=other.completion_ids, sampler_logprobs=None, part=Part.MISMATCHED)
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
