"""Which probes run, what they may spend, and what their findings do to the verdict; with a probe made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.diagnose import run
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.pipeline.run_plan import plan_run
from posttrain.diagnose.probes import runner as probing_module
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    ContributionKind,
    Estimate,
    Finding,
    LabelEvidence,
    Note,
    SkipReason,
    Split,
)


class Toy:
    """Takes one sample of every problem and has evidence for `guided_only`."""

    name = "toy"
    question = "Is this a toy?"

    def __init__(
        self, *, confidence: float = 0.99, worth: SkipReason | None = None, impossible: SkipReason | None = None
    ) -> None:
        self.confidence, self.why, self.impossible, self.budgets = confidence, worth, impossible, list[int]()

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        return ProbeCost(generated_tokens=100, when="where something is out of reach", impossible=self.impossible)

    def worth(self, context: ProbeContext) -> SkipReason | None:
        return self.why

    def run(self, context: ProbeContext) -> Finding:
        self.budgets.append(context.sampler.budget)
        prompt_requests = [PromptRequest(problem, context.sampler.prompt(problem).token_ids, 1) for problem in context.problems]
        drawn = context.sampler.sample(prompt_requests, condition="again")
        known, right = context.count_outcomes([rollout for row in drawn for rollout in row])
        return Finding(
            probe=self.name,
            behavior=context.behavior.name,
            outcome="counted",
            summary=f"{right} of {known} are right.",
            numbers={"share": Estimate(estimate=right / known, low=0.0, high=1.0, method="counted")},
            rows=({"x": 1},),
            problems={context.problems[0].id: {"prefix_needed": {"status": "found", "fraction": 0.5, "tokens": 3}}},
            evidence=(
                LabelEvidence(
                    label=Bottleneck.GUIDED_ONLY,
                    instead_of=(Bottleneck.MISSING_SUPPORT,),
                    confidence=self.confidence,
                    because="a toy says so",
                ),
            ),
            notes=(Note("toy", "only a toy"),),
        )


@pytest.fixture
def engine(sums_file: Path) -> ScriptedEngine:
    return ScriptedEngine.for_behaviors([load_behavior(sums_file)], 0.0)


def use(monkeypatch: pytest.MonkeyPatch, probe: Toy) -> None:
    monkeypatch.setattr(probing_module, "PROBES", (probe,))


def test_a_sure_argument_changes_the_verdict_and_is_told(
    monkeypatch: pytest.MonkeyPatch, sums_file: Path, engine: ScriptedEngine, tmp_path: Path
) -> None:
    use(monkeypatch, Toy())
    found = run("m", [sums_file], out=tmp_path / "run", engine=engine, samples=64)
    diagnosis = found.diagnoses[0]
    assert diagnosis.bottleneck is Bottleneck.GUIDED_ONLY
    assert "within reach from a part" in diagnosis.sentence
    assert diagnosis.confidence <= 0.99
    entry = json.loads((tmp_path / "run/diagnosis.json").read_text())["behaviors"][0]
    assert entry["probes"][0]["contribution"] == "makes it guided_only instead of missing_support, because a toy says so"
    assert entry["problems"][0]["prefix_needed"]["status"] == "found"
    assert entry["problems"][1]["prefix_needed"]["status"] == "not_probed"
    assert entry["cost"]["samples"] == 65 * len(entry["problems"]) + len(entry["problems"])
    for page in ("report.html", "report.md"):
        text = (tmp_path / "run" / page).read_text()
        assert "Is this a toy?" in text
        assert "a toy says so" in text
        assert "only a toy" in text


def test_a_doubtful_argument_only_leans(
    monkeypatch: pytest.MonkeyPatch, sums_file: Path, engine: ScriptedEngine, tmp_path: Path
) -> None:
    use(monkeypatch, Toy(confidence=0.8))
    found = run("m", [sums_file], out=tmp_path / "run", engine=engine, samples=64)
    assert found.diagnoses[0].bottleneck is Bottleneck.INCONCLUSIVE
    assert found.diagnoses[0].leans_to is Bottleneck.GUIDED_ONLY
    (contribution,) = found.diagnoses[0].contributions
    assert (contribution.kind, contribution.label) == (ContributionKind.NOT_SURE_ENOUGH, Bottleneck.GUIDED_ONLY)


def test_a_finished_probe_is_not_run_again_and_a_killed_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, sums_file: Path, engine: ScriptedEngine, tmp_path: Path
) -> None:
    probe = Toy()
    use(monkeypatch, probe)
    run("m", [sums_file], out=tmp_path / "run", engine=engine, samples=64)
    first = (tmp_path / "run/diagnosis.json").read_text()
    # Killed after its samples were stored and before its finding was.
    (tmp_path / "run/probes/sums.toy.json").unlink()
    (tmp_path / "run/done/sums.json").unlink()
    drawn: list[object] = []
    monkeypatch.setattr(type(engine), "sample", lambda *_, **__: drawn.append(1))
    run("m", [sums_file], out=tmp_path / "run", engine=engine, samples=64)
    assert not drawn
    assert probe.budgets[0] == probe.budgets[1]
    second = (tmp_path / "run/diagnosis.json").read_text()
    before, after = (json.loads(text)["behaviors"][0] | {"cost": None} for text in (first, second))
    assert before == after


@pytest.mark.parametrize(
    ("probe", "names", "skipped"),
    [
        (Toy(worth=SkipReason.WITHIN_SUPPORT), ["auto"], SkipReason.WITHIN_SUPPORT),
        (Toy(worth=SkipReason.WITHIN_SUPPORT), ["toy"], None),
        (Toy(impossible=SkipReason.NO_TEACHER), ["toy"], SkipReason.NO_TEACHER),
    ],
)
def test_probes_are_skipped_with_a_reason_unless_named(
    monkeypatch: pytest.MonkeyPatch,
    sums_file: Path,
    engine: ScriptedEngine,
    tmp_path: Path,
    probe: Toy,
    names: list[str],
    skipped: SkipReason | None,
) -> None:
    use(monkeypatch, probe)
    run("m", [sums_file], out=tmp_path / "run", engine=engine, probes=names)
    entry = json.loads((tmp_path / "run/diagnosis.json").read_text())["behaviors"][0]
    assert (entry["probes"][0]["skipped_code"] or None) == skipped


def test_none_runs_none_and_unknown_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, sums_file: Path, engine: ScriptedEngine, tmp_path: Path
) -> None:
    use(monkeypatch, Toy())
    run("m", [sums_file], out=tmp_path / "run", engine=engine, probes=["none"])
    assert json.loads((tmp_path / "run/diagnosis.json").read_text())["behaviors"][0]["probes"] == []
    with pytest.raises(SettingsError) as excinfo:
        run("m", [sums_file], out=tmp_path / "other", engine=engine, probes=["toi"])
    assert excinfo.value.code == "unknown_probe"
    assert not (tmp_path / "other").exists()


def test_a_named_probe_may_spend_more_and_a_total_budget_binds(
    monkeypatch: pytest.MonkeyPatch, sums_file: Path, engine: ScriptedEngine, tmp_path: Path
) -> None:
    probe = Toy()
    use(monkeypatch, probe)
    run("m", [sums_file], out=tmp_path / "a", engine=engine)
    run("m", [sums_file], out=tmp_path / "b", engine=engine, probes=["toy"])
    assert probe.budgets[1] == pytest.approx(2 * probe.budgets[0], abs=2)
    run("m", [sums_file], out=tmp_path / "c", engine=engine, max_tokens_total=600)
    entry = json.loads((tmp_path / "c/diagnosis.json").read_text())["behaviors"][0]
    assert entry["cost"]["generated_tokens"] <= 600 * 1.25


def test_a_dry_run_lists_probes_with_their_cost(monkeypatch: pytest.MonkeyPatch, sums_file: Path) -> None:
    use(monkeypatch, Toy())
    plan = plan_run(DiagnoseRequest(model="m", behaviors=[sums_file], out="unused"))
    assert any("probe toy: at most 100 tokens generated; runs where something is out of reach" in line for line in plan.lines)
    use(monkeypatch, Toy(impossible=SkipReason.NO_TEACHER))
    assert any(
        "probe toy: cannot run, there is no teacher" in line
        for line in plan_run(DiagnoseRequest(model="m", behaviors=[sums_file], out="unused")).lines
    )
