"""A run: its numbers, its files, resuming it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.interrupted_engine import InterruptedEngine

from posttrain import diagnose
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.errors import BehaviorError, RunError, SettingsError
from posttrain.diagnose.pipeline import measure_behaviors
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import plan
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Bottleneck, Split


@pytest.fixture
def script(tmp_path: Path) -> Callable[[float], str]:
    def write(success: float) -> str:
        path = tmp_path / f"model-{success}.yaml"
        path.write_text(f"success: {success}\n")
        return str(path)

    return write


def without_cost(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((path / "diagnosis.json").read_text())
    del data["run"], data["checksum"]  # where, when and by which command
    for behavior in data["behaviors"]:
        del behavior["cost"]
        if behavior["settles_with"]:
            del behavior["settles_with"]["seconds"]  # it follows from the cost
    return data


def test_known_success_is_recovered(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    run = diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted", samples=200)
    diagnosis = run.diagnoses[0]
    assert diagnosis.bottleneck is Bottleneck.POOR_CHOICE
    check = next(c for c in diagnosis.checks if c.name == "pass@1")
    assert check.low <= 0.3 <= check.high
    k4 = next(p for p in diagnosis.pass_at_k if p.k == 4)
    assert k4.value.estimate == pytest.approx(1 - 0.7**4, abs=0.05)
    assert all(p.split is Split.EVAL for p in diagnosis.problems)


def test_a_run_leaves_what_the_contract_names(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    diagnose.run(script(0.3), [sums_file], out=out, engine="scripted", samples=8, probes=["none"])
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "done"
    assert record["settings"]["samples"] == 8
    for name in ("diagnosis.json", "report.html", "report.md"):
        assert (out / name).stat().st_size > 100
    for folder in ("rollouts", "paths", "figures"):
        assert any((out / folder).iterdir())
    behavior = json.loads((out / "diagnosis.json").read_text())["behaviors"][0]
    wanted = {
        "name", "bottleneck", "confidence", "role", "shares", "stage", "checks", "pass_at_k", "problems", "settles_with", "cost",
    }  # fmt: skip
    assert wanted <= set(behavior)
    assert {"id", "split", "state", "posterior", "num_samples", "num_correct", "p", "p_low", "p_high", "prefix_needed"} <= set(
        behavior["problems"][0]
    )
    assert behavior["cost"]["samples"] == 9 * len(behavior["problems"])


def test_a_run_killed_half_way_ends_like_an_undisturbed_one(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    whole = diagnose.run(tiny_model, [sums_file], out=tmp_path / "whole", samples=60, seed=5, pilot=False)
    engine = InterruptedEngine(open_engine("transformers", str(tiny_model), [diagnose.load_behavior(sums_file)]), 2)
    with pytest.raises(KeyboardInterrupt):
        diagnose.run(tiny_model, [sums_file], out=tmp_path / "killed", samples=60, seed=5, pilot=False, engine=engine)
    assert len(list((tmp_path / "killed" / "rollouts").glob("*.parquet"))) == 2
    assert not (tmp_path / "killed" / "diagnosis.json").exists()
    resumed = diagnose.run(tiny_model, [sums_file], out=tmp_path / "killed", samples=60, seed=5, pilot=False)
    assert without_cost(tmp_path / "killed") == without_cost(tmp_path / "whole")
    assert [r.token_ids for r in resumed.behaviors[0].rollouts] == [r.token_ids for r in whole.behaviors[0].rollouts]


def test_what_took_long_to_sample_is_reported_before_its_probes(
    sums_file: Path,
    script: Callable[[float], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model, options = script(0.001), {"engine": "scripted", "samples": 16, "probes": ["auto"]}
    whole = diagnose.run(model, [sums_file], out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    assert any(answer.finding for answer in whole.behaviors[0].answers), "else there is nothing to come"
    with monkeypatch.context() as patched:
        patched.setattr(measure_behaviors, "LONG", -1.0)
        patched.setattr(measure_behaviors, "run_probes", stopped)
        with pytest.raises(KeyboardInterrupt):
            diagnose.run(model, [sums_file], out=tmp_path / "run", reporter=Reporter(), **options)  # type: ignore[arg-type]
    assert "First report" in capsys.readouterr().err
    for page in ("report.md", "report.html"):
        assert "further probes are still to come" in (tmp_path / "run" / page).read_text()
    assert not (tmp_path / "run" / "diagnosis.json").exists(), "which says that a run is finished"
    diagnose.run(model, [sums_file], out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert without_cost(tmp_path / "run") == without_cost(tmp_path / "whole")
    assert "still to come" not in (tmp_path / "run" / "report.md").read_text()


def test_what_takes_long_to_sample_is_reported_after_a_quarter(
    sums_file: Path, script: Callable[[float], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []

    class Reading(Reporter):
        def say(self, text: str) -> None:
            if "First report" in text:
                pages.append((tmp_path / "run" / "report.md").read_text())

    other = sums_file.with_name("more.yaml")
    other.write_text(sums_file.read_text())
    model, options = script(0.3), {"engine": "scripted", "samples": 16}
    monkeypatch.setattr(plan, "MANY_TOKENS", 0)
    diagnose.run(model, [sums_file, other], out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    monkeypatch.setattr(measure_behaviors, "LONG", -1.0)
    run = diagnose.run(model, [sums_file, other], out=tmp_path / "run", reporter=Reading(), **options)  # type: ignore[arg-type]
    assert len(pages) == 4, "each behavior after its first samples and before its probes"
    for page in pages[0::2]:
        assert "greedy samples and further samples are still to come" in page
        assert f"{4 * len(run.diagnoses[0].problems)} samples" in page
    for page in pages[1::2]:
        assert "further probes are still to come" in page
    for page in pages[:2]:
        assert "Not shown yet: more." in page
        assert "## more" not in page
    for page in pages[2:]:
        assert "Not shown yet" not in page
        assert "## sums" in page
        assert "## more" in page
    assert "still to come" not in (tmp_path / "run" / "report.md").read_text()
    assert without_cost(tmp_path / "run") == without_cost(tmp_path / "whole")


def test_rounds_stop_when_the_label_is_decided(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    run = diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted", max_tokens_total=100_000)
    diagnosis = run.diagnoses[0]
    assert diagnosis.bottleneck is Bottleneck.POOR_CHOICE
    assert diagnosis.confidence >= 0.99
    assert diagnosis.cost.samples <= 40 * len(diagnosis.problems)
    assert run.behaviors[0].plan.num_rounds >= 1
    ending = json.loads(RunDirectory(run.path).part("done", "sums").read_text())
    assert ending["ended_code"] == "label_decided"
    assert run.behaviors[0].plan.ended_because == ending["ended_because"] != ""
    rows = run.behaviors[0].rollouts
    for problem in diagnosis.problems:
        sampled = sorted(r.sample_index for r in rows if r.problem_id == problem.id and r.decoding == "sampled")
        assert sampled == list(range(problem.num_samples + problem.num_missing))


@pytest.mark.slow
def test_rounds_keep_to_their_budget(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    free = diagnose.run(script(0.004), [sums_file], out=tmp_path / "free", engine="scripted", max_tokens_total=1_000_000)
    spent = free.diagnoses[0].cost.generated_tokens
    run = diagnose.run(script(0.004), [sums_file], out=tmp_path / "run", engine="scripted", max_tokens_total=spent // 2)
    assert 0 < run.diagnoses[0].cost.generated_tokens <= 1.02 * (spent // 2)
    assert json.loads(RunDirectory(run.path).part("done", "sums").read_text())["ended_code"] == "budget_spent"


def test_precision_is_reached(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    run = diagnose.run(script(0.1), [sums_file], out=tmp_path / "run", engine="scripted", precision=0.2)
    point = next(p for p in run.diagnoses[0].pass_at_k if p.k == run.behaviors[0].behavior.measure.primary_k)
    assert (point.value.high - point.value.low) / 2 <= 0.2


@pytest.mark.slow
def test_rounds_that_were_killed_end_like_undisturbed_ones(
    sums_file: Path, script: Callable[[float], str], tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"engine": "scripted", "max_tokens_total": 6_000}
    diagnose.run(script(0.006), [sums_file], out=tmp_path / "whole", **arguments)
    total = len(list((tmp_path / "whole" / "rollouts").glob("*.parquet")))
    assert total > 5
    for survives in (3, total - 1):
        out = tmp_path / f"killed-{survives}"
        engine = InterruptedEngine(open_engine("scripted", script(0.006), [diagnose.load_behavior(sums_file)]), survives)
        with pytest.raises(KeyboardInterrupt):
            diagnose.run(script(0.006), [sums_file], out=out, **(arguments | {"engine": engine}))
        diagnose.run(script(0.006), [sums_file], out=out, **arguments)
        assert without_cost(out) == without_cost(tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"samples": 4, "precision": 0.1}, "samples_and_rounds"),
        ({"samples": 0}, "samples"),
        ({"precision": 0.7}, "precision"),
        ({"max_tokens_total": 0}, "max_tokens_total"),
        ({"split": Split.TRAIN, "probes": ["no_such_probe"]}, "unknown_probe"),
    ],
)
def test_contradictory_goals_are_refused(
    sums_file: Path, script: Callable[[float], str], tmp_path: Path, given: dict[str, Any], code: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted", **given)
    assert refused.value.code == code
    assert not (tmp_path / "run").exists()


def test_the_plan_says_what_the_design_can_see(sums_file: Path) -> None:
    request = DiagnoseRequest(model="demo", behaviors=[sums_file], out="unused", samples=256)
    assert "rules out rates above 0.012" in " ".join(diagnose.plan_run(request).lines)
    plan = diagnose.plan_run(DiagnoseRequest(model="demo", behaviors=[sums_file], out="unused", max_tokens_total=100_000))
    assert plan.max_tokens == 100_000


def test_a_finished_run_is_not_sampled_again(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    out, model = tmp_path / "run", script(0.3)
    diagnose.run(model, [sums_file], out=out, engine="scripted", samples=8)
    before = (out / "diagnosis.json").read_bytes()
    engine = InterruptedEngine(open_engine("scripted", model, [diagnose.load_behavior(sums_file)]), 0)
    diagnose.run(model, [sums_file], out=out, engine=engine, samples=8)
    assert (out / "diagnosis.json").read_bytes() == before
    assert diagnose.assemble(out).diagnoses[0].sentence
    assert (out / "diagnosis.json").read_bytes() == before


@pytest.mark.parametrize("changed", [{"samples": 9}, {"seed": 1}])
def test_a_folder_of_another_run_is_refused_with_the_difference(
    sums_file: Path, script: Callable[[float], str], tmp_path: Path, changed: dict[str, int]
) -> None:
    arguments: dict[str, Any] = {"out": tmp_path / "run", "engine": "scripted", "samples": 8, "seed": 0}
    diagnose.run(script(0.3), [sums_file], **arguments)
    for model, settings, key in ((0.3, arguments | changed, next(iter(changed))), (0.4, arguments, "model_fingerprint")):
        with pytest.raises(RunError) as refused:
            diagnose.run(script(model), [sums_file], **settings)
        assert refused.value.code == "other_settings"
        assert f"{key}: there" in str(refused.value)


def test_a_folder_with_other_files_is_refused(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError) as refused:
        diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted")
    assert refused.value.code == "other_files"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_verifier_that_fails_its_self_test_costs_no_sample(sums_file: Path, tmp_path: Path) -> None:
    behavior = tmp_path / "broken.yaml"
    behavior.write_text("problems: rows.jsonl\nverifier: {kind: exact}\nprompt: {format: completion}\n")
    (tmp_path / "m.yaml").write_text("success: 0.5\n")
    run = diagnose.run(str(tmp_path / "m.yaml"), [behavior], out=tmp_path / "run", engine="scripted", samples=4)
    assert run.diagnoses[0].bottleneck is Bottleneck.INVALID
    assert "reference path" in run.diagnoses[0].sentence
    assert not (tmp_path / "run" / "rollouts").exists()


def test_the_plan_counts_what_the_run_draws(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    plan = diagnose.plan_run(DiagnoseRequest(model=script(0.3), behaviors=[sums_file], out="unused", samples=6, probes=["none"]))
    run = diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted", samples=6, probes=["none"])
    assert plan.samples == run.diagnoses[0].cost.samples
    assert plan.max_tokens >= run.diagnoses[0].cost.generated_tokens
    assert plan.reference_paths == len(run.behaviors[0].paths)


def test_thoughts_are_counted_apart(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    """Half of the samples think of the answer and never come to say it."""
    rows = [
        {"id": f"p{i}", "prompt": f"{i} plus 40?", "answer": str(i + 40), "references": [f"Add.</think>{i + 40}"]}
        for i in range(12)
    ]
    problems = write_rows(rows)
    behavior = tmp_path / "thinks.yaml"
    behavior.write_text(
        f'name: thinks\nproblems: {problems}\nverifier: {{kind: number}}\nprompt: {{template: "{{question}} <think>", format: completion}}\n'
    )
    model = tmp_path / "model.yaml"
    model.write_text("success: 0.5\nwrong: The answer is 7\n")
    out = tmp_path / "run"
    diagnose.run(str(model), [behavior], out=out, engine="scripted", samples=32, probes=["none"])
    (entry,) = json.loads((out / "diagnosis.json").read_text())["behaviors"]
    total = {
        name: sum(problem[name] for problem in entry["problems"]) for name in entry["problems"][0] if name.startswith("num_")
    }
    assert total["num_unfinished_thoughts"] == total["num_samples"] - total["num_correct"] > 0
    assert (total["num_unparsed"], total["num_truncated"]) == (0, 0)
    # "Add.</think>" and "The answer is 7", a token a byte
    assert total["num_thought_tokens"] == 12 * total["num_correct"] + 15 * total["num_unfinished_thoughts"]
    assert total["num_tokens"] == total["num_thought_tokens"] + 3 * total["num_correct"] + total["num_unfinished_thoughts"]
    assert "with an unfinished thought" in (out / "report.md").read_text()


def test_arguments_that_no_template_reads_are_refused(sums_file: Path, script: Callable[[float], str], tmp_path: Path) -> None:
    sums_file.write_text(
        sums_file.read_text().replace("format: completion", "format: completion, template_arguments: {enable_thinking: false}")
    )
    with pytest.raises(BehaviorError) as caught:
        diagnose.run(script(0.3), [sums_file], out=tmp_path / "run", engine="scripted", samples=2)
    assert caught.value.code == "template_arguments_unread"
    assert not (tmp_path / "run").exists()
