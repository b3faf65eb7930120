"""What a fingerprint of large files notices: samples of one model are never taken for those of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.diagnose.engines.models.loading import fingerprint_files


@pytest.mark.parametrize("place", [0, 10 * 2**20, 3 * 2**30 + 12_345, 2**32 + 2**20 - 2**21])
def test_a_changed_matrix_in_four_gigabytes_is_noticed(place: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as handle:
        handle.truncate(2**32 + 2**20)  # holes take no room on the disk
    before = fingerprint_files([file])
    assert fingerprint_files([file]) == before
    with file.open("r+b") as handle:
        handle.seek(place)
        handle.write(os.urandom(2**21))  # a matrix of 1,024 x 1,024 in bfloat16
    assert file.stat().st_size == 2**32 + 2**20
    assert fingerprint_files([file]) != before
