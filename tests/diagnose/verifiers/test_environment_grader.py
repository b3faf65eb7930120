"""The grader of an environment: rewards become scores, and what went wrong in it is missing and not wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.environments import use_stand_in, write_environment
from helpers.refusals import refused

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Grade, GradeStatus, reaches
from posttrain.diagnose.verifiers.grader import Grader


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(tmp_path, monkeypatch)
    return tmp_path


def grade(path: Path, texts: list[str], deadline: float = 5.0) -> tuple[list[Grade], float]:
    behavior = load_behavior(path)
    with Grader(behavior, deadline=deadline) as grader:
        return grader.grade(behavior.problems[0], texts), behavior.measure.success


def test_what_goes_wrong_is_missing(folder: Path) -> None:
    """The library gives 0 where a reward function raises; a connection that failed was even taken for right here."""
    texts = ["2", "half", "3", "raise", "connect", "hang", "2 "]
    grades, _ = grade(write_environment(folder, {"num_eval": 2}), texts, deadline=1.0)
    assert [one.score for one in grades] == [1.0, 0.5, 0.0, None, None, None, 1.0]
    statuses = [one.status for one in grades]
    assert statuses[3:6] == [GradeStatus.ERROR, GradeStatus.ERROR, GradeStatus.TIMEOUT]


@pytest.mark.parametrize(
    ("success", "right"),
    [
        (1.0, ["2", "much"]),
        (0.5, ["2", "half", "much"]),
        (7.0, ["much"]),
        (0.0, ["2", "half", "much", "3"]),
        (-2.0, ["2", "half", "much", "3", "debt"]),
    ],
)
def test_from_which_reward_on_an_answer_is_right(success: float, right: list[str], folder: Path) -> None:
    texts = ["2", "half", "much", "3", "debt"]
    grades, threshold = grade(write_environment(folder, {"num_eval": 2}, more=f"measure: {{success: {success}}}"), texts)
    scores = [one.score for one in grades]
    assert all(score is not None and 0.0 <= score <= 1.0 for score in scores)
    assert [text for text, score in zip(texts, scores, strict=True) if score is not None and reaches(score, threshold)] == right
    if 0.0 < success <= 1.0:  # what lies between is kept
        assert scores[1] == 0.5


@pytest.mark.parametrize("text", ["much", "debt"])
def test_a_reward_outside_the_range_ends_the_run(text: str, folder: Path) -> None:
    with refused(SettingsError, "score_range"):
        grade(write_environment(folder, {"num_eval": 2}), ["2", text])


def test_problems_of_another_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n{"prompt": "1 + 2 =", "answer": "3"}\n')
    (tmp_path / "b.yaml").write_text("problems: rows.jsonl\nverifier: {kind: environment, name: sums-env}\n")
    with refused(BehaviorError, "unsuitable_problem"):
        load_behavior(tmp_path / "b.yaml")


def test_another_source_of_the_environment_is_another_behavior(folder: Path) -> None:
    path = write_environment(folder, {"num_eval": 2})
    before = load_behavior(path).fingerprint
    assert load_behavior(path).fingerprint == before
    module = folder / "sums_env.py"
    module.write_text(module.read_text() + "\n# another one\n")
    assert load_behavior(path).fingerprint != before
