"""`posttrain compare`: two runs paired by problem, or several checkpoints of one training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import AsJson, MarkdownFile
from posttrain.cli.printing import check_markdown, typed_command, write_markdown

if TYPE_CHECKING:
    from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
    from posttrain.diagnose.comparison.compare_json import CompareFile

EXAMPLES = (
    "posttrain compare runs/first/diagnosis-0 runs/first/diagnosis-1 --out runs/first-compared",
    "posttrain compare runs/mine runs/mine-after --out runs/mine-compared --null runs/mine-again",
    "posttrain compare runs/step-100 runs/step-200 runs/step-300 --out runs/along",
)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="BEFORE AFTER",
            help="Folders of `posttrain diagnose`, which measured the same behaviors; three or more are checkpoints in the order of training.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for compare.json; for checkpoints.json with three runs or more.")],
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
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="What to call a checkpoint; one per run, in their order. Without it their steps or folders.",
        ),
    ] = None,
    markdown: MarkdownFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, or many along a training run.

    They are paired by problem. Every change between two stands beside its null: what sampling one model twice would show. Of several checkpoints, bands hold at all of
    them at once, and the one to keep is named with those that may be as good.
    """
    from posttrain.diagnose import compare as run_compare
    from posttrain.diagnose import compare_checkpoints
    from posttrain.diagnose.errors import SettingsError

    check_markdown(markdown, as_json=as_json)
    if len(runs) == 1:
        raise SettingsError(
            f"compare: got one run, {runs[0]}; give the run before and the run after, or three and more checkpoints",
            code="number_of_runs",
        )
    if len(runs) > 2:
        if null is not None:
            raise SettingsError(
                f"--null: got {null} with {len(runs)} runs; it is for two runs, leave it out or compare two",
                code="null_of_several",
            )
        compare_checkpoints(runs, out=out, labels=label or (), margin=margin, command=typed_command())
        _print_result(out, "checkpoints.json", markdown, as_json=as_json)
        return
    if label:
        raise SettingsError("--label: it names three or more checkpoints; leave it out for two runs", code="label_of_two")
    run_compare(runs[0], runs[1], out=out, null=null, margin=margin, command=typed_command())
    _print_result(out, "compare.json", markdown, as_json=as_json)


def _print_result(out: Path, name: str, markdown: str | None, *, as_json: bool) -> None:
    """Print what was found and write it as Markdown, as was asked for."""
    from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
    from posttrain.diagnose.comparison.compare_json import CompareFile
    from posttrain.diagnose.report.pull_request import checkpoints_markdown, comparison_markdown
    from posttrain.diagnose.storage.json_model import read_model

    file: CheckpointsFile | CompareFile
    path = out / name
    file = read_model(path, CheckpointsFile) if name == "checkpoints.json" else read_model(path, CompareFile)
    if markdown is not None:
        write_markdown(markdown, checkpoints_markdown(file) if isinstance(file, CheckpointsFile) else comparison_markdown(file))
    if markdown == "-":
        return
    if as_json:
        print(path.read_text(), end="")
        return
    if isinstance(file, CheckpointsFile):
        _print_checkpoints(file)
    else:
        _print_comparison(file)
    print(f"report: {out / 'report.html'}")


def _print_comparison(file: CompareFile) -> None:
    """Print what a comparison of two runs says of each behavior."""
    from posttrain.diagnose.report.comparison_lines import comparison_lines

    for behavior in file.behaviors:
        print("\n".join(comparison_lines(behavior)))


def _print_checkpoints(file: CheckpointsFile) -> None:
    """Print each behavior along the checkpoints, and which one to keep."""
    from posttrain.diagnose.report.checkpoints_view import checkpoint_cells

    for behavior in file.behaviors:
        print(
            f"{behavior.name} ({behavior.purpose}, {behavior.num_problems} problems; bands hold at all checkpoints at once, 95 %)"
        )
        for index, one in enumerate(file.checkpoints):
            cells = checkpoint_cells(behavior, index)
            line = f"  {one.label}: pass@1 {cells['pass_at_1']}"
            if index:
                line += f", change {cells['change_at_1']}"
            if behavior.shown_k > 1:
                line += f"; pass@{behavior.shown_k} {cells['pass_at_k']}"
            if index and behavior.points[index].retention is not None:
                line += f"; retention {cells['retention']}"
            print(line)
    print(file.keep.words)
    for note in file.keep.notes:
        print(f"  {note}")
