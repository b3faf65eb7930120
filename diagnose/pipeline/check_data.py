"""Check a file of problems before any sample is taken: how it is read, how texts are graded, and what may be wrong with it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.behaviors.answer_span import find_answer
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.codec import chat_messages
from posttrain.diagnose.engines.tokenizer_only import TokenizerOnly, open_tokenizer
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.measure.setup_checks import SELFTEST_CODES, selftest_words
from posttrain.diagnose.report.data_check_words import warning_words
from posttrain.diagnose.storage.data_check_json import (
    CheckedPrompt,
    CheckedVerifier,
    DataCheckFile,
    DataWarning,
    DataWarningEntry,
    GradedExample,
    PromptLengths,
)
from posttrain.diagnose.types import Behavior, Grade, Problem, Split, reaches
from posttrain.diagnose.verifiers import ModelVerifier, build_verifier
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest
from posttrain.diagnose.verifiers.wrong_answers import same_answer, wrong_answers

NUM_TRIED = 64
"""Problems on which the verifier is tried; of a slow one fewer."""
_NUM_SLOW = 8
_NUM_SHOWN = 3
_CONSTANT, _FEWEST = 0.9, 10
"""Share of one answer that is nearly everywhere, and the problems from which on that says something."""
_SHORT_ANSWER, _SHORT_SHARE, _FEW_ANSWERS = 4, 0.5, 5
"""An answer of fewer characters stands in a question by chance, unless it does in this share of them; of this few answers in all, as yes and no, the
question may name each."""
_LONG_PROMPT = 20_000
"""Characters, where no model says how many tokens it reads."""


def check_data(source: str | Path, options: BehaviorOptions | None = None, *, model: str | Path | None = None) -> DataCheckFile:
    """Check a behavior before any sample is taken.

    Args:
        source: What `load_behavior` reads.
        options: Settings that win over those of the file.
        model: A MODEL whose tokenizer and chat template write the prompt; its weights are not loaded.

    Raises:
        BehaviorError: The file cannot be read.
        ModelError: The model cannot be found.
    """
    behavior = load_behavior(source, options)
    tokenizer = None if model is None else open_tokenizer(model)
    problems = behavior.split(Split.EVAL) or behavior.problems
    warnings = list(_warnings(behavior))
    prompt, lengths, found = _read_prompts(behavior, problems, tokenizer)
    warnings += found
    graded: list[GradedExample] = []
    verifier = build_verifier(behavior.verifier)
    if not isinstance(verifier, ModelVerifier):
        with Grader(behavior) as grader:
            graded = list(_graded(behavior, grader, problems))
            warnings += _refused_and_accepted(behavior, grader, problems[: _NUM_SLOW if verifier.is_slow else NUM_TRIED])
    references = [reference for problem in behavior.problems for reference in problem.references]
    return DataCheckFile(
        source=behavior.source,
        name=behavior.name,
        fingerprint=behavior.fingerprint,
        num_rows=len(behavior.problems),
        splits={split.value: len(behavior.split(split)) for split in (Split.EVAL, Split.TRAIN, Split.FINAL)},
        num_with_references=sum(bool(problem.references) for problem in behavior.problems),
        num_steps=max((len(reference.steps) for reference in references), default=0),
        verifier=CheckedVerifier(
            kind=behavior.verifier.kind, options=dict(behavior.verifier.options), origin=behavior.verifier_origin
        ),
        notes=behavior.notes,
        model=None if model is None else str(model),
        prompt=prompt,
        lengths=lengths,
        graded=graded,
        warnings=warnings,
    )


def _warning(code: DataWarning, ids: Sequence[str], of: int, example: str = "") -> DataWarningEntry:
    words = warning_words(code, len(ids), of, ids[:_NUM_SHOWN], example)
    return DataWarningEntry(code=code.value, num=len(ids), of=of, examples=ids[:_NUM_SHOWN], words=words)


def _warnings(behavior: Behavior) -> Iterator[DataWarningEntry]:
    """Yield what may be wrong with problems and answers, whoever reads them."""
    problems, total = behavior.problems, len(behavior.problems)
    by_key: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_key[problem.key].append(problem)
    if doubled := [problem.id for group in by_key.values() for problem in group[1:]]:
        yield _warning(DataWarning.DUPLICATE_PROBLEMS, doubled, total)
    if differ := [problem.id for group in by_key.values() for problem in group[1:] if not _shares_answer(problem, group[0])]:
        yield _warning(DataWarning.CONTRADICTING_ANSWERS, differ, total)
    told = [problem for problem in problems if _tells_answer(problem)]
    by_chance = len(told) < _SHORT_SHARE * total
    told = [problem for problem in told if len(problem.answer) >= _SHORT_ANSWER or not by_chance]
    is_listed = len({problem.answer for problem in problems}) <= _FEW_ANSWERS < total or behavior.verifier.kind == "choice"
    if told and not is_listed:
        yield _warning(DataWarning.ANSWER_IN_PROMPT, [problem.id for problem in told], total)
    answer, count = Counter(problem.answer for problem in problems).most_common(1)[0]
    if answer and total >= _FEWEST and count > _CONSTANT * total:
        same = [problem.id for problem in problems if problem.answer == answer]
        yield _warning(DataWarning.CONSTANT_ANSWER, same, total, answer)
    train = {_letters(problem) for problem in behavior.split(Split.TRAIN)}
    if near := [problem.id for problem in behavior.split(Split.EVAL) if _letters(problem) in train]:
        yield _warning(DataWarning.NEAR_OVERLAP, near, len(behavior.split(Split.EVAL)))


def _shares_answer(problem: Problem, other: Problem) -> bool:
    return any(same_answer(one, two) for one in problem.accepted_answers for two in other.accepted_answers)


def _tells_answer(problem: Problem) -> bool:
    return bool(problem.answer) and find_answer(problem.question, problem.answer) is not None


def _letters(problem: Problem) -> str:
    return re.sub(r"[\W_]+", "", normalise(problem.question))


def _read_prompts(
    behavior: Behavior, problems: Sequence[Problem], tokenizer: TokenizerOnly | None
) -> tuple[CheckedPrompt, PromptLengths, list[DataWarningEntry]]:
    """Return one prompt, how long prompts are, and what is wrong with them."""
    first = problems[0]
    characters = {problem.id: _characters(behavior, problem) for problem in problems}
    if tokenizer is None:
        text = "\n\n".join(f"{turn.role}: {turn.content}" for turn in chat_messages(first.prompt, behavior.prompt))
        long = [name for name, num in characters.items() if num > _LONG_PROMPT]
        lengths = PromptLengths(unit="characters", median=median(characters.values()), max=max(characters.values()))
        found = [_warning(DataWarning.LONG_PROMPTS, long, len(problems), f"{_LONG_PROMPT:,} characters")] if long else []
        return CheckedPrompt(problem=first.id, text=text), lengths, found
    try:
        shown = tokenizer.codec.encode_prompt(first.prompt, behavior.prompt)
    except BehaviorError as error:
        lengths = PromptLengths(unit="characters", median=median(characters.values()), max=max(characters.values()))
        found = [_warning(DataWarning.NOT_WRITTEN, [first.id], len(problems), str(error))]
        return CheckedPrompt(problem=first.id, text=first.question), lengths, found
    context = tokenizer.context
    ordered = sorted(problems, key=lambda problem: characters[problem.id])
    middle, longest = ordered[len(ordered) // 2], ordered[-1]
    # A token is a character at least, or nearly so: only a long text can be too long.
    candidates = [problem for problem in ordered[:-1] if context is not None and characters[problem.id] >= context]
    tokens = {
        one.id: len(tokenizer.codec.encode_prompt(one.prompt, behavior.prompt).token_ids)
        for one in (*candidates, middle, longest)
    }
    long = [name for name, num in tokens.items() if context is not None and num >= context]
    found = (
        [_warning(DataWarning.LONG_PROMPTS, long, len(problems), f"the {context} tokens that the model reads")] if long else []
    )
    lengths = PromptLengths(unit="tokens", median=tokens[middle.id], max=max(tokens.values()), context=context)
    return CheckedPrompt(problem=first.id, text=shown.text, num_tokens=len(shown.token_ids)), lengths, found


def _characters(behavior: Behavior, problem: Problem) -> int:
    return sum(len(turn.content) for turn in chat_messages(problem.prompt, behavior.prompt))


def _graded(behavior: Behavior, grader: Grader, problems: Sequence[Problem]) -> Iterator[GradedExample]:
    """Yield a right answer, a reference path, a wrong answer, an empty text and another problem's answer, each with its grade."""
    verifier = build_verifier(behavior.verifier)
    problem = next((one for one in problems if one.answer and one.references), None)
    problem = problem or next((one for one in problems if one.answer), problems[0])
    letters = str(behavior.verifier.options.get("letters", "ABCDEFGHIJ"))
    letters = letters[: len(problem.metadata.get("choices", ())) or None]
    wrong = wrong_answers(problem.answer, accepted=problem.answers, letters=letters) if problem.answer else ()
    others = [verifier.write(one.answer) for one in problems if one.answer and not _shares_answer(one, problem)]
    if not problem.answer:
        others = [one.references[0].text for one in problems if one.references and one.id != problem.id]
    texts: list[tuple[str, str, bool | None]] = []
    if problem.answer:
        texts.append(("answer", verifier.write(problem.answer), True if verifier.accepts_answer_alone else None))
    texts += [("reference", reference.text, True) for reference in problem.references[:1]]
    texts += [("wrong_answer", verifier.write(one), False) for one in wrong[:1]]
    texts.append(("empty", "", False))
    texts += [("other_answer", one, False if problem.answer else None) for one in others[:1]]
    for (kind, text, is_right), grade in zip(texts, grader.grade_answers(problem, [text for _, text, _ in texts]), strict=True):
        yield GradedExample(
            kind=kind,  # type: ignore[arg-type]
            problem=problem.id,
            text=text,
            is_right=is_right,
            accepted=_accepted(behavior, grade),
            status=grade.status,
            extracted=grade.extracted,
            detail=grade.detail,
        )


def _accepted(behavior: Behavior, grade: Grade) -> bool | None:
    return None if grade.score is None else reaches(grade.score, behavior.measure.success)


def _refused_and_accepted(behavior: Behavior, grader: Grader, problems: Sequence[Problem]) -> Iterator[DataWarningEntry]:
    """Yield what the verifier refuses although it is right, and accepts although it is wrong."""
    for case in verifier_selftest(behavior, grader, problems).cases:
        if case.num_failed:
            ids = [failure.problem_id for failure in case.examples]
            yield DataWarningEntry(
                code=SELFTEST_CODES[case.name].value,
                num=case.num_failed,
                of=case.num_texts,
                examples=ids,
                words=selftest_words(case),
            )
