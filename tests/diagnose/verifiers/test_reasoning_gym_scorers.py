"""Scorers of reasoning-gym: those that evaluate texts get none that can do harm, and those that pass anything are known."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.reasoning_gym import (
    EXPRESSION_SCORERS,
    LITERAL_SCORERS,
    REFUSED_SCORERS,
    ReasoningGymOptions,
    ReasoningGymVerifier,
)
from posttrain.diagnose.verifiers.sandbox.isolation import VARIABLE, Isolation, available
from posttrain.diagnose.verifiers.selftest import GARBAGE


def entry(dataset: str, answer: str, question: str = "q", **metadata: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "metadata": {"source_dataset": dataset, **metadata}}


ENTRIES = {
    "binary_matrix": entry("binary_matrix", "0 1\n1 2"),
    "n_queens": entry("n_queens", "Q _\n_ Q", valid_answers=["Q _\n_ Q"]),
    "spiral_matrix": entry("spiral_matrix", "1 2 3"),
    "string_insertion": entry("string_insertion", "ABC"),
    "countdown": entry("countdown", "3*4 + 1", numbers=[1, 3, 4], target=13),
    "puzzle24": entry("puzzle24", "2*3*4*1", numbers=[1, 2, 3, 4]),
    "simple_integration": entry("simple_integration", "x**2 + C", variable="x", integrand="2*x"),
    "intermediate_integration": entry("intermediate_integration", "sin(x) + C", variable="x", integrand="cos(x)"),
    "polynomial_multiplication": entry("polynomial_multiplication", "x**2 - 1"),
}
HOSTILE = [
    "__import__('os').system('true')",
    "open('/etc/passwd').read()",
    "().__class__.__base__.__subclasses__()",
    "entry['answer']",
    "oracle_answer",
    "valid_solutions[0]",
    "globals()",
    "(lambda: 24)()",
    "[x for x in entry['answer']]",
    "exec('import reasoning_gym')",
    "S('__import__(\"os\")')",
    "sympify('2*x')",
    "Integral(2*x, x)",
    "Integral(cos(x), x)",
    "9**9**9**9",
    "9**(9**9)",
    "(9**9)**9**9",
    "99999!",
    "x.__class__",
    "factorial(10**9)",
]


def problem(one: Mapping[str, Any]) -> Problem:
    return Problem(id="p", prompt="q", answer=one["answer"], key="p", split=Split.EVAL, metadata={"reasoning_gym": one})


def behavior(one: Mapping[str, Any]) -> Behavior:
    return Behavior(
        name="b", problems=(problem(one),), verifier=VerifierSpec(kind="reasoning_gym"), measure=MeasureSettings(epsilon=0.006)
    )


def read(one: Mapping[str, Any], text: str) -> float | None:
    verifier = ReasoningGymVerifier(ReasoningGymOptions())
    verifier.prepare()
    found = verifier.extract(text, lenient=False, payload=one)
    return None if found is None else verifier.compare(found, problem(one))


def test_the_nine_that_evaluate_texts_are_isolated() -> None:
    assert set(ENTRIES) == set(LITERAL_SCORERS) | EXPRESSION_SCORERS
    verifier = ReasoningGymVerifier(ReasoningGymOptions())
    assert all(verifier.executes_text([problem(one)]) for one in ENTRIES.values())
    assert not verifier.executes_text([problem(entry("products", "12"))])


@pytest.mark.parametrize("dataset", sorted(ENTRIES))
def test_answers_pass_and_code_does_not(dataset: str) -> None:
    one = ENTRIES[dataset]
    assert read(one, one["answer"]) == 1.0
    for text in HOSTILE:
        assert (read(one, text) or 0.0) < 0.5, text


@pytest.mark.parametrize("isolation", list(Isolation))
def test_texts_are_scored_in_isolation(isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    if isolation not in available():
        pytest.skip(f"{isolation} does not work here")
    monkeypatch.setenv(VARIABLE, isolation.value)
    one = ENTRIES["polynomial_multiplication"]
    texts = ["x**2 - 1", "(x - 1)*(x + 1)", *HOSTILE[:4], "-1 + x**2", "The answer is x**2 - 1."]
    with Grader(behavior(one)) as grader:
        grades = grader.grade(problem(one), texts)
    assert [grade.score for grade in grades] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert grades[-1].lenient_score == 1.0


@pytest.mark.parametrize(
    ("dataset", "text", "right"),
    [
        ("puzzle24", "1*2*3*4", True), ("puzzle24", "(3 + 1)*(4 + 2)", True), ("puzzle24", "4/(1 - 3/(2*3))", False), ("puzzle24", "6*4*1*1", False),
        ("puzzle24", "(1 + 2 + 3)*4", True), ("puzzle24", "4*3*2*1 + 0", False), ("puzzle24", "24", False), ("puzzle24", "2**4 + 3*1", False),
        ("puzzle24", "4! + (1 + 2 - 3)", False), ("puzzle24", "1.5 + 2", False), ("puzzle24", "3*4*2 + 1/1", False),
        ("countdown", "1 + 4*3", True), ("countdown", "13", False), ("countdown", "3**1 + 4", False), ("countdown", "4! - 3", False),
    ],
)  # fmt: skip
def test_games_take_the_numbers_that_were_asked_for(dataset: str, text: str, right: bool) -> None:
    assert (read(ENTRIES[dataset], text) == 1.0) is right


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("x**2*y**3 - 1", "y**3*x**2 - 1"),
        ("6*x**3 + 2*x**12", "2*x**12+6*x**3"),
        ("x**2/4", "0.25*x**2"),
        ("-x - 1", "-(x + 1)*1"),
        ("x**10*y", "y*x**10"),
    ],
)
def test_the_same_expression_written_otherwise_is_read(answer: str, text: str) -> None:
    verifier = ReasoningGymVerifier(ReasoningGymOptions())
    assert verifier.extract(text, lenient=False, payload=entry("polynomial_multiplication", answer)) is not None


@pytest.mark.parametrize(
    ("text", "right"),
    [("sin(x) + C", True), ("C + sin(x)", True), ("-(-sin(x))", True), ("cos(x)", False), ("sin(x)**2/sin(x)", True)],
)
def test_an_integral_may_be_written_otherwise(text: str, right: bool) -> None:
    assert (read(ENTRIES["intermediate_integration"], text) == 1.0) is right


def test_puzzle24_wants_24_itself() -> None:
    one = entry("puzzle24", "8*3*1*1", numbers=[1, 3, 7, 7])
    assert (read(one, "7*7/(3 - 1)") or 0.0) < 1.0  # 24.5


@pytest.mark.parametrize(("text", "right"), [("0.3125", True), ("5/16", True), ("0", False), ("0.3", False), ("0.31", False)])
def test_coin_flip_takes_no_first_digits(text: str, right: bool) -> None:
    assert (read(entry("coin_flip", "0.3125"), text) == 1.0) is right


def test_a_scorer_that_passes_anything_is_refused() -> None:
    one = entry("game_of_life_halting", "True")
    assert "game_of_life_halting" in str(ReasoningGymVerifier(ReasoningGymOptions()).complaint(problem(one)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the data sets' own
def test_which_scorers_accept_what_is_no_answer() -> None:
    """Every scorer gets the answers of other entries, and texts that answer nothing."""
    from reasoning_gym.factory import DATASETS, create_dataset

    verifier = ReasoningGymVerifier(ReasoningGymOptions())
    verifier.prepare()
    slow = {"knight_swap", "rubiks_cube", "puzzle24", "composite"}
    texts = [*GARBAGE, "0", "1", "-1", "999999", "[]", "None", "True", "False", "yes", "A", "a", "24", "{}"]
    accepting = {}
    for name in sorted(set(DATASETS) - slow):
        data = create_dataset(name, seed=1, size=6)
        entries = [one for one in (data[index] for index in range(6)) if isinstance(one["answer"], str)]
        tried = accepted = 0
        for one in entries:
            for text in {*texts, *(other["answer"] for other in entries)}:
                if text.casefold().strip() != one["answer"].casefold().strip() and not _same_number(text, one["answer"]):
                    found = None
                    with contextlib.suppress(Exception):  # an error is no pass
                        found = verifier.extract(text, lenient=False, payload=one)
                    tried += 1
                    accepted += found is not None and float(found.split(" ", 1)[0]) >= 1.0
        if tried and accepted / tried > 0.02:
            accepting[name] = accepted / tried
    assert set(accepting) == set(REFUSED_SCORERS), accepting


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False
