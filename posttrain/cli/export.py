"""`posttrain export`: a run as data of another tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import any_split

EXAMPLES = (
    "posttrain export runs/train --to trl-sft --out sft.jsonl",
    "posttrain export runs/train --to verl --rates 0.1:0.9 --out train.parquet",
    "posttrain export runs/train --to trl-config --out runs/grpo-with-trl",
    "posttrain export runs/mine --to counts --behavior sums --out counts.jsonl",
)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose` or `import`.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="trl-prompts, trl-sft, trl-references, trl-pairs, verl, verifiers (also for prime-rl), counts, every-eval-ever; "
            "trl-config or verl-config: the stage that the verdict names, as a folder with a script, its data and its reward.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The file, .jsonl or .parquet, or for a configuration the folder; it must not exist.")
    ],
    behavior: Annotated[
        list[str] | None,
        typer.Option("--behavior", metavar="NAME", help="Export this one; may be given several times. All without it."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split", help="Which problems go into files to train on: train. Of eval ones, what was measured no longer counts."
        ),
    ] = "train",
    rates: Annotated[
        str | None,
        typer.Option("--rates", metavar="LOW:HIGH", help="Only problems whose measured pass rate lies there, such as 0.1:0.9."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", metavar="NAME", help="For a configuration: this stage in place of the one that the verdict names."
        ),
    ] = None,
    per_problem: Annotated[
        int, typer.Option("--per-problem", metavar="N", help="Samples, references or pairs of a problem at most.")
    ] = 4,
) -> None:
    """Write a run as the files of another tool.

    Problems, samples, pass rates, counts, or the named stage as a script. Files to train on hold train problems alone: samples of these come from `posttrain diagnose --split train`.
    """
    from posttrain.diagnose import assemble
    from posttrain.diagnose import export as run_export
    from posttrain.diagnose.errors import SettingsError
    from posttrain.diagnose.exporting.export_formats import CONFIGURATIONS
    from posttrain.diagnose.exporting.export_rows import ExportOptions
    from posttrain.diagnose.exporting.write_export import check_export
    from posttrain.diagnose.types import Split

    chosen = any_split(split)
    low, high = _rates(rates)
    if to in CONFIGURATIONS:
        from posttrain.trainers.stage_script import export_stage

        options = ExportOptions(behaviors=behavior or (), split=chosen, least_rate=low, most_rate=high, per_problem=per_problem)
        print("\n".join(map(str, export_stage(assemble(run), to, out, stage=stage, options=options))))
        return
    if stage is not None:
        raise SettingsError(f"--stage: got {stage!r}; it is for --to trl-config and verl-config", code="stage_of_data")
    form = check_export(to, out)
    read = assemble(run)
    rows = run_export(
        read, to, out, behaviors=behavior or (), split=chosen, least_rate=low, most_rate=high, per_problem=per_problem
    )
    if line := form.left_out(read, ExportOptions(behaviors=behavior or ())):
        print(f"posttrain: {line}", file=sys.stderr)
    if form.trains and chosen is not Split.TRAIN:
        print(
            f"posttrain: these are {chosen} problems; once a model is trained on them, what they measured no longer counts",
            file=sys.stderr,
        )
    print(f"{rows} rows: {out}")


def _rates(given: str | None) -> tuple[float | None, float | None]:
    """Return the two ends of a range of pass rates.

    Raises:
        SettingsError: It is none (`malformed_rates`).
    """
    from posttrain.diagnose.errors import SettingsError

    if given is None:
        return None, None
    low, mark, high = given.partition(":")
    try:
        if not mark:
            raise ValueError
        return float(low or 0.0), float(high or 1.0)
    except ValueError:
        raise SettingsError(
            f"--rates: got {given!r}; give two pass rates with a colon between them, such as 0.1:0.9", code="malformed_rates"
        ) from None
