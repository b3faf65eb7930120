"""The answer must follow instructions that a program can check, as in IFEval (arXiv 2311.07911).

    verifier: {kind: ifeval}

A problem's metadata names them as the published rows do: `instruction_id_list`, a list of names, and `kwargs`, the arguments of each. The score is
the share that is followed, so that a success follows all of them; `instructions.py` has what each means. The lenient reading is the
loose one of the paper: an instruction counts as followed where it is followed without the first line, the last line, or asterisks.
No answer is needed, and none is compared: what a text says is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.diagnose.strict_settings import StrictModel, shorten, unknown
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier
from posttrain.diagnose.verifiers.instructions import INSTRUCTIONS, RELATIONS, prepare_languages

_ARGUMENTS = {"num": int, "relation": str, "text": str, "texts": list}


class IfevalOptions(StrictModel):
    """Options of `ifeval`: none, the problems say what to follow."""


class IfevalVerifier(Verifier):
    """Checks each instruction of a problem."""

    Options = IfevalOptions
    needs_answer = False
    judges_content = False

    def __init__(self, options: IfevalOptions) -> None:
        """Take no options."""

    def prepare(self) -> None:
        """Load what knows languages (child process)."""
        prepare_languages()

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Return a digit for each instruction, 1 where it is followed (child process); None where the text is blank."""
        assert payload is not None
        if not text.strip():
            return None
        variants = _variants(text) if lenient else [text]
        return "".join(
            str(int(any(one.strip() and INSTRUCTIONS[name].check(one, arguments) for one in variants)))
            for name, arguments in payload["instructions"]
        )

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the share of instructions that are followed.

        Raises:
            CannotGrade: The child gave something else.
        """
        if len(extracted) != len(read_instructions(problem)) or set(extracted) - {"0", "1"}:
            raise CannotGrade(f"the verifier gave {extracted[:40]!r}; allowed: 0 or 1 for each instruction")
        return extracted.count("1") / len(extracted)

    def shown(self, extracted: str) -> None:
        """Return nothing: no answer is read."""

    def complaint(self, problem: Problem) -> str | None:
        """Refuse a problem whose instructions are unknown, or lack arguments."""
        names, arguments = problem.metadata.get("instruction_id_list"), problem.metadata.get("kwargs")
        if not isinstance(names, list) or not names or not isinstance(arguments, list) or len(names) != len(arguments):
            return (
                f"metadata: got instruction_id_list {shorten(names)} and kwargs {shorten(arguments)}; the verifier ifeval needs both, as long as one another, "
                'as in {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'
            )
        for name, given in read_instructions(problem):
            if name not in INSTRUCTIONS:
                return unknown("instruction", str(name), INSTRUCTIONS)
            for argument, kind in INSTRUCTIONS[name].arguments.items():
                value = given.get(argument)
                fits = isinstance(value, _ARGUMENTS[kind]) and not isinstance(value, bool) and value not in ("", [])
                if not fits or (kind == "relation" and value not in RELATIONS):
                    allowed = (
                        " or ".join(RELATIONS)
                        if kind == "relation"
                        else {"num": "a whole number", "text": "a text"}.get(kind, "texts")
                    )
                    return f"instruction {name}: {argument}: got {shorten(value)}; allowed: {allowed}"
        return None

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the instructions, which the prompt states as well."""
        return {"instructions": read_instructions(problem)}


def read_instructions(problem: Problem) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the arguments of each instruction; whole numbers that a table holds as decimals are whole again."""
    names: Sequence[Any] = problem.metadata["instruction_id_list"]
    given: Sequence[Any] = problem.metadata["kwargs"]
    return [
        (
            name,
            {
                key: int(value) if isinstance(value, float) and value == int(value) else value
                for key, value in (arguments if isinstance(arguments, Mapping) else {}).items()
            },
        )
        for name, arguments in zip(names, given, strict=True)
    ]


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    found = ["\n".join(cut).strip() for cut in cuts]
    return list(dict.fromkeys([text, *itertools.chain(found, (one.replace("*", "") for one in found))]))
