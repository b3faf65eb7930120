"""Mathematical answers: which part of a text is read, and what it equals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from posttrain.diagnose.types import Behavior, Grade, GradeStatus, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader

QUESTION = r"Compute $12 \times 34$ and then solve for $x$."
RIGHT = [
    (r"\frac{1}{2}", r"The answer is $\frac{1}{2}$."),
    (r"\frac{1}{2}", r"Thus $\boxed{0.5}$"),
    (r"\frac{1}{2}", r"\boxed{\dfrac12}"),
    (r"\frac{1}{2}", "#### 1/2"),
    (r"\frac{1}{2}", "So it is 1/2"),
    (r"$\frac{1}{2}$", "**50%**"),
    (r"3\sqrt{13}", r"So the distance is $\boxed{\sqrt{117}}$."),
    (r"3\sqrt{13}", "The answer is 3√13"),
    (r"(3,\frac{\pi}{2})", r"The polar form is $\boxed{\left( 3, \frac{\pi}{2} \right)}.$"),
    ("x^2+2x+1", "The answer is $(x+1)^2$"),
    ("x^2", "The answer is x²."),
    ("4x^3", "Answer: 4*x**3"),
    ("[0,1)", r"Therefore $x\in[0,1)$"),
    ("(-\\infty, 2]", r"\boxed{x \le 2}"),
    (r"\{1,2\}", r"\boxed{2} and \boxed{1}"),
    ("1,-2", "The solutions are $x=1$ and $x=-2$."),
    ("5", r"First \boxed{6}. Checking, that was wrong. So \boxed{5}"),
    ("5", r"\boxed{6}. Wait, no. The answer is 5."),
    ("5", r"\boxed{5}. I hope the answer is correct."),
    ("5", r"$2x = 10 \implies x = 5$"),
    (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
    (r"\text{Evelyn}", "The answer is Evelyn."),
    ("y = 2x + 3", r"The line is $\boxed{y=2x+3}$"),
    (r"90^\circ", r"\boxed{90}"),
    ("18", "The answer is $18."),
    ("18", "The answer is 18 apples per day."),
    ("18", "The answer is $18$, because $x=2$."),
    ("18", "The answer is 18, because $x=2$."),
    ("70000", "That makes 70,000."),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\[\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}\]"),
    ("2+3i", r"\boxed{3i+2}"),
    (r"\frac{\sqrt{3}}{3}", r"\boxed{\frac{1}{\sqrt{3}}}"),
    (r"\ln 2", "the answer is ln(2)"),
    (r"2\sqrt{2}", "It is 2.828427"),
    ("(1,2)", "The point is (1, 2)."),
    ("e^{x}", "<answer>e^x</answer>"),
    (r"11,\! 111", r"\boxed{11111}"),
    (r"12 \times 34", r"\boxed{12 \times 34}"),
    ("34", "Final Answer: The largest $n$ is 34."),
    ("34", "Final Answer: The value of $f(2)$ is $34$."),
    (r"28\%", r"\boxed{28 percent}"),
    ("$125$ miles", r"It is $\boxed{125\textnormal{ miles}}.$"),
    ("1,-2", r"\[ \boxed{-2} \quad \text{and} \quad \boxed{1}. \]"),
    ("6", r"The final answer is $\boxed{6}$ and not $\boxed{7}$"),
]
WRONG = [
    (r"\frac{1}{2}", r"\boxed{2}"),
    (r"3\sqrt{13}", r"\boxed{13\sqrt{3}}"),
    (r"3\sqrt{13}", r"\boxed{13}"),
    (r"(3,\frac{\pi}{2})", r"\boxed{(\frac{\pi}{2},3)}"),
    ("x^2+2x+1", r"\boxed{x^2+2x}"),
    ("[0,1)", r"\boxed{[0,1]}"),
    ("5", r"\boxed{5} or \boxed{6}"),
    ("5", r"\boxed{6}, \boxed{5}"),
    ("5", r"\boxed{5, 6}"),
    ("5", "\\boxed{5\n6}"),
    ("7", r"\boxed{60^\circ 2\sqrt{3} (-3,3) 7}"),
    ("7", r"The final answer is $\boxed{6}$ and not $\boxed{7}$"),
    ("5", "The answer is $3$, because $x=5$."),
    (r"\text{Evelyn}", r"\boxed{\text{Carla}}"),
    ("y = 2x + 3", r"\boxed{y=3x+2}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}"),
    ("2+3i", r"\boxed{3+2i}"),
    (r"2\sqrt{2}", "It is 2.83"),
]
UNPARSED = [
    ("42", ""),
    ("42", r"\boxed{}"),
    ("42", "I do not know."),
    ("x", "asdf qwer zxcv"),
    ("408", r"\boxed{12 \times 34}"),
    ("42", r"\boxed{\frac{}"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    behavior = Behavior(name="m", problems=(), verifier=VerifierSpec(kind="math"), measure=MeasureSettings(epsilon=0.1))
    with Grader(behavior, deadline=20.0) as opened:
        yield opened


def grade(grader: Grader, answer: str, text: str, *others: str) -> Grade:
    problem = Problem(id="p", prompt=QUESTION, answer=answer, answers=others, key="p", split=Split.EVAL)
    return grader.grade(problem, [text])[0]


@pytest.mark.parametrize(("answer", "text"), RIGHT)
def test_equal_values_are_right(grader: Grader, answer: str, text: str) -> None:
    assert grade(grader, answer, text).score == 1.0


@pytest.mark.parametrize(("answer", "text"), WRONG)
def test_other_values_are_wrong(grader: Grader, answer: str, text: str) -> None:
    assert grade(grader, answer, text).score == 0.0


@pytest.mark.parametrize(("answer", "text"), UNPARSED)
def test_what_states_no_expression_is_unparsed(grader: Grader, answer: str, text: str) -> None:
    found = grade(grader, answer, text)
    assert (found.status, found.score) == (GradeStatus.UNPARSED, 0.0)


def test_equal_answers_are_counted_as_one(grader: Grader) -> None:
    texts = [r"\boxed{\frac12}", "The answer is 1/2.", "#### 1/2"]
    assert len({grade(grader, "3", text).extracted for text in texts}) == 1


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("So he sold 46.", "46"),
        ("That makes 70,000.", "70000"),
        (r"\boxed{46.50}", "46.5"),
        (r"\boxed{0.125}", "0.125"),
        (r"\boxed{100}", "100"),
        (r"\boxed{2.0, 10}", "{2, 10}"),
        (r"\boxed{1.5x}", "1.5*x"),
    ],
)
def test_what_was_read_is_shown_without_zeros_at_its_end(text: str, read: str, grader: Grader) -> None:
    assert grade(grader, "3", text).extracted == read


def test_every_accepted_answer_is_right(grader: Grader) -> None:
    assert grade(grader, "x+1", r"\boxed{y+1}", "y+1").score == 1.0


def test_what_takes_too_long_is_missing_and_the_next_text_is_read() -> None:
    behavior = Behavior(name="m", problems=(), verifier=VerifierSpec(kind="math"), measure=MeasureSettings(epsilon=0.1))
    with Grader(behavior, deadline=1.0) as opened:
        opened.check_ready()
        found = grade(opened, "5", r"\boxed{10^{10^{10}}}")
        assert (found.status, found.score) == (GradeStatus.TIMEOUT, None)
        assert grade(opened, "x", "no formula at all, and no answer").status is GradeStatus.UNPARSED


def test_numbers_are_read_as_algebra_leniently() -> None:
    behavior = Behavior(name="n", problems=(), verifier=VerifierSpec(kind="number"), measure=MeasureSettings(epsilon=0.1))
    problem = Problem(id="p", prompt=r"Simplify $\sqrt{64}$.", answer="8", key="p", split=Split.EVAL)
    texts = [
        r"\boxed{\sqrt{16}\cdot 2}",
        r"\boxed{\sqrt{64}}",
        r"\boxed{\sqrt{16}}",
        r"\boxed{2 \cdot 4}",
        r"\boxed{10^{10^{10}}\pi}",
        r"\boxed{8}",
    ]
    with Grader(behavior, deadline=3.0) as opened:
        found = opened.grade(problem, texts)
    assert [one.status for one in found] == [GradeStatus.UNPARSED] * 5 + [GradeStatus.SCORED]
    assert [one.score for one in found] == [0.0] * 5 + [1.0]
    # Not what repeats the question, nor bare arithmetic, which may be the task; and what takes too long stays unread.
    assert [one.lenient_score for one in found] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
