"""`posttrain compare`: two runs, paired by problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson
from posttrain.cli.printing import interval, typed_command

EXAMPLES = (
    "posttrain compare runs/first/diagnosis-0 runs/first/diagnosis-1 --out runs/first-compared",
    "posttrain compare runs/mine runs/mine-after --out runs/mine-compared --null runs/mine-again",
)


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of a `posttrain diagnose`.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The same behaviors, measured on another model.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for compare.json.")],
    null: Annotated[
        str,
        typer.Option(
            "--null",
            metavar="predictive|halves|RUN",
            help="What the changes of support are compared with: new samples predicted from the run before; one half of its samples against the "
            "other (before and after are then halved too); or the folder of a second run of the model before, with another seed.",
        ),
    ] = "predictive",
    margin: Annotated[
        float, typer.Option("--margin", help="The largest change of pass@1 that does not matter, for retention behaviors.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, paired by problem.

    Every change stands beside its null: what sampling one model twice would show.
    """
    from posttrain.diagnose import compare as run_compare

    transition = run_compare(before, after, out=out, null=null, margin=margin, command=typed_command())
    if as_json:
        print((out / "compare.json").read_text(), end="")
        return
    for behavior in transition.behaviors:
        report = behavior.report
        states = {state: sum(c.state == state for c in report.changes) for state in sorted({c.state for c in report.changes})}
        print(
            f"{report.name}: pass@1 {interval(report.pass_at_1_before)} to {interval(report.pass_at_1_after)}, "
            f"change {interval(report.delta, signed=True)} (paired 95 %, {report.num_problems} problems); {report.role}"
        )
        print("  problems: " + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items()))
        print(
            "  "
            + ", ".join(f"{row.name} {row.value.estimate:.2f} (same model twice: {interval(row.null)})" for row in report.support)
        )
        for name, words in report.facts:
            print(f"  {name}: {words}")
    print(f"report: {out / 'report.html'}")
