"""What a run samples when its behaviors share a budget: the nearest label first, within the budget, and the same after a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.interrupted_engine import InterruptedEngine

from posttrain import diagnose
from posttrain.diagnose import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import BehaviorSampler, SamplingSettings
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.sampling.token_budget import TokenBudget
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.shard_file import complete_rounds
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Split
from posttrain.diagnose.verifiers.grader import Grader

RATES = {"borderline": (0.9, 0.9), "near": (0.05, 0.5), "nearer": (0.2, 0.3)}
"""Success rates that the problems of each behavior have in turn: those of the first at the rate from which a problem is mastered."""


@pytest.fixture
def behaviors(tmp_path: Path, write_rows: Callable[..., Path]) -> list[Path]:
    """Three of twenty problems, the borderline one first."""
    files = []
    for number, name in enumerate(RATES):
        rows: list[dict[str, object]] = [
            {"id": f"{name}{i}", "prompt": f"{i} + {100 * number} =", "answer": str(i + 100 * number), "split": "eval"}
            for i in range(20)
        ]
        write_rows(rows, f"{name}.jsonl")
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(
            f"problems: {name}.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 20}}\n"
        )
    return files


@pytest.fixture
def engine(behaviors: list[Path]) -> ScriptedEngine:
    success = {f"{name}{i}": rates[i % 2] for name, rates in RATES.items() for i in range(20)}
    return ScriptedEngine.for_behaviors([load_behavior(path) for path in behaviors], success)


def tokens(run: diagnose.DiagnosedRun) -> list[int]:
    return [one.cost.generated_tokens for one in run.diagnoses]


def test_a_borderline_label_waits_for_the_others(behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path) -> None:
    def run(name: str, files: list[Path], budget: int) -> diagnose.DiagnosedRun:
        return diagnose.run("m", files, out=tmp_path / name, engine=engine, max_tokens_total=budget, probes=["none"])

    alone = sum(tokens(run("alone", behaviors[1:], 1_000_000)))
    budget = 2 * alone
    shared = run("shared", behaviors, budget)
    borderline, _, nearer = shared.diagnoses
    assert borderline.confidence < 0.95 < nearer.confidence
    assert 0.8 * budget < sum(tokens(shared)) <= 1.02 * budget
    assert tokens(shared)[0] > budget - alone - 200  # what the others left


def test_probes_are_paid_from_the_shared_budget(behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path) -> None:
    def spent(name: str, budget: int, probe: str) -> int:
        run = diagnose.run("m", behaviors[1:], out=tmp_path / name, engine=engine, max_tokens_total=budget, probes=[probe])
        return sum(tokens(run))

    alone = spent("alone", 1_000_000, "none")
    free = spent("free", 1_000_000, "decoding")
    budget = (alone + free) // 2
    assert free > 1.3 * alone
    assert 0.9 * budget < spent("bound", budget, "decoding") <= 1.03 * budget


@pytest.mark.slow
def test_a_run_that_was_stopped_samples_what_an_undisturbed_one_does(
    behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path
) -> None:
    def run(out: Path, num_batches: int) -> int:
        interrupted = InterruptedEngine(engine, num_batches)
        diagnose.run("m", behaviors, out=out, engine=interrupted, max_tokens_total=5_000, probes=["decoding"])
        return interrupted.num_sampled

    def files(out: Path) -> dict[str, list[str]]:
        return {folder: sorted(p.name for p in (out / folder).iterdir()) for folder in ("rollouts", "probes", "done")}

    whole = tmp_path / "whole"
    total = run(whole, 1_000)
    for survives in (total // 2, total - 1):
        stopped = tmp_path / f"{survives}"
        with pytest.raises(KeyboardInterrupt):
            run(stopped, survives)
        finished = [path.name for path in (stopped / "done").glob("*")]
        assert survives < total - 1 or finished
        # What is finished is not looked at again: its validity checks are not written anew.
        written = {name: (stopped / "validity" / name).stat().st_mtime_ns for name in finished}
        assert run(stopped, 1_000) == total - survives
        assert {name: (stopped / "validity" / name).stat().st_mtime_ns for name in finished} == written
        assert files(stopped) == files(whole)
        for path in (whole / "done").iterdir():
            assert (stopped / "done" / path.name).read_bytes() == path.read_bytes()
        assert [one.problems for one in diagnose.assemble(stopped).diagnoses] == [
            one.problems for one in diagnose.assemble(whole).diagnoses
        ]


def test_a_round_that_was_stopped_between_its_shards_is_completed(
    behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path
) -> None:
    behavior = load_behavior(behaviors[0])

    def sample(out: Path, num_batches: int) -> int:
        interrupted = InterruptedEngine(engine, num_batches)
        settings = SamplingSettings(
            directory=RunDirectory(out), engine=interrupted, goal=Goal(max_tokens=3_000), split=Split.EVAL, seed=0,
            thresholds=Thresholds(), reporter=Reporter(quiet=True), rows_per_shard=12,
        )  # fmt: skip
        with Grader(behavior) as grader:
            sampler = BehaviorSampler(behavior, grader.grade, settings, TokenBudget(3_000, [behavior.name]))
            while not sampler.done:
                sampler.sample_round()
        return interrupted.num_sampled

    def samples(out: Path) -> dict[str, list[tuple[int, ...]]]:
        paths = RunDirectory(out).shards("rollouts", behavior.name)
        return {path.stem: [row.token_ids for row in RolloutTable.read([path]).all_rows()] for path in paths}

    whole = tmp_path / "whole"
    total = sample(whole, 1_000)
    assert any(not name.endswith("-of-00001") for name in samples(whole)), "a round has several shards"
    for survives in (1, 4, total // 2, total - 1):
        stopped = tmp_path / f"{survives}"
        with pytest.raises(KeyboardInterrupt):
            sample(stopped, survives)
        assert sample(stopped, 1_000) == total - survives
        assert samples(stopped) == samples(whole)


def test_only_complete_rounds_are_counted() -> None:
    names = [
        "b.eval-greedy.0000-00000-of-00001",
        "b.eval-sampled.0000-00001-of-00002",
        "b.eval-sampled.0000-00000-of-00002",
        "b.eval-sampled.0001-00001-of-00002",
    ]
    assert complete_rounds(names, "greedy") == [names[:1]]
    assert complete_rounds(names, "sampled") == [[names[2], names[1]]]
    whole = [*names, "b.eval-sampled.0001-00000-of-00002"]
    assert [len(round_) for round_ in complete_rounds(whole, "sampled")] == [2, 2]
    assert complete_rounds(whole[:1] + whole[2:], "sampled") == [], "a round is planned from all rounds before it"


def test_a_token_budget_gives_equal_shares_before_the_first_samples() -> None:
    budget, goal = TokenBudget(900, ["a", "b", "c"]), Goal(max_tokens=900)
    assert budget.goal_of("a", goal).max_tokens == 300
    budget.record("a", 100)
    assert budget.goal_of("b", goal).max_tokens == 400
    assert budget.goal_of("a", goal).max_tokens == 900
    budget.record("b", 850)
    assert budget.left() == -50
    assert budget.goal_of("a", goal).max_tokens == 100
    assert not TokenBudget(None, ["a", "b"]).shared
    assert not TokenBudget(900, ["a"]).shared


def test_undecided_labels_come_first_and_of_those_the_nearer_and_the_cheaper() -> None:
    def priority(correct: list[int], tokens: int) -> float:
        n = np.full(20, 4)
        counts = SampleCounts(num_samples=n, num_correct=np.array(correct), num_sampled=n, generated_tokens=tokens)
        return next_round(
            counts,
            Goal(max_tokens=10_000, precision=0.001),
            epsilon=0.0064,
            primary_k=4,
            max_tokens=20,
            thresholds=Thresholds(),
            seed=0,
        ).priority

    near, borderline, decided = [0] * 14 + [3] * 6, [0] * 11 + [3] * 9, [2] * 20
    assert priority(near, 500) < priority(near, 600) < priority(borderline, 600) < priority(decided, 100)
