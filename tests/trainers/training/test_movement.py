"""A stage says how far it moved the policy, and warns where that is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.training import grade_all, grade_parity, make_inputs, plain_logprobs, random_rows, tiny_llama
from typer.testing import CliRunner

from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.training.movement import MOST_ROWS, MOST_TOKENS, Movement, StartScores
from posttrain.trainers.training.preparation import make_scorer
from posttrain.trainers.training.result import Ending
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import RowRole

SETTINGS = {
    "sft": ["rows_per_batch=12", "num_steps=10"],
    "grpo": ["problems_per_batch=3", "group_size=4", "num_steps=10"],
    "dpo": ["rows_per_batch=4", "num_samples=4", "num_steps=10"],
}


def train(name: str, tokenizer, out: Path, *more: str, grade=grade_parity):
    said: list[str] = []
    config = load_config(name, None, ["autocast=float32", *SETTINGS[name], *more])
    inputs = make_inputs(tiny_llama(), tokenizer, grade=grade)
    return run_recipe(name, inputs, config, out=out, say=said.append), said


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_rate_moves_the_policy_and_a_tiny_one_is_told(name: str, tokenizer, tmp_path: Path) -> None:
    moved, said = train(name, tokenizer, tmp_path / "moved")
    assert (moved.moved, moved.warning) == (True, "")
    still, also_said = train(name, tokenizer, tmp_path / "still", "learning_rate=1e-9")
    assert still.num_steps > 0
    assert not still.moved
    assert still.nats_per_token < 1e-4 < moved.nats_per_token
    assert set(also_said) - set(said) >= {still.warning}
    record = json.loads(still.log.read_text().splitlines()[-1])
    assert (record["event"], record["moved"], record["nats_per_token"]) == ("movement", False, still.nats_per_token)


def test_a_stage_without_signal_has_not_moved_the_model(tokenizer, tmp_path: Path) -> None:
    result, _ = train("grpo", tokenizer, tmp_path, grade=grade_all(0.0))
    assert (result.ending, result.moved, result.nats_per_token) == (Ending.NOTHING_TO_LEARN, False, None)


def test_the_numbers_are_mean_absolute_changes_of_tokens_and_of_answers(tokenizer) -> None:
    before, after = tiny_llama(), tiny_llama(seed=1)
    rows = random_rows()
    retained = [replace(row, role=RowRole.RETAINED) for row in random_rows(seed=9)]
    scorer = make_scorer(make_inputs(before, tokenizer), load_config("sft", None, ["autocast=float32"]))
    scores = StartScores.take([*rows, *retained], scorer)
    assert scores.rows == tuple(rows)
    changes = [(plain_logprobs(after, row) - plain_logprobs(before, row)).detach().numpy() for row in rows]
    before.load_state_dict(after.state_dict())
    found = scores.measure(scorer)
    assert found.per_token == pytest.approx(np.abs(np.concatenate(changes)).mean(), rel=1e-4)
    assert found.per_answer == pytest.approx(np.mean([abs(change.sum()) for change in changes]), rel=1e-4)


def test_few_rows_are_scored_spread_over_the_batch(model, tokenizer) -> None:
    scorer = make_scorer(make_inputs(model, tokenizer), load_config("sft", None, ["autocast=float32"]))
    rows = random_rows(num_groups=20, group_size=4)
    scores = StartScores.take(rows, scorer)
    assert len(scores.rows) == MOST_ROWS
    assert scores.rows[0] is rows[0]
    assert scores.rows[-1] is rows[75]
    assert sum(len(row.prompt_ids) + len(row.completion_ids) for row in scores.rows) <= MOST_TOKENS
    assert StartScores.take([], scorer) is None


@pytest.mark.parametrize(
    ("per_token", "per_answer", "moved"),
    [(0.02, 0.11, True), (0.02, 0.09, False), (0.0009, 0.9, False), (0.0011, 0.9, True), (0.0, 0.0, False)],
)
def test_a_tenth_of_the_probability_of_an_answer_is_what_counts(per_token: float, per_answer: float, moved: bool) -> None:
    assert Movement(per_token=per_token, per_answer=per_answer).moved is moved


def test_the_command_says_that_the_model_hardly_moved(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    from posttrain.cli import app

    def summary(*more: str) -> str:
        settings = ["num_steps=4", "rows_per_batch=3", *more]
        flags = [flag for setting in settings for flag in ("--set", setting)]
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        return (
            CliRunner()
            .invoke(app, ["train", "sft", str(tiny_model), str(sums_file), "--quiet", "--out", str(out), *flags])
            .stdout
        )

    assert "hardly moved" in summary("learning_rate=1e-9")
    assert "hardly moved" not in summary()
