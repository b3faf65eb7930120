"""The scorer that comes with a reasoning-gym data set.

The documented exception to the rule that the child sees no answer: these scorers need the whole entry, so they run whole in the
child. Nine of them evaluate what they are given. Texts for these are read in isolation, and are evaluated only where they are what an answer can
be: Python literals, or arithmetic with the usual functions.
"""

from __future__ import annotations

import ast
import importlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.python import read_score

_ENTRY = "reasoning_gym"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"\banswer(?:[ \t]+is)?[ \t]*[:=]?[ \t]*(.+)", re.IGNORECASE)

LITERAL_SCORERS = {
    "binary_matrix": "reasoning_gym.algorithmic.binary_matrix",
    "n_queens": "reasoning_gym.games.n_queens",
    "spiral_matrix": "reasoning_gym.algorithmic.spiral_matrix",
    "string_insertion": "reasoning_gym.algorithmic.string_insertion",
}
"""Data sets whose scorers call `eval` on a list, with their modules."""
EXPRESSION_SCORERS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Data sets whose scorers have sympy evaluate an expression."""
REFUSED_SCORERS: dict[str, str] = {
    "game_of_life_halting": "its scorer takes any text for yes",
}
"""Data sets whose scorers say nothing about an answer, with the reason."""
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|asin|acos|atan|arcsin|arccos|arctan|sinh|cosh|tanh|exp|log|ln|sqrt|Abs|abs|pi|oo"
_EXPRESSION = re.compile(rf"(?:\d+(?:\.\d*)?(?:[eE][-+]?\d{{1,3}})?|\.\d+|\b(?:{_FUNCTIONS}|[A-Za-z])\b|[-+*/^!(),\s])+")
_GAMES = frozenset({"countdown", "puzzle24"})
_SUM = re.compile(r"(?:\d+|[-+()\s]|\*(?!\s*\*)|/(?!\s*/))+")
"""What the games allow: whole numbers, the four operations, brackets."""
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LARGEST_POWER = re.compile(r"(?:\*\*|\^)[-+(\s]*\d{4}|(?:\*\*|\^)[-+(\s]*\w+(?:\.\d*)?[)\s]*(?:\*\*|\^)|\d{4,}[)\s]*!|![)\s]*!")
"""Powers of powers, and exponents and factorials of four digits: never an answer, and hours of work."""


class ReasoningGymOptions(StrictModel):
    """Options of `reasoning_gym`: none, the data set is named by the entry."""


class ReasoningGymVerifier(Verifier):
    """Gives the text to the data set's own scorer: what stands in the last <answer> tag, else all of it.

    The lenient reading takes the best score of the last line and of what follows the last `answer is`.
    """

    Options = ReasoningGymOptions

    def __init__(self, options: ReasoningGymOptions) -> None:
        self._scorers: dict[str, Callable[..., Any]] = {}

    memory_bytes = 4 << 30

    def executes_text(self, problems: Sequence[Problem]) -> bool:
        """Return whether one of the problems has a scorer that evaluates texts."""
        return any(
            _dataset(problem.metadata.get(_ENTRY, {})) in LITERAL_SCORERS.keys() | EXPRESSION_SCORERS for problem in problems
        )

    def prepare(self) -> None:
        """Import the scorers, and have those that evaluate lists evaluate nothing else (child process)."""
        import reasoning_gym  # noqa: F401  its two seconds must not count against the first text

        for module in LITERAL_SCORERS.values():
            importlib.import_module(module).__dict__["eval"] = ast.literal_eval

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Score a text (child process).

        Returns:
            The score and what was scored, as `0.5 <text>`.
        """
        assert payload is not None
        candidates = _read(text, lenient)
        if not candidates:
            return None
        dataset = _dataset(payload)
        scorer = self._scorer(dataset)
        scored = []
        for candidate in candidates:
            if is_answer(candidate, dataset, payload):
                known_wrong = dataset == "coin_flip" and not _is_near(candidate, payload)
                scored.append((0.0 if known_wrong else float(scorer(candidate, payload)), candidate))
        if not scored:
            return None
        score, candidate = max(scored, key=lambda pair: pair[0])
        return f"{score!r} {candidate}"

    def _scorer(self, dataset: str) -> Callable[..., Any]:
        if dataset not in self._scorers:
            from reasoning_gym.factory import get_score_answer_fn  # slow to import: only in the child, only for this kind

            self._scorers[dataset] = get_score_answer_fn(dataset)
        return self._scorers[dataset]

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the score that the child worked out."""
        return read_score(extracted.split(" ", 1)[0])

    def complaint(self, problem: Problem) -> str | None:
        """Refuse a problem without its entry."""
        entry = problem.metadata.get(_ENTRY)
        if not isinstance(entry, Mapping) or "source_dataset" not in entry.get("metadata", {}):
            return (
                "metadata holds no reasoning-gym entry, which the verifier reasoning_gym scores by;"
                " get the problems from `reasoning_gym:`, or use the verifier exact"
            )
        if _dataset(entry) in REFUSED_SCORERS:
            return (
                f"the data set {_dataset(entry)} cannot be measured with the verifier reasoning_gym: {REFUSED_SCORERS[_dataset(entry)]}; use"
                " another data set, or the verifier exact"
            )
        return None

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the entry, answer included."""
        entry: Mapping[str, Any] = problem.metadata[_ENTRY]
        return entry


def is_answer(text: str, dataset: str, entry: Mapping[str, Any]) -> bool:
    """Return whether a scorer may be given a text: what it evaluates is arithmetic, and what it fails to check holds."""
    if text == str(entry.get("answer")).strip():
        return True
    if dataset in _GAMES and not _SUM.fullmatch(text):
        return False
    if dataset in EXPRESSION_SCORERS and (len(text) > 2000 or not _EXPRESSION.fullmatch(text) or _LARGEST_POWER.search(text)):
        return False
    if dataset == "puzzle24":  # its scorer takes any four numbers, and all from 24 up to below 25
        numbers = sorted(int(number) for number in re.findall(r"\d+", text))
        return numbers == sorted(entry["metadata"]["numbers"]) and _value(text) == 24
    return True


def _value(text: str) -> Fraction | None:
    """Return what four operations give, exactly; None where that is no number."""
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_evaluate(left), _evaluate(right))
    raise ValueError("neither a number nor one of the four operations")


def _is_near(text: str, entry: Mapping[str, Any]) -> bool:
    """Return whether a probability is right; the scorer takes the first digits of one, too."""
    try:
        return abs(Fraction(text.replace(",", "")) - Fraction(str(entry["answer"]).replace(",", ""))) <= Fraction(1, 10_000)
    except (ValueError, ZeroDivisionError):
        return False


def _dataset(entry: Mapping[str, Any]) -> str:
    return str(entry.get("metadata", {}).get("source_dataset", ""))


def _read(text: str, lenient: bool) -> list[str]:
    tagged = _TAGGED.findall(text)
    if not lenient:
        candidates = [tagged[-1] if tagged else text]
    else:
        candidates = [*tagged[-1:], *text.strip().splitlines()[-1:], *_ANSWER.findall(text)[-1:]]
        candidates += [candidate.strip().rstrip(".") for candidate in candidates]
    return [candidate for raw in dict.fromkeys(candidates) if (candidate := raw.strip())]
