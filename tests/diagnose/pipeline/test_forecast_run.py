"""`posttrain forecast` on finished runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from helpers.stored_runs import rewrite_shard

from posttrain import diagnose
from posttrain.analysis.stats import NoSignal
from posttrain.diagnose.errors import RunError, SettingsError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of eight problems that never succeed and eight that succeed in half of 16 samples."""
    folder = tmp_path_factory.mktemp("forecast")
    rows = [{"id": f"p{i}", "prompt": f"{i} and 1 is", "answer": str(1000 + i), "split": "eval"} for i in range(16)]
    (folder / "ones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ones.yaml").write_text("problems: ones.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n")
    rates = ", ".join(f"p{i}: {0.5 * (i % 2)}" for i in range(16))
    (folder / "model.yaml").write_text(f"success: {{{rates}}}\n")
    diagnose.run(
        str(folder / "model.yaml"), [folder / "ones.yaml"], out=folder / "run", engine="scripted", samples=16, probes=["none"]
    )
    return folder / "run"


def change(run: Path, target: Path, **columns: Any) -> Path:
    """Copy a run with other values in the columns of its sampled wrong answers."""
    shutil.copytree(run, target)
    for shard in (target / "rollouts").glob("*.parquet"):
        rewrite_shard(
            shard,
            lambda rows: {
                name: [
                    new if score == 0.0 and decoding == "sampled" else old
                    for old, score, decoding in zip(rows[name], rows["score"], rows["decoding"], strict=True)
                ]
                for name, new in columns.items()
            },
        )
    return target


def causes(run: Path, size: int) -> dict[NoSignal, float]:
    (one,) = diagnose.forecast(run, group_size=size).behaviors
    return {cause: share.estimate for cause, share in one.group_signal.at(size).causes.items()}


def test_half_of_the_groups_are_too_hard(run: Path) -> None:
    (one,) = diagnose.forecast(run).behaviors
    here = one.group_signal.at(one.group_signal.group_size)
    assert one.group_signal.group_size == 8  # the behavior's
    assert here.causes[NoSignal.TOO_HARD].estimate == pytest.approx(0.5, abs=0.01)
    assert here.total.low < 0.51 < here.total.high
    assert set(one.group_signal.selection.kept) == {f"p{i}" for i in range(1, 16, 2)}


def test_samples_are_counted_by_what_failed(run: Path, tmp_path: Path) -> None:
    assert causes(change(run, tmp_path / "cut", stop="length"), 8)[NoSignal.TRUNCATED] == pytest.approx(0.5, abs=0.01)
    assert causes(change(run, tmp_path / "unread", status="unparsed"), 8)[NoSignal.UNREAD] == pytest.approx(0.5, abs=0.01)
    lenient = causes(change(run, tmp_path / "lenient", lenient_score=1.0), 8)
    assert lenient[NoSignal.FORMAT] == pytest.approx(0.5, abs=0.01)
    assert lenient[NoSignal.TOO_HARD] == pytest.approx(0.0)
    missing = causes(change(run, tmp_path / "missing", status="error", score=None), 8)
    assert missing[NoSignal.MISSING_GRADE] + missing[NoSignal.TOO_EASY] > 0.9


def test_a_right_sample_that_is_truncated_earns_nothing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for shard in (tmp_path / "run" / "rollouts").glob("*.parquet"):
        rewrite_shard(shard, lambda rows: {"stop": ["length"] * len(rows["stop"])})
    found = causes(tmp_path / "run", 4)
    assert found[NoSignal.TRUNCATED] == pytest.approx(1.0)


def test_bad_numbers_and_runs_without_grades_are_refused(run: Path, tmp_path: Path) -> None:
    with refused(SettingsError, "group_size"):
        diagnose.forecast(run, group_size=1)
    with refused(SettingsError, "prompts_per_step"):
        diagnose.forecast(run, prompts_per_step=0)
    with pytest.raises(RunError):
        diagnose.forecast(tmp_path / "nothing")
    shutil.copytree(run, tmp_path / "ungraded")
    for shard in (tmp_path / "ungraded" / "rollouts").glob("*.parquet"):
        rewrite_shard(shard, lambda rows: {"status": ["error"] * len(rows["status"]), "score": [None] * len(rows["score"])})
    with refused(RunError, "no_grades"):
        diagnose.forecast(tmp_path / "ungraded")
