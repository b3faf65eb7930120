"""The numbers of a training reach a tracker while it trains, and a tracker that fails stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.tracking import open_tracker
from posttrain.trainers import train


class Recording:
    """Stands for the module of a tracker; its `log` fails from a step on."""

    def __init__(self, fails_at: int) -> None:
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self._fails_at = fails_at

    def init(self, **_: Any) -> None:
        """Begin."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._fails_at:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self) -> None:
        """End."""


def test_every_step_is_sent_until_the_tracker_fails(tiny_model: Path, sums_file: Path, tmp_path: Path) -> None:
    whole, failing, said = Recording(99), Recording(1), []
    modules = {"wandb": whole, "trackio": failing}
    tracker = open_tracker(["wandb", "trackio"], say=said.append, import_module=modules.__getitem__)
    with Reporter(quiet=True, tracker=tracker) as reporter:
        result = train(
            "sft", tiny_model, [sums_file], out=tmp_path / "out", overrides=["num_steps=3", "rows_per_batch=2"], reporter=reporter
        )
    assert result.num_steps == 3
    steps = [(step, values) for step, values in whole.logged if "train/loss" in values]
    assert [step for step, _ in steps] == [0, 1, 2]
    assert all(values["train/loss"] > 0 and values["train/learning_rate"] > 0 for _, values in steps)
    assert [step for step, _ in failing.logged] == [0]
    assert len(said) == 1
