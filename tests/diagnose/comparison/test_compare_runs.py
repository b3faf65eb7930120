"""Comparisons of runs: what compare.json holds, the nulls, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import diagnose
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.types import ProblemChange

NUM = 24


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


@pytest.fixture
def compared(runs: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def compare(**arguments: Any) -> dict[str, Any]:
        diagnose.compare(runs / "before", runs / "after", out=tmp_path / "out", page=False, **arguments)
        data: dict[str, Any] = json.loads((tmp_path / "out" / "compare.json").read_text())
        return data | {b["name"]: b for b in data["behaviors"]}

    return compare


def test_what_happened_is_told_problem_by_problem_and_in_sum(compared: Callable[..., dict[str, Any]]) -> None:
    data = compared()
    assert (data["schema"], data["null"]) == (1, "predictive")
    sums = data["sums"]
    states = {row["id"]: row["state"] for row in sums["problems"]}
    eval_new = [i for i in range(8) if f"p{i}" in states]
    assert all(states[f"p{i}"] == ProblemChange.EXPANDED for i in eval_new)
    assert all(states[f"p{i}"] == ProblemChange.ATTRITED for i in range(8, 12) if f"p{i}" in states)
    assert sums["role_observed"] == "support_expansion"
    assert sums["role"]["words"] == "expansion, with attrition"
    assert sums["role"]["change"]["entered"] > 0.1
    assert {row["name"] for row in sums["role"]["tests"]} >= {"pass@1", "gained", "lost"}
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


def test_the_null_can_be_halves_or_a_second_draw(compared: Callable[..., dict[str, Any]], runs: Path) -> None:
    predicted, halves, second = (compared(null=null) for null in ("predictive", "halves", runs / "null"))
    assert halves["null"] == "halves"
    assert second["null"] == str(runs / "null")
    methods = [data["sums"]["support"]["NDR"]["null"]["method"] for data in (predicted, halves, second)]
    assert [word in method for word, method in zip(("predictive", "half", "second run"), methods, strict=True)] == [True] * 3
    for data in (predicted, halves, second):
        ndr = data["sums"]["support"]["NDR"]
        assert ndr["estimate"] > ndr["null"]["high"] + 0.1
    assert "second run" in second["sums"]["never_solved"]["gain"]["method"]


def test_a_margin_of_equivalence_is_the_users(compared: Callable[..., dict[str, Any]]) -> None:
    assert compared(margin=0.3)["kept"]["equivalence"]["verdict"] == "equivalent"
    with pytest.raises(SettingsError, match="--margin"):
        compared(margin=0.0)


def test_copies_and_other_models_are_no_null(runs: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RunError, match="identical"):
        compared(null=runs / "before")
    with pytest.raises(RunError, match="another model"):
        compared(null=runs / "after")
    copy = tmp_path / "copy"
    shutil.copytree(runs / "before", copy)
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["seed"] = 7
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="more alike than two draws"):
        compared(null=copy)


def test_two_draws_of_one_model_show_no_role_and_no_gain(runs: Path, tmp_path: Path) -> None:
    transition = diagnose.compare(runs / "before", runs / "null", out=tmp_path / "out")
    for behavior in transition.behaviors:
        assert behavior.role_observed == "not_distinguishable"
        assert all(change.state not in (ProblemChange.EXPANDED, ProblemChange.ATTRITED) for change in behavior.report.changes)
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("; not distinguishable |") == len(transition.behaviors)
    assert "**retention**: " in page


def test_runs_in_rounds_are_compared_by_likelihood(tmp_path: Path, sums_file: Path) -> None:
    """Stopping where successes show biases c/n; the change that is reported is not fooled by it."""
    for name, success in (("weak", 0.15), ("strong", 0.45)):
        (tmp_path / f"{name}.yaml").write_text(f"success: {success}\n")
        diagnose.run(
            str(tmp_path / f"{name}.yaml"), [sums_file], out=tmp_path / name, engine="scripted", precision=0.12, seed=len(name)
        )
    transition = diagnose.compare(tmp_path / "weak", tmp_path / "strong", out=tmp_path / "compared")
    report = transition.behaviors[0].report
    assert report.delta.low <= 0.3 <= report.delta.high
    assert "posteriors" in report.delta.method
    assert any("drew in rounds" in note for note in report.notes)


def test_drift_from_the_model_before_is_told_where_it_was_measured(runs: Path, tmp_path: Path) -> None:
    """The drift probe of the run after, given the model before as the earlier one."""
    diagnose.run(
        runs / "after.yaml", [runs / "sums.yaml"], out=tmp_path / "after", engine="scripted", samples=32, probes=["drift"], earlier=str(runs / "before.yaml")
    )  # fmt: skip
    diagnose.compare(runs / "before", tmp_path / "after", out=tmp_path / "told", page=False)
    (sums,) = json.loads((tmp_path / "told" / "compare.json").read_text())["behaviors"]
    kl = sums["drift"]["forward_kl_per_sample"]
    assert 0 < kl["low"] <= kl["estimate"] <= kl["high"]
    diagnose.compare(runs / "after", tmp_path / "after", out=tmp_path / "other", page=False)
    (other,) = json.loads((tmp_path / "other" / "compare.json").read_text())["behaviors"]
    assert not any("_kl_" in name for name in other["drift"])
