"""The weights that a run with retained behaviors saves: chosen between the start and the end by what dev slices say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import make_behavior, make_inputs, make_tokenizer, tiny_llama
from torch import nn
from transformers import AutoModelForCausalLM

from posttrain.diagnose.types import Grade, GradeStatus, Problem, Purpose
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.training.result import Ending, TrainingResult
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training.weight_choice import SHARES, LinePoint, WeightLine, choose_point
from posttrain.trainers.training_types import OnStep, TrainingSet

SETTINGS = (
    "autocast=float32",
    "learning_rate=1e-2",
    "num_steps=3",
    "rows_per_batch=4",
    "retain_samples=1",
    "retain_problems=4",
    "eval_samples=1",
)
PassAt = Callable[[float], bool]


def points(target: Sequence[float], retained: Sequence[float]) -> list[LinePoint]:
    return [
        LinePoint(share=share, target=gained, retained=kept, tokens=1.0)
        for share, gained, kept in zip(SHARES, target, retained, strict=True)
    ]


@pytest.mark.parametrize(
    ("target", "retained", "weight", "share"),
    [
        ((0.9, 0.8, 0.6, 0.2, 0.0), (0.1, 0.5, 0.8, 0.9, 0.9), 1.0, 0.5),
        ((0.9, 0.8, 0.6, 0.2, 0.0), (0.1, 0.5, 0.8, 0.9, 0.9), 0.0, 1.0),
        ((0.9, 0.8, 0.6, 0.2, 0.0), (0.1, 0.5, 0.8, 0.9, 0.9), 5.0, 0.25),
        ((0.3, 0.2, 0.1, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4, 0.9), 1.0, 0.0),
        ((0.5, 0.5, 0.5, 0.5, 0.0), (0.9, 0.9, 0.9, 0.9, 0.9), 1.0, 1.0),
        ((0.2, 0.1, 0.0, 0.0, 0.0), (0.5, 0.7, 1.0, 1.0, 0.8), 1.0, 0.5),
        ((float("nan"), 0.1, 0.2, 0.1, 0.0), (0.1, 0.7, 1.0, 1.0, 0.8), 1.0, 1.0),
    ],
    ids=["between", "no weight", "much weight", "start", "furthest of equals", "retention gains nothing", "not graded"],
)
def test_the_point_of_highest_utility_is_chosen(
    target: Sequence[float], retained: Sequence[float], weight: float, share: float
) -> None:
    assert choose_point(points(target, retained), weight).share == share


def test_weights_are_on_the_line_within_the_block_and_as_before_after_it() -> None:
    model = nn.Linear(3, 2)
    start = [each.detach().clone() for each in model.parameters()]
    line = WeightLine(list(model.parameters()), ProcessGroup())
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each))
    end = [each.detach().clone() for each in model.parameters()]
    for share in SHARES:
        with line.at(share):
            for found, first, last in zip(model.parameters(), start, end, strict=True):
                torch.testing.assert_close(found.detach(), first + share * (last - first))
        assert all(torch.equal(found, last) for found, last in zip(model.parameters(), end, strict=True))
    with pytest.raises(KeyboardInterrupt), line.at(0.25):
        raise KeyboardInterrupt
    assert all(torch.equal(found, last) for found, last in zip(model.parameters(), end, strict=True))


class Rates:
    """Grades by where the weights are: as a share of the greatest distance from the start so far, which is that of the end."""

    def __init__(self, model: nn.Module, succeeds: PassAt) -> None:
        self.weights, self.succeeds, self.furthest = next(model.parameters()), succeeds, 0.0
        self.start = self.weights.detach().clone()

    def __call__(self, problem: Problem, texts: Sequence[str]) -> list[Grade]:
        distance = float((self.weights.detach() - self.start).norm())
        self.furthest = max(self.furthest, distance)
        score = float(self.succeeds(distance / (self.furthest or 1.0)))
        return [Grade(status=GradeStatus.SCORED, score=score) for _ in texts]


def train(
    out: Path, target: PassAt, kept: PassAt, *settings: str, on_step: OnStep | None = None, dev_share: float = 0.2
) -> tuple[nn.Module, TrainingResult, list[str]]:
    """Run sft with a retained behavior; return the model, which holds the weights of the end, the result, and what was said."""
    model, said = tiny_llama(), []
    long = make_behavior(num_train=16, max_tokens=60)  # so that samples end by themselves, and are graded
    behaviors = [long, replace(long, name="kept", purpose=Purpose.RETENTION)]
    own, retained = (TrainingSet([behavior], dev_share=dev_share) for behavior in behaviors)
    inputs = make_inputs(model, make_tokenizer(), grade=Rates(model, target), training_set=own)
    inputs = replace(inputs, retained=retained, graders={**inputs.graders, "kept": Rates(model, kept)})
    config = load_config("sft", None, [*SETTINGS, *settings])
    return model, run_recipe("sft", inputs, config, out=out, on_step=on_step, say=said.append), said


def saved(result: TrainingResult) -> list[torch.Tensor]:
    return [each.detach() for each in AutoModelForCausalLM.from_pretrained(result.checkpoint).parameters()]


def choices(result: TrainingResult) -> list[dict[str, Any]]:
    records = map(json.loads, result.log.read_text().splitlines())
    return [record for record in records if record["event"] == "weight_choice"]


def test_a_point_between_start_and_end_is_saved(tmp_path: Path) -> None:
    model, result, said = train(tmp_path, lambda way: way > 0.1, lambda way: way < 0.6)
    assert (result.kept_share, result.ending) == (0.5, Ending.FINISHED)
    for found, start, end in zip(saved(result), tiny_llama().parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, (start + end).detach() / 2)
    assert [record["share"] for record in choices(result)] == list(SHARES)
    assert [record["retained_pass_at_1"] for record in choices(result)] == [0, 0, 1, 1, 1]
    assert result.choice_tokens == sum(record["generated_tokens"] for record in choices(result)) > 0
    assert [line for line in said if "saved is 0.5 of the way" in line and "warning" not in line]


def test_a_run_that_costs_more_than_it_gains_saves_the_start(tmp_path: Path) -> None:
    _, result, said = train(tmp_path, lambda way: False, lambda way: way == 0)
    assert (result.kept_share, result.ending) == (0.0, Ending.COST_MORE)
    assert all(torch.equal(found, start) for found, start in zip(saved(result), tiny_llama().parameters(), strict=True))
    assert [line for line in said if line.startswith("warning: training costs")]


@pytest.mark.parametrize(
    ("settings", "options"),
    [(("retain_weight=null",), {}), (("retain_share=0",), {}), (("ema_decay=0.5",), {}), ((), {"dev_share": 0})],
    ids=["no weight", "nothing retained", "an average is saved", "no dev slice"],
)
def test_without_a_choice_the_last_weights_are_saved(settings: tuple[str, ...], options: dict[str, Any], tmp_path: Path) -> None:
    _, result, _ = train(tmp_path, lambda way: False, lambda way: way == 0, *settings, **options)
    assert (result.kept_share, result.choice_tokens, choices(result)) == (1.0, 0, [])
    assert not all(torch.equal(found, start) for found, start in zip(saved(result), tiny_llama().parameters(), strict=True))


def test_a_choice_that_was_stopped_is_made_again(tmp_path: Path) -> None:
    rates: tuple[PassAt, PassAt] = (lambda way: way > 0.1, lambda way: way < 0.6)
    _, undisturbed, _ = train(tmp_path / "whole", *rates)

    def stop(record: Any) -> None:
        if record["event"] == "weight_choice" and record["share"] == 0.25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", *rates, on_step=stop)
    _, result, _ = train(tmp_path / "stopped", *rates)
    assert result.kept_share == undisturbed.kept_share
    assert all(torch.equal(one, other) for one, other in zip(saved(result), saved(undisturbed), strict=True))
    assert len(choices(result)) == len(SHARES)
