"""Rows to train on by the name of a data set: folders, the cache of the hub, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_data import cache_of_hub
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose.behaviors.data_sets import RowKind, read_training_rows
from posttrain.diagnose.behaviors.row_sources import fingerprint_row_source
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.trainers import train
from posttrain.trainers.training_types import MeasuredProblemError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def rows(num: int, word: str) -> list[dict[str, Any]]:
    return [{"question": f"say {word} {i}:", "answer": f"{word} {i}"} for i in range(num)]


def save(folder: Path, **splits: list[dict[str, Any]]) -> None:
    datasets.DatasetDict({name: datasets.Dataset.from_list(found) for name, found in splits.items()}).save_to_disk(str(folder))


def test_the_train_split_is_read_where_none_is_named(tmp_path: Path) -> None:
    save(tmp_path / "saved", test=rows(2, "no"), train=rows(3, "hi"))
    (tmp_path / "files").mkdir()
    for split, found in (("test", rows(2, "no")), ("train", rows(3, "hi"))):
        (tmp_path / "files" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    cache_of_hub(tmp_path / "cache", "main", {"test": rows(2, "no"), "train": rows(3, "hi")})
    for source in ("hf:saved", "hf:files", "hf:acme/sums:main", "hf:acme/sums:main:train", "hf:saved:train"):
        found = read_training_rows(source)
        assert [(row.kind, row.prompt, row.completion) for row in found][2:] == [(RowKind.DEMONSTRATION, "say hi 2:", "hi 2")], (
            source
        )
    assert [row.completion for row in read_training_rows("hf:saved:test")] == ["no 0", "no 1"]
    assert [row.completion for row in read_training_rows("hf:files:train[:1]")] == ["hi 0"]


def test_another_split_is_never_taken_for_train(tmp_path: Path) -> None:
    save(tmp_path / "saved", test=rows(2, "no"))
    with refused(BehaviorError, "no_hub_split") as caught:
        read_training_rows("hf:saved")
    assert "test" in str(caught.value)


def test_the_content_is_the_fingerprint(tmp_path: Path) -> None:
    save(tmp_path / "one", train=rows(3, "hi"))
    save(tmp_path / "same", train=rows(3, "hi"))
    save(tmp_path / "other", train=rows(3, "no"))
    one, same, other = (fingerprint_row_source(f"hf:{name}") for name in ("one", "same", "other"))
    assert one == same != other


def test_a_stage_learns_from_a_data_set(tiny_model: Path, sums_file: Path, tmp_path: Path) -> None:
    save(tmp_path / "saved", train=rows(3, "hi"))
    command = ["train", "sft", str(tiny_model), str(sums_file), "--data", "hf:saved", "--out", "out", "--set", "num_steps=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    log = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()]
    assert log[0]["rows"] == 3.0


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("hf:", "hub_data_form"),
        ("hf:acme/none", "no_hub_data"),
        ("hf:saved:tests", "no_hub_split"),
        ("hf:saved", "no_hub_split"),
    ],
)
def test_what_is_no_data_set_is_refused_before_a_model_is_loaded(
    source: str, code: str, tiny_model: Path, sums_file: Path, tmp_path: Path
) -> None:
    save(tmp_path / "saved", test=rows(2, "no"))
    with refused(BehaviorError, code):
        train("sft", without_weights(tiny_model, tmp_path / "empty"), [sums_file], out=tmp_path / "out", data=source)
    with refused(BehaviorError, code):
        DiagnoseRequest(model="demo", behaviors=[sums_file], out=tmp_path / "out", data=source)
    assert not (tmp_path / "out").exists()


def without_weights(model: Path, folder: Path) -> Path:
    """Write a model that cannot be loaded, which would be told first."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(b"" if file.suffix == ".safetensors" else file.read_bytes())
    return folder


def test_measured_problems_of_a_data_set_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    save(tmp_path / "saved", test=rows(2, "no"), train=rows(3, "hi"))
    (tmp_path / "mine.yaml").write_text("problems: hf:saved:test\nsplit: {train: 'hf:saved:train', final: 0.0}\n")
    with refused(MeasuredProblemError, MeasuredProblemError.default_code):
        train("sft", tiny_model, [tmp_path / "mine.yaml"], out=tmp_path / "out", data="hf:saved:test")
