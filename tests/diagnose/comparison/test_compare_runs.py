"""Comparisons of runs: what compare.json holds, the nulls, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paired_counts import paired, until_third_success
from helpers.stored_runs import copy_run

from posttrain import diagnose
from posttrain.diagnose.behaviors import load_behaviors
from posttrain.diagnose.behaviors.behavior_options import read_behavior_options
from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote
from posttrain.diagnose.comparison.compare_behavior import ComparisonOptions, compare_counts
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes
from posttrain.diagnose.comparison.transition import ComparisonNote
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.compare_files import Run, compare_folders, write_comparison
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Estimate, MeasureSettings, ProblemChange

NUM = 24
OPTIONS = ComparisonOptions(margin=0.05, trained=frozenset(), stage=None, thresholds=ChangeThresholds())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `before`, `null` (the same model, another seed) and `after`: of the eval problems some are new, some lost, the rest stay."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"id": f"p{i}", "prompt": f"{i} + {i + 1} =", "answer": str(2 * i + 1)} for i in range(NUM)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 8}\nsplit: {train: 0.01, final: 0}\n"
    (folder / "sums.yaml").write_text(f"{settings}measure: {{primary_k: 4}}\n")
    (folder / "kept.yaml").write_text(f"{settings}measure: {{primary_k: 4}}\npurpose: retention\n".replace("rows", "kept"))
    (folder / "kept.jsonl").write_text(
        "".join(json.dumps({**row, "id": f"k{i}", "prompt": f"{i} plus {i + 1} ="}) + "\n" for i, row in enumerate(rows))
    )
    kept = {f"k{i}": 0.9 for i in range(NUM)}
    before = {f"p{i}": 0.0 if i < 8 else 0.5 for i in range(NUM)}
    after = {f"p{i}": 0.6 if i < 8 else 0.0 if i < 12 else 0.5 for i in range(NUM)}
    for name, rates, seed in (("before", before, 0), ("null", before, 1), ("after", after, 0)):
        model = folder / f"{'after' if name == 'after' else 'before'}.yaml"
        model.write_text(json.dumps({"success": rates | kept}))
        diagnose.run(
            model, [folder / "sums.yaml", folder / "kept.yaml"], out=folder / name, engine="scripted", samples=32, seed=seed
        )
    return folder


def compare_json(before: Run, after: Run, out: Path, **arguments: Any) -> dict[str, Any]:
    """Compare two runs and return what compare.json holds, without a report."""
    transition = compare_folders(before, after, **arguments)
    write_comparison(out, transition, RunEntry(), {})
    data: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return data


def refused(call: Callable[..., Any], **arguments: Any) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(UserError) as error:
        call(**arguments)
    return error.value.code


@pytest.fixture(scope="module")
def measured(runs: Path) -> dict[str, DiagnosedRun]:
    """Return the three runs, read back once."""
    return {name: diagnose.assemble(runs / name) for name in ("before", "null", "after")}


@pytest.fixture
def compared(measured: dict[str, DiagnosedRun], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def compare(**arguments: Any) -> dict[str, Any]:
        data = compare_json(measured["before"], measured["after"], tmp_path / "out", **arguments)
        return data | {b["name"]: b for b in data["behaviors"]}

    return compare


def test_what_happened_is_told_problem_by_problem_and_in_sum(compared: Callable[..., dict[str, Any]]) -> None:
    data = compared()
    assert (data["schema"], data["null"]) == (1, "dealt")
    sums = data["sums"]
    states = {row["id"]: row["state"] for row in sums["problems"]}
    eval_new = [i for i in range(8) if f"p{i}" in states]
    # Problems without a success in 32 samples each: a rate of epsilon shows none in .81 of cases, so the place is open, in sum and for each.
    assert all(states[f"p{i}"] == ProblemChange.UNDETERMINED for i in (*eval_new, *range(8, 12)) if f"p{i}" in states)
    role = sums["role"]
    assert (sums["role_observed"], role["leans_outside"]) == (ObservedRole.GAIN_PLACE_OPEN, True)
    assert role["samples_that_tell"] > 32
    assert {RoleNote.UNCERTAIN_PLACE, RoleNote.LOSSES_PLACE_OPEN} <= set(sums["note_codes"])
    assert role["words"] == "gain, place open, with losses, place open"
    assert (role["probability"], role["change"]["entered"]) == (None, None)
    row = sums["problems"][0]
    assert (row["n_before"], row["n_after"], row["num_samples"], row["missing_after"]) == (32, 32, 32, 0)
    assert row["c_after"] == round(32 * row["after"])
    assert sums["first_loss"]["largest_k"] == 32
    assert {row["name"] for row in role["tests"]} >= {"pass@1", "gained", "lost"}
    assert all("max-T" in row["method"] for row in sums["pass_at_k_delta"])
    assert sums["pass_at_k_delta"][0]["low"] <= sums["pass_at_1"]["delta"]["low"]
    never = sums["never_solved"]
    assert never["num_problems"] == pytest.approx(len(eval_new), abs=0.2)
    assert never["gain"]["low"] <= 0.6 <= never["gain"]["high"]
    assert set(sums["support"]) == {"SRR", "NDR", "SDS", "NSCR"}
    kept = data["kept"]
    assert kept["role_observed"] == "not_distinguishable"
    assert kept["equivalence"]["margin"] == 0.05
    assert kept["equivalence"]["verdict"] in ("equivalent", "undecided")


def test_the_null_is_dealt_or_a_second_run(
    compared: Callable[..., dict[str, Any]], measured: dict[str, DiagnosedRun], runs: Path
) -> None:
    dealt, second = compared(), compared(null=measured["null"])
    assert second["null"] == str(runs / "null")
    methods = [data["sums"]["support"]["NDR"]["null"]["method"] for data in (dealt, second)]
    assert [word in method for word, method in zip(("dealt", "second run"), methods, strict=True)] == [True] * 2
    for data in (dealt, second):
        ndr = data["sums"]["support"]["NDR"]
        assert ndr["estimate"] > ndr["null"]["high"] + 0.05
    assert "second run" in second["sums"]["never_solved"]["gain"]["method"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"max_tokens": "9"}, "sampling.max_tokens: 8 and 9"),
        ({"system": "Be brief."}, "prompt.system: None and 'Be brief.'"),
        ({"verifier": "exact"}, "verifier.kind: 'number' and 'exact'"),
        ({"limit": 5}, "eval problems: "),
    ],
)
def test_what_two_behaviors_of_one_name_have_otherwise_is_said(
    measured: dict[str, DiagnosedRun], runs: Path, tmp_path: Path, option: dict[str, Any], said: str
) -> None:
    loaded = load_behaviors([runs / "sums.yaml"], read_behavior_options(**option))
    other = diagnose.run(runs / "before.yaml", loaded, out=tmp_path / "run", engine="scripted", samples=2, probes=["none"])
    with pytest.raises(UserError) as error:
        compare_folders(measured["before"], other)
    assert (error.value.code, said in str(error.value)) == ("other_behavior", True)


def test_a_margin_of_equivalence_is_the_users(compared: Callable[..., dict[str, Any]]) -> None:
    assert compared(margin=0.3)["kept"]["equivalence"]["verdict"] == "equivalent"
    assert refused(compared, margin=0.0) == "margin_out_of_range"


def test_copies_and_other_models_are_no_null(
    runs: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]], measured: dict[str, DiagnosedRun]
) -> None:
    assert refused(compared, null=measured["before"]) == "same_samples"
    assert refused(compared, null=measured["after"]) == "null_of_other_model"
    copy = tmp_path / "copy"
    copy_run(runs / "before", copy, seed=7)
    assert refused(compared, null=copy) == "same_samples"


def test_two_runs_of_one_model_show_no_role_and_no_gain(runs: Path, tmp_path: Path) -> None:
    transition = diagnose.compare(runs / "before", runs / "null", out=tmp_path / "out")
    for behavior in transition.behaviors:
        assert behavior.role.role is ObservedRole.NOT_DISTINGUISHABLE
        assert all(change.state not in (ProblemChange.EXPANDED, ProblemChange.ATTRITED) for change in behavior.changes)
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("; not distinguishable |") == len(transition.behaviors)
    assert "**retention**: " in page


def test_page_and_gate_tell_one_interval_of_runs_in_rounds(tmp_path: Path, sums_file: Path) -> None:
    for name, success in (("weak", 0.15), ("strong", 0.45)):
        (tmp_path / f"{name}.yaml").write_text(f"success: {success}\n")
        diagnose.run(
            str(tmp_path / f"{name}.yaml"), [sums_file], out=tmp_path / name, engine="scripted", precision=0.12, seed=len(name)
        )
    transition = compare_folders(tmp_path / "weak", tmp_path / "strong")
    report = transition.behaviors[0]
    assert report.delta.low <= 0.3 <= report.delta.high
    assert report.role.gain
    assert sum(row.n_before for row in report.changes) >= report.num_samples * report.num_problems
    write_comparison(tmp_path / "told", transition, RunEntry(), {})
    (found,) = diagnose.gate(tmp_path / "told", ["delta pass@1>=0"]).conditions
    told = [found.check.estimate, found.check.low, found.check.high]
    assert told == pytest.approx([report.delta.estimate, report.delta.low, report.delta.high])


@pytest.mark.statistical
def test_unequal_samples_are_compared_by_likelihood_of_all_of_them() -> None:
    """Stopping at the third success biases c/n; the change that is reported is not fooled by it, and the fewest samples are 3."""
    covered = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        first = rng.uniform(0.05, 0.6, 80)
        last = first + 0.2
        sides = [until_third_success(rng, rates, 40) for rates in (first, last)]
        counts = paired(*sides[0], *sides[1], adaptive=True)
        fewest = np.full(80, counts.fewest)
        few = replace(counts, n_before=fewest, c_before=0 * fewest, n_after=fewest, c_after=0 * fewest)
        found = compare_counts("sums", counts, few, MeasureSettings(primary_k=4, epsilon=0.0064), OPTIONS)
        covered += found.delta.low <= 0.2 <= found.delta.high
        assert ComparisonNote.ADAPTIVE_SAMPLING in found.notes
        assert found.delta == Estimate.of(pass_at_k_changes(counts, [1])[0]), "what a gate computes from the same counts"
        assert [row.n_after for row in found.changes] == counts.n_after.tolist()
    assert covered >= 6
    assert counts.fewest <= 4 < np.median(counts.n_before)


def test_missing_samples_widen_what_a_comparison_tells() -> None:
    """Pass@1 falls by .05; of 20 samples of each problem one that failed after has no outcome, and one problem has none at all."""
    n, seen, after = np.full(41, 20), np.full(41, 10), np.full(41, 9)
    known, lacking = np.full(41, 19), np.full(41, 1)
    known[0], after[0], lacking[0] = 0, 0, 20
    counts = paired(n, seen, known, after, missing_after=lacking)
    few = replace(counts, n_before=known, c_before=np.minimum(seen, known))
    found = compare_counts("sums", counts, few, MeasureSettings(primary_k=4, epsilon=0.0064), OPTIONS)
    assert found.delta.estimate == pytest.approx(9 / 19 - 0.5)
    assert found.delta.low < -0.05 - 0.5 / 41 < 0.0 < found.delta.high
    assert found.num_missing == (0, 60)
    assert ComparisonNote.MISSING_SAMPLES in found.notes
    assert (found.changes[0].state, found.changes[0].missing_after) == (ProblemChange.UNDETERMINED, 20)


def test_drift_from_the_model_before_is_told_where_it_was_measured(runs: Path, tmp_path: Path) -> None:
    """The drift probe of the run after, given the model before as the earlier one."""
    diagnose.run(
        runs / "after.yaml", [runs / "sums.yaml"], out=tmp_path / "after", engine="scripted", samples=32, probes=["drift"], earlier=str(runs / "before.yaml")
    )  # fmt: skip
    (sums,) = compare_json(runs / "before", tmp_path / "after", tmp_path / "told")["behaviors"]
    kl = sums["drift"]["forward_kl_per_sample"]
    assert 0 < kl["low"] <= kl["estimate"] <= kl["high"]
    (other,) = compare_json(runs / "after", tmp_path / "after", tmp_path / "other")["behaviors"]
    assert not any("_kl_" in name for name in other["drift"])
