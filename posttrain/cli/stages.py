"""`posttrain stages`: what a diagnosis can name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from posttrain.cli.options import AsJson

EXAMPLES = (
    "posttrain stages",
    "posttrain stages --json",
    "posttrain stages --markdown",
)


def stages(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as reports/STAGES.md holds it.")] = False,
) -> None:
    """List the stages that a diagnosis can name.

    Each with what it needs, when it is right, and when it has no learning signal.
    """
    from dataclasses import asdict

    from posttrain.diagnose.stage_catalogue import STAGES, to_markdown

    if as_json and markdown:
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError("stages: got --json and --markdown; give one of them", code="two_formats")
    if as_json or markdown:
        print(
            json.dumps([asdict(stage) for stage in STAGES.values()], indent=1) if as_json else to_markdown(),
            end="" if markdown else "\n",
        )
        return
    heading = ("", "")
    for stage in STAGES.values():
        if (stage.family, stage.right_when if stage.trains else "") != heading:
            heading = (stage.family, stage.right_when if stage.trains else "")
            print(f"\n{stage.family}")
            if stage.trains:
                role = stage.roles if stage.role else "makes no policy"
                print(
                    f"  {stage.provenance.replace('_', '-')}, {stage.interface}; {role}; needs {', '.join(n.value.replace('_', ' ') for n in stage.needs)}"
                )
                print(f"  right when {stage.right_when}\n  no learning signal when {stage.no_signal_when}")
        print(f"    {stage.name:21} {'arXiv ' + stage.paper if stage.trains else stage.right_when}")
