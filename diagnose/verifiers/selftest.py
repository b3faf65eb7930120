"""The self-test of a verifier: it must accept what is right, and refuse what is wrong or no answer.

What it accepts wrongly and what it refuses wrongly are counted apart. A verifier that accepts a text without an answer, or many wrong answers, measures
nothing, and a trainer would be paid for that: wrong answers accepted do more harm than right ones refused (arXiv 2605.02909), so the first is tried with
answers made to be mistaken for the right one, and the second on what the behavior holds alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Grade, Problem, reaches
from posttrain.diagnose.verifiers import ModelVerifier, Verifier, build_verifier
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.wrong_answers import same_answer, wrong_answers

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
    """`answer` and `reference` must be accepted; `empty`, `garbage`, `near_miss`, `other_answer`, `echo` and `candidates` be refused."""
    num_texts: int
    """0 where the behavior has nothing to try, such as a second answer."""
    num_failed: int
    examples: tuple[SelfTestFailure, ...]
    """The first few failures."""
    max_failed: float = 0.0
    """Share of the texts that may fail before the measurement is invalid; below it there is a warning."""

    @property
    def blocks(self) -> bool:
        """Return whether too many texts failed for samples to be believed."""
        return self.num_failed > self.max_failed * self.num_texts


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTest:
    """What a verifier did with texts whose grade is known."""

    cases: tuple[CaseCount, ...]

    @property
    def failures(self) -> tuple[SelfTestFailure, ...]:
        """Return the examples of the cases that make the measurement invalid; none where the verifier passed."""
        return tuple(failure for case in self.cases if case.blocks for failure in case.examples)


_ACCEPTED = ("answer", "reference")
_REFUSED = ("empty", "garbage", "near_miss", "other_answer", "echo", "candidates")


def verifier_selftest(
    behavior: Behavior, grader: Grader, problems: Sequence[Problem], thresholds: Thresholds | None = None
) -> SelfTest:
    """Grade texts whose grade is known.

    Args:
        behavior: The behavior that the verifier belongs to.
        grader: Its grader.
        problems: The problems to try, usually those that are measured. Other answers are taken from among them.
        thresholds: How much of what is wrongly accepted or refused is too much.

    Returns:
        Counts per case, with examples of what failed. A text that could not be graded at all is a failure. A verifier that asks a model is tried
        with a few problems, on their references (their answers where there are none) and on texts that answer nothing: it reads whole answers,
        and what it makes of several at a time is its own affair.
    """
    verifier = build_verifier(behavior.verifier)
    if isinstance(verifier, ModelVerifier):
        problems = problems[:_NUM_ASKED]
    max_failed = _max_failed(thresholds or Thresholds())
    counts = dict.fromkeys(_ACCEPTED + _REFUSED, 0)
    failures: dict[str, list[SelfTestFailure]] = {name: [] for name in counts}
    for index, problem in enumerate(problems):
        tries = (
            not isinstance(verifier, ModelVerifier) and verifier.judges_content and not (verifier.is_slow and index >= _NUM_SLOW)
        )
        others = _other_answers(problems, index) if tries else ()
        refused = _refused(behavior, verifier, grader, problem, others)
        wrong = _near_misses(behavior, problem) if tries and verifier.answers_are_short else ()
        cases = list(_texts(behavior, verifier, problem, others, wrong))
        cases += _candidates(verifier, problem, refused) if verifier.answers_are_short else ()
        grades = grader.grade_answers(problem, [text for _, text in cases])
        for (name, text), grade in zip(cases, grades, strict=True):
            accepted = None if grade.score is None else reaches(grade.score, behavior.measure.success)
            counts[name] += 1
            if accepted is not (name in _ACCEPTED):
                failures[name].append(SelfTestFailure(problem_id=problem.id, text=text, grade=grade))
    return SelfTest(
        cases=tuple(
            CaseCount(
                name=name,
                num_texts=num,
                num_failed=len(failures[name]),
                examples=tuple(failures[name][:_NUM_SHOWN]),
                max_failed=max_failed.get(name, 0.0),
            )
            for name, num in counts.items()
        )
    )


def _max_failed(thresholds: Thresholds) -> dict[str, float]:
    """Return the share of each case that may fail; a text without an answer is never accepted.

    A list of candidates that is accepted is a warning only: it does no harm until a sample is one.
    """
    return {
        **dict.fromkeys(_ACCEPTED, thresholds.max_refused),
        **dict.fromkeys(("near_miss", "other_answer"), thresholds.max_wrong_accepted),
        "candidates": 1.0,
    }


def _texts(
    behavior: Behavior, verifier: Verifier | ModelVerifier, problem: Problem, others: Sequence[str], near_misses: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Return the texts to try on one problem, each with its case.

    Args:
        behavior: The behavior.
        verifier: Its verifier.
        problem: The problem.
        others: Answers of other problems.
        near_misses: Wrong answers of the right type.
    """
    if problem.answer and verifier.accepts_answer_alone and not (isinstance(verifier, ModelVerifier) and problem.references):
        yield "answer", verifier.write(problem.answer)
    for reference in problem.references:
        yield "reference", reference.text
    yield "empty", ""
    yield "empty", " \n"
    known = {normalise_text(text) for text in (*problem.accepted_answers, *(reference.text for reference in problem.references))}
    for garbage in GARBAGE if verifier.judges_content else ():
        if normalise_text(garbage) not in known:
            yield "garbage", garbage
    asked = [problem.question, *([behavior.prompt.ask(problem.question)] if isinstance(problem.prompt, str) else [])]
    for echo in asked:
        if normalise_text(echo) not in known:  # what is to be copied is right
            yield "echo", echo
    for other in others:
        yield "other_answer", verifier.write(other)
    for wrong in near_misses:
        yield "near_miss", verifier.write(wrong)


def _candidates(verifier: Verifier | ModelVerifier, problem: Problem, refused: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return lists of the right answer and others that the verifier refuses, each with its case."""
    for candidates in ([problem.answer, *refused], [*refused, problem.answer]) if refused else ():
        for separator in SEPARATORS:
            yield "candidates", separator.join(verifier.write(candidate) for candidate in candidates)
            yield "candidates", verifier.write(separator.join(candidates))


def _near_misses(behavior: Behavior, problem: Problem) -> tuple[str, ...]:
    letters = str(behavior.verifier.options.get("letters", "ABCDEFGH"))
    return wrong_answers(problem.answer, accepted=problem.answers, letters=letters)


def _other_answers(problems: Sequence[Problem], index: int) -> tuple[str, ...]:
    """Return up to three answers of other problems that differ from this one's.

    They are spread over the whole list, because neighbours often resemble each other; where few answers exist, as with letters, all others are found.
    """
    known, found = problems[index].accepted_answers, list[str]()
    if not problems[index].answer:
        return ()
    stride = max(1, len(problems) // (_NUM_OTHERS + 1))
    for offset in (*range(stride, len(problems), stride), *range(1, len(problems))):
        other = problems[(index + offset) % len(problems)].answer
        if other and other not in found and not any(same_answer(other, answer) for answer in known):
            found.append(other)
            if len(found) == _NUM_OTHERS:
                break
    return tuple(found)


def _refused(
    behavior: Behavior, verifier: Verifier | ModelVerifier, grader: Grader, problem: Problem, others: Sequence[str]
) -> tuple[str, ...]:
    """Return the answers that the verifier refuses, as they are and as it writes them."""
    if not others:
        return ()
    grades = iter(grader.grade_answers(problem, [text for other in others for text in (other, verifier.write(other))]))
    accepts = [
        any(grade.score is not None and reaches(grade.score, behavior.measure.success) for grade in (next(grades), next(grades)))
        for _ in others
    ]
    return tuple(other for other, accepted in zip(others, accepts, strict=True) if not accepted)
