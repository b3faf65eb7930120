"""A batch divided among processes: nothing lost, nothing twice, all in step."""

from __future__ import annotations

import pytest
from helpers.training import random_rows

from posttrain.trainers.step.packing import RowPack, heaviest_load, pack_rows, plan_process_batches


def packs_of(rows) -> list[RowPack]:
    return pack_rows(rows, range(len(rows)), share=True, hidden_size=16, max_tokens=30, keep_groups=True)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_row_counts_once_and_all_make_equally_many_micro_batches(size: int) -> None:
    packs = packs_of(random_rows(num_groups=7, group_size=4, seed=3))
    plans = [plan_process_batches(packs, 40, rank=rank, size=size) for rank in range(size)]
    counted = [pack for plan in plans for group, counts in plan if counts for pack in group]
    assert sorted(row for pack in counted for row in pack.rows) == list(range(28))
    assert len({len(plan) for plan in plans}) == 1
    for pack in counted:
        homes = {rank for rank, plan in enumerate(plans) for group, counts in plan if counts and pack in group}
        others = [one for one in counted if one.group_id == pack.group_id]
        assert len(homes) == 1, "a process of its own for each group"
        assert all(
            {rank for rank, plan in enumerate(plans) for group, counts in plan if counts and one in group} == homes
            for one in others
        )
    assert all(group for plan in plans for group, _ in plan)


def test_shares_are_about_equally_heavy() -> None:
    packs = packs_of(random_rows(num_groups=40, group_size=2, seed=4))
    total, longest = sum(pack.length for pack in packs), max(pack.length for pack in packs)
    assert total / 4 <= heaviest_load(packs, 4) <= total / 4 + 2 * longest
    assert heaviest_load(packs, 1) == total


def test_of_nothing_each_gets_nothing() -> None:
    assert plan_process_batches([], 40, rank=1, size=2) == []
