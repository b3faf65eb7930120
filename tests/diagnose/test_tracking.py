"""Trackers: each gets the numbers in its own words, a missing one is refused, and a failing one stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain import diagnose
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.tracking import TRACKERS, open_tracker

NUMBERS = {"train/loss": 0.5, "diagnose/a b/pass@4": 1, "event": "step", "moved": True, "nothing": None, "nan": float("nan")}
KEPT = {"train/loss": 0.5, "diagnose/a_b/pass_at_4": 1.0}


class Calls:
    """Stands for the module of a tracker and remembers what it was told; raises where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == self._failing:
                raise ConnectionError("no\nnetwork")
            self.calls.append((name, arguments, named))
            return self

        return call

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


def opened(module: Any, *names: str, said: list[str] | None = None) -> Any:
    lines: list[str] = [] if said is None else said
    return open_tracker(names, {"command": "x" * 9000}, say=lines.append, import_module=lambda _: module)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackio_and_wandb_get_a_project_numbers_by_step_and_an_end(name: str) -> None:
    module = Calls()
    tracker = opened(module, f"{name}:mine")
    tracker.log(NUMBERS, 3)
    tracker.close()
    assert module.names() == ["init", "log", "finish"]
    assert module.calls[0][2]["project"] == "mine"
    assert module.calls[1][1:] == ((KEPT,), {"step": 3})


def test_mlflow_gets_metrics_and_short_parameters() -> None:
    module = Calls()
    tracker = opened(module, "mlflow")
    tracker.log(NUMBERS, 0)
    tracker.close()
    assert module.names() == ["set_experiment", "start_run", "log_params", "log_metrics", "end_run"]
    assert module.calls[0][1] == ("posttrain",)
    assert len(module.calls[2][1][0]["command"]) == 500
    assert module.calls[3][1:] == ((KEPT,), {"step": 0})


def test_tensorboard_gets_scalars_in_a_folder() -> None:
    module = Calls()
    tracker = opened(module, "tensorboard:runs/board")
    tracker.log(NUMBERS, 7)
    tracker.close()
    assert module.calls[0] == ("SummaryWriter", (), {"log_dir": "runs/board"})
    assert [arguments for name, arguments, _ in module.calls if name == "add_scalar"] == [
        (key, value, 7) for key, value in KEPT.items()
    ]
    assert module.names()[-1] == "close"


def test_tensorboard_writes_files_that_it_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker(f"tensorboard:{tmp_path}")
    tracker.log({"train/loss": 0.25}, 2)
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 0.25)]


def test_steps_rise_where_a_second_stage_begins_again() -> None:
    module = Calls()
    tracker = opened(module, "wandb")
    for step in (0, 1, 5, None, 0, 1):
        tracker.log({"a": 1.0}, step)
    tracker.log({"event": "step"}, 9)  # no number: nothing is sent
    assert [named["step"] for name, _, named in module.calls if name == "log"] == [0, 1, 5, 6, 7, 8]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(failing: str) -> None:
    modules, said = {"wandb": Calls(failing), "trackio": Calls()}, []
    tracker = open_tracker(["wandb", "trackio"], say=said.append, import_module=modules.__getitem__)
    for step in range(3):
        tracker.log({"a": 1.0}, step)
    tracker.close()
    assert len(said) == 1
    assert "\n" not in said[0]
    assert modules["trackio"].names() == ["init", "log", "log", "log", "finish"]


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(name: str) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(module)

    with refused(SettingsError, "missing_package") as error:
        open_tracker(name, import_module=missing)
    assert f"pip install {TRACKERS[name][1]}" in str(error.value)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["wandbb"], "unknown_tracker"),
        (["wandb", "wandb:x"], "name_twice"),
        (["wandb:"], "empty_name"),
        ([""], "unknown_tracker"),
    ],
)
def test_a_wrong_name_is_refused_before_any_is_opened(names: list[str], code: str) -> None:
    module = Calls()
    with refused(SettingsError, code):
        opened(module, "trackio", *names)
    assert not module.calls


class Recorded:
    """Takes numbers and keeps them."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.steps: list[int | None] = []
        self.closed = False

    def log(self, values: Mapping[str, object], step: int | None = None) -> None:
        self.values |= values
        self.steps.append(step)

    def close(self) -> None:
        self.closed = True


def test_a_diagnosis_hands_over_its_numbers(sums_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("success: 0.5\n")
    recorded = Recorded()
    with Reporter(quiet=True, tracker=recorded) as reporter:
        run = diagnose.run(
            tmp_path / "model.yaml", [sums_file], out=tmp_path / "run", engine="scripted", samples=4, probes=["none"], pilot=False, reporter=reporter
        )  # fmt: skip
    (diagnosis,) = run.diagnoses
    assert recorded.closed
    assert recorded.values["diagnose/sums/confidence"] == diagnosis.confidence
    assert recorded.values["diagnose/sums/pass@1"] == diagnosis.pass_at_k[0].value.estimate
    assert recorded.values["diagnose/sums/pass@1_low"] == diagnosis.pass_at_k[0].value.low
