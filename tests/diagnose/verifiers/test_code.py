"""Programs as answers: what is read as one, what its tests say, and from a file to a grade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Behavior, GradeStatus, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.code import CodeOptions, CodeVerifier
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.sandbox import isolation
from posttrain.diagnose.verifiers.sandbox.code_run import ProgramRunner, ProgramTests, Verdict
from posttrain.diagnose.verifiers.selftest import verifier_selftest

needs_isolation = pytest.mark.skipif(not isolation.available(), reason="no isolation works here")

PROMPT = '''from typing import List


def double(x: int) -> int:
    """Return twice x."""
    return 2 * x


def total(values: List[int]) -> int:
    """Return the sum of the doubled values.
    >>> total([1, 2])
    6
    """
'''
CHECK = """
METADATA = {}


def check(candidate):
    assert candidate([]) == 0
    assert candidate([1, 2]) == sum(double(x) for x in [1, 2])
    assert abs(candidate([5]) - 10) < 1e-6
"""
BODY = "    return sum(double(value) for value in values)\n"
WHOLE = "def total(values: List[int]) -> int:\n    return 2 * sum(values)\n"


def like_humaneval(**more: Any) -> Problem:
    metadata = {"test": CHECK, "entry_point": "total"}
    return Problem(id="h", prompt=PROMPT, answer=BODY, key="h", split=Split.EVAL, metadata=metadata, **more)


def like_mbpp(*tests: str, setup: str = "", answer: str = "def f(x):\n    return x") -> Problem:
    metadata = {"test_list": list(tests), "test_setup_code": setup}
    return Problem(id="m", prompt="Write a function f.", answer=answer, key="m", split=Split.EVAL, metadata=metadata)


def behavior(*problems: Problem, **options: Any) -> Behavior:
    return Behavior(
        name="b", problems=problems, verifier=VerifierSpec(kind="code", options=options), measure=MeasureSettings(epsilon=0.006)
    )


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(behavior(like_humaneval(), like_mbpp("assert f(1) == 1"), seconds=20)) as one:
        yield one


def read(text: str, *, lenient: bool = False, problem: Problem | None = None) -> str | None:
    verifier = CodeVerifier(CodeOptions())
    return verifier.extract(text, lenient=lenient, payload=verifier.payload(problem or like_humaneval()))


STRICT = [
    BODY,
    f"{BODY}\n\ndef further():\n    return (1,",
    f"{BODY}\nprint(total([1",
    WHOLE,
    f"```python\n{WHOLE}```",
    f"```\n{BODY}```\nThis sums.",
    f"First:\n```python\ndef total(v): return 0\n```\nBetter:\n```python\n{WHOLE}```\nUse it so:\n```python\nprint(total([1]))\n```",
    f"from __future__ import annotations\n{WHOLE}".replace("List[int]", "list"),
]
LENIENT = [
    "return sum(double(value) for value in values)",
    f"```python\n{WHOLE}",
    f"Sure! Here it is.\n\n{WHOLE}\nThis doubles and sums.",
    f"```python\n{WHOLE}```\nor\n```python\ndef other(",
    "    " + WHOLE.replace("\n", "\n    "),
]


@needs_isolation
def test_what_is_read_as_a_program(grader: Grader) -> None:
    asked = like_humaneval()
    for text, grade in zip(STRICT, grader.grade(asked, STRICT), strict=True):
        assert (grade.status, grade.score) == (GradeStatus.SCORED, 1.0), (text, grade)
    for text, grade in zip(LENIENT, grader.grade(asked, LENIENT), strict=True):
        assert grade.lenient_score == 1.0, (text, grade)
    assert sum(grade.score or 0.0 for grade in grader.grade(asked, LENIENT)) < len(LENIENT)


@pytest.mark.parametrize("text", ["I cannot do that.", "", "pass_it_on", "```python\nthis is no code\n```", "x = 1", PROMPT])
def test_what_states_no_program(text: str) -> None:
    assert read(text) is None


def test_a_program_may_stand_between_markers_or_after_words() -> None:
    asked = like_mbpp("assert f(1) == 1")
    program = "def f(x):\n    return x"
    for text in (program, f"```python\n{program}\n```", f"[BEGIN]\n{program}\n[DONE]\nmore [BEGIN]"):
        assert (read(text, problem=asked) or "").strip() == program
    for text in (
        f"~~~python\n{program}\n~~~",
        f"[PYTHON]\n{program}\n[/PYTHON]",
        f"<answer>\n{program}\n</answer>",
        f"```python\n{program}\n```<|im_end|>",
        f"{program}<|endoftext|>",
        f"\ufeff{program}",
    ):
        assert (read(text, problem=asked) or "").strip() == program
    assert read(f"Here:\n{program}", problem=asked) is None
    assert (read(f"Here:\n{program}", problem=asked, lenient=True) or "").strip() == program


@needs_isolation
def test_tests_decide(grader: Grader) -> None:
    asked = like_humaneval()
    texts = [BODY, "    return 0\n", "    return values[0]\n", "    import os; os._exit(0)\n"]
    grades = grader.grade(asked, texts)
    assert [grade.score for grade in grades] == [1.0, 0.0, 0.0, 0.0]
    assert [grade.status.value for grade in grades] == ["scored"] * 4
    assert [bool(grade.detail) for grade in grades] == [False, True, True, True]  # what the tests saw


@pytest.fixture(scope="module")
def runner() -> Iterator[ProgramRunner]:
    one = ProgramRunner(isolation.require_isolation("a test"), seconds=20.0, memory_bytes=1 << 29)
    yield one
    one.close()


NODE = "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\ndef f(n):\n    return 0 if n is None else 1 + f(n.next)"
CASES: list[tuple[str, str, str, Verdict]] = [
    ("values of all builtin types", "def f(x): return x", "assert f({1: [(2.5, None)], 'a': {3}, b'x': frozenset([1j])}) == {1: [(2.5, None)], 'a': {3}, b'x': frozenset([1j])}", Verdict.PASSED),
    ("large numbers", "def f(x): return x * x", "assert f(10 ** 5000) == 10 ** 10000", Verdict.PASSED),
    ("lists are not tuples", "def f(x): return (x,)", "assert f(1) == [1]", Verdict.FAILED),
    ("True is one", "def f(x): return True", "assert f(1) == 1 and f(1) is True", Verdict.PASSED),
    ("generators are iterated", "def f(x): yield from range(x)", "assert list(f(3)) == [0, 1, 2]", Verdict.PASSED),
    ("counters are dicts", "from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}", Verdict.PASSED),
    ("half a surrogate pair", "def f(x): return x", "assert f('\\ud800') == '\\ud800'", Verdict.PASSED),
    ("not a number", "def f(x): return float('nan')", "import math\nassert math.isnan(f(1)) and f(1) != f(1)", Verdict.PASSED),
    ("exceptions that are wanted", "def f(x): raise ValueError('no')", "try:\n    f(1)\n    raise SystemExit\nexcept ValueError as error:\n    assert str(error) == 'no'", Verdict.PASSED),
    ("subclasses of exceptions", "class E(KeyError): pass\ndef f(x): raise E", "try:\n    f(1)\n    assert False\nexcept KeyError:\n    pass", Verdict.PASSED),
    ("other exceptions", "def f(x): raise TypeError", "try:\n    f(1)\nexcept ValueError:\n    pass", Verdict.FAILED),
    ("objects that are handed back", NODE, "n = Node(1)\nn.next = Node(2)\nassert f(n) == 2 and n.next.v == 2 and n.next.next is None", Verdict.PASSED),
    ("truth of a match", "import re\ndef f(x): return re.match('a', x)", "assert f('ab') and not f('b')", Verdict.PASSED),
    ("keyword arguments", "def f(x, *, y=1): return x + y", "assert f(1, y=2) == 3", Verdict.PASSED),
    ("comparing an object", "def f(x): return object()", "assert f(1) == 1", Verdict.UNSUPPORTED),
    ("computing with an object", "class E:\n    def __abs__(self): return 0\n    __lt__ = __sub__ = lambda *a: True\ndef f(x): return E()", "assert abs(f(1) - 1) < 1", Verdict.UNSUPPORTED),
    ("passing a builtin type", "def f(x, kind): return isinstance(x, kind)", "assert f(1, int) and not f(1, str)", Verdict.PASSED),
    ("passing a function", "def f(x): return x(1)", "assert f(lambda x: x) == 1", Verdict.UNSUPPORTED),
    ("swallowing everything", "def f(x): return object()", "try:\n    f(1) == 1\nexcept BaseException:\n    pass", Verdict.UNSUPPORTED),
    ("swallowing an early end", "import os\ndef f(x): os._exit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass", Verdict.FAILED),
    ("arguments are copies", "def f(x): x.append(1)", "x = []\nf(x)\nassert x == [1]", Verdict.FAILED),
    ("a name that is not there", "def g(x): return x", "assert f(1) == 1", Verdict.FAILED),
    ("tests that call nothing", "def f(x): return x", "assert True", Verdict.BROKEN),
    ("an exit while loading", "raise SystemExit(0)\ndef f(x): return 1", "assert f(1) == 1", Verdict.FAILED),
    ("a guarded main part", "def f(x): return x\nif __name__ == '__main__':\n    1 / 0", "assert f(1) == 1", Verdict.PASSED),
    ("a data class", "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x).x", "assert f(1) == 1", Verdict.PASSED),
    ("reading input", "def f(x): return input()", "assert f(1) == ''", Verdict.FAILED),
    ("threads", "import threading\ndef f(x):\n    out = []\n    t = threading.Thread(target=lambda: out.append(x)); t.start(); t.join()\n    return out", "assert f(1) == [1]", Verdict.PASSED),
]  # fmt: skip


@needs_isolation
@pytest.mark.parametrize(("program", "tests", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_verdicts(runner: ProgramRunner, program: str, tests: str, verdict: Verdict) -> None:
    outcome = runner.run(program, ProgramTests(tests=tests))
    assert outcome.verdict is verdict, outcome


@needs_isolation
def test_what_cannot_be_compared_is_missing_and_not_wrong(grader: Grader) -> None:
    (grade,) = grader.grade(like_mbpp("assert f(1) == 1"), ["def f(x):\n    return object()"])
    assert (grade.status, grade.score, grade.missing) == (GradeStatus.ERROR, None, True)


@needs_isolation
def test_from_a_file_to_grades_and_through_the_selftest(tmp_path: Path) -> None:
    rows = [
        {
            "id": name,
            "prompt": f"Write a function that {does}.",
            "answer": code,
            "metadata": {"test_list": tests},
            "split": "eval",
        }
        for name, does, code, tests in (
            ("inc", "adds one", "def inc(x):\n    return x + 1", ["assert inc(1) == 2", "assert inc(-1) == 0"]),
            ("neg", "negates", "def neg(x):\n    return -x", ["assert neg(3) == -3"]),
        )
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.yaml").write_text("problems: rows.jsonl\nverifier: {kind: code, seconds: 20}\n")
    loaded = load_behavior(tmp_path / "b.yaml")
    with Grader(loaded) as grader:
        found = verifier_selftest(loaded, grader, loaded.problems)
    assert not found.failures
    assert next(case for case in found.cases if case.name == "other_answer").num_texts == 2


@needs_isolation
def test_the_rows_of_the_documentation_pass(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "programs-as-answers.md"
    rows = [line.strip() for line in page.read_text().splitlines() if line.startswith('    {"prompt"')]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.yaml").write_text(
        "problems: rows.jsonl\nverifier: {kind: code, seconds: 20}\nsplit: {train: 0.0, final: 0.0}\n"
    )
    loaded = load_behavior(tmp_path / "b.yaml")
    with Grader(loaded) as grader:
        assert [grader.grade(one, [one.answer])[0].score for one in loaded.problems] == [1.0, 1.0]


@pytest.mark.parametrize(("metadata", "said"), [({}, "holds no tests"), ({"tests": "assert ("}, "are no Python")])
def test_problems_without_tests_are_refused(metadata: dict[str, Any], said: str) -> None:
    asked = Problem(id="p", prompt="p", answer="a", key="p", split=Split.EVAL, metadata=metadata)
    assert said in str(CodeVerifier(CodeOptions()).complaint(asked))
    assert CodeVerifier(CodeOptions()).complaint(like_humaneval()) is None


def test_the_child_that_reads_gets_no_tests(tmp_path: Path) -> None:
    sent = json.dumps(CodeVerifier(CodeOptions()).payload(like_humaneval()))
    assert "candidate" not in sent
    assert BODY not in sent


def test_without_isolation_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(isolation.sys, "platform", "darwin")
    isolation.available.cache_clear()
    try:
        with refused(SettingsError, "no_isolation"):
            Grader(behavior(like_humaneval()))
        assert isolation.describe().startswith("none")
    finally:
        isolation.available.cache_clear()


def test_the_isolation_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in isolation.available():
        monkeypatch.setenv(isolation.VARIABLE, one.value)
        assert isolation.require_isolation("a test") is one
    monkeypatch.setenv(isolation.VARIABLE, "docker")
    with refused(SettingsError, "unknown_isolation"):
        isolation.require_isolation("a test")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "p", "answer": "a", "metadata": {"tests": "assert f()"}}) + "\n")
    (tmp_path / "b.yaml").write_text("problems: rows.jsonl\nverifier: {kind: code, seconds: 0}\n")
    with refused(BehaviorError, "invalid_setting"):
        load_behavior(tmp_path / "b.yaml")
