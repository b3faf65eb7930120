"""Files of counts given where a run can be given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.diagnose import compare, compare_checkpoints, gate
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.types import Outcome


def counts(path: Path, right: int, num_problems: int = 30) -> Path:
    rows = [{"id": i, "c": min(16, right + i % 3), "n": 16} for i in range(num_problems)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_gate_on_counts(tmp_path: Path) -> None:
    file = counts(tmp_path / "gsm8k.jsonl", 12)
    result = gate(file, ["pass@1>=0.5", "gsm8k:pass@1>=0.95"])
    assert [one.check.outcome for one in result.conditions] == [Outcome.MET, Outcome.NOT_MET]
    assert list(tmp_path.iterdir()) == [file]


def test_two_files_of_counts_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    files = [counts(tmp_path / name, right) for name, right in (("old.jsonl", 2), ("new.jsonl", 12))]
    transition = compare(*files, out=tmp_path / "out")
    (change,) = transition.behaviors
    assert change.num_problems == 30
    assert change.delta.estimate == pytest.approx(10 / 16)
    assert str(files[0]) in (tmp_path / "out" / "report.md").read_text()


def test_three_files_of_counts_are_checkpoints(tmp_path: Path) -> None:
    files = [counts(tmp_path / f"step{step}.jsonl", step) for step in (2, 4, 9)]
    assert [one.run for one in compare_checkpoints(files, out=tmp_path / "out").checkpoints] == [str(file) for file in files]


def test_a_file_that_holds_no_counts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a", "correct": true}\n')
    with pytest.raises(UserError) as caught:
        gate(file, ["pass@1>=0.5"])
    assert caught.value.code == "invalid_counts"
    assert not (tmp_path / "out").exists()
