"""Files of counts, as other tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.refusals import refused

from posttrain import diagnose
from posttrain.diagnose.behaviors.row_files import RowError
from posttrain.diagnose.storage.count_files import ProblemCount


def test_counts_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    counts = [ProblemCount("a", 16, 3), ProblemCount("é\u2028", 8, 8), ProblemCount("7", 0, 0)]
    diagnose.write_counts(tmp_path / "counts.jsonl", counts)
    assert (tmp_path / "counts.jsonl").read_text().startswith('{"id": "a", "c": 3, "n": 16}\n')
    assert diagnose.read_counts(tmp_path / "counts.jsonl") == counts


def test_rows_of_other_tools_are_read(tmp_path: Path) -> None:
    (tmp_path / "counts.jsonl").write_text('{"id": 7, "n": 4, "c": 2, "prompt": "?"}\n\n{"c": 0, "n": 4, "id": "b"}\n')
    assert diagnose.read_counts(tmp_path / "counts.jsonl") == [ProblemCount("7", 4, 2), ProblemCount("b", 4, 0)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"id": "a", "c": 3, "n": 2}', "invalid_counts"),
        ('{"id": "a", "c": -1, "n": 2}', "invalid_counts"),
        ('{"id": "a", "c": 1.5, "n": 2}', "invalid_counts"),
        ('{"id": "a", "c": true, "n": 2}', "invalid_counts"),
        ('{"id": "a", "n": 2}', "invalid_counts"),
        ('{"id": "", "c": 1, "n": 2}', "invalid_counts"),
        ('{"id": null, "c": 1, "n": 2}', "invalid_counts"),
        ('{"id": "a", "c": 1, "n": 2}\n{"id": "a", "c": 1, "n": 2}', "duplicate_id"),
        ("\n", "no_counts"),
    ],
)
def test_rows_without_counts_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "counts.jsonl").write_text(text)
    with refused(RowError, code):
        diagnose.read_counts(tmp_path / "counts.jsonl")
