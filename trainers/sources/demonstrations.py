"""Rows from the reference paths of train problems: off-policy."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow


def encode_references(engine: Engine, items: Sequence[TrainingProblem], max_references: int | None = None) -> list[TrainingRow]:
    """Return one row per reference path, tokenised as the engine tokenises when it samples and scores, end token included.

    Args:
        engine: Only its tokenizer is used.
        items: Train problems; those without references give no row.
        max_references: Paths used per problem, the first ones; None uses all.
    """
    rows = []
    for item in items:
        prompt = engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt)
        for reference in item.problem.references[:max_references]:
            rows.append(
                TrainingRow(
                    behavior=item.behavior.name,
                    problem_id=item.problem.id,
                    split=item.problem.split,
                    group_id=item.name,
                    prompt_ids=prompt.token_ids,
                    completion_ids=engine.codec.encode_path(prompt, reference).token_ids,
                    role=RowRole.DEMONSTRATION,
                    text=reference.text,
                )
            )
    return rows
