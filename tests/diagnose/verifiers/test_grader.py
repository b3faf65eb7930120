"""The child process: what reaches it, and what its troubles cost."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import assert_refuses

from posttrain.diagnose.errors import VerifierError
from posttrain.diagnose.types import (
    Behavior,
    Grade,
    GradeStatus,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Reference,
    Split,
    VerifierSpec,
)
from posttrain.diagnose.verifiers import VERIFIERS
from posttrain.diagnose.verifiers.base import ModelVerifier
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.reward_model import RewardModelOptions
from posttrain.diagnose.verifiers.sandbox import child_process
from posttrain.diagnose.verifiers.sandbox.child_process import Child
from posttrain.diagnose.verifiers.selftest import verifier_selftest


def problem(number: int, answer: str, prompt: str | tuple[Message, ...] = "", **more: Any) -> Problem:
    question = prompt or f"Question number {number}?"
    return Problem(id=f"p{number}", prompt=question, answer=answer, key=str(number), split=Split.EVAL, **more)


def behavior(kind: str, *problems: Problem, **options: Any) -> Behavior:
    return Behavior(
        name="b",
        problems=problems,
        verifier=VerifierSpec(kind=kind, options=options),
        measure=MeasureSettings(epsilon=0.006),
        prompt=PromptFormat(template="Please: {question}"),
    )


@pytest.fixture(scope="module")
def numbers() -> Iterator[Grader]:
    with Grader(behavior("number", problem(1, "12"))) as grader:
        yield grader


def test_grades_in_order(numbers: Grader) -> None:
    texts = ["It is 12.", "13", "nothing", "10 or 12", "", "It is 12.", "\ud800 12 \x00"]
    grades = numbers.grade(problem(1, "12"), texts)
    assert [grade.score for grade in grades] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert [grade.status.value for grade in grades[:4]] == ["scored", "scored", "unparsed", "unparsed"]
    assert grades[0].extracted == "12"
    assert [grade.lenient_score for grade in grades[:5]] == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert numbers.grade(problem(1, "12"), []) == []


def test_an_echo_is_no_answer(numbers: Grader) -> None:
    asked = problem(2, "4", "What is 1 times 4?")
    echoes = ["What is 1 times 4?", " what is 1\ntimes 4", "Please: What is 1 times 4?"]
    for grade in numbers.grade(asked, echoes):
        assert (grade.status, grade.score, grade.lenient_score) == (GradeStatus.UNPARSED, 0.0, 0.0)
    assert numbers.grade(asked, ["What is 1 times 4? 4"])[0].score == 1.0
    chat = problem(3, "4", (Message("system", "Reply."), Message("user", "1 times 4")))
    assert numbers.grade(chat, ["1 times 4."])[0].status is GradeStatus.UNPARSED


def test_what_is_to_be_copied_is_an_answer(numbers: Grader) -> None:
    assert [grade.score for grade in numbers.grade(problem(4, "12", "12"), ["12", "13"])] == [1.0, 0.0]
    copied = [problem(5, "Hello there.", "hello there"), problem(6, "?", "?"), problem(7, "B", "A")]
    tested = behavior("exact", *copied)
    with Grader(tested) as grader:
        assert [one.score for asked in copied for one in grader.grade(asked, ["Hello there", "?", "B"])] == [
            1.0, 0.0, 0.0,
            0.0, 1.0, 0.0,
            0.0, 0.0, 1.0,
        ]  # fmt: skip
        assert grader.grade(copied[2], ["A"])[0].status is GradeStatus.UNPARSED
        assert verifier_selftest(tested, grader, copied).failures == ()


def test_several_problems_at_once_are_graded_as_each_alone(numbers: Grader) -> None:
    asked = [(problem(1, "12"), ["It is 12.", "13"]), (problem(2, "4"), []), (problem(3, "5"), ["", "5", "Question number 3?"])]
    assert numbers.grade_several(asked) == [numbers.grade(*one) for one in asked]
    assert numbers.grade_several([]) == []


def test_thousands_per_second(numbers: Grader) -> None:
    texts = [f"{i} times 2 is {2 * i}." for i in range(3000)]
    start = time.monotonic()
    grades = numbers.grade(problem(1, "12"), texts)
    assert sum(grade.score or 0.0 for grade in grades) == 1.0
    assert time.monotonic() - start < 6.0  # about 0.6 s on an idle core


def test_catastrophic_backtracking_is_a_timeout_and_costs_no_one_else() -> None:
    hangs = "a" * 40 + "!"
    with Grader(behavior("regex", problem(1, "aa"), pattern="^((?:a+)+)$"), deadline=0.3) as grader:
        grades = grader.grade(problem(1, "aa"), ["aa", hangs, "aa", hangs, "b"])
    assert [grade.status.value for grade in grades] == ["scored", "timeout", "scored", "timeout", "unparsed"]
    assert grades[1].missing
    assert grades[1].score is None
    assert "0.3 s" in grades[1].detail


CRASHING = """
import runpy, sys
runpy.run_path(sys.argv[1])["put_packages_in_place"]()
import os, posttrain.diagnose.verifiers.number as number, posttrain.diagnose.verifiers.sandbox.child as child
real = number.NumberVerifier.extract
def extract(self, text, *, lenient, payload=None):
    if text == "die": os._exit(3)
    if text == "kill": os.kill(os.getpid(), 9)
    if text == "raise": raise RuntimeError("no\\nway")
    if text == "memory": bytearray(1 << 40)
    if text.startswith("reply "):
        for descriptor in range(3, 16):
            try: os.write(descriptor, text[6:].encode() + b"\\n")
            except OSError: pass
    if text == "print": print("{}", flush=True); os.write(1, b"junk\\n"); input_is = os.read(0, 10); assert input_is == b""
    if text == "environment": return str(sorted(os.environ)) + os.getcwd()
    return real(self, text, lenient=lenient)
number.NumberVerifier.extract = extract
child.main()
"""


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grader]:
    """Return a grader whose child misbehaves on certain texts."""
    real = subprocess.Popen
    script = tmp_path / "crashing_child.py"
    script.write_text(CRASHING)

    def popen(command: list[str], **settings: Any) -> Any:
        return real([*command[:2], str(script), command[2]], **settings)

    monkeypatch.setattr(child_process.subprocess, "Popen", popen)
    with Grader(behavior("number", problem(1, "12"))) as grader:
        yield grader


def test_a_crash_is_an_error_of_that_text_only(crashing: Grader) -> None:
    texts = ["12", "die", "12.", "raise", "12 ", "memory", "12!", "kill", "=12"]
    grades = crashing.grade(problem(1, "12"), texts)
    assert [grade.status.value for grade in grades] == ["scored", "error"] * 4 + ["scored"]
    details = [grade.detail for grade in grades if grade.missing]
    assert "code 3" in details[0]
    assert "RuntimeError" in details[1]
    assert "MemoryError" in details[2]
    assert "SIGKILL" in details[3]


def test_a_crash_is_an_error_of_that_text_only_whatever_problem_it_is_of(crashing: Grader) -> None:
    texts = ["12", "die", "12.", "kill", "13"]
    found = crashing.grade_several([(problem(i, "12"), [text]) for i, text in enumerate(texts)])
    assert [grade.status.value for (grade,) in found] == ["scored", "error", "scored", "error", "scored"]
    assert [grade.score for (grade,) in found] == [1.0, None, 1.0, None, 0.0]


def test_prints_do_not_corrupt_the_protocol(crashing: Grader) -> None:
    assert [grade.status.value for grade in crashing.grade(problem(1, "12"), ["print", "12"])] == ["unparsed", "scored"]


@pytest.mark.parametrize(
    "reply",
    ["5", "[]", "{}", "null", '{"id": 0}', '{"id": 0, "strict": "12", "lenient": "12"}', '{"id": "0", "strict": "12", "lenient": "12"}', '{"ready": true}', "\ud800", "[" * 9999],
)  # fmt: skip
def test_a_forged_reply_is_missing_and_costs_no_other_text(crashing: Grader, reply: str) -> None:
    grades = crashing.grade(problem(1, "12"), ["12", f"reply {reply}", "13", "12."])
    assert [grade.status.value for grade in grades] == ["scored", "error", "scored", "scored"]
    assert [grade.score for grade in grades] == [1.0, None, 0.0, 1.0]


@pytest.mark.parametrize(
    "reply", ["strict", '"strict": 12, "lenient": null', '"strict": "12"', '"strict": null, "lenient": ["12"]']
)
def test_a_reply_without_its_fields_is_missing(reply: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is broken, and knows the names of requests."""
    script = tmp_path / "broken_child.py"
    script.write_text(
        "import json, sys\nsys.stdin.readline()\nprint('{\"ready\": true}', flush=True)\n"
        f"for line in sys.stdin: print('{{\"id\": ' + json.dumps(json.loads(line)['id']) + ', ' + {reply!r} + '}}', flush=True)\n"
    )
    monkeypatch.setattr(child_process, "CHILD_SCRIPT", script)
    with Grader(behavior("number", problem(1, "12"))) as grader:
        grades = grader.grade(problem(1, "12"), ["12", "13"])
    assert [(grade.status, grade.score) for grade in grades] == [(GradeStatus.ERROR, None)] * 2


def test_the_environment_is_empty(crashing: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    crashing.close()
    (grade,) = crashing.grade(problem(1, "12"), ["environment"])
    assert grade.extracted is not None
    assert "SOME_TOKEN" not in grade.extracted
    assert "PYTHONPATH" not in grade.extracted
    assert "posttrain-verifier-" in grade.extracted
    assert str(Path.cwd()) not in grade.extracted


@pytest.mark.parametrize("kind", ["number", "exact", "choice", "regex"])
def test_the_child_never_sees_the_answer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"choice": "F"}.get(kind, "918273645")
    options = {"pattern": r"(\d+|x)"} if kind == "regex" else {}
    sent: list[bytes] = []
    real = Child.send
    monkeypatch.setattr(Child, "send", lambda self, line: (sent.append(line), real(self, line))[1])
    asked = problem(1, answer, references=(Reference(steps=(answer,)),), metadata={"answer": answer}, group=answer)
    with Grader(behavior(kind, asked, **options)) as grader:
        grader.grade(asked, ["x"])
    assert len(sent) == 2
    assert set(json.loads(sent[1])) == {"id", "text", "payload"}
    assert json.loads(sent[1])["payload"] is None
    assert answer not in b"".join(sent).decode().replace("false", "")


def test_reasoning_gym_scores_with_the_whole_entry() -> None:
    entry = {"question": "q", "answer": "12", "metadata": {"source_dataset": "products"}}
    asked = problem(1, "12", metadata={"reasoning_gym": entry})
    with Grader(behavior("reasoning_gym", asked)) as grader:
        grades = grader.grade(asked, ["12", "<answer>12.0</answer>", "13", "The answer is 12.", ""])
        test = verifier_selftest(behavior("reasoning_gym", asked), grader, [asked])
    assert [grade.score == 1.0 for grade in grades] == [True, True, False, False, False]
    assert grades[3].lenient_score == 1.0
    assert grades[4].status is GradeStatus.UNPARSED
    assert not test.failures


def test_a_users_files_do_not_get_in_the_way(tmp_path: Path) -> None:
    for name in ("json.py", "re.py", "analysis.py", "posttrain.py", "selectors.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").write_text("raise SystemExit('shadowed')")
    code = (
        "from posttrain.diagnose.behaviors import load_behavior\n"
        "from posttrain.diagnose.verifiers.grader import Grader\n"
        "import sys; behavior = load_behavior('b.jsonl')\n"
        "with Grader(behavior) as grader: print(grader.grade(behavior.problems[0], ['12'])[0].score)\n"
    )
    (tmp_path / "b.jsonl").write_text('{"prompt": "3*4", "answer": "12"}\n')
    command = [sys.executable, "-P", "-W", "error::ResourceWarning", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0\n", "")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started: list[int] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **settings: Any) -> Any:
        process = real(*arguments, **settings)
        started.append(process.pid)
        return process

    monkeypatch.setattr(child_process.subprocess, "Popen", popen)
    grader = Grader(behavior("number", problem(1, "12")))
    assert not started  # nothing starts before the first text
    grader.grade(problem(1, "12"), ["12"])
    grader.close()
    grader.close()
    grader.grade(problem(1, "12"), ["12"])
    del grader
    gc.collect()
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list(tmp_path.iterdir())


def test_a_child_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "CHILD_SCRIPT", "/no_such_script.py")
    grader = Grader(behavior("number", problem(1, "12")))
    with pytest.raises(VerifierError) as failed:
        grader.grade(problem(1, "12"), ["12"])
    assert "/no_such_script.py" in str(failed.value)  # what the process printed before it ended
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(VerifierError) as failed:
        grader.grade(problem(1, "12"), ["12"])
    assert isinstance(failed.value.__cause__, FileNotFoundError)


def test_deadline_must_be_positive() -> None:
    assert_refuses(Grader, {"behavior": behavior("number"), "deadline": 0.1}, deadline=0.0)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_missing_and_no_failure(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModelVerifier):
        Options = RewardModelOptions

        def __init__(self, options: RewardModelOptions) -> None:
            pass

        def rate(self, problem: Problem, texts: Sequence[str], prompt_format: PromptFormat) -> list[Grade]:
            return [Grade(status=GradeStatus.SCORED, score=score if text == "b" else 0.7, lenient_score=0.7) for text in texts]

    monkeypatch.setitem(VERIFIERS, "broken", Broken)
    with Grader(behavior("broken", problem(1, "a"), model="none")) as grader:
        known, missing = grader.grade(problem(1, "a"), ["a", "b"])
    assert (known.status, known.score) == (GradeStatus.SCORED, 0.7)
    assert (missing.status, missing.score, missing.missing) == (GradeStatus.ERROR, None, True)
