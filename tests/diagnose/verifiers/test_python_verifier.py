"""A function of the user as a verifier: what it gets, what its scores count, and what it is kept from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Rollout, Split, StopReason, reaches
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.sandbox.isolation import VARIABLE, Isolation, available

REWARDS = """
import math, os, time
calls = []

def score(text, problem):
    calls.append(text)
    if text == "count": return len(calls) / 10
    if text == "problem": return problem["answer"] == "12" and problem["metadata"]["unit"] == "cm" and problem["references"] == ["It is 12."]
    if text == "raise": raise RuntimeError("no\\nway")
    if text == "hang": time.sleep(100)
    if text == "die": os._exit(0)
    if text == "none": return None
    if text == "file": return os.path.exists(os.path.dirname(__file__) + "/../secret.txt")
    if text == "forge":
        for d in range(3, 64):
            try: os.write(d, b'{"strict": "1.0", "lenient": null}\\\\n5\\\\n{"id": 0, "strict": "1.0", "lenient": null}\\\\n')
            except OSError: pass
        return 0.0
    if text == "fork":
        try: return os.fork() is not None
        except OSError: return False
    return {"half": 0.5, "yes": True, "no": False, "more": 99, "nan": math.nan, "less": -1, "text": "1"}.get(text, 0)
"""


def load(folder: Path, *, isolated: bool = False, function: str = "rewards:score", rewards: str = REWARDS) -> Behavior:
    row = {"prompt": "How long?", "answer": "12", "references": ["It is 12."], "metadata": {"unit": "cm"}}
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "rewards.py").write_text(rewards)
    (folder / "mine" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    verifier = json.dumps({"kind": "python", "function": function, "isolated": isolated})
    (folder / "mine" / "b.yaml").write_text(f"problems: rows.jsonl\nverifier: {verifier}\nsplit: {{train: 0.0, final: 0.0}}\n")
    return load_behavior(folder / "mine" / "b.yaml")


KNOWN = {"problem": 1.0, "half": 0.5, "yes": 1.0, "no": 0.0, "text": 1.0}
MISSING = {"raise": "error", "die": "error", "none": "error", "more": "error", "nan": "error", "less": "error", "hang": "timeout"}


@pytest.mark.parametrize("isolation", [None, *Isolation])
def test_scores_of_a_function(isolation: Isolation | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if isolation is not None:
        if isolation not in available():
            pytest.skip(f"{isolation} does not work here")
        monkeypatch.setenv(VARIABLE, isolation.value)
    behavior = load(tmp_path, isolated=isolation is not None)
    texts = [*KNOWN, *MISSING, "yes", "half"]
    with Grader(behavior, deadline=1.0) as grader:
        grades = dict(zip(texts, grader.grade(behavior.problems[0], texts), strict=True))
    assert {text: grades[text].score for text in KNOWN} == KNOWN
    assert {text: grades[text].status.value for text in MISSING} == MISSING
    assert all(grades[text].score is None for text in MISSING)


@pytest.mark.parametrize("isolation", list(Isolation))
def test_isolated_texts_reach_neither_files_nor_each_other(
    isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isolation not in available():
        pytest.skip(f"{isolation} does not work here")
    monkeypatch.setenv(VARIABLE, isolation.value)
    (tmp_path / "secret.txt").write_text("secret")
    opened = REWARDS.replace(
        'os.path.exists(os.path.dirname(__file__) + "/../secret.txt")', f"bool(open({str(tmp_path / 'secret.txt')!r}).read())"
    )
    behavior = load(tmp_path, isolated=True, rewards=opened)
    with Grader(behavior) as grader:
        found = [
            grader.grade(behavior.problems[0], [text])[0]
            for text in ("count", "half", "count", "file", "fork", "forge", "no", "half")
        ]
    assert [grade.score for grade in found[:3]] == [0.1, 0.5, 0.1]
    assert found[3].status is GradeStatus.ERROR
    assert found[4].score == 0.0
    assert found[5].score is None  # its result is no single one
    assert [grade.score for grade in found[6:]] == [0.0, 0.5]


@pytest.mark.parametrize("isolation", list(Isolation))
def test_the_limit_of_memory_comes_on_top_of_what_the_imports_took(
    isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isolation not in available():
        pytest.skip(f"{isolation} does not work here")
    monkeypatch.setenv(VARIABLE, isolation.value)
    reserves = "import mmap\nkept = mmap.mmap(-1, 7 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)\n"
    allocates = "def score(text, problem): return len(bytearray(int(text) << 20)) / (1 << 40)\n"
    behavior = load(tmp_path, isolated=True, rewards=reserves + allocates)
    with Grader(behavior, deadline=20.0) as grader:
        small, large = grader.grade(behavior.problems[0], ["256", "5000"])
    assert small.score == 2**-12
    assert large.status is GradeStatus.ERROR


def test_a_forged_reply_is_that_texts_alone(tmp_path: Path) -> None:
    """Without isolation a text that the function executes can write where the child answers; names of requests cannot be guessed."""
    behavior = load(tmp_path)
    with Grader(behavior) as grader:
        grades = grader.grade(behavior.problems[0], ["no", "forge", "no ", "half", "yes"])
    assert [grade.score for grade in grades] == [0.0, None, 0.0, 0.5, 1.0]


def test_a_changed_function_is_another_behavior_and_a_moved_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load(tmp_path / "a").fingerprint
    assert load(tmp_path / "b").fingerprint == first
    assert load(tmp_path / "b", rewards=REWARDS + "\n# changed\n").fingerprint != first


def test_what_is_no_function_is_refused(tmp_path: Path) -> None:
    for function in ("rewards", "rewards:", "rewards.score", "../rewards:score", 3):
        with refused(BehaviorError, "invalid_setting"):
            load(tmp_path, function=function)  # type: ignore[arg-type]
    with refused(BehaviorError, "no_such_module"):
        load(tmp_path, function="rewardz:score")
    behavior = load(tmp_path, function="rewards:scores")
    with Grader(behavior) as grader, refused(SettingsError, "verifier_not_ready") as caught:
        grader.grade(behavior.problems[0], ["yes"])
    assert "scores" in str(caught.value)


def test_the_folder_of_the_grading_process_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behavior = load(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit")
    (tmp_path / "mine" / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with Grader(behavior) as grader:
        assert grader.grade(behavior.problems[0], ["yes"])[0].score == 1.0


def test_a_sum_of_parts_is_a_success_to_rounding(tmp_path: Path) -> None:
    """.7 + .2 + .1 is a little less than 1, and other sums are a little more; .999999 is no success."""
    rewards = "def score(text, problem):\n    return {'less': 0.7 + 0.2 + 0.1, 'more': 1.0 + 2.3e-16}.get(text, 0.999999)\n"
    behavior = load(tmp_path, rewards=rewards)
    with Grader(behavior) as grader:
        grades = grader.grade(behavior.problems[0], ["less", "more", "nearly"])
    assert [grade.status for grade in grades] == [GradeStatus.SCORED] * 3
    assert grades[0].score == 0.7 + 0.2 + 0.1 < 1.0
    assert grades[1].score == 1.0
    scores = np.array([grade.score for grade in grades], dtype=float)
    assert reaches(scores, behavior.measure.success).tolist() == [True, True, False]
    rollouts = [rollout(grade) for grade in grades]
    assert [one.succeeded(behavior.measure.success) for one in rollouts] == [True, True, False]


def rollout(grade: Grade) -> Rollout:
    return Rollout(
        behavior="b", problem_id="p", split=Split.EVAL, sample_index=0, decoding="sampled", token_ids=(1,), policy_logprobs=np.zeros(1, np.float32),
        sampler_logprobs=np.zeros(1, np.float32), stop=StopReason.EOS, text="a", grade=grade, engine="e",
    )  # fmt: skip
