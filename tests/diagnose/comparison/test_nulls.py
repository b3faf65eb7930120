"""Telling a second run from a copy, and the three nulls of support dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.paired_counts import paired

from posttrain.diagnose.comparison.nulls import are_coupled, support_rows
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Cost, Grade, GradeStatus, Rollout, Split, StopReason


def sampled(folder: Path, seed: int, chance: float, *, num: int = 60, logprobs: bool = True) -> RolloutTable:
    """Return samples that are the token 1 with this chance, and else one of a thousand others."""
    rng = np.random.default_rng(seed)
    rollouts = []
    for index in range(num):
        usual = rng.random() < chance
        token = 1 if usual else int(rng.integers(2, 1002))
        logprob = np.array([np.log(chance if usual else (1 - chance) / 1000)] if logprobs else [], dtype=np.float32)
        rollouts.append(
            Rollout(
                behavior="b",
                problem_id=f"p{index % 6}",
                split=Split.EVAL,
                sample_index=index // 6,
                decoding="sampled",
                token_ids=(token,),
                policy_logprobs=logprob,
                sampler_logprobs=logprob,
                stop=StopReason.EOS,
                text=str(token),
                grade=Grade(status=GradeStatus.SCORED, score=float(usual)),
                engine="e",
            )
        )
    directory = RunDirectory(folder)
    directory.write_rollouts("b.eval-sampled.00000", rollouts, Cost(seconds=0.0))
    return directory.rollout_table("b")


@pytest.mark.parametrize("chance", [0.3, 0.9, 0.9999])
def test_two_runs_are_not_taken_for_copies_however_sure_the_model_is(tmp_path: Path, chance: float) -> None:
    first = sampled(tmp_path / "first", 0, chance)
    assert not any(are_coupled(first, sampled(tmp_path / f"{seed}", seed, chance)) for seed in range(1, 6))


@pytest.mark.parametrize("chance", [0.3, 0.8])
def test_a_copy_is_recognised_by_its_samples(tmp_path: Path, chance: float) -> None:
    first = sampled(tmp_path / "first", 0, chance, num=240)
    assert are_coupled(first, sampled(tmp_path / "copy", 0, chance, num=240))
    assert are_coupled(first, sampled(tmp_path / "part", 0, chance, num=180))


def test_equal_texts_of_a_mastered_behavior_prove_nothing(tmp_path: Path) -> None:
    assert not are_coupled(sampled(tmp_path / "first", 0, 0.9999), sampled(tmp_path / "copy", 0, 0.9999))
    assert not are_coupled(sampled(tmp_path / "a", 0, 0.3, logprobs=False), sampled(tmp_path / "b", 0, 0.3, logprobs=False))
    assert not are_coupled(sampled(tmp_path / "c", 0, 0.3), RolloutTable.read(()))


def test_each_null_stands_at_the_same_number_of_samples() -> None:
    rng = np.random.default_rng(1)
    n = np.full(300, 32)
    rates = rng.beta(0.3, 1.2, 300)
    counts = paired(n, rng.binomial(n, rates), n, rng.binomial(n, rates))
    dealt = support_rows(counts, second=None, rng=rng)
    second = support_rows(counts, second=(np.full(300, 16), rng.binomial(16, rates)), rng=rng)
    assert [row.name for row in dealt] == ["SRR", "NDR", "SDS", "NSCR"]
    assert dealt[0].value.method == "counted at n = 32"
    assert second[0].value.method == "counted at n = 16"
    for rows in (dealt, second):
        srr, ndr = rows[0], rows[1]
        assert srr.value.estimate == pytest.approx(srr.null.estimate, abs=0.06)
        assert ndr.value.estimate == pytest.approx(ndr.null.estimate, abs=0.06)
    # Fewer samples, more problems that only seem to be new.
    assert second[1].value.estimate > dealt[1].value.estimate
