"""What a run draws when its behaviors share a budget: the nearest label first, within the budget, and the same again after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import diagnose
from posttrain.diagnose import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.sampling import behavior_sampler, stopping
from posttrain.diagnose.sampling.behavior_sampler import Purse
from posttrain.diagnose.sampling.stopping import Goal
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior

RATES = {"hair": (0.0, 0.4), "near": (0.05, 0.5), "nearer": (0.2, 0.3)}
"""Success rates that the problems of each behavior have in turn: as many of the first at 0 as at .4."""


@pytest.fixture
def behaviors(tmp_path: Path, write_rows: Callable[..., Path]) -> list[Path]:
    """Three of twenty problems, the one that hangs by a hair first."""
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


def test_a_label_that_hangs_by_a_hair_waits_for_the_others(behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path) -> None:
    def run(name: str, files: list[Path], budget: int) -> diagnose.DiagnosedRun:
        return diagnose.run("m", files, out=tmp_path / name, engine=engine, max_tokens_total=budget, probes=["none"])

    alone = sum(tokens(run("alone", behaviors[1:], 1_000_000)))
    budget = int(1.2 * alone)
    shared = run("shared", behaviors, budget)
    hair, *others = shared.diagnoses
    assert all(one.confidence > 0.99 for one in others)
    assert hair.confidence < 0.95
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


def test_turns_are_the_same_after_a_kill(
    behaviors: list[Path], engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, selftest, calls = engine.sample, behavior_sampler.verifier_selftest, 0

    def run(out: Path, survives: int) -> None:
        nonlocal calls
        calls = 0

        def dies(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > survives:
                raise KeyboardInterrupt
            return sample(*args, **kwargs)

        def refuses(behavior: Behavior, *args: Any) -> Any:
            assert not (out / "validity" / f"{behavior.name}.json").exists(), "what is finished is not looked at again"
            return selftest(behavior, *args)

        monkeypatch.setattr(engine, "sample", dies)
        monkeypatch.setattr(behavior_sampler, "verifier_selftest", refuses)
        diagnose.run("m", behaviors, out=out, engine=engine, max_tokens_total=5_000, probes=["decoding"])

    whole = tmp_path / "whole"
    run(whole, 1_000)
    total = calls
    for survives in (total // 2, total - 1):
        killed = tmp_path / f"{survives}"
        with pytest.raises(KeyboardInterrupt):
            run(killed, survives)
        assert survives < total - 1 or list((killed / "validity").iterdir())
        run(killed, 1_000)
        for folder in ("rollouts", "probes", "rounds"):
            assert sorted(p.name for p in (killed / folder).iterdir()) == sorted(p.name for p in (whole / folder).iterdir())
        for path in (whole / "rounds").iterdir():
            assert (killed / "rounds" / path.name).read_bytes() == path.read_bytes()


def test_a_purse_gives_equal_shares_to_who_has_had_nothing() -> None:
    purse, goal = Purse(900, ["a", "b", "c"]), Goal(max_tokens=900)
    assert purse.goal_of("a", goal).max_tokens == 300
    purse.spend("a", 100)
    assert purse.goal_of("b", goal).max_tokens == 400
    assert purse.goal_of("a", goal).max_tokens == 900
    purse.spend("b", 850)
    assert purse.left() == -50
    assert purse.goal_of("a", goal).max_tokens == 100
    assert not Purse(None, ["a", "b"]).shared
    assert not Purse(900, ["a"]).shared


def test_the_nearer_label_and_the_cheaper_come_first() -> None:
    import numpy as np

    def turn(correct: list[int], tokens: int) -> float:
        n = np.full(20, 4)
        counts = stopping.Counts(num_samples=n, num_correct=np.array(correct), num_sampled=n, generated_tokens=tokens)
        planned = stopping.next_round(
            counts, Goal(max_tokens=10_000), epsilon=0.0064, primary_k=4, max_tokens=20, thresholds=Thresholds(), seed=0
        )
        assert not planned.last
        return planned.turn

    near, hair = [0] * 9 + [3] * 11, [0] * 11 + [3] * 9
    assert turn(near, 500) < turn(near, 600) < turn(hair, 600)
