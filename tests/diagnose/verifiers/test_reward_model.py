"""A reward model as a verifier."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.refusals import refused
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError, ModelError
from posttrain.diagnose.types import Behavior, GradeStatus
from posttrain.diagnose.verifiers import build_verifier
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.reward_model import RewardModelOptions, RewardModelVerifier
from posttrain.diagnose.verifiers.selftest import verifier_selftest


def make_reward_model(path: Path, source: Path, **settings: Any) -> Path:
    """Return a classifier over characters with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(source, **({"num_labels": 1} | settings))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("models") / "reward", tiny_model)


def write_behavior(folder: Path, model: object, **options: object) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"say {i}:", "answer": "hi", "references": ["hi you"]} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verifier = {"kind": "reward_model", "model": str(model), **options}
    path = folder / "nice.yaml"
    path.write_text(f"problems: rows.jsonl\nverifier: {json.dumps(verifier)}\nprompt: {{format: completion}}\n")
    return path


def rewards(path: Path, behavior: Behavior, texts: list[str]) -> list[float]:
    """Return what the head says behind the last token, one text at a time and by hand."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    found = []
    for text in texts:
        ids = tokenizer(f"{behavior.problems[0].prompt}{text}")["input_ids"]
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([[*ids, tokenizer.eos_token_id]])).last_hidden_state
        found.append(float(model.score(hidden[0, -1]).detach()))
    return found


def test_scores_are_the_sigmoid_of_the_reward_behind_the_end_token(reward_model: Path, tmp_path: Path) -> None:
    behavior = load_behavior(write_behavior(tmp_path, reward_model, threshold=0.3))
    assert behavior.measure.success == 0.5
    texts = ["hi", "hello you there", "x", "hi"]
    with Grader(behavior) as grader:
        grades = grader.grade(behavior.problems[0], texts)
    expected = [1 / (1 + math.exp(0.3 - reward)) for reward in rewards(reward_model, behavior, texts)]
    assert [grade.score for grade in grades] == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == 3
    assert {grade.status for grade in grades} == {GradeStatus.SCORED}
    assert all(grade.lenient_score == grade.score for grade in grades)


def test_a_model_that_pads_with_its_end_token_is_read_behind_it_all_the_same(tiny_model: Path, tmp_path: Path) -> None:
    path = make_reward_model(tmp_path / "padded", tiny_model, pad_token_id=2)
    behavior = load_behavior(write_behavior(tmp_path, path))
    texts = ["hi", "hello you there"]
    with Grader(behavior) as grader:
        scores = [grade.score for grade in grader.grade(behavior.problems[0], texts)]
    assert scores == pytest.approx([1 / (1 + math.exp(-reward)) for reward in rewards(path, behavior, texts)], abs=1e-5)


def test_blanks_and_echoes_need_no_model(tmp_path: Path, reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behavior = load_behavior(write_behavior(tmp_path, reward_model))

    def rate(self: RewardModelVerifier, *_: Any) -> None:
        raise AssertionError("nothing is to be scored")

    monkeypatch.setattr(RewardModelVerifier, "rate", rate)
    with Grader(behavior) as grader:
        grades = grader.grade(behavior.problems[0], ["", " \n", "Say 0:"])
    assert [(grade.status, grade.score) for grade in grades] == [(GradeStatus.UNPARSED, 0.0)] * 3
    assert [grade.detail for grade in grades] == ["the text is blank", "the text is blank", "the text repeats the question"]


def test_an_answer_that_does_not_fit_is_missing_and_odd_characters_are_read(reward_model: Path, tmp_path: Path) -> None:
    behavior = load_behavior(write_behavior(tmp_path, reward_model))
    with Grader(behavior) as grader:
        long, odd = grader.grade(behavior.problems[0], ["hi" * 400, "\ud800 \x00 hi"])
        grader.close()
        assert grader.grade(behavior.problems[0], ["hi"])[0].status is GradeStatus.SCORED  # loaded again
    assert (long.status, long.score) == (GradeStatus.ERROR, None)
    assert "longer than the 512 tokens" in long.detail
    assert odd.status is GradeStatus.SCORED


def test_many_long_texts_are_read_in_several_batches(reward_model: Path, tmp_path: Path) -> None:
    behavior = load_behavior(write_behavior(tmp_path, reward_model))
    texts = [f"{i} and {'on' * (i % 5)}" for i in range(20)]

    def scores(**settings: int) -> list[float | None]:
        verifier = RewardModelVerifier(RewardModelOptions(model=str(reward_model)), **settings)
        return [grade.score for grade in verifier.rate(behavior.problems[0], texts, behavior.prompt)]

    assert scores(batch_tokens=50) == pytest.approx(scores(), abs=1e-5)


def test_the_selftest_tries_references_and_garbage_on_a_few_problems(reward_model: Path, tmp_path: Path) -> None:
    behavior = load_behavior(write_behavior(tmp_path, reward_model, threshold=-100.0))  # likes everything
    with Grader(behavior) as grader:
        found = verifier_selftest(behavior, grader, behavior.problems)
    assert {case.name: case.num_texts for case in found.cases} == {
        "answer": 0, "reference": 8, "empty": 16, "garbage": 48, "near_miss": 0, "other_answer": 0, "echo": 16, "candidates": 0,
    }  # fmt: skip
    assert [case.name for case in found.cases if case.num_failed] == ["garbage"]
    severe = load_behavior(write_behavior(tmp_path, reward_model, threshold=100.0))  # likes nothing
    with Grader(severe) as grader:
        assert [case.name for case in verifier_selftest(severe, grader, severe.problems).cases if case.num_failed] == [
            "reference"
        ]


def test_the_behavior_says_what_a_success_is_and_its_fingerprint_knows_the_weights(
    reward_model: Path, tiny_model: Path, tmp_path: Path
) -> None:
    plain = write_behavior(tmp_path, reward_model)
    first = load_behavior(plain).fingerprint
    text = plain.read_text()
    plain.write_text(text + "measure: {success: 0.9}\n")
    assert load_behavior(plain).measure.success == 0.9
    plain.write_text(text)
    moved = tmp_path / "moved"
    shutil.copytree(reward_model, moved)
    assert load_behavior(write_behavior(tmp_path, "moved")).fingerprint == first  # beside the behavior file, and the same weights
    shutil.rmtree(moved)
    make_reward_model(moved, tiny_model, initializer_range=0.3)
    assert load_behavior(write_behavior(tmp_path, "moved")).fingerprint != first


def test_what_is_no_reward_model_is_refused_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with refused(ModelError, "model_not_found"):
        load_behavior(write_behavior(tmp_path, tmp_path / "none"))
    for path, said in (
        (tiny_model, "its weights lack score.weight"),
        (make_reward_model(tmp_path / "two", tiny_model, num_labels=2), "it has 2 labels"),
    ):
        behavior = load_behavior(write_behavior(tmp_path, path))
        with refused(ModelError, "not_a_reward_model") as caught, Grader(behavior) as grader:
            grader.grade(behavior.problems[0], ["hi"])
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "model is missing"),
        ({"model": "m", "treshold": 1}, "did you mean 'threshold'"),
        ({"model": "m", "threshold": "x"}, "threshold: got"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    from posttrain.diagnose.types import VerifierSpec

    with pytest.raises(BehaviorError) as caught:
        build_verifier(VerifierSpec(kind="reward_model", options=options))
    assert caught.value.code == "invalid_setting"
    assert said in str(caught.value)
