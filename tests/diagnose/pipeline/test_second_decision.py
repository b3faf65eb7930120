"""A run decided again with other numbers, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.imported_runs import SAMPLED_PLAINLY, SOURCE, run_of, samples_of
from helpers.refusals import refused

from posttrain.cli.entry_point import app
from posttrain.diagnose.errors import RunError, SettingsError, UserError
from posttrain.diagnose.importing.imported import SampleSource
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.diagnose_run import run as diagnose
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.pipeline.second_decision import decide_again
from posttrain.diagnose.probes.drift import DriftOutcome
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.run_check import check_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Bottleneck, Sampling, SkipReason


@pytest.fixture
def run(tmp_path: Path) -> Path:
    outcomes = {f"p{i}": [float(i % 3 == j) for j in range(8)] for i in range(12)}
    return run_of(samples_of(outcomes), tmp_path / "run", SAMPLED_PLAINLY).path


def test_numbers_that_decide_are_taken_kept_and_given_up_again(run: Path) -> None:
    write_run(assemble(run))
    before = read_model(run / "diagnosis.json", DiagnosisFile)
    decided = decide_again(run, epsilon=0.3, primary_k=4, retention_weight=0.5, command="again")
    assert (decided["sums"].behavior.measure.epsilon, decided["sums"].behavior.measure.primary_k) == (0.3, 4)
    assert assemble(run).diagnoses == decided.diagnoses
    file = read_model(run / "diagnosis.json", DiagnosisFile)
    assert {check.name for check in file.behaviors[0].checks} >= {"pass@4"}
    assert file.behaviors[0].shares != before.behaviors[0].shares
    assert file.run.command == "again"
    check_folder(run)
    decide_again(run)
    assert read_model(run / "diagnosis.json", DiagnosisFile).behaviors == before.behaviors


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--epsilon 0", "epsilon"),
        ("--epsilon 0.95", "epsilon"),
        ("--primary-k 0", "primary_k"),
        ("--retention-weight -1", "threshold_out_of_range"),
        ("--samples 4", "needs_model"),
        ("--seed 0", "needs_model"),
        ("demo products", "needs_model"),
    ],
)
def test_what_cannot_be_decided_again_is_refused_and_changes_nothing(run: Path, words: str, code: str) -> None:
    there = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        app(["diagnose", *words.split(), "--from", str(run)], standalone_mode=False)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == there


@pytest.mark.parametrize(
    ("words", "code"),
    [("", "missing_argument"), ("demo", "missing_argument"), ("demo products --epsilon 0.1", "without_from")],
)
def test_without_from_a_model_is_needed(words: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        app(["diagnose", *words.split()], standalone_mode=False)
    assert caught.value.code == code


# ------------------------------------------------------------------------------------------------------------- an earlier run


def solved(folder: Path, name: str, num_right: int, source: SampleSource = SAMPLED_PLAINLY, behavior: str = "sums") -> Path:
    """Import 16 samples of each of 12 problems, as many of them right."""
    outcomes = {f"p{i}": [float(j < num_right) for j in range(16)] for i in range(12)}
    return run_of(samples_of(outcomes, behavior=behavior), folder / name, source).path


def codes(run: DiagnosedRun) -> set[str]:
    finding = run["sums"].answers[0].finding
    assert finding is not None
    return {note.code for note in finding.notes}


def test_what_an_earlier_run_solved_is_evidence_without_a_model(tmp_path: Path) -> None:
    earlier, now = solved(tmp_path, "earlier", 12), solved(tmp_path, "now", 0)
    alone = decide_again(now).diagnoses[0].bottleneck
    decided = decide_again(now, before=earlier)
    assert alone is not Bottleneck.ATTRITION
    assert decided.diagnoses[0].bottleneck is Bottleneck.ATTRITION
    (answer,) = decided["sums"].answers
    assert answer.finding is not None
    assert answer.finding.outcome == DriftOutcome.LOST
    assert answer.finding.numbers["problems lost"].estimate == 12
    assert codes(decided) == {"no_model"}
    assert assemble(now).diagnoses == decided.diagnoses  # what `report` and `compare` read
    assert read_model(now / "diagnosis.json", DiagnosisFile).behaviors[0].bottleneck is Bottleneck.ATTRITION
    check_folder(now)
    assert decide_again(now).diagnoses[0].bottleneck is alone


def test_a_run_that_lost_nothing_shows_no_fall(tmp_path: Path) -> None:
    earlier, now = solved(tmp_path, "earlier", 4), solved(tmp_path, "now", 5)
    finding = decide_again(now, before=earlier)["sums"].answers[0].finding
    assert finding is not None
    assert (finding.outcome, finding.evidence) == (DriftOutcome.NONE_FELL, ())


@pytest.mark.parametrize("unknown", ["earlier", "now"])
def test_where_sampling_is_not_known_a_fall_says_nothing_of_support(unknown: str, tmp_path: Path) -> None:
    sources = {name: SOURCE if name == unknown else SAMPLED_PLAINLY for name in ("earlier", "now")}
    earlier, now = (solved(tmp_path, name, num, sources[name]) for name, num in (("earlier", 12), ("now", 0)))
    decided = decide_again(now, before=earlier)
    finding = decided["sums"].answers[0].finding
    assert finding is not None
    assert (finding.outcome, finding.evidence) == (DriftOutcome.SOME_FELL, ())
    assert codes(decided) == {"no_model", "sampling_not_plain"}


def test_samples_that_repeat_are_not_compared(tmp_path: Path) -> None:
    source = SampleSource(format="table", model="m", sampling=Sampling(max_tokens=0, temperature=0.0))
    earlier, now = (solved(tmp_path, name, num, source) for name, num in (("earlier", 16), ("now", 0)))
    (answer,) = decide_again(now, before=earlier)["sums"].answers
    assert answer.skipped is SkipReason.NOT_SUPPORTED


def test_earlier_runs_that_do_not_fit_are_refused_and_change_nothing(run: Path, tmp_path: Path) -> None:
    other = solved(tmp_path, "other", 3, behavior="products")
    unlike = run_of(samples_of({f"q{i}": [1.0] * 4 for i in range(4)}), tmp_path / "unlike", SAMPLED_PLAINLY).path
    there = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for before, kind, code in (
        (run, SettingsError, "before_is_out"),
        (other, SettingsError, "before_without_behavior"),
        (unlike, RunError, "no_shared_problem"),
        (tmp_path / "none", RunError, "no_run"),
    ):
        with refused(kind, code):
            decide_again(run, before=before)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == there


def test_runs_of_our_own_are_decided_again_with_an_earlier_one(sums_file: Path, tmp_path: Path) -> None:
    for name, rate in (("earlier", 0.8), ("now", 0.0)):
        (tmp_path / f"{name}.yaml").write_text(f"success: {rate}\n")
        diagnose(tmp_path / f"{name}.yaml", [sums_file], out=tmp_path / name, engine="scripted", samples=12, probes=["none"])
    words = f"diagnose --from {tmp_path / 'now'} --before {tmp_path / 'earlier'} --quiet"
    app(words.split(), standalone_mode=False)
    file = read_model(tmp_path / "now" / "diagnosis.json", DiagnosisFile)
    assert file.behaviors[0].bottleneck is Bottleneck.ATTRITION
    assert RunDirectory(tmp_path / "now").read_json()["decision"]["before"] == str(tmp_path / "earlier")
    assert "no_model" in (tmp_path / "now" / "diagnosis.json").read_text()
    assert (tmp_path / "now" / "report.md").read_text().count("Decided without a model") == 1
