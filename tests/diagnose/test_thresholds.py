"""Thresholds: recorded with every run, and read back whatever version wrote them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain.diagnose import run
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.probes import PROBES
from posttrain.diagnose.thresholds import AvailabilityThresholds, DriftThresholds, SamplingThresholds, Thresholds


def test_what_is_written_is_read_back() -> None:
    changed = Thresholds(mastered=0.8, drift=DriftThresholds(kept=0.3))
    assert Thresholds.from_json(json.loads(json.dumps(asdict(changed)))) == changed


def test_a_run_of_an_earlier_version_has_the_defaults_of_what_it_did_not_know() -> None:
    earlier = {"mastered": 0.7, "drift": {"kept": 0.4}, "gone_since": 3}
    assert Thresholds.from_json(earlier) == Thresholds(mastered=0.7, drift=DriftThresholds(kept=0.4))


def test_the_thresholds_of_a_probe_bear_its_name() -> None:
    nested = {one.name for one in fields(Thresholds) if is_dataclass(one.default_factory)}
    assert nested - {"sampling", "change", "power"} <= {probe.name for probe in PROBES}


def test_a_run_records_all_of_them(sums_file: Path, tmp_path: Path) -> None:
    changed = Thresholds(mastered=0.8, drift=DriftThresholds(kept=0.3))
    engine = ScriptedEngine.for_behaviors([load_behavior(sums_file)], 0.4)
    run("m", [sums_file], out=tmp_path / "run", engine=engine, samples=2, probes=["none"], thresholds=changed)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["thresholds"]
    assert recorded == asdict(changed)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Thresholds, {"mastered": 1.5}),
        (Thresholds, {"mastered": 0.0}),
        (Thresholds, {"confidence": 1.0}),
        (Thresholds, {"level": math.nan}),
        (Thresholds, {"level": "0.95"}),
        (Thresholds, {"max_truncated": -0.1}),
        (Thresholds, {"num_draws": 0}),
        (Thresholds, {"num_draws": 10.5}),
        (Thresholds, {"reachable": True}),
        (Thresholds, {"sampling": 3}),
        (SamplingThresholds, {"growth": math.inf}),
        (SamplingThresholds, {"first_round": 0}),
        (AvailabilityThresholds, {"many_paths": 0.0}),
    ],
)
def test_numbers_out_of_range_are_refused(kind: type[Any], changes: dict[str, Any]) -> None:
    with refused(SettingsError, "threshold_out_of_range"):
        kind(**changes)


def test_a_record_with_a_number_out_of_range_is_refused() -> None:
    for wrong in ({"mastered": 2.0}, {"sampling": {"max_samples": -1}}):
        with pytest.raises(ValueError, match="allowed is"):
            Thresholds.from_json({**asdict(Thresholds()), **wrong})
