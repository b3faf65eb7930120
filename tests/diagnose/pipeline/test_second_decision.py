"""A run decided again with other numbers, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.imported_runs import SAMPLED_PLAINLY, run_of, samples_of

from posttrain.cli.entry_point import app
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.pipeline.second_decision import decide_again
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.run_check import check_folder


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
