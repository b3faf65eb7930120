"""What `posttrain check` prints of a file of problems, in words."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.diagnose.report.words import describe_verifier
from posttrain.diagnose.storage.data_check_json import DataCheckFile, DataWarning, GradedExample

_KINDS = {
    "answer": "the right answer",
    "reference": "the reference path",
    "wrong_answer": "a wrong answer",
    "empty": "an empty text",
    "other_answer": "the answer of another problem",
}
_WORDS = {
    DataWarning.DUPLICATE_PROBLEMS: "the same problem as one before: leave them out, or give rows a `key` of their own",
    DataWarning.CONTRADICTING_ANSWERS: "the same problem as one before with another answer: correct them, or list all right answers under `answers`",
    DataWarning.ANSWER_IN_PROMPT: "the right answer stands in the question: can it be copied?",
    DataWarning.CONSTANT_ANSWER: "have the answer {example!r}: whoever always says it scores as well",
    DataWarning.NEAR_OVERLAP: "measured, and to be trained on but for punctuation: give both the same `key`",
    DataWarning.LONG_PROMPTS: "with a prompt longer than {example}: shorten or leave them out",
    DataWarning.NOT_WRITTEN: "cannot be written for this model: {example}",
}


def warning_words(code: DataWarning, num: int, of: int, ids: Sequence[str], example: str) -> str:
    """Return one line about a warning.

    Args:
        code: Which.
        num: Problems that it is about.
        of: Problems in all.
        ids: Some of them.
        example: What the words name beside them: an answer, a length or an error.
    """
    listed = f" ({', '.join(ids)}{', …' if num > len(ids) else ''})"
    return f"{num} of {of} problems{listed}: {_WORDS[code].format(example=example)}"


def data_check_lines(check: DataCheckFile, *, prompt_characters: int = 1200) -> list[str]:
    """Return what a check found, line by line.

    Args:
        check: The result.
        prompt_characters: Of the prompt that is shown.
    """
    splits = ", ".join(f"{num} {split}" for split, num in check.splits.items() if num)
    steps = f", up to {check.num_steps} steps" if check.num_steps else ""
    verifier = describe_verifier(check.verifier.kind, check.verifier.options, check.verifier.origin)
    lengths = check.lengths
    reads = f"; the model reads {lengths.context:,}" if lengths.context is not None else ""
    reader = f"as {check.model} reads it ({check.prompt.num_tokens} tokens)" if check.prompt.num_tokens is not None else (
        "as it is asked; --model M shows it as a model reads it"
    )  # fmt: skip
    text = check.prompt.text
    shown = (
        text if len(text) <= prompt_characters else f"{text[: prompt_characters // 2]}\n[…]\n{text[-prompt_characters // 2 :]}"
    )
    return [
        f"{check.name}: {check.num_rows} problems ({splits}); {check.num_with_references} with reference paths{steps}",
        *(f"  {note}" for note in check.notes),
        f"  verifier: {verifier}",
        f"  prompts: {lengths.median:,.0f} {lengths.unit} in the middle, {lengths.max:,} the longest{reads}",
        f"prompt of {check.prompt.problem} {reader}:",
        *(f"  | {line}" for line in shown.split("\n")),
        *_graded_lines(check.graded),
        *([f"warning: {warning.words}" for warning in check.warnings] or ["no warnings"]),
    ]


def _graded_lines(graded: Sequence[GradedExample]) -> list[str]:
    if not graded:
        return ["graded examples: none, as the verifier asks a model"]
    lines = [f"texts graded as samples of {graded[0].problem}:"]
    for one in graded:
        said = {True: "right", False: "wrong", None: one.status.value}[one.accepted]
        read = f", read as {_short(one.extracted)}" if one.extracted is not None else f", {one.detail}" if one.detail else ""
        amiss = "  ← unexpected" if one.is_right is not None and one.accepted is not one.is_right else ""
        lines.append(f"  {_KINDS[one.kind]:30} {_short(one.text):42} {said}{read}{amiss}")
    return lines


def _short(text: str, most: int = 40) -> str:
    written = repr(text)
    return written if len(written) <= most else f"{written[: most // 2 - 1]}…{written[-most // 2 :]}"
