"""`posttrain report`: write the report again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson

EXAMPLES = (
    "posttrain report runs/first/diagnosis-0",
    "posttrain report runs/first/diagnosis-0 --json",
)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`, `compare` or `loop`, or of its JSON files.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write the report again, from samples or from JSON.

    Decides again from the samples of a run; a folder with JSON alone is rendered as it is. No model is needed.
    """
    from posttrain.diagnose import rewrite_report

    page = rewrite_report(run)
    path = next(path for name in ("compare.json", "checkpoints.json", "diagnosis.json") if (path := run / name).exists())
    if as_json:
        print(path.read_text(), end="")
        return
    content = json.loads(path.read_text())
    if path.name == "checkpoints.json":
        print(content["keep"]["words"])
    else:
        for behavior in content["behaviors"]:
            verdict = (behavior.get("verdicts") or {}).get("after") or behavior
            print(verdict["sentence"])
    print(f"report: {page}")
