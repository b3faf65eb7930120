"""The verifier of imported samples: their grades came with them, and no other text can be graded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier

KIND = "imported"


class ImportedOptions(StrictModel):
    """Settings of `imported`: none."""


class ImportedVerifier(Verifier):
    """Stands for the grades of another tool. Whoever wants to grade further texts names a verifier of ours."""

    Options = ImportedOptions
    needs_answer = False
    judges_content = False

    def __init__(self, options: ImportedOptions):
        """Take no settings."""

    def check_ready(self) -> NoReturn:
        """Refuse to grade.

        Raises:
            SettingsError: Always (`imported_verifier`).
        """
        raise SettingsError(
            "verifier imported: the grades of these samples came with them, and it cannot grade another text; give the behavior a verifier "
            "(--verifier number, or `verifier:` in its file), or grade the stored texts with `posttrain regrade RUN --verifier KIND`",
            code="imported_verifier",
        )

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> None:
        """Return that nothing can be read."""
        return

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Refuse to compare."""
        raise CannotGrade("imported grades cannot be given to another text")
