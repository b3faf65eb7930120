"""What each verifier reads out of a text, case by case."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers import VERIFIERS, ModelVerifier, Verifier, build_verifier
from posttrain.diagnose.verifiers.number import parse_number


def make(kind: str, **options: Any) -> Verifier:
    verifier = build_verifier(VerifierSpec(kind=kind, options=options))
    assert not isinstance(verifier, ModelVerifier)
    return verifier


def problem(answer: str, **metadata: Any) -> Problem:
    return Problem(id="p", prompt="q", answer=answer, key="q", split=Split.EVAL, metadata=metadata)


NUMBER_CASES = [
    ("12", "12"),
    ("3 times 4 is 12.", "12"),
    ("3 * 4 = 12", "12"),
    ("3*4=12.", "12"),
    ("**12**", "12"),
    ("$12$", "12"),
    ("It costs $1,200.50 in all.", "2401/2"),
    ("1,234,567", "1234567"),
    ("-5", "-5"),
    ("\N{MINUS SIGN}5", "-5"),
    ("7 - 12 is -5", "-5"),
    ("5-3", None),  # two numbers and a dash: no statement
    ("+7", "7"),
    (".5", "1/2"),
    ("so...12", "12"),
    ("0012", "12"),
    ("3/4", "3/4"),
    ("6/8", "3/4"),
    ("\\frac{3}{4}", "3/4"),
    ("½", "1/2"),
    ("1/0", None),
    ("50%", "50%"),
    ("1e3", "1000"),
    ("1e999999999", None),
    ("9" * 5000, None),
    ("1.2.3", None),
    ("\uff11\uff12", "12"),
    ("", None),
    ("no number at all", None),
    ("x2", None),  # part of a name
    ("\\boxed{12}", "12"),
    ("7 steps, then \\boxed{ 12 } in 3 ways", "12"),
    ("\\boxed{12} \\boxed{15}", None),
    ("\\boxed{12, 15}", None),
    ("\\boxed{}", None),
    ("work\n#### 12", "12"),
    ("#### 12\n#### 15", None),
    ("The answer is 12. I used 2 steps.", "12"),
    ("Answer: 12\nThere are 3 ways.", "12"),
    ("the answer is $x = 12$", "12"),
    ("The answer is 12 or 15.", None),
    ("12 or the answer is 15", None),
    ("The answer is 12, 15", None),
    ("12, 15 or 18", None),
    ("18, 15 or 12", None),
    ("12 15 18", None),
    ("12\n15\n18", None),
    ("1. 12\n2. 15\n3. 18", None),
    ("* 12\n* 15", None),
    ("- 12\n- 15", None),
    ("12/15/18", None),
    ("either 12 or maybe 15", None),
    ("(12), (15)", None),
    ("[12, 15, 18]", None),
    ("12, 12", "12"),  # the same number twice is one answer
    ("3 and 4 make 12", "12"),
    ("2**3", None),  # never glued to 23
    ("10^3", None),  # neither 10 nor 3: a power is not computed
    ("The answer is 10^3.", None),
    ("\\boxed{2^{10}}", None),
    ("2^(-3)", None),
    ("3 ^ 2", None),
    ("The answer is 2 * 2^3", None),
    ("The answer is 2 \\times 10^{3}.", "2000"),
    ("1.5 × 10^-2", "3/200"),
    ("The area is 25 cm^2.", "25"),
    ("The answer is 25 m^{2}", "25"),
    ("x^2 = 16, so x = 4", "4"),
    ("The answer is 72, in total, so the farmer earns that much.", "72"),
    ("The total is 72 clips, altogether.", "72"),
    ("so \\boxed{8,000}", "8000"),
    ("\\boxed{8{,}000}", "8000"),
    ("It costs $29.00.", "29"),
]


@pytest.mark.parametrize(("text", "expected"), NUMBER_CASES)
def test_number_strict(text: str, expected: str | None) -> None:
    assert make("number").extract(text, lenient=False) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12, 15 or 18", "18"), ("I think twelve.", "12"), ("Forty-two", "42"), ("zero", "0"), ("none", None)],
)
def test_number_lenient(text: str, expected: str | None) -> None:
    assert make("number").extract(text, lenient=True) == expected


@pytest.mark.parametrize(
    ("extracted", "answer", "score"),
    [
        ("12", "12", 1.0),
        ("12", "12.0", 1.0),
        ("12", "$12", 1.0),
        ("1/3", "1/3", 1.0),
        ("333/1000", "1/3", 0.0),
        ("50%", "50", 1.0),
        ("50%", "0.5", 1.0),
        ("50", "50%", 1.0),
        ("1/2", "50%", 1.0),
        ("50%", "50%", 1.0),
        ("50%", "5000%", 0.0),
        ("-12", "12", 0.0),
    ],
)
def test_number_compare(extracted: str, answer: str, score: float) -> None:
    assert make("number").compare(extracted, problem(answer)) == score


def test_number_tolerance() -> None:
    verifier = make("number", tolerance=0.01)
    assert verifier.compare("333/1000", problem("1/3")) == 1.0
    assert verifier.compare("3/10", problem("1/3")) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_number_reads_what_python_writes(whole: int, decimals: int) -> None:
    value = Fraction(whole, 10**decimals)
    written = f"{float(value):,.{decimals}f}" if decimals else f"{whole:,}"
    verifier = make("number")
    for text in (written, f"That makes {written}.", f"The answer is {written}", f"\\boxed{{{written}}}", f"#### {written}"):
        assert verifier.extract(text, lenient=False) == str(parse_number(written))
    if abs(whole) < 10**9:
        assert parse_number(written) == value


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-999, 99999), min_size=2, max_size=6, unique=True),
    st.sampled_from([", ", " or ", "\n", " ", "; ", " | "]),
)
def test_number_refuses_every_list(values: list[int], separator: str) -> None:
    assert make("number").extract(separator.join(map(str, values)), lenient=False) is None


@settings(max_examples=100, deadline=None)
@example("1E300")
@given(st.text(alphabet=st.sampled_from("0123456789.,/-+%eE \n$\\{}()boxedanswer#=*"), max_size=60))
def test_number_never_raises_and_reads_numbers_only(text: str) -> None:
    for lenient in (False, True):
        read = make("number").extract(text, lenient=lenient)
        assert read is None or parse_number(read) is not None


@pytest.mark.parametrize(
    "text",
    ["1" * 20000, "1," * 20000, "1/" * 20000, "#" * 20000, "answer " * 5000, " " * 50000, "\\boxed{" * 999],
)
def test_number_takes_linear_time(text: str) -> None:
    start = time.process_time()
    for lenient in (False, True):
        make("number").extract(text, lenient=lenient)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("B. Paris", "B"),
        ("(B) Paris", "B"),
        ("The answer is B.", "B"),
        ("The answer is (B).", "B"),
        ("Answer: **B**", "B"),
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("A. Paris\nB. London\nAnswer: B", "B"),
        ("The answer is option C", "C"),
        ("A, B, C", None),
        ("A or B", None),
        ("(A) (B)", None),
        ("A. Paris\nB. London", None),
        ("The answer is A or B", None),
        ("The answer is A, B", None),
        ("The answer is A. The answer is B.", None),
        ("The answer is a city", None),
        ("A cat sat", None),
        ("I think so", None),
        ("Z", None),
        ("", None),
        ("The answer is Boston", None),
    ],
)
def test_choice_strict(text: str, expected: str | None) -> None:
    assert make("choice").extract(text, lenient=False) == expected


def test_choice_lenient_and_options() -> None:
    assert make("choice").extract("It must be B then", lenient=True) == "B"
    assert make("choice").extract("A cat, I think", lenient=True) is None
    assert make("choice", letters="AB").extract("C", lenient=False) is None
    assert make("choice").compare("B", problem("(B)")) == 1.0
    assert "letters AB" in str(make("choice", letters="AB").complaint(problem("C")))


@pytest.mark.parametrize(
    ("text", "answer", "strict", "lenient"),
    [
        ("Paris", "paris", 1.0, 1.0),
        ("  Paris.\n", "Paris", 1.0, 1.0),
        ("'New\n York'", "New York", 1.0, 1.0),
        ("It is Paris.", "Paris", 0.0, 1.0),
        ("Comparison", "Paris", 0.0, 0.0),
        ("Paris\nLondon\nRome", "London", 0.0, 0.0),
        ("Paris, London", "Paris", 0.0, 1.0),
        ("5", ".5", 0.0, 1.0),
        ("(.5).", ".5", 1.0, 1.0),
        ("...5", "5", 1.0, 1.0),
        ("35", "3.5", 0.0, 0.0),
        ("x2", "x²", 0.0, 0.0),
        ("105", "10⁵", 0.0, 0.0),
        ("10^5", "10⁵", 1.0, 1.0),
        ("H2O", "H₂O", 1.0, 1.0),
    ],
)
def test_exact(text: str, answer: str, strict: float, lenient: float) -> None:
    verifier = make("exact")
    scores = []
    for forgiving in (False, True):
        extracted = verifier.extract(text, lenient=forgiving)
        assert extracted is not None
        scores.append(verifier.compare(extracted, problem(answer), lenient=forgiving))
    assert [scores[0], max(scores)] == [strict, lenient]


def test_exact_options() -> None:
    assert make("exact").extract(" .!", lenient=False) == ".!"
    assert make("exact").extract(" \u200b", lenient=False) is None
    assert make("exact", casefold=False).compare("paris", problem("Paris")) == 0.0
    assert make("exact", strip_punctuation=False).extract("!", lenient=False) == "!"
    assert make("exact").complaint(problem("!")) is None
    assert make("exact").compare("?", problem("?")) == 1.0
    assert make("exact").compare("!", problem("?")) == 0.0
    assert make("exact").complaint(problem("\u200b")) is not None


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "So: tac", "tac"),
        ({}, "So: tac. So: TAC", "tac"),
        ({}, "So: tac. So: god", None),
        ({"select": "first"}, "So: tac. So: god", "tac"),
        ({"select": "last"}, "So: tac. So: god", "god"),
        ({}, "nothing", None),
        ({"pattern": r"So: (\S+)", "read": "number"}, "So: 1,200", "1200"),
        ({"pattern": r"So: (.+)", "read": "numbers"}, "So: 3, 1, 2", '["3", "1", "2"]'),
        ({"pattern": r"So: (.+)", "read": "multiset"}, "So: 3, 1, 2", '["1", "2", "3"]'),
    ],
)
def test_regex(options: dict[str, Any], text: str, expected: str | None) -> None:
    verifier = make("regex", **{"pattern": r"So: (\w+)", **options})
    assert verifier.extract(text, lenient=False) == expected


def test_regex_lenient_pattern() -> None:
    verifier = make("regex", pattern=r"So: (\w+)", lenient_pattern=r"(\w+)")
    assert verifier.extract("it is tac", lenient=False) is None
    assert verifier.extract("it is tac", lenient=True) == "tac"
    assert verifier.write("tac") == "tac"


@pytest.mark.parametrize(
    ("kind", "options", "part"),
    [
        ("nummber", {}, "did you mean 'number'?"),
        ("number", {"tolerence": 1}, "did you mean 'tolerance'?"),
        ("number", {"tolerance": -1}, "tolerance: got -1"),
        ("regex", {}, "pattern is missing"),
        ("regex", {"pattern": "("}, "no regular expression"),
        ("regex", {"pattern": "x"}, "has no group"),
        ("regex", {"pattern": "(x)", "select": "best"}, "'only', 'first' or 'last'"),
        ("regex", {"pattern": "(x)", "write": "So"}, "{answer}"),
        ("choice", {"letters": "ab"}, "letters"),
        ("reasoning_gym", {"dataset": "x"}, "unknown key 'dataset'"),
    ],
)
def test_wrong_options_are_one_line(kind: str, options: dict[str, Any], part: str) -> None:
    with pytest.raises(BehaviorError) as caught:
        make(kind, **options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_complaints() -> None:
    assert "number" in str(make("number").complaint(problem("twelve")))
    assert make("number").complaint(problem("12")) is None
    assert "entry" in str(make("reasoning_gym").complaint(problem("12")))
    assert "read: number" in str(make("regex", pattern="(x)", read="number").complaint(problem("x")))


def test_the_child_gets_nothing_of_the_problem_but_what_a_kind_documents() -> None:
    options = {"regex": {"pattern": "(x)"}, "python": {"function": "rewards:score"}}
    read_in_the_child = {name for name, kind in VERIFIERS.items() if not issubclass(kind, ModelVerifier)}
    assert "exact" in read_in_the_child
    for kind in read_in_the_child - {"reasoning_gym", "python", "environment", "code", "math", "ifeval"}:
        assert make(kind, **options.get(kind, {})).payload(problem("12", secret="12")) is None
    known = problem("12", environment={"set": "eval", "entry": {"answer": "12"}}, secret="12")
    payload = make("environment", name="sums-env").payload(known)
    assert payload == {"set": "eval", "entry": {"answer": "12"}, "prompt": known.prompt}
    asked = problem("12", tests="assert f() == 12", entry_point="f")
    assert make("code").payload(asked) == {"prompt": asked.prompt, "entry_point": "f"}
    # Comparing expressions takes as long as reading them, so the child of `math` does both.
    assert make("math").payload(problem("12", secret="12")) == {"answers": ["12"], "question": problem("12").question}
    told = problem("12", instruction_id_list=["punctuation:no_comma"], kwargs=[{}], secret="12")
    assert make("ifeval").payload(told) == {"instructions": [("punctuation:no_comma", {})]}
