"""The forecast of groups without signal, against what our own GRPO logs at its first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers.group_outcomes import outcomes
from helpers.training import TinyEngine, grade_parity, make_behavior, make_inputs, make_problem, tiny_llama

from posttrain.analysis.stats import GroupSignal
from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.types import StopReason
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import TrainingSet

PROBLEMS, SAMPLES, SIZE = 40, 32, 3


def test_the_first_step_of_grpo_has_the_forecast_share_of_groups_without_signal(tokenizer, tmp_path: Path) -> None:
    behavior = replace(make_behavior(), problems=tuple(make_problem(i) for i in range(PROBLEMS)))
    model = tiny_llama()
    engine = TinyEngine(model)
    correct = []
    for problem in behavior.problems:
        prompt = engine.codec.encode_prompt(problem.prompt, behavior.prompt)
        request = SampleRequest(key=problem.id, prompt_ids=prompt.token_ids, num_samples=SAMPLES)
        (sampled,) = engine.sample([request], behavior.sampling, seed="measured")
        grades = grade_parity(problem, [one.text for one in sampled])
        correct.append(
            sum(bool(grade.score) and one.stop is not StopReason.LENGTH for one, grade in zip(sampled, grades, strict=True))
        )
    measured = outcomes([SAMPLES] * PROBLEMS, correct)
    share = GroupSignal(measured).share(SIZE).total

    settings = [f"group_size={SIZE}", f"problems_per_batch={PROBLEMS}", "num_steps=1", "dev_share=0", "learning_rate=1e-5"]
    inputs = make_inputs(model, tokenizer, grade=grade_parity, training_set=TrainingSet([behavior], dev_share=0))
    run_recipe("grpo", inputs, load_config("grpo", None, settings), out=tmp_path / "grpo")
    log = [json.loads(line) for line in (tmp_path / "grpo" / "training_log.jsonl").read_text().splitlines()]
    (first,) = [row for row in log if "groups_without_signal" in row][:1]
    assert first["groups"] == PROBLEMS
    assert 0.1 < share.estimate < 0.9
    noise = 2.0 * np.sqrt(share.estimate * (1 - share.estimate) / PROBLEMS)  # of the one step
    assert abs(first["groups_without_signal"] - share.estimate) < noise
