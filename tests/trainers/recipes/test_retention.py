"""Retained behaviors in the batches of any stage: how many rows, which, and what they do to the loss."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recipe_inputs import SETTINGS, inputs_of
from helpers.training import (
    TinyEngine,
    grade_all,
    grade_parity,
    gradient,
    make_behavior,
    make_inputs,
    make_tokenizer,
    plain_logprobs,
    tiny_llama,
)

from posttrain.diagnose.stage_catalogue import STAGES
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Purpose, Split
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES, build_stage, can_retain, find_recipe
from posttrain.trainers.sources.policy import RolloutSampler
from posttrain.trainers.stage import FrozenModel, Stage, TrainingInputs
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training.result import Ending, TrainingResult
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import MeasuredProblemError, RowRole, TrainingRow, TrainingSet


def kept_behavior(name: str = "kept", num_train: int = 6, max_tokens: int = 4) -> Behavior:
    return replace(make_behavior(num_train=num_train, max_tokens=max_tokens), name=name, purpose=Purpose.RETENTION)


def with_kept(inputs: TrainingInputs, graders: Mapping[str, Any] | None = None, *behaviors: Behavior) -> TrainingInputs:
    """Return the inputs with behaviors to retain, half of whose samples are right unless other graders are given."""
    retained = TrainingSet(behaviors or [kept_behavior()], dev_share=0)
    own = dict.fromkeys(retained.behaviors, grade_parity)
    return replace(inputs, retained=retained, graders={**inputs.graders, **own, **(graders or {})})


def is_retained(row: TrainingRow) -> bool:
    return row.role is RowRole.RETAINED


def built(name: str, inputs: TrainingInputs, **settings: Any) -> tuple[Stage, Stepper]:
    recipe = find_recipe(name)
    config = recipe.config(**{"max_grad_norm": 1e9, "autocast": "float32", **SETTINGS.get(name, {}), **settings})
    torch.manual_seed(1)
    stage = build_stage(recipe, inputs, config)
    stepper = make_stepper(stage, inputs, config)
    assert stage.source.prepare()[0] > 0
    return stage, stepper


def first_batch(stage: Stage, stepper: Stepper) -> list[TrainingRow]:
    rows, _ = stage.credit.assign(stage.source.batch(0).rows, stepper.scorer.score_rows)
    return list(rows)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if can_retain(recipe)])
def test_the_loss_of_every_stage_keeps_its_own_share(name: str) -> None:
    """The gradient is (1 − s) times that of the stage without retention plus s times that of the mean NLL of the retained tokens."""
    share, needs = 0.3, set(STAGES[name].needs)
    sizes = {"problems_per_batch": 2, "group_size": 4, "rows_per_batch": 4, "num_samples": 4, "num_rollouts": 1}
    settings = {key: value for key, value in sizes.items() if key in find_recipe(name).config.model_fields}
    stage, stepper = built(name, inputs_of(name, needs), **settings)
    own = first_batch(stage, stepper)
    plain = stepper.accumulate(own, {})
    alone = gradient(stepper.model)

    inputs = with_kept(inputs_of(name, needs))
    stage, stepper = built(name, inputs, **settings, retain_share=share)
    rows = first_batch(stage, stepper)
    replayed = [row for row in rows if is_retained(row)]
    assert [(row.prompt_ids, row.completion_ids) for row in rows if not is_retained(row)] == [
        (row.prompt_ids, row.completion_ids) for row in own
    ]
    mixed = stepper.accumulate(rows, {})
    found = gradient(stepper.model)

    model = tiny_llama()
    nll = -torch.cat([plain_logprobs(model, row) for row in replayed]).mean()
    nll.backward()
    imitated = gradient(model)
    assert mixed.loss == pytest.approx((1 - share) * plain.loss + share * nll.item(), rel=1e-4)
    for key, value in imitated.items():
        torch.testing.assert_close(found[key], (1 - share) * alone[key] + share * value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("share", "number"), [(0.1, 1), (0.25, 3), (0.5, 8), (0.02, 1)])
def test_the_share_is_of_the_rows_of_a_batch_and_at_least_one(share: float, number: int) -> None:
    stage, _ = built("sft", with_kept(inputs_of("sft", set(STAGES["sft"].needs))), rows_per_batch=8, retain_share=share)
    for step in range(3):
        batch = stage.source.batch(step)
        assert sum(map(is_retained, batch.rows)) == number
        assert batch.metrics["retained_rows"] == number
        assert batch.metrics["retained_tokens"] == sum(len(row.completion_ids) for row in batch.rows if is_retained(row))


def test_only_right_answers_to_train_problems_are_replayed_distinct_by_text() -> None:
    inputs = with_kept(inputs_of("sft", set(STAGES["sft"].needs)))
    stage, _ = built("sft", inputs, rows_per_batch=8, retain_share=0.5, retain_samples=6)
    rows = [row for step in range(6) for row in stage.source.batch(step).rows if is_retained(row)]
    assert inputs.retained is not None
    by_id = {item.problem.id: item.problem for item in inputs.retained.train}
    assert {row.problem_id for row in rows} <= set(by_id)
    assert all(grade_parity(by_id[row.problem_id], [row.text])[0].score == 1.0 for row in rows)
    texts = {(row.problem_id, row.completion_ids) for row in rows}
    assert len(texts) == len({(row.problem_id, row.text.strip()) for row in rows})
    assert len(texts) > len({row.problem_id for row in rows}), "several answers of a problem"


def test_behaviors_have_equally_many_rows_however_large_they_are() -> None:
    inputs = with_kept(inputs_of("sft", set(STAGES["sft"].needs)), None, kept_behavior("large", 12), kept_behavior("small", 3))
    stage, _ = built("sft", inputs, rows_per_batch=8, retain_share=0.25)
    counts = Counter(row.behavior for step in range(2) for row in stage.source.batch(step).rows if is_retained(row))
    assert counts == {"large": 3, "small": 3}


def test_at_most_so_many_problems_are_sampled() -> None:
    """Every sample is right, and long enough to end by itself."""
    behavior = kept_behavior(num_train=20, max_tokens=60)
    inputs = with_kept(inputs_of("sft", set(STAGES["sft"].needs)), {"kept": grade_all(1.0)}, behavior)
    recipe = find_recipe("sft")
    stage = build_stage(recipe, inputs, recipe.config(retain_problems=5, retain_samples=1, rows_per_batch=8))
    assert stage.source.prepare()[1]["retained_samples/kept"] == 5


def test_the_earlier_checkpoint_serves_where_the_policy_no_longer_does_it_right() -> None:
    earlier = tiny_llama(seed=4)
    frozen = FrozenModel(source="e", fingerprint="e", model=earlier, tokenizer=make_tokenizer(), engine=TinyEngine(earlier))
    behavior = kept_behavior()
    retained = TrainingSet([behavior], dev_share=0)
    accept = grade_all(1.0)

    def texts_of(engine: TinyEngine, seed: str) -> set[str]:
        sampler = RolloutSampler(engine=engine, graders={"kept": accept})
        return {row.text for row in sampler.sample_problems(retained.train, num_samples=8, seed=seed)}

    only_earlier = texts_of(TinyEngine(earlier), "retain earlier|0") - texts_of(TinyEngine(tiny_llama()), "retain|0")

    def grade(problem: object, texts: list[str]) -> list[Grade]:
        return [Grade(status=GradeStatus.SCORED, score=float(text in only_earlier)) for text in texts]

    inputs = with_kept(inputs_of("sft", set(STAGES["sft"].needs)), {"kept": grade}, behavior)
    recipe = find_recipe("sft")
    config = recipe.config(retain_samples=8, rows_per_batch=8)
    assert build_stage(recipe, inputs, config).source.prepare()[1]["retained_samples/kept"] == 0
    stage = build_stage(recipe, replace(inputs, earlier=frozen), config)
    assert stage.source.prepare()[1]["retained_samples/kept"] > 0
    assert {row.text for row in stage.source.batch(0).rows if is_retained(row)} <= only_earlier


# ------------------------------------------------------------------------------------------------------------- whole runs

RUN = ["autocast=float32", "learning_rate=1e-2", "num_steps=4"]
SAMPLED = ["problems_per_batch=3", "group_size=4"]


def train(name: str, out: Path, *settings: str, **graders: Any) -> tuple[torch.nn.Module, TrainingResult]:
    """Train a stage on the sums; a grader of `kept` retains it."""
    model = tiny_llama()
    inputs = make_inputs(model, make_tokenizer(), grade=graders.get("sums", grade_parity))
    if "kept" in graders:
        inputs = with_kept(inputs, {"kept": graders["kept"]})
    return model, run_recipe(name, inputs, load_config(name, None, [*RUN, *settings]), out=out)


def steps_of(result: TrainingResult) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in result.log.read_text().splitlines()]
    return [record for record in records if record["event"] == "step"]


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("settings", "grade"), [((), grade_all(0.0)), (("retain_share=0",), grade_all(1.0))])
def test_without_right_answers_or_a_share_the_run_is_as_without_retention(settings: tuple, grade: Any, tmp_path: Path) -> None:
    plain, _ = train("sft", tmp_path / "plain", "rows_per_batch=4")
    other, result = train("sft", tmp_path / "other", "rows_per_batch=4", *settings, kept=grade)
    assert same_weights(plain, other)
    assert (result.num_steps, result.retained_rows, result.retained_tokens) == (4, 0, 0)


def test_the_result_counts_rows_and_tokens_of_retention(tmp_path: Path) -> None:
    _, plain = train("grpo", tmp_path / "plain", *SAMPLED, "updates_per_batch=2")
    _, result = train("grpo", tmp_path / "kept", *SAMPLED, "updates_per_batch=2", kept=grade_all(1.0))
    taken = [record for record in steps_of(result) if record["status"] == "updated"]
    assert result.retained_rows == 2 * sum(record["retained_rows"] for record in taken) == 2 * 4 * len(taken)
    assert result.retained_tokens == 2 * sum(record["retained_tokens"] for record in taken)
    assert all(record["retained_nll"] > 0 for record in taken)
    assert result.trained_tokens > result.retained_tokens
    assert result.generated_tokens > plain.generated_tokens


def test_retained_rows_are_no_groups_of_the_stage(tmp_path: Path) -> None:
    """Neither rewards, nor the share of groups with a signal by which the learning rate is scaled, know of them."""
    _, plain = train("grpo", tmp_path / "plain", *SAMPLED)
    _, kept = train("grpo", tmp_path / "kept", *SAMPLED, kept=grade_all(1.0))
    for name in ("learning_rate", "reward", "groups", "groups_without_signal", "sampled_rows"):
        assert steps_of(plain)[0][name] == steps_of(kept)[0][name], name


def test_retention_alone_is_nothing_to_learn(tmp_path: Path) -> None:
    model, result = train("grpo", tmp_path, *SAMPLED, "signal_scaled=false", sums=grade_all(0.0), kept=grade_all(1.0))
    assert result.ending is Ending.NOTHING_TO_LEARN
    assert (result.num_steps, result.num_skipped, result.retained_rows) == (0, 4, 0)
    assert same_weights(model, tiny_llama())


def test_a_retained_row_of_a_measured_problem_is_refused() -> None:
    inputs = with_kept(inputs_of("sft", set(STAGES["sft"].needs)))
    stage, _ = built("sft", inputs)
    row = next(row for row in stage.source.batch(0).rows if is_retained(row))
    inputs.require_train([row])
    for wrong in (replace(row, split=Split.EVAL), replace(row, problem_id="p7"), replace(row, behavior="sums")):
        with pytest.raises(MeasuredProblemError):
            inputs.require_train([wrong])
