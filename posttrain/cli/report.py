"""`posttrain report`: decide and write the report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson
from posttrain.cli.printing import print_diagnosis

EXAMPLES = (
    "posttrain report runs/first/diagnosis-0",
    "posttrain report runs/first/diagnosis-0 --json",
)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`.")], as_json: AsJson = False
) -> None:
    """Decide and write the report again from the samples of a run.

    No model is needed.
    """
    from posttrain.diagnose import assemble

    print_diagnosis(assemble(run), as_json)
