"""Rows of which a chat template leaves out a turn are refused: the model would learn to answer what it is not shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.trainers.data.data_set import read_data
from posttrain.trainers.sources.policy import problem_prompts
from posttrain.trainers.training_types import TrainingProblem

ANSWERS_ALONE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}</s>{% else %}user: {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LAST_QUESTION_ALONE = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}</s>{% elif loop.revindex <= 2 %}{{ m.content }}: {% endif %}{% endfor %}"
QUESTION, ANSWER = {"role": "user", "content": "4 + 5 ="}, {"role": "assistant", "content": "9"}


def engine_with(tiny_model: Path, template: str) -> TransformersEngine:
    engine = TransformersEngine.open(str(tiny_model))
    tokenizer = engine.codec.tokenizer
    tokenizer.chat_template = template
    engine.codec = TextCodec(tokenizer, engine.codec.eos_ids)
    return engine


@pytest.fixture
def behavior() -> Behavior:
    problem = Problem(id="t", prompt="1 + 1 =", answer="2", key="t", split=Split.TRAIN)
    return Behavior(name="sums", problems=(problem,), verifier=VerifierSpec(kind="number"), measure=MeasureSettings(epsilon=0.01))


@pytest.mark.parametrize(
    ("template", "row"),
    [
        (ANSWERS_ALONE, {"messages": [QUESTION, ANSWER]}),
        (ANSWERS_ALONE, {"messages": [QUESTION, ANSWER, QUESTION, ANSWER]}),
        (ANSWERS_ALONE, {"prompt": [QUESTION], "completion": [ANSWER]}),
        (ANSWERS_ALONE, {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [ANSWER | {"content": "8"}]}),
        (LAST_QUESTION_ALONE, {"messages": [{"role": "user", "content": "1 + 3 ="}, ANSWER, QUESTION, ANSWER]}),
    ],
)
def test_a_row_is_refused(tiny_model: Path, behavior: Behavior, tmp_path: Path, template: str, row: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with refused(BehaviorError, "turn_left_out_by_template"):
        read_data(path, engine_with(tiny_model, template), [behavior])


def test_a_train_problem_is_refused(tiny_model: Path, behavior: Behavior) -> None:
    with refused(BehaviorError, "turn_left_out_by_template"):
        problem_prompts(
            engine_with(tiny_model, ANSWERS_ALONE), [TrainingProblem(behavior=behavior, problem=behavior.problems[0])]
        )
