"""`posttrain compare`: two runs, paired by problem."""

from __future__ import annotations

from collections import Counter
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
        Path | None,
        typer.Option(
            "--null",
            metavar="RUN",
            help="Folder of a second run of the model before, with another seed, that the changes of support are compared with. Without it they "
            "are compared with the same successes dealt anew between the two sides.",
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="The largest change of pass@1 that does not matter, for retention behaviors.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, paired by problem.

    Every change stands beside its null: what sampling one model twice would show.
    """
    from posttrain.diagnose import compare as run_compare
    from posttrain.diagnose.comparison.compare_json import CompareFile
    from posttrain.diagnose.report.comparison_view import comparison_facts
    from posttrain.diagnose.storage.json_model import read_model

    run_compare(before, after, out=out, null=null, margin=margin, command=typed_command())
    if as_json:
        print((out / "compare.json").read_text(), end="")
        return
    for behavior in read_model(out / "compare.json", CompareFile).behaviors:
        states, one = Counter(sorted(change.state for change in behavior.problems)), behavior.pass_at_1
        print(
            f"{behavior.name}: pass@1 {interval(one.before)} to {interval(one.after)}, "
            f"change {interval(one.delta, signed=True)} (paired 95 %, {behavior.num_problems} problems); {behavior.role.words}"
        )
        print("  problems: " + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items()))
        print(
            "  "
            + ", ".join(
                f"{name} {row.estimate:.2f} (same model twice: {interval(row.null)})" for name, row in behavior.support.items()
            )
        )
        for name, words in comparison_facts(behavior):
            print(f"  {name}: {words}")
    print(f"report: {out / 'report.html'}")
