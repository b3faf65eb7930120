"""The answer is a program, and its tests say whether it is right.

    verifier: {kind: code}

Tests stand in the metadata of a problem under the names of the published sets: `test` with `entry_point` as in HumanEval, `test_list` with
`test_setup_code`, `test_imports` as in MBPP, or `tests`, one text or a list. The program runs in an isolated process of its own, and its tests
in another that calls the program's functions: arguments and results pass between them as values of builtin types, so a program passes by
returning what the tests want and in no other way. What a program prints or writes is not looked at. Limits of this: functions cannot
be passed as arguments, arguments are copies (a function that is to change them in place fails), a program starts no processes, and a result of
a type of its own can be handed back and asked for attributes, but not compared; where tests need that, the grade is missing.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier
from posttrain.diagnose.verifiers.sandbox.code_run import ProgramOutcome, ProgramRunner, ProgramTests, Verdict
from posttrain.diagnose.verifiers.sandbox.isolation import require_isolation

_FENCE = re.compile(r"^[ \t]*```+[^\n`]*\n(.*?)^[ \t]*```+[ \t]*$", re.DOTALL | re.MULTILINE)
_OPEN_FENCE = re.compile(r"^[ \t]*```+[^\n`]*\n", re.MULTILINE)
_TILDES = re.compile(r"^([ \t]*)~~~+", re.MULTILINE)
_WRAPPED = re.compile(
    r"\s*(?:\[PYTHON\]|<(code|answer|python)>)[ \t]*\n?(.*?)(?:\[/PYTHON\]|</\1>)\s*", re.DOTALL | re.IGNORECASE
)
_END_OF_TURN = re.compile(r"(?:<\|(?:im_end|endoftext|end_of_text|eot_id|end|return)\|>|</s>|<end_of_turn>)\s*$")
_NEXT_STATEMENT = re.compile(r"\n(?=[^\s)\]}])")
_FIRST_STATEMENT = re.compile(r"^(?:def |class |import |from |async |@)", re.MULTILINE)
_END_OF_FUNCTION = re.compile(r"\n(?=class |def |async |@|#|if |print|assert |```)")


class CodeOptions(StrictModel):
    """Options of `code`."""

    seconds: float = Field(default=10.0, gt=0.0, le=600.0, allow_inf_nan=False)
    """Time of one program with all its tests; a program that takes longer is wrong."""
    memory_mb: int = Field(default=1024, ge=64)
    """Memory of one program, in MiB."""


class CodeVerifier(Verifier):
    """Reads a program: the last fenced block, or the whole text where there is none, as a program or as what continues the prompt.

    The lenient reading takes any fenced block that compiles, also one that is not closed, and repairs indentation.
    """

    Options = CodeOptions
    answers_are_short = False
    needs_answer = False

    def __init__(self, options: CodeOptions) -> None:
        self._options = options
        self._runner: ProgramRunner | None = None
        self._known: tuple[str, dict[str, ProgramOutcome]] = ("", {})

    def executes_text(self, problems: Sequence[Problem]) -> bool:
        """Return that it does."""
        return True

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the program (child process); None where nothing compiles and defines what is asked for."""
        assert payload is not None
        prompt, entry_point = str(payload["prompt"]), str(payload["entry_point"])
        text = _bare(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = _definitions(prompt, entry_point)
            for body in (_lenient_bodies if lenient else _strict_bodies)(text, entry_point):
                for program in _programs(body, prompt, entry_point, lenient=lenient):
                    if _defines(program, entry_point) and _definitions(program, entry_point) - given:
                        return program
        return None

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Run the tests.

        Raises:
            CannotGrade: The tests are broken, or need what the program returned to be compared in its own process.
        """
        if self._known[0] != problem.id:
            self._known = (problem.id, {})
        known = self._known[1]
        if extracted not in known:
            if self._runner is None:
                memory = self._options.memory_mb << 20
                self._runner = ProgramRunner(
                    require_isolation("verifier code"), seconds=self._options.seconds, memory_bytes=memory
                )
            tests = read_tests(problem)
            assert tests is not None
            known[extracted] = self._runner.run(extracted, tests)
        outcome = known[extracted]
        if outcome.verdict in (Verdict.UNSUPPORTED, Verdict.BROKEN):
            raise CannotGrade(outcome.detail)
        return float(outcome.verdict is Verdict.PASSED)

    def remark(self, extracted: str, problem: Problem) -> str:
        """Return what the tests saw."""
        found = self._known[1].get(extracted) if self._known[0] == problem.id else None
        return "" if found is None else found.detail

    def complaint(self, problem: Problem) -> str | None:
        """Refuse a problem without tests, or with some that are no Python."""
        tests = read_tests(problem)
        if tests is None:
            return (
                "metadata holds no tests, which the verifier code needs; give `test` and `entry_point` as HumanEval does, or `test_list` as MBPP"
                ' does, as in {"test_list": ["assert add(1, 2) == 3"]}'
            )
        try:
            ast.parse(f"{tests.setup}\n{tests.tests}")
        except (SyntaxError, ValueError) as error:
            return f"the tests are no Python ({error}): got {shorten(tests.tests)}"
        return None

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the prompt and the name of the function, without tests or answer: the text may continue the prompt."""
        return {"prompt": _prompt(problem), "entry_point": str(problem.metadata.get("entry_point") or "")}

    def close(self) -> None:
        """End the processes."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def read_tests(problem: Problem) -> ProgramTests | None:
    """Return the tests that a problem's metadata holds; None where it holds none."""
    fields = problem.metadata
    tests = next((text for name in ("tests", "test", "test_list") if (text := _joined(fields.get(name))).strip()), "")
    if not tests:
        return None
    return ProgramTests(
        tests=tests,
        entry_point=str(fields.get("entry_point") or ""),
        setup=f"{_joined(fields.get('test_imports'))}\n{_joined(fields.get('test_setup_code'))}",
        prelude=_prompt(problem),
    )


def _joined(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else ""


def _prompt(problem: Problem) -> str:
    return problem.prompt if isinstance(problem.prompt, str) else ""


def _bare(text: str) -> str:
    """Return a text without what is no part of a program: a byte order mark, the token at the end of a turn, a tag around all of it."""
    text = _TILDES.sub(r"\1```", _END_OF_TURN.sub("", text.removeprefix("\ufeff")))
    wrapped = _WRAPPED.fullmatch(text)
    return text if wrapped is None else wrapped[2]


def _strict_bodies(text: str, entry_point: str) -> Iterator[str]:
    """Return the last closed block that defines something, or the text where there is no block at all."""
    blocks = _FENCE.findall(text)
    # What stands in a block of its own after the function is how to call it.
    defining = [block for block in blocks if _defines(block, entry_point)]
    if blocks:
        yield (defining or blocks)[-1]
    elif "```" not in text:
        yield text.partition("[DONE]")[0].rpartition("[BEGIN]")[2]  # the markers of MBPP's own prompt


def _lenient_bodies(text: str, entry_point: str) -> Iterator[str]:
    yield from _strict_bodies(text, entry_point)
    blocks = _FENCE.findall(text)
    yield from reversed(blocks[:-1])
    if len(blocks) > 1:
        yield "\n".join(blocks)
    opened = list(_OPEN_FENCE.finditer(text))
    if opened:
        yield text[opened[-1].end() :]
    first = _FIRST_STATEMENT.search(text)
    if first and first.start():
        yield text[first.start() :]


def _programs(body: str, prompt: str, entry_point: str, *, lenient: bool) -> Iterator[str]:
    """Return what a body may mean as a program, the likeliest first; each for itself may not compile."""
    if not _parses(prompt) or not prompt.strip():
        yield from _beginnings(body)
        if lenient:
            yield from _beginnings(textwrap.dedent(body))
        return
    # A prompt in Python: helpers and imports come from it, whether the body begins anew or goes on.
    if lenient and entry_point and _definitions(textwrap.dedent(body), entry_point):
        yield f"{prompt}\n\n{textwrap.dedent(body)}"
    if _defines(body, entry_point) and entry_point:
        yield f"{prompt}\n\n{body}"
        yield body  # as it must be where it imports from the future
        return
    if body.startswith((" ", "\t", "\n")) and not lenient:
        # A sample that goes on past the function writes more functions and tests of its own: it is cut where HumanEval stops sampling.
        yield prompt + _END_OF_FUNCTION.split(body.lstrip("\n"), maxsplit=1)[0] + "\n"
    for continued in (body, "\n" + body):
        yield from (prompt + beginning for beginning in _beginnings(continued))
    yield from (f"{prompt}\n\n{beginning}" for beginning in _beginnings(body) if _defines(beginning, entry_point) and entry_point)
    if lenient:
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        yield from (f"{prompt}\n{beginning}" for beginning in (indented, *_beginnings(indented)))
        yield from (f"{prompt}\n\n{beginning}" for beginning in _beginnings(textwrap.dedent(body)))


def _beginnings(body: str) -> Iterator[str]:
    """Return a body, and what stands before its last, its second and its first statement at the margin: samples run on, and break off."""
    yield body
    blank = len(body) - len(body.lstrip())
    ends = [match.start() for match in _NEXT_STATEMENT.finditer(body, blank)]
    for end in dict.fromkeys([*ends[-1:], *ends[1:2], *ends[:1]]):
        yield body[: end + 1]


def _parses(source: str) -> bool:
    try:
        compile(source, "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _defines(program: str, name: str) -> bool:
    """Return whether a program compiles, holds a statement beside texts and, where a name is given, defines it."""
    if not _parses(program):
        return False
    tree = ast.parse(program)
    if not name:
        return any(
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.Import | ast.ImportFrom) for node in tree.body
        )
    return any(_binds(node, name) for node in ast.walk(tree))


def _binds(node: ast.AST, name: str) -> bool:
    """Return whether a statement gives a value to a name."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return isinstance(node, ast.Import | ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names)


def _definitions(program: str, name: str) -> set[str]:
    """Return what a program gives a name, as trees; with no name, all its statements. Empty where it does not compile."""
    nodes = ast.parse(program).body if _parses(program) else []
    return {ast.dump(node) for node in nodes if not name or _binds(node, name)}
