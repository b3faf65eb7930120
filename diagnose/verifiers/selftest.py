"""The self-test of a verifier: it must accept what is right and refuse what is not an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.diagnose.types import Behavior, Grade, Problem
from posttrain.diagnose.verifiers import ModelVerifier, Verifier, build_verifier
from posttrain.diagnose.verifiers.grader import Grader

GARBAGE = ("asdf qwer zxcv", "I don't know.", "???", "{}[]()<>\\/", "Sure! I can help you with that.", "\N{SNOWMAN} \x00 \ud800")
"""Texts that answer no question."""
SEPARATORS = (", ", " or ", "\n", " ")
_NUM_OTHERS = 3
_NUM_ASKED = 8
"""Problems on which a verifier that asks a model is tried: asking takes time, or money."""
_NUM_SLOW = 3
"""Problems on which wrong answers are tried where the verifier is slow; right ones are tried on all."""
_NUM_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTestFailure:
    """A text that was graded otherwise than it must be."""

    problem_id: str
    text: str
    grade: Grade


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseCount:
    """How one kind of text fared."""

    name: str
    """`answer` and `reference` must be accepted; `empty`, `garbage`, `other_answer`, `echo` and `candidates` be refused."""
    num_texts: int
    """0 where the behavior has nothing to try, such as a second answer."""
    num_failed: int
    examples: tuple[SelfTestFailure, ...]
    """The first few failures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTest:
    """What a verifier did with texts whose grade is known."""

    cases: tuple[CaseCount, ...]

    @property
    def failures(self) -> tuple[SelfTestFailure, ...]:
        """Return the examples of all cases; none where the verifier passed."""
        return tuple(failure for case in self.cases for failure in case.examples)


_ACCEPTED = ("answer", "reference")
_REFUSED = ("empty", "garbage", "other_answer", "echo", "candidates")


def verifier_selftest(behavior: Behavior, grader: Grader, problems: Sequence[Problem]) -> SelfTest:
    """Grade texts whose grade is known.

    Args:
        behavior: The behavior that the verifier belongs to.
        grader: Its grader.
        problems: The problems to try, usually those that are measured. Other answers are taken from among them.

    Returns:
        Counts per case, with examples of what failed. A text that could not be graded at all is a failure. A verifier that asks a model is tried
        with a few problems, on their references (their answers where there are none) and on texts that answer nothing: it reads whole answers,
        and what it makes of several at a time is its own affair.
    """
    verifier = build_verifier(behavior.verifier)
    if isinstance(verifier, ModelVerifier):
        problems = problems[:_NUM_ASKED]
    counts = dict.fromkeys(_ACCEPTED + _REFUSED, 0)
    failures: dict[str, list[SelfTestFailure]] = {name: [] for name in counts}
    for index, problem in enumerate(problems):
        others = (
            ()
            if isinstance(verifier, ModelVerifier) or (verifier.is_slow and index >= _NUM_SLOW)
            else _other_answers(behavior, verifier, grader, problems, index)
        )
        cases = list(_texts(behavior, verifier, problem, others))
        grades = grader.grade_answers(problem, [text for _, text in cases])
        for (name, text), grade in zip(cases, grades, strict=True):
            accepted = None if grade.score is None else grade.score >= behavior.measure.success
            counts[name] += 1
            if accepted is not (name in _ACCEPTED):
                failures[name].append(SelfTestFailure(problem_id=problem.id, text=text, grade=grade))
    return SelfTest(
        cases=tuple(
            CaseCount(name=name, num_texts=num, num_failed=len(failures[name]), examples=tuple(failures[name][:_NUM_SHOWN]))
            for name, num in counts.items()
        )
    )


def _texts(
    behavior: Behavior, verifier: Verifier | ModelVerifier, problem: Problem, others: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Return the texts to try on one problem, each with its case."""
    if problem.answer and not (isinstance(verifier, ModelVerifier) and problem.references):
        yield "answer", verifier.write(problem.answer)
    for reference in problem.references:
        yield "reference", reference.text
    yield "empty", ""
    yield "empty", " \n"
    for garbage in GARBAGE if verifier.judges_content else ():
        yield "garbage", garbage
    yield "echo", problem.question
    if isinstance(problem.prompt, str):
        yield "echo", behavior.prompt.template.replace("{question}", problem.question)
    for other in others:
        yield "other_answer", verifier.write(other)
    if others and verifier.lists_state_nothing:
        for candidates in ([problem.answer, *others], [*others, problem.answer]):
            for separator in SEPARATORS:
                yield "candidates", separator.join(verifier.write(candidate) for candidate in candidates)
                yield "candidates", verifier.write(separator.join(candidates))


def _other_answers(
    behavior: Behavior, verifier: Verifier, grader: Grader, problems: Sequence[Problem], index: int
) -> tuple[str, ...]:
    """Return up to three answers of other problems that are wrong for this one.

    Those that grade as right are equivalent to this problem's answer and say nothing. Candidates are spread over the whole list,
    because neighbours often resemble each other; where few answers exist, as with letters, all others are found.
    """
    problem = problems[index]
    found: list[str] = []
    stride = max(1, len(problems) // (_NUM_OTHERS + 1))
    starts = [*range(stride, len(problems), stride), *range(1, len(problems))]
    for offset in starts:
        answer = problems[(index + offset) % len(problems)].answer
        if not answer or answer == problem.answer or answer in found:
            continue
        grade = grader.grade_answers(problem, [answer, verifier.write(answer)])
        if any(one.score is not None and one.score >= behavior.measure.success for one in grade):
            continue
        found.append(answer)
        if len(found) == _NUM_OTHERS:
            break
    return tuple(found)
