"""What `posttrain check RUN` says of a run that is measured, sampled here or imported, without a further sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.diagnose.storage.diagnosis_json import CheckEntry
from posttrain.diagnose.storage.json_model import FileModel
from posttrain.diagnose.types import ValidityCode


class CheckedBehavior(FileModel):
    """What was found of one behavior."""

    name: str
    num_problems: int
    num_samples: int
    """Greedy ones left out, those without a grade counted in."""
    num_missing: int
    """Samples without a grade."""
    checks: Sequence[CheckEntry] = ()
    """The validity checks."""
    failures: Sequence[str] = ()
    """What broke, with the repair."""
    failure_codes: Sequence[ValidityCode] = ()
    """The code of each failure; a run of an earlier version has none."""
    caveats: Sequence[str] = ()
    """What a reader of the verdict must know."""


class RunCheckFile(FileModel):
    """The whole result."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["run"] = "run"
    run: str
    split: str
    behaviors: Sequence[CheckedBehavior]
