"""Grades texts. What parses them runs in a child process; what holds the expected answers, or calls a model, runs here."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import TracebackType

from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Problem, reaches
from posttrain.diagnose.verifiers import ModelVerifier, Verifier, build_verifier
from posttrain.diagnose.verifiers.base import CannotGrade
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.math import MathOptions, MathVerifier
from posttrain.diagnose.verifiers.sandbox.isolation import require_isolation
from posttrain.diagnose.verifiers.sandbox.reading import Reading, TextReader, missing
from posttrain.diagnose.verifiers.thinking import find_thought, opening_in_problem, unfinished_thought

_ECHO = "the text repeats the question"
_MOST_CHARACTERS = 500_000
"""Of a text that is read: more than a hundred thousand tokens. Reading takes linear time, and so does each of thousands of such texts."""
_TOO_LONG = f"the text is longer than {_MOST_CHARACTERS:,} characters"
_ALGEBRA = re.compile(r"\\(?:sqrt|pi|log|ln|sin|cos|tan|exp|binom)(?![A-Za-z])|[√π^]")
_BLANK = "the text is blank"


class Grader:
    """Grades the texts of one behavior.

    The child is started with the first text, killed and replaced when a text makes it hang or crash, and only that text is
    charged. May be used from several threads, which wait for one another.

    Args:
        behavior: Whose verifier to use.
        deadline: Seconds that one text may take to be read.

    Raises:
        SettingsError: The verifier might execute texts, and this machine has no isolation for that.
    """

    def __init__(self, behavior: Behavior, *, deadline: float = 5.0) -> None:
        if not deadline > 0.0:
            raise ValueError(f"deadline: got {deadline}; allowed: seconds above 0")
        self._behavior = behavior
        self._verifier = verifier = build_verifier(behavior.verifier)
        self._lock = threading.Lock()
        self._reader: TextReader | None = None
        self._algebra: TextReader | None = None
        if isinstance(verifier, Verifier):
            spec, executes = behavior.verifier, verifier.executes_text(behavior.problems)
            self._reader = TextReader(
                spec.kind,
                spec.options,
                deadline=deadline,
                isolation=require_isolation(f"verifier {spec.kind}") if executes else None,
                folders=verifier.folders(),
                variables=verifier.variables,
                start_seconds=verifier.start_seconds,
            )
            if verifier.reads_numbers:
                self._algebra = TextReader("math", {}, deadline=deadline)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def check_ready(self) -> None:
        """Start what reads the texts, so that what is missing is known before there are any.

        Raises:
            VerifierError: If the child cannot be started.
            UserError: If a package or a server is missing.
        """
        self._verifier.check_ready()
        with self._lock:
            if self._reader is not None:
                self._reader.start()

    def rest(self) -> None:
        """End the child for a while; a model that is asked stays loaded. Grading again starts a new child."""
        with self._lock:
            for reader in (self._reader, self._algebra):
                if reader is not None:
                    reader.close()

    def close(self) -> None:
        """End the child, and let go the model that is asked. Grading again starts or loads them anew."""
        self.rest()
        with self._lock:
            self._verifier.close()

    def grade(self, problem: Problem, texts: Sequence[str]) -> list[Grade]:
        """Grade samples of one problem; what they hold before the answer, as a thought, is cut off first.

        A thought that the behavior's own prompt opens is gone on with; `thinking.grade_after_prompt` knows what a chat template opens.

        Args:
            problem: A problem of the behavior.
            texts: What the model wrote, without the prompt.

        Returns:
            One grade per text, in order.

        Raises:
            VerifierError: If the child cannot be started.
            UserError: If the model that is asked cannot be loaded or reached.
        """
        return self.grade_several([(problem, texts)])[0]

    def grade_several(self, asked: Sequence[tuple[Problem, Sequence[str]]]) -> list[list[Grade]]:
        """Grade samples of several problems, each as `grade` does, in less time: texts of one are read while those of another are compared.

        Args, raises: As for `grade`.

        Returns:
            The grades of each problem.
        """
        openings = [opening_in_problem(problem, self._behavior.prompt) for problem, _ in asked]
        opened = [
            (problem, [opening + text for text in texts]) for (problem, texts), opening in zip(asked, openings, strict=True)
        ]
        return [
            [replace(one, answer_start=max(0, one.answer_start - len(opening))) for one in grades] if opening else grades
            for grades, opening in zip(self._grade_answers(opened), openings, strict=True)
        ]

    def grade_answers(self, problem: Problem, texts: Sequence[str]) -> list[Grade]:
        """Grade whole answers to one problem, such as references; a thought is cut off where they hold it, whatever the prompt opens."""
        return self._grade_answers([(problem, texts)])[0]

    def _grade_answers(self, asked: Sequence[tuple[Problem, Sequence[str]]]) -> list[list[Grade]]:
        thoughts = [[find_thought(text, self._behavior.prompt.thinking) for text in texts] for _, texts in asked]
        answers = [
            (problem, [text[thought.answer_start :] for text, thought in zip(texts, found, strict=True) if thought.finished])
            for (problem, texts), found in zip(asked, thoughts, strict=True)
        ]
        graded = chain.from_iterable(self._grade(answers))
        return [
            [
                replace(next(graded), answer_start=thought.answer_start) if thought.finished else unfinished_thought(text)
                for text, thought in zip(texts, found, strict=True)
            ]
            for (_, texts), found in zip(asked, thoughts, strict=True)
        ]

    def _grade(self, asked: Sequence[tuple[Problem, Sequence[str]]]) -> list[list[Grade]]:
        """Grade texts as they are."""
        verifier = self._verifier
        echoes = [self._echoes(problem) if texts else set() for problem, texts in asked]
        if isinstance(verifier, ModelVerifier):
            return [self._ask(verifier, *one, known) if one[1] else [] for one, known in zip(asked, echoes, strict=True)]
        # Equal texts are graded once: models repeat themselves, and a text that hangs would hang each time.
        distinct = [
            list(dict.fromkeys(text for text in texts if len(text) <= _MOST_CHARACTERS and normalise_text(text) not in known))
            for (_, texts), known in zip(asked, echoes, strict=True)
        ]
        payloads = [verifier.payload(problem) if texts else None for (problem, _), texts in zip(asked, distinct, strict=True)]
        requests = [(text, payload) for texts, payload in zip(distinct, payloads, strict=True) for text in texts]
        assert self._reader is not None
        graded = []
        with self._lock, contextlib.closing(self._reader.read_each(requests)) as read:
            for (problem, texts), different in zip(asked, distinct, strict=True):
                grades = {text: _judge(verifier, problem, next(read)) for text in different}
                grades |= self._read_as_algebra(problem, grades)
                graded.append(
                    [grades.get(text) or _nothing_said(_ECHO if len(text) <= _MOST_CHARACTERS else _TOO_LONG) for text in texts]
                )
            next(read, None)  # the end: the child stays
        return graded

    def _read_as_algebra(self, problem: Problem, grades: Mapping[str, Grade]) -> dict[str, Grade]:
        """Have `math` read what looks like an expression and states no number: a second reading, which is lenient.

        It gives no score, because an expression may be the task itself, written again. Where it fails, the first reading is all that is known.
        """
        unread = [text for text, grade in grades.items() if grade.status is GradeStatus.UNPARSED and not grade.lenient_score]
        texts = [text for text in unread if _ALGEBRA.search(text)]
        if self._algebra is None or not texts:
            return {}
        verifier = MathVerifier(MathOptions())
        seconds = [_judge(verifier, problem, one) for one in self._algebra.read(texts, verifier.payload(problem))]
        return {
            text: replace(grades[text], lenient_score=second.score)
            for text, second in zip(texts, seconds, strict=True)
            if second.score
        }

    def _ask(self, verifier: ModelVerifier, problem: Problem, texts: Sequence[str], echoes: set[str]) -> list[Grade]:
        """Let a model score texts, each different one once; blanks and echoes are not sent."""
        known = {
            text: _nothing_said(_TOO_LONG if len(text) > _MOST_CHARACTERS else _ECHO if text.strip() else _BLANK)
            for text in texts
            if len(text) > _MOST_CHARACTERS or not text.strip() or normalise_text(text) in echoes
        }
        distinct = [text for text in dict.fromkeys(texts) if text not in known]
        if distinct:
            with self._lock:
                rated = map(_known_or_missing, verifier.rate(problem, distinct, self._behavior.prompt))
                known |= dict(zip(distinct, rated, strict=True))
        return [known[text] for text in texts]

    def _echoes(self, problem: Problem) -> set[str]:
        """Return the normalised texts that only repeat what was asked, and are no answer: what is to be copied is both."""
        asked = {problem.question}
        if isinstance(problem.prompt, str):
            asked.add(self._behavior.prompt.ask(problem.prompt))
        return {normalise_text(text) for text in asked} - {normalise_text(answer) for answer in problem.accepted_answers}


def _judge(verifier: Verifier, problem: Problem, read: Reading | Grade) -> Grade:
    """Compare what was read with what is expected."""
    if isinstance(read, Grade):
        return read
    try:
        score = None if read.strict is None else _score(verifier, read.strict, problem, lenient=False)
    except CannotGrade as error:
        return missing(GradeStatus.ERROR, str(error)[:500])
    lenient_score = score or 0.0
    if read.lenient is not None and lenient_score < 1.0:
        with contextlib.suppress(CannotGrade):  # then the strict reading is all that is known
            lenient_score = max(lenient_score, _score(verifier, read.lenient, problem, lenient=True))
    if read.strict is None or score is None:
        detail = "no answer, or several, can be read"
        return Grade(status=GradeStatus.UNPARSED, score=0.0, lenient_score=lenient_score, detail=detail)
    remark = "" if reaches(score, 1.0) or read.strict is None else verifier.remark(read.strict, problem)
    return Grade(
        status=GradeStatus.SCORED, score=score, extracted=verifier.shown(read.strict), lenient_score=lenient_score, detail=remark
    )


def _score(verifier: Verifier, extracted: str, problem: Problem, *, lenient: bool) -> float:
    """Return a verifier's score.

    Raises:
        CannotGrade: It is no number in [0, 1].
    """
    score = verifier.compare(extracted, problem, lenient=lenient)
    if not _is_score(score):
        raise CannotGrade(_no_score(score))
    return _clip(score)


def _known_or_missing(grade: Grade) -> Grade:
    """Return the grade; one of status error where the score is no number in [0, 1], which is no failure of the text."""
    if grade.score is None:
        return grade
    if _is_score(grade.score):
        return replace(grade, score=_clip(grade.score))
    return missing(GradeStatus.ERROR, _no_score(grade.score))


def _is_score(score: float) -> bool:
    return math.isfinite(score) and reaches(score, 0.0) and reaches(1.0, score)


def _clip(score: float) -> float:
    """Return a score without what rounding put outside [0, 1]."""
    return min(1.0, max(0.0, score))


def _no_score(score: float) -> str:
    return f"the verifier gave the score {score:g}; allowed: 0 to 1"


def _nothing_said(detail: str) -> Grade:
    return Grade(status=GradeStatus.UNPARSED, score=0.0, lenient_score=0.0, detail=detail)
