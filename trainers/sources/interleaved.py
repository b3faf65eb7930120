"""Rows to train on that are made from the policy's samples and from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from posttrain.diagnose.types import reaches
from posttrain.trainers.credit.group import differ, group_indices
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.sources.policy import RowBuilder
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow


def by_problem(demonstrations: Sequence[TrainingRow]) -> dict[str, list[TrainingRow]]:
    """Return `behavior/problem` → its demonstrations."""
    found: dict[str, list[TrainingRow]] = {}
    for row in demonstrations:
        found.setdefault(f"{row.behavior}/{row.problem_id}", []).append(row)
    return found


def join_group(demonstrations: Mapping[str, Sequence[TrainingRow]]) -> RowBuilder:
    """Add to each group one demonstration of its problem with reward 1, in turn over the steps (LUFFY, arXiv 2504.14945)."""

    def build_rows(items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> list[TrainingRow]:
        out = list(rows)
        for group_id, members in group_indices(rows).items():
            name = f"{rows[members[0]].behavior}/{rows[members[0]].problem_id}"
            known = demonstrations.get(name)
            if known:
                out.append(replace(known[step % len(known)], group_id=group_id, reward=1.0))
        return out

    return build_rows


def replace_unsolved(demonstrations: Mapping[str, Sequence[TrainingRow]], most_solved: int) -> RowBuilder:
    """Replace groups with at most `most_solved` right samples by a demonstration of their problem (HPT, arXiv 2509.04419)."""

    def build_rows(items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> list[TrainingRow]:
        out: list[TrainingRow] = []
        success = {item.behavior.name: item.behavior.measure.success for item in items}
        for members in group_indices(rows).values():
            group = [rows[index] for index in members]
            solved = sum(row.reward is not None and row.is_graded and reaches(row.reward, success[row.behavior]) for row in group)
            known = demonstrations.get(f"{group[0].behavior}/{group[0].problem_id}")
            out += [known[step % len(known)]] if known and solved <= most_solved else group
        return out

    return build_rows


def add_demonstrations(demonstrations: Sequence[TrainingRow], rows_per_batch: int, seed: int) -> RowBuilder:
    """Add a batch of demonstrations to the samples, from shuffled epochs (CHORD, arXiv 2508.11408)."""
    order = EpochOrder(len(demonstrations), min(rows_per_batch, len(demonstrations)), seed)

    def build_rows(items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> list[TrainingRow]:
        return [*rows, *(demonstrations[index] for index in order.batch(step))]

    return build_rows


def best_against_worst(items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> list[TrainingRow]:
    """Return of each group the answer with the highest and the one with the lowest reward; none where all are equal (arXiv 2402.04792)."""
    pairs: list[TrainingRow] = []
    for members in group_indices(rows).values():
        graded = [rows[index] for index in members if rows[index].is_graded]
        if len(graded) < 2:
            continue
        best, worst = max(graded, key=_reward), min(graded, key=_reward)
        if differ((_reward(best), _reward(worst))):
            pairs += [replace(best, role=RowRole.CHOSEN), replace(worst, role=RowRole.REJECTED)]
    return pairs


def _reward(row: TrainingRow) -> float:
    assert row.reward is not None
    return row.reward
