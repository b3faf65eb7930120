"""A reward model from end to end: taught by pairs, it judges answers, and its scores train a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.diagnose import load_behavior
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.trainers import train


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems without a right answer, and pairs in which a row of a is better than a row of b."""
    folder = tmp_path_factory.mktemp("liked")
    rows = [{"id": f"p{i}", "prompt": f"say {i}:", "answer": "aa"} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": f"say {20 + i}:", "chosen": "a" * (1 + i % 4), "rejected": "b" * (1 + i % 3)} for i in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    plain = "problems: rows.jsonl\nprompt: {format: completion}\nsampling: {max_tokens: 8, stop: ['.', ' ']}\nsplit: {train: 0.5, final: 0}\n"
    (folder / "plain.yaml").write_text(plain + "name: plain\n")
    (folder / "liked.yaml").write_text(plain + "verifier: {kind: reward_model, model: reward}\n")
    return folder


@pytest.fixture(scope="module")
def reward_model(prompts: Path, tiny_model: Path) -> Path:
    train(
        "reward_model", tiny_model, [prompts / "plain.yaml"], out=prompts / "reward", data=prompts / "pairs.jsonl",
        overrides=["num_steps=20", "rows_per_batch=12", "learning_rate=3e-3"],
    )  # fmt: skip
    return prompts / "reward"


@pytest.mark.usefixtures("reward_model")
def test_what_the_pairs_preferred_scores_higher(prompts: Path) -> None:
    behavior = load_behavior(prompts / "liked.yaml")
    with Grader(behavior) as grader:
        good, bad = (grade.score for grade in grader.grade(behavior.problems[0], ["aaa", "bb"]))
    assert good is not None
    assert bad is not None
    assert good > 0.5 > bad


@pytest.mark.usefixtures("reward_model")
def test_its_scores_train_a_policy(prompts: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = train(
        "grpo", tiny_model, [prompts / "liked.yaml"], out=tmp_path / "out", overrides=["num_steps=1", "group_size=8", "problems_per_batch=2"]
    )  # fmt: skip
    step = json.loads((tmp_path / "out" / "training_log.jsonl").read_text().splitlines()[1])
    assert result.num_steps == 1
    assert 0 < step["reward"] < 1
