"""Encoded rows on disk: the same rows come back, or they are made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.character_engine import CHATML, DEFAULT_SYSTEM, CharacterEngine

from posttrain.diagnose.engines.models.model_source import cache_dir
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.trainers.data.cache import cached_rows
from posttrain.trainers.data.data_set import NUM_KEPT, read_data
from posttrain.trainers.row_json import fingerprint_rows
from posttrain.trainers.training_types import RowRole, TrainingRow


def row(number: int, **more: object) -> TrainingRow:
    return TrainingRow(
        behavior="data:x",
        problem_id=f"row{number}",
        split=Split.TRAIN,
        group_id=f"x#{number}",
        prompt_ids=(1, number),
        completion_ids=(3, 4, 5),
        role=RowRole.DEMONSTRATION,
        text="é\n",
        **more,  # type: ignore[arg-type]
    )


ROWS = (
    row(0),
    row(1, token_weights=np.array([1, 0, 0.25], dtype=np.float32)),
    row(2, step_ends=(0, 2), step_scores=(1.0, 0.1)),
    row(3, weight=0.1, margin=-1.5),
)


class Maker:
    def __init__(self, rows: tuple[TrainingRow, ...] = ROWS) -> None:
        self.rows, self.num_calls = rows, 0

    def __call__(self) -> tuple[TrainingRow, ...]:
        self.num_calls += 1
        return self.rows


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    make = Maker()
    first, second = (cached_rows(("a", 1), make, folder=tmp_path) for _ in range(2))
    assert make.num_calls == 1
    assert fingerprint_rows(first) == fingerprint_rows(second) == fingerprint_rows(ROWS)


def test_another_key_is_another_file(tmp_path: Path) -> None:
    make = Maker()
    for key in (("a", 1), ("a", 2), ("a1",), ("a", "1", "")):
        cached_rows(key, make, folder=tmp_path)
    assert make.num_calls == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_damage_is_never_read(tmp_path: Path) -> None:
    cached_rows(("a",), Maker(), folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: len(whole) // 2], b"", b"PAR1", whole + b"x"]
    for place in rng.choice(len(whole), 150, replace=False):
        damaged.append(whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        assert fingerprint_rows(cached_rows(("a",), Maker(), folder=tmp_path)) == fingerprint_rows(ROWS)


def test_what_a_killed_process_left_is_no_file_of_the_cache(tmp_path: Path) -> None:
    cached_rows(("a",), Maker(), folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(f".{path.name}.1.tmp"))
    make = Maker()
    cached_rows(("a",), make, folder=tmp_path)
    assert make.num_calls == 1


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cached_rows(("a",), Maker(), folder=tmp_path / "file" / "encoded") == ROWS


def test_what_fails_is_not_stored(tmp_path: Path) -> None:
    def fail() -> tuple[TrainingRow, ...]:
        raise BehaviorError("no", code="refused")

    with pytest.raises(BehaviorError):
        cached_rows(("a",), fail, folder=tmp_path)
    make = Maker()
    assert cached_rows(("a",), make, folder=tmp_path) == ROWS
    assert make.num_calls == 1


def test_a_data_set_is_encoded_once_for_a_file_a_tokenizer_and_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    behavior = Behavior(
        name="sums",
        problems=(Problem(id="t", prompt="1+1?", answer="2", key="t", split=Split.TRAIN),),
        verifier=VerifierSpec(kind="exact"),
        measure=MeasureSettings(epsilon=0.006),
    )
    path = tmp_path / "rows.jsonl"

    def read(template: str, answer: str) -> str:
        turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": answer}]
        path.write_text((json.dumps({"messages": turns}) + "\n") * NUM_KEPT)
        data = read_data(path, CharacterEngine(template), [behavior])  # type: ignore[arg-type]
        return fingerprint_rows(data.rows) + data.fingerprint

    first = read(CHATML, "b")
    assert read(CHATML, "b") == first
    assert len(list((cache_dir() / "encoded").iterdir())) == 1
    assert len({first, read(CHATML, "c"), read(DEFAULT_SYSTEM, "b")}) == 3
    assert len(list((cache_dir() / "encoded").iterdir())) == 3
