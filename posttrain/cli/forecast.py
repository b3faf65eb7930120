"""`posttrain forecast`: will training on groups of samples have a signal?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson

EXAMPLES = (
    "posttrain forecast runs/mine",
    "posttrain forecast runs/mine --group-size 16 --prompts-per-step 32 --json",
)


def forecast(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`, or of imported samples.")],
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="G",
            help="Samples of one prompt that are compared with each other; that of the behavior without it.",
        ),
    ] = None,
    prompts_per_step: Annotated[int, typer.Option("--prompts-per-step", metavar="B", help="Prompts of a training step.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Forecast how many groups carry no signal, and why.

    It says what to change, too. A group whose rewards are equal teaches GRPO and its relatives nothing. No model is needed: it is computed from the samples of a run.
    """
    from posttrain.diagnose import forecast as run_forecast
    from posttrain.diagnose.report.signal_words import forecast_table

    found = run_forecast(run, group_size=group_size, prompts_per_step=prompts_per_step)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
        return
    for one in found.behaviors:
        print(one.sentence)
        for words in one.advice:
            print(f"  - {words}")
        print("\n" + forecast_table(one.group_signal) + "\n")
