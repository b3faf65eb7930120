"""Several checkpoints: bands, which one to keep, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused

from posttrain import diagnose
from posttrain.diagnose.comparison.checkpoint_counts import CheckpointCounts
from posttrain.diagnose.comparison.checkpoints_json import (
    CheckpointBehaviorEntry,
    CheckpointPointEntry,
    CheckpointsFile,
    Direction,
    KeepCheckpointEntry,
    KeepNote,
    RetentionState,
)
from posttrain.diagnose.comparison.choose_checkpoint import choose_checkpoint
from posttrain.diagnose.comparison.compare_checkpoints import compare_behavior_along
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, SampleSource
from posttrain.diagnose.pipeline.checkpoint_files import checkpoints_file, compare_checkpoints, step_of
from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Purpose

NUM, SAMPLES = 30, 16
RATES = {"10": (0.1, 0.95), "20": (0.7, 0.95), "30": (0.72, 0.95), "40": (0.99, 0.3)}
"""Success on the target and on the retention behavior, by step."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[DiagnosedRun]:
    """Return a run per checkpoint; the last one is best on the target `sums` and has lost the retention behavior `kept`."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    found = []
    for step, rates in RATES.items():
        samples = [
            ImportedSample(behavior=name, problem=f"{name}{i}", score=float(rng.random() < rate), policy=step)
            for name, rate in zip(("sums", "kept"), rates, strict=True)
            for i in range(NUM)
            for _ in range(SAMPLES)
        ]
        source = SampleSource(format="table", model="m")
        run = store_run(ImportedSamples(source=source, samples=samples), ImportSettings(out=folder / f"checkpoint-{step}"))
        purposes = {"sums": Purpose.TARGET, "kept": Purpose.RETENTION}
        behaviors = [replace(one, behavior=replace(one.behavior, purpose=purposes[one.behavior.name])) for one in run.behaviors]
        found.append(replace(run, behaviors=tuple(behaviors)))
    return found


@pytest.fixture(scope="module")
def file(runs: list[DiagnosedRun]) -> CheckpointsFile:
    return checkpoints_file(runs, RunEntry(), margin=0.15)


def along(rates: Sequence[Sequence[float]], *, missing: int = 0, adaptive: bool = False) -> CheckpointCounts:
    """Return counts of 40 problems at checkpoints with these success rates, 20 samples each."""
    rng = np.random.default_rng(0)
    n = np.full((len(rates), 40), 20)
    c = np.array([rng.binomial(20, np.resize(one, 40)) for one in rates])
    ids = tuple(f"p{i}" for i in range(40))
    lacking = np.zeros_like(n)
    lacking[1] = missing
    return CheckpointCounts(ids=ids, groups=ids, n=n - lacking, c=np.minimum(c, n - lacking), missing=lacking, adaptive=adaptive)


def test_the_best_on_targets_that_lost_nothing_is_kept(file: CheckpointsFile) -> None:
    keep = file.keep
    assert [one.label for one in file.checkpoints] == ["step 10", "step 20", "step 30", "step 40"]
    assert [point.retention for point in file["kept"].points] == [
        RetentionState.KEPT, RetentionState.KEPT, RetentionState.KEPT, RetentionState.LOST,
    ]  # fmt: skip
    assert keep.candidates == [0, 1, 2]
    assert keep.may_be_best == [1, 2]
    assert keep.index in (1, 2)
    assert keep.retention is RetentionState.KEPT
    assert set(keep.note_codes) == {KeepNote.SEVERAL_MAY_BE_BEST}
    sums = file["sums"].points
    assert keep.observed == pytest.approx(max(sums[1].pass_at_k[0].estimate, sums[2].pass_at_k[0].estimate))
    assert keep.score.estimate <= keep.observed
    assert keep.score.low < 0.71 < keep.score.high


def test_bands_hold_at_all_checkpoints_at_once_and_problems_are_told_one_by_one(
    file: CheckpointsFile, runs: list[DiagnosedRun]
) -> None:
    sums = file["sums"]
    assert (sums.shown_k, sums.num_problems) == (16, NUM)
    assert [[point.k for point in one.pass_at_k] for one in sums.points] == [[1, 2, 4, 8, 16]] * 4
    assert not sums.points[0].change
    counts = CheckpointCounts.of([run["sums"] for run in runs])
    for index, point in enumerate(sums.points[1:], start=1):
        alone = pass_at_k_changes(counts.pair(0, index), [1])[0]
        assert point.change[0].estimate == pytest.approx(alone.estimate)
        assert point.change[0].low < alone.low
        assert alone.high < point.change[0].high
        assert point.num_risen == sum(one.directions[index] is Direction.ROSE for one in sums.problems)
        assert sum(point.states.values()) == sums.num_problems
    assert sums.points[3].num_risen == sums.num_problems
    assert (
        file["kept"].points[3].num_fallen == sum(one.directions[3] is Direction.FELL for one in file["kept"].problems) > NUM / 2
    )
    problem = sums.problems[0]
    assert len(problem.num_samples) == len(problem.num_correct) == len(problem.states) == 4
    assert problem.states[0] is None


def test_three_runs_write_a_file_and_a_report(runs: list[DiagnosedRun], tmp_path: Path) -> None:
    found = compare_checkpoints([run.path for run in runs[:3]], out=tmp_path / "along", labels=["a", "b", "c"])
    assert [one.label for one in found.checkpoints] == ["a", "b", "c"]
    stored = read_model(tmp_path / "along" / "checkpoints.json", CheckpointsFile)
    assert stored.keep == found.keep
    page = (tmp_path / "along" / "report.md").read_text()
    assert found.keep.words in page
    assert (tmp_path / "along" / "figures" / "along-sums" / "checkpoints.svg").is_file()
    before = (tmp_path / "along" / "report.html").read_text()
    assert diagnose.rewrite_report(tmp_path / "along").read_text() == before


def test_steps_come_from_the_record_of_the_model_or_from_names(runs: list[DiagnosedRun]) -> None:
    assert [step_of(run) for run in runs] == [10, 20, 30, 40]
    run = runs[0]
    assert step_of(replace(run, model={**run.model, "step": 7})) == 7
    run = replace(run, settings={})
    for name, step in (("out/global_step_120/", 120), ("m/step5", 5), ("Qwen2.5-7B", None), ("iter-3b", None)):
        assert step_of(replace(run, path=Path("/runs/mine"), model={"source": name})) == step
    assert step_of(replace(run, path=Path("/counts/step_30.jsonl"), model={})) == 30


def test_missing_outcomes_widen_the_set_of_those_that_may_be_best() -> None:
    behaviors = {"known": along([[0.3], [0.3], [0.7]]), "lacking": along([[0.3], [0.3], [0.7]], missing=12)}
    found = {name: _choose(counts) for name, counts in behaviors.items()}
    assert found["known"].may_be_best == [2]
    assert found["lacking"].may_be_best == [1, 2]
    assert KeepNote.MISSING_SAMPLES in found["lacking"].note_codes


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_that_is_shown_to_be_better_stands_alone(adaptive: bool) -> None:
    keep = _choose(along([[0.1, 0.3], [0.5, 0.9], [0.1, 0.4]], adaptive=adaptive))
    assert (keep.index, keep.may_be_best) == (1, [1])
    assert keep.score.estimate == pytest.approx(keep.observed)
    assert keep.observed == pytest.approx(0.7, abs=0.05)
    assert (KeepNote.ADAPTIVE_SAMPLING in keep.note_codes) is adaptive
    assert KeepNote.RETENTION_NOT_MEASURED in keep.note_codes


def test_the_first_stays_where_nothing_is_better() -> None:
    keep = _choose(along([[0.5], [0.5], [0.5]]))
    assert 0 in keep.may_be_best
    assert KeepNote.FIRST_MAY_BE_BEST in keep.note_codes


def _choose(counts: CheckpointCounts) -> KeepCheckpointEntry:
    """Choose by counts of one target; the entry holds no more than the choice reads."""
    points = [CheckpointPointEntry() for _ in counts.n]
    entry = CheckpointBehaviorEntry(name="b", purpose=Purpose.TARGET, num_problems=40, shown_k=1, points=points)
    return choose_checkpoint([entry], {"b": counts}, ["a", "b", "c"])


def test_a_drop_within_the_margin_is_kept_only_where_it_is_shown(runs: list[DiagnosedRun]) -> None:
    sides = [run["kept"] for run in runs[:3]]
    counts = CheckpointCounts.of(sides)
    for margin, state in ((0.2, RetentionState.KEPT), (0.001, RetentionState.OPEN)):
        entry = compare_behavior_along(sides, counts, margin=margin, thresholds=ChangeThresholds())
        assert [point.retention for point in entry.points[1:]] == [state, state]


def test_what_cannot_be_compared_is_refused(runs: list[DiagnosedRun], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with refused(SettingsError, "number_of_runs"):
        compare_checkpoints(runs[:2], out=out)
    with refused(SettingsError, "number_of_labels"):
        compare_checkpoints(runs, out=out, labels=["a", "b"])
    with refused(SettingsError, "name_twice"):
        compare_checkpoints(runs[:3], out=out, labels=["a", "b", "a"])
    with refused(SettingsError, "empty_label"):
        compare_checkpoints(runs[:3], out=out, labels=["a", "b", " "])
    with refused(SettingsError, "margin_out_of_range"):
        compare_checkpoints(runs[:3], out=out, margin=1.5)
    with refused(RunError, "same_samples"):
        compare_checkpoints([*runs[:2], runs[0]], out=out)
    with refused(RunError, "no_run"):
        compare_checkpoints([*runs[:2], tmp_path / "nowhere"], out=out)
    assert not out.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with refused(RunError, "other_files"):
        compare_checkpoints(runs[:3], out=tmp_path / "other")


def test_uneven_counts_show_the_estimates_of_their_own_reports(tmp_path: Path) -> None:
    """Wider bands, for all checkpoints at once, must not hide an estimate that each run shows alone."""
    rng = np.random.default_rng(10)
    runs = []
    for step in ("10", "20", "30", "40"):
        samples = [
            ImportedSample(behavior="sums", problem=f"p{i}", score=float(right), policy=step)
            for i, right in enumerate(rng.permutation(np.arange(24) < 12))
            for _ in range(2 if i == 0 else 1)
        ]
        found = ImportedSamples(source=SampleSource(format="table", model="m"), samples=samples)
        runs.append(store_run(found, ImportSettings(out=tmp_path / step)))
    shown = [point.pass_at_k[0] for point in checkpoints_file(runs, RunEntry()).behaviors[0].points]
    own = [next(one for one in run.diagnoses[0].pass_at_k if one.k == 1).value for run in runs]
    assert not any(np.isnan(one.estimate) for one in own)
    assert [one.estimate for one in shown] == pytest.approx([one.estimate for one in own], abs=1e-9)
    assert all(band.low < one.low for band, one in zip(shown, own, strict=True))
