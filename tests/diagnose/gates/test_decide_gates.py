"""Gates: the syntax of conditions, and when they are met, proven not met, or not decided."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain import diagnose
from posttrain.analysis.stats import mean_interval, pass_at_k
from posttrain.diagnose.errors import RunError, SettingsError, UserError
from posttrain.diagnose.gates.conditions import parse_condition
from posttrain.diagnose.gates.gate_result import UndecidedGateReason, describe_condition, gate_to_json
from posttrain.diagnose.gates.metrics import MeasuredEntry, estimate_metric
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry
from posttrain.diagnose.types import Outcome, decide

Write = Callable[..., Path]


def behavior(name: str, correct: Sequence[int], n: int = 16, **changes: Any) -> dict[str, Any]:
    problems = [
        {"id": f"p{i}", "split": "eval", "state": "poor_choice", "num_samples": n, "num_correct": int(c)}
        for i, c in enumerate(correct)
    ]
    return {
        "name": name,
        "purpose": "target",
        "bottleneck": "poor_choice",
        "confidence": 1.0,
        "measure": {"epsilon": 0.0064, "primary_k": 4, "success": 1.0},
        "problems": problems,
        "cost": {"samples": n * len(correct), "generated_tokens": 10 * n * len(correct)},
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*behaviors: dict[str, Any], name: str = "diagnosis.json") -> Path:
        data = {"schema": 1, "settings": {"thresholds": {"mastered": 0.9}}, "behaviors": list(behaviors)}
        if name == "compare.json":
            data |= {"before": {"run": "before"}, "after": {"run": "after"}}
        (tmp_path / name).write_text(json.dumps(data))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "behavior", "metric", "op", "threshold"),
    [
        ("pass@16>=0.5", None, "pass@16", ">=", 0.5),
        ("sums:pass@1 <= .25", "sums", "pass@1", "<=", 0.25),
        ("a:b: greedy>=1", "a:b", "greedy", ">=", 1.0),
        ("*:delta  pass@8>=-0.02", "*", "delta pass@8", ">=", -0.02),
        ("share_within_support>=0.9", None, "share_within_support", ">=", 0.9),
    ],
)
def test_conditions_are_read(text: str, behavior: str | None, metric: str, op: str, threshold: float) -> None:
    found = parse_condition(text)
    assert (found.behavior, found.metric, found.op, found.threshold) == (behavior, metric, op, threshold)


def code_of(error: type[UserError], call: Callable[..., Any], *arguments: Any) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(error) as refused:
        call(*arguments)
    return refused.value.code


@pytest.mark.parametrize(
    "text", ["", "pass@16", "pass@16>0.5", "pass@0>=0.5", "pass@00>=0.5", "pass@x>=0.5", "pas@1>=.5", "pass@1>=."]
)
def test_malformed_conditions_are_refused(text: str) -> None:
    assert code_of(SettingsError, parse_condition, text) == "malformed_condition"


@pytest.mark.parametrize("text", ["pass@1>=1.5", "pass@1>=-0.1", "delta pass@1>=-2"])
def test_numbers_that_no_metric_reaches_are_refused(text: str) -> None:
    assert code_of(SettingsError, parse_condition, text) == "threshold_out_of_range"


def test_the_bound_that_the_operator_names_decides(write: Write) -> None:
    correct = np.random.default_rng(0).binomial(16, 0.6, 60)
    run = write(behavior("sums", correct))
    interval = mean_interval(pass_at_k(np.full(60, 16), correct, 1))
    for text, outcome, code in (
        (f"pass@1>={interval.low - 0.001}", Outcome.MET, 0),
        (f"pass@1>={interval.low + 0.001}", Outcome.INCONCLUSIVE, 3),
        (f"pass@1>={interval.high + 0.001}", Outcome.NOT_MET, 1),
        (f"pass@1<={interval.high + 0.001}", Outcome.MET, 0),
        (f"pass@1<={interval.high - 0.001}", Outcome.INCONCLUSIVE, 3),
        (f"pass@1<={interval.low - 0.001}", Outcome.NOT_MET, 1),
    ):
        result = diagnose.gate(run, [text])
        check = result.conditions[0].check
        assert (result.outcome, result.exit_code) == (outcome, code), text
        assert (check.estimate, check.low, check.high) == (interval.estimate, interval.low, interval.high)


def test_a_condition_without_a_behavior_means_every_target(write: Write) -> None:
    run = write(behavior("a", [15] * 40), behavior("b", [1] * 40), behavior("c", [0] * 40, purpose="retention"))
    assert [c.behavior for c in diagnose.gate(run, ["pass@1>=0.5"]).conditions] == ["a", "b"]
    assert diagnose.gate(run, ["pass@1>=0.5"]).outcome is Outcome.NOT_MET
    assert diagnose.gate(run, ["a:pass@1>=0.5"]).outcome is Outcome.MET
    assert len(diagnose.gate(run, ["*:pass@1<=1"]).conditions) == 3
    assert code_of(SettingsError, diagnose.gate, run, ["d:pass@1>=0.5"]) == "unknown_behavior"


def test_all_hold_needs_no_correction_and_one_fails_does(write: Write) -> None:
    correct = np.random.default_rng(1).binomial(16, 0.6, 60)
    interval = mean_interval(pass_at_k(np.full(60, 16), correct, 1))
    run = write(*(behavior(name, correct) for name in "abcde"))
    assert diagnose.gate(run, [f"pass@1>={interval.low - 0.001}"]).outcome is Outcome.MET
    beyond = f"pass@1>={interval.high + 0.001}"
    assert diagnose.gate(run, [f"a:{beyond}"]).outcome is Outcome.NOT_MET
    five = diagnose.gate(run, [beyond])
    assert five.outcome is Outcome.INCONCLUSIVE
    assert all(c.reason is UndecidedGateReason.WORST_OF_SEVERAL and c.settles for c in five.conditions)
    assert {c.level for c in five.conditions} == {0.99}
    assert diagnose.gate(run, ["pass@1>=0.9"]).outcome is Outcome.NOT_MET


@pytest.mark.statistical
def test_gates_keep_their_error(tmp_path: Path) -> None:
    """A rate that lies at the threshold is called met, and not met, in one of twenty runs at most."""
    rng, condition = np.random.default_rng(2), parse_condition("pass@1>=0.5")
    outcomes = []
    for _ in range(200):
        entry = BehaviorEntry.model_validate(behavior("a", rng.binomial(16, rng.beta(2.0, 2.0, 50))))
        found = estimate_metric(MeasuredEntry(path=tmp_path, entry=entry, mastered=0.9), condition, 0.95)
        outcomes.append(decide(condition.op, found.low, found.high, condition.threshold))
    assert outcomes.count(Outcome.MET) / 200 <= 0.06
    assert outcomes.count(Outcome.NOT_MET) / 200 <= 0.06


def test_an_undecided_condition_says_which_effort_decides_it_in_four_of_five_cases(write: Write) -> None:
    rng = np.random.default_rng(3)
    rates = rng.beta(60.0, 60.0, 400)
    rates += 0.5 - rates.mean()
    correct = np.rint(4 * rng.permutation(np.repeat([0.0, 0.25, 0.5, 0.75, 1.0], [24, 104, 144, 104, 24]))).astype(int)
    assert correct.mean() / 4 == 0.5
    found = diagnose.gate(write(behavior("a", correct, n=4)), ["pass@1>=0.48"])
    assert found.exit_code == 3
    settles = found.conditions[0].settles
    assert settles is not None
    assert settles.samples is not None
    assert settles.problems is not None
    assert settles.tokens == pytest.approx(10 * settles.samples, abs=10)
    assert f"{settles.samples:,}" in describe_condition(found.conditions[0])
    n = 4 + settles.samples // 400
    same = [mean_interval(rng.binomial(n, rates) / n).low >= 0.48 for _ in range(300)]
    more = [mean_interval(rng.binomial(4, rng.beta(60.0, 60.0, settles.problems)) / 4).low >= 0.48 for _ in range(300)]
    assert np.mean(same) >= 0.74
    assert np.mean(more) >= 0.74


def test_k_beyond_the_samples_comes_from_the_fitted_mixture(write: Write) -> None:
    correct = np.random.default_rng(4).binomial(16, 0.3, 40)
    check = diagnose.gate(write(behavior("a", correct)), ["pass@64>=0.5"]).conditions[0].check
    assert check.outcome is Outcome.MET
    assert check.estimate > 0.99


def test_shares_are_those_of_the_population(write: Write) -> None:
    """Half of sixty problems are in support for sure; of the population that they come from, between a third and two thirds."""
    run = write(behavior("a", [0] * 30 + [8] * 30, n=512))
    for text, outcome in (
        ("share_within_support>=0.35", Outcome.MET),
        ("share_within_support>=0.45", Outcome.INCONCLUSIVE),
        ("share_within_support>=0.65", Outcome.NOT_MET),
        ("share_missing_support<=0.65", Outcome.MET),
        ("share_poor_choice<=0.3", Outcome.NOT_MET),
        ("share_mastered<=0.1", Outcome.MET),
    ):
        assert diagnose.gate(run, [text]).outcome is outcome, text


def test_shares_that_the_samples_do_not_identify_are_not_decided(write: Write) -> None:
    """All of 200 problems are at .02, inside support, and sixteen samples of each do not tell that from a third of them at zero."""
    run = write(behavior("a", np.random.default_rng(0).binomial(16, 0.02, 200).tolist()))
    for text in ("share_missing_support>=0.05", "share_within_support>=0.95"):
        assert diagnose.gate(run, [text]).outcome is Outcome.INCONCLUSIVE, text


def test_missing_samples_widen_the_interval_to_what_they_could_be(write: Write) -> None:
    rows = behavior("a", [8] * 40, n=8)
    for row in rows["problems"]:
        row["num_missing"] = 8
    result = diagnose.gate(write(rows), ["pass@1>=0.9"])
    check = result.conditions[0].check
    assert check.low < 0.5 < check.high == 1.0
    assert result.exit_code == 3


def test_an_invalid_measurement_decides_nothing(write: Write) -> None:
    run = write(behavior("a", [0] * 40, bottleneck="invalid"), behavior("b", [], bottleneck="invalid"))
    result = diagnose.gate(run, ["pass@1>=0.5"])
    assert result.exit_code == 3
    assert all(c.reason is UndecidedGateReason.INVALID_MEASUREMENT for c in result.conditions)
    written = gate_to_json(result)["conditions"][0]
    assert (written["estimate"], written["reason_code"]) == (None, "invalid_measurement")


def test_an_estimate_at_the_threshold_says_so(write: Write) -> None:
    (found,) = diagnose.gate(write(behavior("a", [8] * 40)), ["pass@1>=0.5"]).conditions
    assert (found.check.outcome, found.reason, found.settles) == (Outcome.INCONCLUSIVE, UndecidedGateReason.AT_THRESHOLD, None)


def test_a_k_that_the_samples_do_not_identify_says_so(write: Write) -> None:
    (found,) = diagnose.gate(write(behavior("a", [0] * 40, n=2)), ["pass@4096>=0.5"]).conditions
    assert (found.check.outcome, found.reason) == (Outcome.INCONCLUSIVE, UndecidedGateReason.NOT_IDENTIFIED)


def change(name: str, before: float, after: float, purpose: str = "target", n: int = 16, **row: Any) -> dict[str, Any]:
    rows = [
        {"id": f"p{i}", "num_samples": n, "before": before, "after": after, "state": "undetermined"} | row for i in range(200)
    ]
    rate = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    sides = {"before": rate, "after": rate, "delta": rate}
    return {"name": name, "purpose": purpose, "num_problems": len(rows), "pass_at_1": sides, "problems": rows}


def test_conditions_on_changes_are_about_comparisons(write: Write) -> None:
    run = write(change("new", 0.25, 0.5), change("old", 0.875, 0.875, "retention"), name="compare.json")
    assert diagnose.gate(run, ["delta pass@1>=0.1"]).exit_code == 0
    assert diagnose.gate(run, ["old:delta pass@1>=-0.02"]).exit_code == 0
    assert diagnose.gate(run, ["new:delta pass@4<=0"]).exit_code == 1
    assert diagnose.gate(run, ["old:delta pass@1>=0.001"]).exit_code == 3
    assert code_of(SettingsError, diagnose.gate, run, ["delta pass@17>=0"]) == "k_above_samples"
    assert code_of(RunError, diagnose.gate, run, ["pass@1>=0.5"]) == "not_a_run"
    assert code_of(SettingsError, diagnose.gate, run, ["pass@1>=0.5", "delta pass@1>=0"]) == "mixed_conditions"


def test_conditions_on_changes_hold_whatever_the_missing_samples_are(write: Write) -> None:
    """Pass@1 fell from .50 to .45; of 20 samples of each problem one that failed has no outcome, and the others show half of the fall."""
    counts = {"n_before": 20, "c_before": 10, "n_after": 19, "c_after": 9}
    complete = change("a", 0.5, 9 / 19, **counts)
    lacking = change("a", 0.5, 9 / 19, **counts, missing_after=1)
    assert diagnose.gate(write(complete, name="compare.json"), ["delta pass@1>=-0.045"]).exit_code == 0
    (found,) = diagnose.gate(write(lacking, name="compare.json"), ["delta pass@1>=-0.045"]).conditions
    assert found.check.outcome is Outcome.INCONCLUSIVE
    assert found.check.low <= -0.05 < 0.0 <= found.check.high
    assert diagnose.gate(write(lacking, name="compare.json"), ["delta pass@1<=-0.045"]).exit_code == 3


def test_sides_may_differ_in_samples(write: Write) -> None:
    counts = {"n_before": 16, "c_before": 4, "n_after": 64, "c_after": 32}
    run = write(change("a", 0.25, 0.5, num_samples=None, **counts), name="compare.json")
    (found,) = diagnose.gate(run, ["delta pass@16>=0"]).conditions
    wanted = pass_at_k([64], [32], 16)[0] - pass_at_k([16], [4], 16)[0]
    assert found.check.estimate == pytest.approx(wanted)
    assert code_of(SettingsError, diagnose.gate, run, ["delta pass@17>=0"]) == "k_above_samples"


def test_folders_without_results_are_refused(write: Write, tmp_path: Path) -> None:
    assert code_of(RunError, diagnose.gate, tmp_path, ["pass@1>=0.5"]) == "no_run"
    assert code_of(RunError, diagnose.gate, write(behavior("a", [1])), ["delta pass@1>=0"]) == "not_a_comparison"
    (tmp_path / "diagnosis.json").write_text('{"schema": 1, "behaviors": [{}]}')
    assert code_of(RunError, diagnose.gate, tmp_path, ["pass@1>=0.5"]) == "unreadable_file"
    (tmp_path / "diagnosis.json").unlink()
    (tmp_path / "run.json").write_text("{}")
    assert code_of(RunError, diagnose.gate, tmp_path, ["pass@1>=0.5"]) == "unfinished_run"
    assert code_of(SettingsError, diagnose.gate, tmp_path, []) == "no_condition"
