"""A sweep tries three learning rates for a few steps and trains with the one that the dev slice chooses; what is finished is not run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.diagnose.errors import NonFiniteError, SettingsError
from posttrain.diagnose.pipeline.request import resolve_behaviors
from posttrain.diagnose.progress import Reporter
from posttrain.trainers import train
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.learning_rate_sweep import SWEEP_FILE, SweepTrial, choose_trial, sweep_folder, sweep_learning_rate
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training.result import Ending, TrainingResult


def trial(rate: float, passed: float | None, likely: float | None = None) -> SweepTrial:
    return SweepTrial(learning_rate=rate, pass_at_1=passed, reference_logprob=likely)


@pytest.mark.parametrize(
    ("trials", "kind", "chosen"),
    [
        ([trial(1, 0.2), trial(0.25, 0.1), trial(4, 0.6)], RateKind.POLICY_GRADIENT, 4),
        ([trial(1, 0.2, -1.0), trial(0.25, 0.6, -2.0), trial(4, 0.1, -0.5)], RateKind.IMITATION, 0.25),
        ([trial(1, 0.20, -1.0), trial(0.25, 0.21, -2.0), trial(4, 0.19, -0.5)], RateKind.IMITATION, 4),
        ([trial(1, 0.20, -1.0), trial(0.25, 0.21, -2.0), trial(4, 0.19, -0.5)], RateKind.POLICY_GRADIENT, 1),
        ([trial(1, None, -1.0), trial(0.25, None, -0.8), trial(4, None, -0.9)], RateKind.IMITATION, 0.25),
        ([trial(1, 0.2, -1.0), trial(0.25, 0.2, -1.0), trial(4, None)], RateKind.IMITATION, 1),
        ([trial(1, None), trial(0.25, None), trial(4, None)], RateKind.PAIRS, 1),
    ],
)
def test_pass_at_1_chooses_where_it_differs_then_what_is_imitated(trials, kind: RateKind, chosen: float) -> None:
    assert choose_trial(trials, 400, kind).learning_rate == chosen


class Trainer:
    """Writes the log of a trial whose pass@1 is best at four times the first rate; stops, or diverges, where it is told to."""

    def __init__(self, *, stops_at: int | None = None, diverges_above: float = 1.0, refuses: bool = False) -> None:
        self.refuses = refuses
        self.stops_at, self.diverges_above = stops_at, diverges_above
        self.rates: list[float] = []

    def __call__(self, request: TrainRequest) -> TrainingResult:
        if len(self.rates) == self.stops_at:
            raise KeyboardInterrupt
        config = request.config
        assert (config.num_steps, config.eval_every, config.sweep_steps) == (5, 5, None)
        rate = config.learning_rate or 1e-3
        self.rates.append(rate)
        if rate > self.diverges_above:
            raise NonFiniteError("the loss is NaN")
        if self.refuses:
            raise SettingsError("nothing of this kind", code="refused")
        request.out.mkdir()
        log = request.out / "training_log.jsonl"
        log.write_text("".join(json.dumps({"event": "dev", "pass_at_1": value}) + "\n" for value in (0.0, min(1.0, rate * 200))))
        return TrainingResult(
            recipe="sft", ending=Ending.FINISHED, num_steps=5, learning_rate=rate, seconds=0, log=log, checkpoint=request.out
        )


@pytest.fixture
def request_of(sums_file: Path, tiny_model: Path, tmp_path: Path):
    def make(*settings: str) -> TrainRequest:
        config = load_config("sft", None, ["sweep_steps=5", "dev_share=0.3", *settings])
        behaviors = tuple(resolve_behaviors([sums_file]))
        return TrainRequest(stage="sft", model=str(tiny_model), behaviors=behaviors, config=config, out=tmp_path / "out")

    return make


def test_the_best_rate_is_trained_and_a_finished_trial_is_not_run_again(request_of) -> None:
    stopped = Trainer(stops_at=2)
    with pytest.raises(KeyboardInterrupt):
        sweep_learning_rate(request_of(), stopped, Reporter(quiet=True))
    resumed = Trainer()
    chosen = sweep_learning_rate(request_of(), resumed, Reporter(quiet=True))
    assert (stopped.rates, resumed.rates) == ([1e-3, 2.5e-4], [4e-3])
    assert chosen.config == request_of().config.model_copy(update={"learning_rate": 4e-3, "sweep_steps": None})
    again = Trainer()
    assert sweep_learning_rate(request_of(), again, Reporter(quiet=True)).config == chosen.config
    assert again.rates == []
    other = Trainer()
    sweep_learning_rate(request_of("weight_decay=0.1", "learning_rate=1e-4"), other, Reporter(quiet=True))
    assert other.rates == [1e-4, 2.5e-5, 4e-4]


def test_a_rate_at_which_training_diverges_is_not_chosen(request_of) -> None:
    trainer = Trainer(diverges_above=2e-3)
    assert sweep_learning_rate(request_of(), trainer, Reporter(quiet=True)).config.learning_rate == 1e-3
    assert trainer.rates == [1e-3, 2.5e-4, 4e-3]


def test_a_checkpoint_of_a_trial_that_was_not_written_down_is_made_again(request_of, tmp_path: Path) -> None:
    half = sweep_folder(tmp_path / "out") / "trial-1"
    with pytest.raises(KeyboardInterrupt):
        sweep_learning_rate(request_of(), Trainer(stops_at=1), Reporter(quiet=True))
    half.mkdir()
    (half / "config.json").write_text("{}")
    trainer = Trainer()
    sweep_learning_rate(request_of(), trainer, Reporter(quiet=True))
    assert trainer.rates == [2.5e-4, 4e-3]


def test_what_is_refused_leaves_no_folder(request_of, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        sweep_learning_rate(request_of(), Trainer(refuses=True), Reporter(quiet=True))
    assert caught.value.code == "refused"
    assert not sweep_folder(tmp_path / "out").exists()


def test_without_a_dev_slice_nothing_is_swept(request_of) -> None:
    trainer = Trainer()
    with pytest.raises(SettingsError) as caught:
        sweep_learning_rate(request_of("dev_share=0"), trainer, Reporter(quiet=True))
    assert (caught.value.code, trainer.rates) == ("empty_dev_slice", [])


def test_a_judge_is_not_swept(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        train("reward_model", tiny_model, [sums_file], out=tmp_path / "out", overrides=["sweep_steps=2"])
    assert caught.value.code == "nothing_to_evaluate"


def test_the_command_sweeps_and_records_the_trials(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["sweep_steps=2", "num_steps=3", "rows_per_batch=3", "dev_share=0.3", "eval_samples=1"]
    result = train("sft", tiny_model, [sums_file], out=out, overrides=settings)
    trials = json.loads((out / SWEEP_FILE).read_text())["trials"]
    first = trials[0]["learning_rate"]
    assert [one["learning_rate"] for one in trials] == pytest.approx([first, first / 4, 4 * first])
    assert result.learning_rate in [one["learning_rate"] for one in trials]
    assert result.num_steps == 3
    assert json.loads((out / "posttrain_config.json").read_text())["learning_rate"] == result.learning_rate
    assert not sweep_folder(out).exists()
