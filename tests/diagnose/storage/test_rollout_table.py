"""Rollouts as columns: they count what a loop over the rows counts, whichever version wrote the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.stored_runs import rewrite_shard

from posttrain import diagnose
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.storage import rollout_table
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.storage.files import write_parquet
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.shard_file import read_shard
from posttrain.diagnose.types import (
    Behavior,
    Cost,
    Grade,
    GradeStatus,
    MeasureSettings,
    Problem,
    Rollout,
    Split,
    StopReason,
    VerifierSpec,
)

GRADES = (
    Grade(status=GradeStatus.SCORED, score=1.0, extracted="4", lenient_score=1.0),
    Grade(status=GradeStatus.SCORED, score=0.5, extracted="5", lenient_score=1.0),
    Grade(status=GradeStatus.SCORED, score=0.0, extracted="5", lenient_score=0.0),
    Grade(status=GradeStatus.SCORED, score=0.0, extracted="6"),
    Grade(status=GradeStatus.UNPARSED, score=0.0, lenient_score=1.0, detail="no number"),
    Grade(status=GradeStatus.UNPARSED, score=0.0),
    Grade(status=GradeStatus.UNFINISHED_THOUGHT, score=0.0, lenient_score=0.0, detail="never closed", answer_start=6),
    Grade(status=GradeStatus.ERROR, score=None, detail="crashed"),
    Grade(status=GradeStatus.TIMEOUT, score=None),
)


def mixed_rollouts(num: int = 600, seed: int = 0) -> list[Rollout]:
    """Every grade with every stop reason, empty samples, and the problems in no order."""
    rng = np.random.default_rng(seed)
    rollouts = []
    for index in range(num):
        length = int(rng.integers(0, 6))
        logprobs = -rng.exponential(size=length).astype(np.float32)
        rollouts.append(
            Rollout(
                behavior="b", problem_id=f"p{rng.integers(12)}", split=Split.EVAL, sample_index=index,
                decoding="greedy" if rng.random() < 0.1 else "sampled", token_ids=tuple(int(t) for t in rng.integers(0, 99, length)),
                policy_logprobs=logprobs, sampler_logprobs=logprobs, stop=list(StopReason)[rng.integers(4)], text=f"text {index}",
                grade=GRADES[rng.integers(len(GRADES))], engine="e",
                num_thought_tokens=int(rng.integers(0, length + 1)) if rng.random() < 0.9 else None,
            )
        )  # fmt: skip
    return rollouts


def write(directory: RunDirectory, rollouts: list[Rollout], *, shard_rows: int = 64) -> None:
    for number, start in enumerate(range(0, len(rollouts), shard_rows)):
        rows = rollouts[start : start + shard_rows]
        cost = Cost(seconds=0.25, generated_tokens=sum(len(r.token_ids) for r in rows), samples=len(rows))
        directory.write_rollouts(f"b.eval-mixed.{number:05d}", rows, cost)


def behavior(success: float) -> Behavior:
    ids = [f"p{i}" for i in (3, 0, 7, 1, 2, 99, 4, 5)]  # another order than the rows, one without rows, some rows of no problem
    return Behavior(
        name="b", problems=tuple(Problem(id=i, prompt=i, answer="4", key=i, split=Split.EVAL) for i in ids),
        verifier=VerifierSpec(kind="number"), measure=MeasureSettings(epsilon=0.01, success=success),
    )  # fmt: skip


def counted_row_by_row(of: Behavior, rollouts: list[Rollout]) -> dict[str, list[float]]:
    names = ("num_samples", "num_correct", "num_missing", "num_unparsed", "num_truncated", "num_lenient_correct", "num_tokens")
    names += ("num_unfinished_thoughts", "num_thought_tokens")
    counts = {problem.id: dict.fromkeys((*names, "greedy_correct"), 0.0) | {"greedy_correct": np.nan} for problem in of.problems}
    for rollout in rollouts:
        if rollout.problem_id not in counts:
            continue
        mine, success, lenient = counts[rollout.problem_id], rollout.succeeded(of.measure.success), rollout.grade.lenient_score
        if rollout.decoding == "greedy":
            mine["greedy_correct"] = mine["greedy_correct"] if success is None else float(success)
            continue
        mine["num_tokens"] += len(rollout.token_ids)
        mine["num_thought_tokens"] += rollout.num_thought_tokens or 0
        if success is None:
            mine["num_missing"] += 1
            continue
        mine["num_samples"] += 1
        mine["num_correct"] += success
        mine["num_unparsed"] += rollout.grade.status is GradeStatus.UNPARSED
        mine["num_unfinished_thoughts"] += rollout.grade.status is GradeStatus.UNFINISHED_THOUGHT
        mine["num_truncated"] += rollout.truncated
        mine["num_lenient_correct"] += success or (
            not rollout.truncated and lenient is not None and lenient >= of.measure.success
        )
    return {name: [counts[problem.id][name] for problem in of.problems] for name in (*names, "greedy_correct")}


@pytest.mark.parametrize("success", [1.0, 0.5])
def test_columns_count_what_rows_count(tmp_path: Path, success: float) -> None:
    directory, rollouts = RunDirectory(tmp_path), mixed_rollouts()
    write(directory, rollouts)
    files = sorted((tmp_path / "rollouts").iterdir())
    assert len(files) == 10
    table, of = directory.rollout_table("b"), behavior(success)
    counts = count_successes(of, of.problems, table)
    for name, expected in counted_row_by_row(of, rollouts).items():
        np.testing.assert_array_equal(getattr(counts, name), expected, err_msg=name)
    assert table.num_tokens.tolist() == [len(r.token_ids) for r in rollouts]
    assert table.sample_index.tolist() == list(range(600))
    np.testing.assert_allclose(table.policy_logprob_sum, [r.policy_logprobs.sum(dtype=np.float64) for r in rollouts], atol=1e-12)
    assert np.isnan(table.mean_policy_logprob).tolist() == [not r.token_ids for r in rollouts]
    cost = directory.cost("b", table)
    assert (cost.samples, cost.generated_tokens, cost.seconds) == (600, sum(len(r.token_ids) for r in rollouts), 2.5)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    directory, rollouts = RunDirectory(tmp_path), mixed_rollouts(200)
    write(directory, rollouts)
    table = directory.rollout_table("b")

    def key(rollout: Rollout) -> tuple[object, ...]:
        return (
            rollout.sample_index,
            rollout.text,
            rollout.token_ids,
            rollout.policy_logprobs.tolist(),
            rollout.grade,
            rollout.stop,
        )

    assert [key(r) for r in table.all_rows()] == [key(r) for r in rollouts]
    wanted = [199, 0, 63, 64, 0, 130]
    assert [key(r) for r in table.rows(wanted)] == [key(rollouts[i]) for i in wanted]
    assert table.rows([]) == []


def test_a_table_of_nothing_counts_nothing() -> None:
    table, of = RolloutTable.read(()), behavior(1.0)
    assert len(table) == 0
    assert list(table.all_rows()) == []
    counts = count_successes(of, of.problems, table)
    assert counts.num_samples.tolist() == [0] * 8
    assert np.isnan(counts.greedy_correct).all()


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "model.yaml").write_text("success: 0.3\n")
    return str(tmp_path / "model.yaml")


def test_a_report_reads_only_the_rows_that_it_shows(
    sums_file: Path, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnose.run(script, [sums_file], out=tmp_path / "run", engine="scripted", samples=32)
    read = []
    whole = rollout_table.to_rollouts

    def counting(table: pa.Table) -> list[Rollout]:
        read.append(table.num_rows)
        return list(whole(table))

    monkeypatch.setattr(rollout_table, "to_rollouts", counting)
    diagnose.rewrite_report(tmp_path / "run")
    assert 0 < sum(read) <= 12
    measured = diagnose.assemble(tmp_path / "run").behaviors[0]
    assert len(measured.rollouts) == len(measured.table) == 33 * len(measured.diagnosis.problems)
    assert measured.rollouts is measured.rollouts


def spoil(run: Path, seed: int) -> None:
    """Lose the outcome of a fifth of the samples, as a verifier that crashes would."""
    rng = np.random.default_rng(seed)
    for path in sorted((run / "rollouts").iterdir()):

        def lose(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            lost = rng.random(len(columns["status"])) < 0.2
            return {
                "status": np.where(lost, "error", columns["status"]).tolist(),
                "score": [None if gone else value for gone, value in zip(lost, columns["score"], strict=True)],
            }

        rewrite_shard(path, lose)


def test_compared_runs_are_counted_as_row_by_row(sums_file: Path, script: str, tmp_path: Path) -> None:
    runs = []
    for seed, samples in enumerate((12, 7)):
        out = tmp_path / f"run{seed}"
        diagnose.run(script, [sums_file], out=out, engine="scripted", samples=samples, seed=seed)
        spoil(out, seed)
        runs.append(diagnose.assemble(out))
    diagnose.compare(*runs, out=tmp_path / "compared")

    def outcomes(measured: DiagnosedBehavior) -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        for rollout in measured.rollouts:
            if rollout.decoding == "sampled" and (success := rollout.succeeded(1.0)) is not None:
                found.setdefault(rollout.problem_id, []).append(success)
        return found

    sides = [outcomes(run.behaviors[0]) for run in runs]
    data = json.loads((tmp_path / "compared" / "compare.json").read_text())["behaviors"][0]
    assert len(data["problems"]) >= 9
    for row in data["problems"]:
        both = [side[row["id"]] for side in sides]
        assert [row["before"], row["after"]] == pytest.approx([sum(side) / len(side) for side in both])
        assert [row["n_before"], row["n_after"]] == [len(side) for side in both]
    sampled = [[r for r in run.behaviors[0].rollouts if r.decoding == "sampled"] for run in runs]
    assert len({len(side) for side in sides[0].values()}) > 1
    tokens = data["beside"]["generated_tokens_per_sample"]
    for side, rows in zip(("before", "after"), sampled, strict=True):
        means = [np.mean([len(r.token_ids) for r in rows if r.problem_id == i]) for i in {r.problem_id for r in rows}]
        assert tokens[side]["estimate"] == pytest.approx(np.mean(means))
        nats = [
            np.mean([-r.policy_logprobs.astype(np.float64).mean() for r in rows if r.problem_id == i])
            for i in {r.problem_id for r in rows}
        ]
        assert data["drift"]["nats_per_generated_token"][side]["estimate"] == pytest.approx(np.mean(nats))


def test_files_of_an_earlier_version_hold_no_thoughts(tmp_path: Path) -> None:
    directory, rollouts = RunDirectory(tmp_path), mixed_rollouts(60)
    write(directory, rollouts)
    (path,) = (tmp_path / "rollouts").iterdir()
    shard = read_shard(path)
    write_parquet(path, shard.table().drop_columns(["answer_start", "num_thought_tokens"]), shard.record)
    table = directory.rollout_table("b")
    assert (len(table), int(table.num_thought_tokens.sum())) == (60, 0)
    rows = table.rows(range(60))
    assert [row.text for row in rows] == [one.text for one in rollouts]
    assert {row.grade.answer_start for row in rows} == {row.num_thought_tokens for row in rows} == {0}
