"""Data sets by name: folders that `save_to_disk` wrote, folders of data files, and the cache of the hub; nothing asks the network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_data import cache_of_hub
from helpers.refusals import refused

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.behaviors.hub_data import HubData, parse_hub_data
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Split

datasets = pytest.importorskip("datasets")
ALL = BehaviorOptions(split_eval="all")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def rows(num: int, plus: int = 1) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} plus {plus}?", "answer": f"We add.\n#### {i + plus}"} for i in range(num)]


def test_a_folder_that_was_saved(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(5)), "test": datasets.Dataset.from_list(rows(4, 2))})
    saved.save_to_disk(str(tmp_path / "saved"))
    measured = load_behavior("hf:saved", ALL)
    assert (measured.name, len(measured.problems), measured.verifier.kind) == ("saved", 4, "number")
    assert measured.source == f"hf:{tmp_path / 'saved'}"  # from any working directory
    assert "split test" in measured.notes[0]
    assert measured.problems[0].references[0].steps == ("We add.\n", "#### 2")
    trained = load_behavior(f"hf:{tmp_path / 'saved'}:train", ALL)
    assert (trained.name, len(trained.problems)) == ("saved-train", 5)
    assert "split" not in trained.notes[0]
    for wrong, code in (("hf:saved:tests", "no_hub_split"), ("hf:saved:main:test", "no_hub_data")):
        with refused(BehaviorError, code) as caught:
            load_behavior(wrong)
        assert "test" in str(caught.value)


def test_one_data_set_that_was_saved(tmp_path: Path) -> None:
    labels = datasets.Features({"query": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    texts = [{"query": f"Fine {i}? Say good or bad.", "label": i % 2} for i in range(4)]
    datasets.Dataset.from_list(texts, features=labels).save_to_disk(str(tmp_path / "one"))
    behavior = load_behavior("hf:one", ALL)
    assert [problem.answer for problem in behavior.problems] == ["bad", "good", "bad", "good"]
    with refused(BehaviorError, "no_hub_split"):
        load_behavior("hf:one:test")


def test_a_folder_of_files_in_a_behavior_file(tmp_path: Path) -> None:
    for split, num, plus in (("train", 5, 7), ("test", 3, 2)):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(num, plus)))
    (tmp_path / "mine.yaml").write_text("problems: hf:files\nsplit: {train: 'hf:files:train', final: 0.0}\n")
    behavior = load_behavior(tmp_path / "mine.yaml")
    assert {split: len(behavior.split(split)) for split in Split} == {Split.TRAIN: 5, Split.EVAL: 3, Split.FINAL: 0}
    assert len(load_behavior("hf:files:default:test", ALL).problems) == 3
    assert len(load_behavior("hf:files:test[:2]", ALL).problems) == 2
    with refused(BehaviorError, "no_hub_split") as caught:
        load_behavior("hf:files:trian")
    assert "'train'" in str(caught.value)


def test_the_cache_of_the_hub_is_enough(tmp_path: Path) -> None:
    for config in ("main", "other"):
        cache_of_hub(tmp_path / "cache", config, {"test": rows(3)})
    for source in ("hf:acme/sums:main", "hf:acme/sums:main:test"):
        behavior = load_behavior(source, ALL)
        assert (len(behavior.problems), behavior.source) == (3, source)
    for wrong in ("hf:acme/sums", "hf:acme/sums:mian"):
        with refused(BehaviorError, "no_hub_data") as caught:
            load_behavior(wrong)
        assert "main" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "code"),
    [("hf:", "hub_data_form"), ("hf:a::b", "hub_data_form"), ("hf:a:b:c:d", "hub_data_form"), ("hf:acme/no", "no_hub_data")],
)
def test_what_is_no_data_set_is_one_line(source: str, code: str) -> None:
    with refused(BehaviorError, code):
        load_behavior(source)


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused(BehaviorError, "no_datasets") as caught:
        load_behavior("hf:acme/sums")
    assert "posttrain[datasets]" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name", "parts"),
    [
        ("hf:openai/gsm8k:main:test", "openai/gsm8k", ("main", "test")),
        ("hf:cais/mmlu:abstract_algebra", "cais/mmlu", ("abstract_algebra",)),
        ("hf:x:test[:100]", "x", ("test[:100]",)),
    ],
)
def test_names(source: str, name: str, parts: tuple[str, ...]) -> None:
    assert parse_hub_data(source, Path()) == HubData(name, parts)
