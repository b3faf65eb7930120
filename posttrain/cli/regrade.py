"""`posttrain regrade`: grade stored texts again, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson, Quiet
from posttrain.cli.printing import open_reporter, typed_command

EXAMPLES = (
    "posttrain regrade runs/mine --verifier math",
    "posttrain regrade runs/mine --verifier number --option tolerance=0.01 --out runs/mine-number",
)


def regrade(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`, or of imported samples with texts.")
    ],
    verifier: Annotated[
        str | None,
        typer.Option(
            "--verifier", metavar="KIND", help="KIND or KIND:KEY=VALUE,...; without it that of each behavior, as its file is now."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the verifier; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder, RUN-regraded without it; the same command on it resumes.")
    ] = None,
    behavior: Annotated[
        list[str] | None,
        typer.Option("--behavior", metavar="NAME", help="Grade this behavior alone; may be given several times."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade stored texts again, and show whose grade changed.

    No model is needed. The run stays as it is; a new one holds the same samples with the new grades, and a verdict that rests on them.
    """
    from posttrain.diagnose import regrade as run_regrade
    from posttrain.diagnose.behaviors.behavior_options import read_behavior_options
    from posttrain.diagnose.report.regrade_words import regrade_lines

    given = read_behavior_options(verifier=verifier, verifier_options=option or ()).verifier
    target = out or run.with_name(f"{run.resolve().name}-regraded")
    found = run_regrade(
        run,
        out=target,
        verifier=given,
        behaviors=behavior or (),
        command=typed_command(),
        reporter=open_reporter(quiet or as_json),
    )
    if as_json:
        print((target / "regrade.json").read_text(), end="")
        return
    print("\n".join(regrade_lines(found)))
    print(f"all changes: {target / 'regrade.json'}; report: {target / 'report.html'}")
