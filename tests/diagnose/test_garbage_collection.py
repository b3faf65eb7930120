"""The collector of reference cycles is paused where many objects are made, and is afterwards as it was."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.diagnose import import_samples
from posttrain.diagnose.garbage_collection import collector_paused


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@collector_paused()
def _fail() -> None:
    assert not gc.isenabled()
    raise ValueError("inside")


def test_the_collector_works_again_afterwards_also_after_an_error() -> None:
    gc.enable()
    with pytest.raises(ValueError, match="inside"):
        _fail()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_an_import_does_not_collect(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"{i} + 1?", "answer": str(i + 1), "correct": i % 3 == 0} for i in range(1500)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gc.enable()
    started: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            started.append(info["generation"])

    gc.callbacks.append(count)
    try:
        import_samples("table", tmp_path / "rows.jsonl", out=tmp_path / "run")
    finally:
        gc.callbacks.remove(count)
    assert len(started) <= 3


def test_what_was_made_meanwhile_is_old_afterwards_and_not_gone_through_at_once() -> None:
    gc.enable()
    with collector_paused():
        made = [[i] for i in range(10)]
        assert not any(one is made[0] for one in gc.get_objects(generation=2))
    assert any(one is made[0] for one in gc.get_objects(generation=2))


def test_objects_that_were_frozen_before_stay_frozen() -> None:
    gc.enable()
    gc.freeze()
    try:
        with collector_paused():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
