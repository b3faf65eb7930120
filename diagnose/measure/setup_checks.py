"""Setup checks: what must be right before anything is sampled. The verifier, the prompt, and whether reference paths can be sampled at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.diagnose.engines.answer_turn import AnswerTurn, answer_turn
from posttrain.diagnose.engines.base import EncodedPrompt, Engine
from posttrain.diagnose.engines.codec import TextCodec, chat_messages
from posttrain.diagnose.measure.check_values import Checked, Failure, counted, quoted
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Problem, ValidityCode, check_estimate
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.selftest import CaseCount, SelfTest

_STATES = (
    r"(?:\b(?:answer|solution|result)\s*(?:is|:|=)|\bA\s*:|####|\\boxed\s*\{{|=)\s*[\"'(*$]*{answer}(?![\w.,]*\w)"
    r"|[(\[]{answer}[)\]]\s*[.?!:]?\s*$"
)
"""What states an answer: words, a marker or an equals sign before it, or brackets around it at the end."""
_MOST_ENCODED = 256
"""Problems whose reference paths are encoded to see whether one is too long; of the others only where one is."""
_MOST_SHAPES = 8
"""Chats of different roles whose template is tried."""
_REPAIRS = {
    "answer": "change the verifier's kind or options, or the answers",
    "reference": "use a verifier that finds the answer in a path (number, choice, regex with select: last), or correct the references",
    "empty": "use a verifier that reads an answer",
    "garbage": "use a verifier that reads an answer",
    "echo": "take the answer out of the question, or use a verifier that reads an answer only where one is stated",
    "near_miss": "lower the tolerance, or compare the whole answer",
    "other_answer": "lower the tolerance, compare the whole answer, or leave out `answer` where any such text is right",
    "candidates": "use select: only with a regex, or the verifier number or choice",
}
_KINDS = {
    "answer": "the reference answer", "reference": "the whole reference path", "empty": "an empty text", "garbage": "garbage",
    "other_answer": "another problem's answer", "near_miss": "a wrong answer", "echo": "the echoed prompt", "candidates": "a list of candidate answers",
}  # fmt: skip
SELFTEST_CODES = {
    "answer": ValidityCode.REFUSES_ANSWERS, "reference": ValidityCode.REFUSES_REFERENCES, "empty": ValidityCode.ACCEPTS_ANYTHING,
    "garbage": ValidityCode.ACCEPTS_ANYTHING, "echo": ValidityCode.ANSWER_IN_PROMPT, "near_miss": ValidityCode.ACCEPTS_WRONG_ANSWERS,
    "other_answer": ValidityCode.ACCEPTS_WRONG_ANSWERS, "candidates": ValidityCode.ACCEPTS_CANDIDATES,
}  # fmt: skip
_REFUSES = (ValidityCode.REFUSES_ANSWERS, ValidityCode.REFUSES_REFERENCES)
_SELF_TEST = {
    "validity: right answers accepted": ("answer", "reference"),
    "validity: texts without an answer refused": ("empty", "garbage", "echo"),
    "validity: wrong answers refused": ("near_miss", "other_answer"),
}
SELF_TEST_NAMES = tuple(_SELF_TEST)
"""Checks of the verifier."""
WARNING = "Warning: "
"""How a note of the self-test begins."""
_SERIOUSNESS = (ValidityCode.ACCEPTS_ANYTHING, ValidityCode.ANSWER_IN_PROMPT, ValidityCode.ACCEPTS_WRONG_ANSWERS)
"""What a verifier accepts wrongly, the worst first, which explains the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetupChecks:
    """What was found before sampling."""

    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    """What a reader should know, and what does not stop a verdict."""
    prompt: EncodedPrompt
    """One prompt as the model reads it."""
    accepts_candidates: bool
    """Whether the verifier accepts a list of candidates, so that samples must be looked at."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Return what is wrong, so that nothing need be sampled: the samples could not be believed."""
        return tuple(failure for _, failures in self.checked for failure in failures)


def check_setup(
    behavior: Behavior, engine: Engine, thresholds: Thresholds, selftest: SelfTest, problems: Sequence[Problem]
) -> SetupChecks:
    """Check what needs no sample.

    Args:
        behavior: What is to be measured.
        engine: With what.
        thresholds: Of the verdict.
        selftest: What the verifier said of texts whose grade is known.
        problems: Those that are measured.
    """
    problems = problems or behavior.problems
    example = engine.codec.encode_prompt(problems[0].prompt, behavior.prompt)
    checked = (
        *check_selftest(selftest, thresholds),
        check_prompt(behavior, engine, problems, example),
        *_check_references(behavior, engine, thresholds, problems),
    )
    cases = {case.name: case for case in selftest.cases}
    return SetupChecks(
        checked=checked,
        notes=selftest_notes(selftest),
        prompt=example,
        accepts_candidates="candidates" in cases and cases["candidates"].num_failed > 0,
    )


def selftest_notes(selftest: SelfTest) -> tuple[str, ...]:
    """Say what the verifier got wrong seldom enough for samples to be believed."""
    return tuple(f"{WARNING}{selftest_words(case)}." for case in selftest.cases if case.num_failed and not case.blocks)


def check_selftest(selftest: SelfTest, thresholds: Thresholds) -> list[Checked]:
    """Check what the verifier accepts and refuses: right answers, texts without an answer, and wrong answers, each by its worst case.

    One failure says what it refuses wrongly, and one what it accepts wrongly, the worst of it: who accepts garbage accepts everything else too.
    """
    thresholds_of = (1 - thresholds.max_refused, 1.0, 1 - thresholds.max_wrong_accepted)
    blocking = [case for case in selftest.cases if case.blocks]
    worst = next((code for code in _SERIOUSNESS if any(SELFTEST_CODES[case.name] is code for case in blocking)), None)
    found: list[Checked] = []
    for (name, members), threshold in zip(_SELF_TEST.items(), thresholds_of, strict=True):
        cases = [case for case in selftest.cases if case.name in members and case.num_texts]
        if not cases:
            continue
        share = counted(min(1 - case.num_failed / case.num_texts for case in cases))
        what = f"share of {name.removeprefix('validity: ')} by the verifier in its self-test, of the worse kind of text"
        tried = sum(case.num_texts for case in cases)
        check = check_estimate(name, ">=", share, threshold, n=tried, what=what, unit="texts")
        told = [case for case in cases if case.blocks and SELFTEST_CODES[case.name] in (worst, *_REFUSES)]
        if "answer" not in members:
            told = sorted(told, key=lambda case: case.num_failed / case.num_texts, reverse=True)
        found.append((check, [Failure(SELFTEST_CODES[case.name], selftest_words(case)) for case in told[:1]]))
    return found


def selftest_words(case: CaseCount) -> str:
    """Say what the verifier got wrong, with an example and the repair."""
    verb = "refuses" if case.name in ("answer", "reference") else "accepts"
    first = case.examples[0]
    read = f" (read as {quoted(first.grade.extracted, 30)})" if first.grade.extracted is not None else ""
    return (
        f"the verifier {verb} {_KINDS[case.name]} in {case.num_failed} of {case.num_texts} tries, e.g. {quoted(first.text)}{read} for problem "
        f"{first.problem_id}: {_REPAIRS[case.name]}"
    )


def check_prompt(behavior: Behavior, engine: Engine, problems: Sequence[Problem], example: EncodedPrompt) -> Checked:
    """Check that the prompt begins with one begin-of-text token at most, and ends where the model must answer."""
    failures: list[Failure] = []
    tokenizer: Any = engine.codec.tokenizer
    bos = None if tokenizer is None else tokenizer.bos_token_id
    if bos is not None and example.token_ids[:2] == (bos, bos):
        text = "the prompt begins with two begin-of-text tokens: take the one out of the chat template or of prompt.template"
        failures.append(Failure(ValidityCode.DOUBLED_BEGIN, text))
    for turn in _turns(behavior, engine, problems):
        if turn.lacks_generation_prompt:
            text = (
                f"the chat template adds no generation prompt, so the model is not told to answer: have it write {quoted(turn.before)} behind the "
                "question where add_generation_prompt is set, or use prompt: {format: completion}"
            )
            failures.append(Failure(ValidityCode.NO_GENERATION_PROMPT, text))
            break
        if turn.opens_otherwise:
            text = (
                f"the chat template ends a prompt with {quoted(turn.prompt_end)} and begins the answers of a chat with {quoted(turn.before)}: make "
                "them the same, as the model was trained"
            )
            failures.append(Failure(ValidityCode.WRONG_TEMPLATE, text))
            break
    what = "the chat template is applied and ended by the generation prompt, with one begin-of-text token at most"
    right = counted(float(not failures))
    return check_estimate("validity: prompt", ">=", right, 1.0, n=1, what=what, unit="prompts"), failures


def _turns(behavior: Behavior, engine: Engine, problems: Sequence[Problem]) -> list[AnswerTurn]:
    """Return what the chat template writes around an answer, to one chat of each sequence of roles; empty where prompts are no chats."""
    codec, prompt = engine.codec, behavior.prompt
    if not isinstance(codec, TextCodec) or codec.template is None or not codec.writes_chat(prompt):
        return []
    shapes: dict[tuple[str, ...], AnswerTurn | None] = {}
    for problem in problems:
        messages = chat_messages(problem.prompt, prompt)
        roles = tuple(message.role for message in messages)
        if roles not in shapes and roles[-1] != "assistant" and len(shapes) < _MOST_SHAPES:
            shapes[roles] = answer_turn(codec.template, messages, tools=prompt.tool_schemas, arguments=prompt.template_variables)
    return [turn for turn in shapes.values() if turn is not None]


def _check_references(behavior: Behavior, engine: Engine, thresholds: Thresholds, problems: Sequence[Problem]) -> list[Checked]:
    """Check that the sampler can write the reference paths, and that no prompt gives its answer away."""
    limit, stops = behavior.sampling.max_tokens, behavior.sampling.stop
    paths = [(problem, one.text) for problem in problems for one in problem.references]
    cut = [(problem, stop) for problem, text in paths if (stop := _stop_inside(text, stops)) is not None]
    lengths = _path_lengths(behavior, engine, problems[:: max(1, len(problems) // _MOST_ENCODED)])
    ended_by_stop = 1 if stops else 0  # a path that a stop text ends needs no end token
    if too_long := [length for length in lengths if length - ended_by_stop > limit]:
        lengths = _path_lengths(behavior, engine, problems)
        too_long = [length for length in lengths if length - ended_by_stop > limit]
    told = [problem for problem in problems if _tells_answer(problem, behavior)]
    found = []
    for name, what, bad, tried, code, text in (
        (
            "references without a stop text", "share of reference paths that no stop text ends early", len(cut), len(paths),
            ValidityCode.STOP_IN_REFERENCE,
            f"the stop text {cut[0][1]!r} stands within {len(cut)} of {len(paths)} reference paths, e.g. that of problem {cut[0][0].id}, so samples "
            "end before their answer: take it out of sampling.stop, or write these references without it" if cut else "",
        ),
        (
            "references within max_tokens", "share of reference paths that are no longer than max_tokens, end token included", len(too_long),
            len(lengths), ValidityCode.REFERENCE_TOO_LONG,
            f"{len(too_long)} of {len(lengths)} reference paths are longer than max_tokens={limit}: raise it to at least the longest one, "
            f"`sampling: {{max_tokens: {max(too_long)}}}`" if too_long else "",
        ),
        (
            "prompts without their answer", "share of problems whose prompt does not state the answer", len(told), len(problems),
            ValidityCode.ANSWER_IN_PROMPT,
            f"the prompt states the answer in {len(told)} of {len(problems)} problems, e.g. {told[0].id}: take the answer out of the question and "
            "of prompt.examples" if told else "",
        ),
    ):  # fmt: skip
        if tried:
            share, threshold = counted(1 - bad / tried), 1 - thresholds.max_refused
            check = check_estimate(f"validity: {name}", ">=", share, threshold, n=tried, what=what, unit="paths")
            found.append((check, [Failure(code, text)] if bad / tried > thresholds.max_refused else []))
    return found


def _path_lengths(behavior: Behavior, engine: Engine, problems: Sequence[Problem]) -> list[int]:
    """Return the tokens of every reference path, end token included; none where the engine encodes no paths."""
    if not engine.info.can_score:
        return []
    lengths = []
    for problem in problems:
        if problem.references:
            prompt = engine.codec.encode_prompt(problem.prompt, behavior.prompt)
            lengths += [len(engine.codec.encode_path(prompt, one).token_ids) for one in problem.references]
    return lengths


def _stop_inside(text: str, stops: Sequence[str]) -> str | None:
    """Return the stop text behind which more than blanks follows."""
    return next((stop for stop in stops if stop in text and text.partition(stop)[2].strip()), None)


def _tells_answer(problem: Problem, behavior: Behavior) -> bool:
    """Return whether a problem's own prompt holds a reference path, states the answer, or shows the problem as a worked example."""
    if any(normalise_text(question) == normalise_text(problem.question) for question, _ in behavior.prompt.examples):
        return True
    question = " ".join(problem.question.split())
    for reference in problem.references:
        path = " ".join(reference.text.split())
        if len(path.split()) > 2 and len(path) > len(problem.answer) and path in question:
            return True
    if not problem.answer.strip():
        return False
    stated = re.search(_STATES.format(answer=re.escape(problem.answer.strip())), problem.question, re.IGNORECASE)
    return stated is not None
