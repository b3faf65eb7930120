"""What a request refuses, and what it records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose import DiagnoseRequest, load_behavior
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.probes.base import AvailableInputs
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Split


def request_for(behavior: Path, **changes: Any) -> DiagnoseRequest:
    return DiagnoseRequest(**({"model": "demo", "behaviors": [behavior], "out": "unused"} | changes))


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"samples": 4, "max_tokens_total": 100}, "samples_and_rounds"),
        ({"samples": 0}, "samples"),
        ({"precision": 0.5}, "precision"),
        ({"max_tokens_total": 0}, "max_tokens_total"),
        ({"probes": ["no_such_probe"]}, "unknown_probe"),
        ({"probes": ["none", "decoding"]}, "none_with_probes"),
        ({"thresholds": Thresholds(mastered=0.001)}, "epsilon"),
    ],
)
def test_what_is_wrong_is_refused_with_a_code(sums_file: Path, given: dict[str, Any], code: str) -> None:
    with pytest.raises(SettingsError) as refused:
        request_for(sums_file, **given)
    assert refused.value.code == code


def test_an_empty_split_and_a_behavior_that_is_given_twice_are_refused(
    sums_file: Path, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    write_rows([{"id": "a", "prompt": "1 + 1 =", "answer": "2", "split": "eval"}], "rows.jsonl")
    (tmp_path / "eval_only.yaml").write_text("problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n")
    with pytest.raises(SettingsError) as refused:
        request_for(tmp_path / "eval_only.yaml", split=Split.FINAL)
    assert refused.value.code == "empty_split"
    behavior = load_behavior("products")
    with pytest.raises(SettingsError) as refused:
        request_for(sums_file, behaviors=[behavior, behavior])
    assert refused.value.code == "same_behavior_twice"


def test_a_request_is_frozen_and_records_what_a_resumed_run_must_share(sums_file: Path) -> None:
    request = request_for(sums_file, max_tokens_total=500, seed=3)
    with pytest.raises(FrozenInstanceError):
        request.seed = 4  # type: ignore[misc]
    settings = request.settings()
    assert settings["samples"] is None
    assert settings["max_tokens_total"] == 500
    assert settings["seed"] == 3
    assert settings["split"] == Split.EVAL.value
    assert settings["behaviors"] == {"sums": request.loaded[0].fingerprint}
    assert Thresholds.from_json(settings["thresholds"]) == Thresholds()
    assert request_for(sums_file).settings()["samples"] == 16


def test_what_stands_beside_the_model_is_listed(sums_file: Path) -> None:
    available = AvailableInputs.of(request_for(sums_file, teacher="demo", before="runs/earlier"))
    assert (available.teacher, available.earlier, available.before, available.data) == (True, False, True, False)
