"""A function of the user scores answers.

    verifier: {kind: python, function: "rewards:score"}

calls `score(text, problem)` in `rewards.py` beside the behavior file, or of an installed package, in the child process. `problem` is a
dict with the keys id, prompt, answer, references, group, hint and metadata; what is returned is a bool, or a number in [0, 1]. The
function is the user's own and trusted: it sees the expected answer, and its child has no isolation. With `isolated: true` each text is
scored in a process of its own, without network, and with no other files than installed packages and the folder of the function: this keeps
the machine from a text that the function executes, but not the score, which such a text can choose. Use the verifier `code` for programs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier


class PythonOptions(StrictModel):
    """Options of `python`."""

    function: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`module:function`, as in `rewards:score`."""
    isolated: bool = False
    """Whether each text is scored in an isolated process of its own, which takes some milliseconds."""
    folder: str = ""
    """Where modules are looked for beside installed packages; the behavior's own folder unless given."""


class PythonVerifier(Verifier):
    """Gives the text and the problem to a function. There is no lenient reading."""

    Options = PythonOptions
    needs_answer = False
    memory_bytes = 4 << 30

    def __init__(self, options: PythonOptions) -> None:
        self._options = options
        self._module, _, self._name = options.function.partition(":")
        self._function: Callable[..., Any] | None = None

    def executes_text(self, problems: Sequence[Problem]) -> bool:
        """Return whether the user asked for isolation."""
        return self._options.isolated

    def folders(self) -> tuple[str, ...]:
        """Return the folder of the function."""
        return (self._options.folder,) if self._options.folder else ()

    def identity(self) -> str:
        """Return a hash of the module's source where it lies in the folder; an installed package is named by the function alone.

        Raises:
            BehaviorError: There is no such module.
        """
        source = Path(self._options.folder, *self._module.split(".")).with_suffix(".py")
        if self._options.folder and source.is_file():
            return hashlib.sha256(source.read_bytes()).hexdigest()
        package = self._module.partition(".")[0]
        if not Path(self._options.folder or "no folder", package).is_dir() and importlib.util.find_spec(package) is None:
            raise BehaviorError(
                f"verifier python: function: got {self._options.function!r}; there is neither {source} nor an installed package {package!r}:"
                " put the module beside the behavior file, or give its folder as `folder:`",
                code="no_such_module",
            )
        return ""

    def prepare(self) -> None:
        """Import the function (child process)."""
        function = getattr(importlib.import_module(self._module), self._name)
        if not callable(function):
            raise TypeError(f"{self._options.function} is no function")
        self._function = function

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Return what the function gives for a text (child process), as JSON."""
        if lenient:
            return None
        assert payload is not None
        if self._function is None:
            self.prepare()
        assert self._function is not None
        value = self._function(text, dict(payload))
        return json.dumps(float(value))

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the score that the function gave."""
        return read_score(extracted)

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the problem, answer included: the function compares."""
        return {
            "id": problem.id,
            "prompt": problem.prompt if isinstance(problem.prompt, str) else [turn._asdict() for turn in problem.prompt],
            "answer": problem.answer,
            "references": [reference.text for reference in problem.references],
            "group": problem.group,
            "hint": problem.hint,
            "metadata": json.loads(json.dumps(dict(problem.metadata), default=str)),
        }


def read_score(text: str) -> float:
    """Return a score that a child worked out.

    Raises:
        CannotGrade: It is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise CannotGrade(f"the verifier gave {text[:40]!r}; allowed: a number from 0 to 1") from None
