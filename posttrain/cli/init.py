"""`posttrain init`: a behavior file for a file of problems, with every key commented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli import options

EXAMPLES = (
    "posttrain init my.jsonl",
    "posttrain init hf:openai/gsm8k:main:test --out gsm8k.yaml",
)


def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A file of problems (.jsonl, .json, .csv, .tsv, .parquet), or hf:NAME[:CONFIG][:SPLIT]."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The .yaml file; one beside DATA without it.")] = None,
    columns: options.Map = None,
    verifier: options.VerifierOption = None,
    system: options.System = None,
) -> None:
    """Write a behavior file for a data set.

    It has every key, what was guessed, and why.
    """
    from posttrain.diagnose.behaviors.behavior_options import read_behavior_options
    from posttrain.diagnose.behaviors.new_behavior_file import write_behavior_file

    given = read_behavior_options(columns=columns or None, verifier=verifier, system=system)
    path = write_behavior_file(source, out, given)
    print(f"{path} written; look at it, then: posttrain check {path}, posttrain diagnose MODEL {path} --out runs/{path.stem}")
