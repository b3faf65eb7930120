"""How often the verifiers read what the test pairs of other libraries say.

Takes checkouts of Math-Verify, lighteval and Inspect, reads the pairs of text and expected answer out of their tests without running
anything, and grades those whose answer a verifier accepts: numbers by `number`, letters by `choice`.

    git clone https://github.com/huggingface/Math-Verify
    python benchmarks/reading_peers.py --math-verify Math-Verify --lighteval lighteval --inspect inspect_ai > reports/benchmarks/reading_peers.md
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.diagnose.types import Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers import Verifier, build_verifier
from posttrain.diagnose.verifiers.reader.answer_reading import ReadStatus, read_number

# The peers compare to six digits.
NUMBER = build_verifier(VerifierSpec(kind="number", options={"tolerance": 1e-6}))
CHOICE = build_verifier(VerifierSpec(kind="choice"))
MATH = build_verifier(VerifierSpec(kind="math"))
# A test whose name says that a letter is expected; elsewhere a letter may be a variable.
LETTERS = ("abc", "letter", "string_extraction")
BROKEN_LINE = (
    "The peer tests its own pattern of inline formulas, which ends at a line break, and reads the same text between `$$` or `\\[ \\]` as 9. Line breaks change no "
    "answer: a reader that refuses this text misses a right one."
)
# Why a pair that is not read as the peer reads it is right as it is, by the beginning of its text.
EXPLAINED = {
    "Answer $ \n 9": BROKEN_LINE,
    "Answer \\( \n 9": BROKEN_LINE,
    "28 + 32 = 60%": "To the peer 60% is no number, so it takes the last word that is one: 32, a summand. The text states 60 %, and 32 would be a false positive.",
}


class Pair(NamedTuple):
    """One test case of a peer."""

    source: str
    text: str
    answer: str
    right: bool


def parametrised_pairs(path: Path, peer: str) -> Iterator[Pair]:
    """Read the cases of `@pytest.mark.parametrize` that have a gold, a prediction and whether they agree."""
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        for decorator in getattr(function, "decorator_list", []):
            if not (isinstance(decorator, ast.Call) and len(decorator.args) >= 2 and isinstance(decorator.args[1], ast.List)):
                continue
            names = [name.strip() for name in str(_literal(decorator.args[0])).split(",")]
            for element in decorator.args[1].elts:
                values = [_literal(value) for value in element.elts] if isinstance(element, ast.Tuple) else []
                case = dict(zip(names, values, strict=False))
                if isinstance(case.get("gold"), str) and isinstance(case.get("pred"), str) and case.get("expected") in (0, 1):
                    yield Pair(f"{peer} {function.name}", case["pred"], case["gold"], bool(case["expected"]))  # type: ignore[attr-defined]
                elif "string_extraction" in path.name and isinstance(case.get("pred"), str) and case.get("expected"):
                    yield Pair(f"{peer} {function.name}", case["pred"], case["expected"][-1], True)  # type: ignore[attr-defined]


def _literal(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def inspect_pairs(checkout: Path) -> Iterator[Pair]:
    """Read Inspect's cases: one output, one target and one expected verdict per test function."""
    for case in json.loads((checkout / "tests/scorer/math_cases.json").read_text(encoding="utf-8")):
        yield Pair("inspect math_cases", case["output"], case["target"], case["expected"] == "C")
    for name in ("test_match.py", "test_answer.py", "test_choice.py"):
        for function in ast.parse((checkout / "tests/scorer" / name).read_text(encoding="utf-8")).body:
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            outputs = [_literal(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == "model_output"]
            targets = [_literal(call.args[0]) for call in calls if getattr(call.func, "id", "") == "Target" and call.args]
            verdicts = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & {
                "CORRECT",
                "INCORRECT",
                "NOANSWER",
            }
            locations = {_literal(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == "location"}
            texts = [output for output in outputs if isinstance(output, str)]
            if "shuffled" in getattr(function, "name", ""):  # graded by what stands behind the letter, which is not in the text
                continue
            if len(texts) == len(targets) == 1 and len(verdicts) == 1 and not locations & {"any", "begin", "exact"}:
                target = targets[0] if isinstance(targets[0], str) else (targets[0] or [""])[0]
                if isinstance(targets[0], str) or len(targets[0] or []) == 1:
                    yield Pair(f"inspect {function.name}", texts[0], target, verdicts == {"CORRECT"})  # type: ignore[attr-defined]


def problem(answer: str) -> Problem:
    """Return a problem with an answer."""
    return Problem(id="p", prompt="q", answer=answer, key="q", split=Split.EVAL)


def verifier_for(pair: Pair) -> Verifier | None:
    """Return the verifier that accepts the answer of a pair."""
    letters = any(word in pair.source for word in LETTERS) or "choice" in pair.source
    for verifier in (CHOICE,) if letters else (NUMBER,):
        assert isinstance(verifier, Verifier)
        if verifier.complaint(problem(pair.answer)) is None:
            return verifier
    return None


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser()
    for name in ("--math-verify", "--lighteval", "--inspect"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    pairs: list[Pair] = []
    for path in sorted((arguments.math_verify / "tests").glob("test_*.py")):
        pairs += parametrised_pairs(path, "math-verify")
    pairs += parametrised_pairs(arguments.lighteval / "tests/unit/metrics/test_extractive_match.py", "lighteval")
    pairs += inspect_pairs(arguments.inspect)
    counts: dict[str, list[int]] = {}
    expressions, rows = [], []
    for pair in pairs:
        verifier = verifier_for(pair)
        if verifier is None:
            continue
        read = verifier.extract(pair.text, lenient=False)
        right = read is not None and verifier.compare(read, problem(pair.answer)) == 1.0
        count = counts.setdefault(pair.source.split()[0], [0, 0, 0])
        if pair.right and not right and verifier is NUMBER and read_number(pair.text).status is ReadStatus.EXPRESSION:
            count[2] += 1
            expressions.append(pair)
            continue
        count[0] += 1
        count[1] += right == pair.right
        if right != pair.right:
            rows.append((pair, read))
    print(page(counts, rows, expressions), end="")


def page(counts: dict[str, list[int]], rows: list[tuple[Pair, str | None]], expressions: list[Pair]) -> str:
    """Return the page as Markdown."""
    total = [sum(count[place] for count in counts.values()) for place in range(3)]
    lines = [
        "# Readings beside those of other libraries",
        "",
        "From `python benchmarks/reading_peers.py --math-verify DIR --lighteval DIR --inspect DIR`: the test pairs of Math-Verify, lighteval and Inspect whose",
        "expected answer `number` (with a tolerance of 1e-6, as the peers compare) or `choice` accepts. *Agree*: the strict reading scores a pair as its test",
        "says. *Expressions*: the text states an expression, such as a sum, which these verifiers leave unparsed.",
        "",
        "| peer | pairs | agree | share | expressions |",
        "|---|---|---|---|---|",
        *(
            f"| {peer} | {count[0]} | {count[1]} | {count[1] / count[0]:.3f} | {count[2]} |"
            for peer, count in [*counts.items(), ("all", total)]
        ),
        "",
        "## Where they differ",
        "",
        "| test | text | answer | right there | read | why |",
        "|---|---|---|---|---|---|",
        *(
            f"| {pair.source} | `{shown(pair.text)}` | `{pair.answer}` | {'yes' if pair.right else 'no'} | {read} | {explanation(pair.text)} |"
            for pair, read in rows
        ),
        "",
        "## Expressions",
        "",
        "A text whose number is not written out gets `unparsed` from `number`, never a number picked from inside. `math`, its second reading, works them out:",
        "",
        *(
            f"- {pair.source}: `{shown(pair.text)}`, {pair.answer} expected: {'right' if reads_by_math(pair) else 'wrong'}"
            for pair in expressions
        ),
        "",
    ]
    return "\n".join(lines)


def reads_by_math(pair: Pair) -> bool:
    """Return whether `math` scores the text of a pair as right."""
    assert isinstance(MATH, Verifier)
    asked = problem(pair.answer)
    read = MATH.extract(pair.text, lenient=False, payload=MATH.payload(asked))
    return read is not None and MATH.compare(read, asked) == 1.0


def shown(text: str) -> str:
    """Return the end of a text on one line of a table."""
    return text[-120:].replace("\n", "\\n").replace("|", "\\|")


def explanation(text: str) -> str:
    """Return why a difference is right as it is."""
    return next((why for start, why in EXPLAINED.items() if text.startswith(start)), "not explained")


if __name__ == "__main__":
    main()
