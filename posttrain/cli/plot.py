"""`posttrain plot`: a figure or a table from run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "posttrain plot pass_at_k runs/before runs/after --label base --label grpo --out pass_at_k.pdf",
    "posttrain plot pass_at_k runs/before --out pass_at_k.tex",
)


def plot(
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help="One of `posttrain figures`.")],
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of `posttrain diagnose`, `compare` or `loop`; see `posttrain figures`."),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "--out",
            metavar="FILE",
            help="The suffix decides: .pdf (fonts embedded, text stays text), .svg (text as outlines: looks the same everywhere), .png (300 dpi); "
            ".tex (booktabs) and .md hold the numbers as a table. Without a suffix PDF and SVG. May be given several times; "
            "the numbers stand as .csv beside it.",
        ),
    ],
    behavior: Annotated[
        list[str] | None,
        typer.Option("--behavior", metavar="NAME", help="Show this one; may be given several times. All of the runs without it."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME", help="What the legend calls a run; one per run, in their order."),
    ] = None,
    width: Annotated[
        str, typer.Option("--width", metavar="column|text|INCHES", help="Printed width: column is 3.3 inches, text is 6.9.")
    ] = "column",
) -> None:
    """Draw a figure, or set a table, from run directories."""
    from posttrain.analysis import plot as draw
    from posttrain.diagnose.storage.run_check import check_folder

    for run in runs:
        check_folder(Path(run))
    result = draw(figure, runs, out=out, behavior=behavior or (), label=label or (), width=width)
    print("\n".join(map(str, result.files)))
