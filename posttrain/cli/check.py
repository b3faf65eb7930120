"""`posttrain check`: what can be known without spending samples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli import options

if TYPE_CHECKING:
    from posttrain.diagnose.behaviors.row_sources import MappedRows

EXAMPLES = (
    "posttrain check my.jsonl",
    "posttrain check my.jsonl --map prompt=question answer=target --model demo",
    "posttrain check --train rows.jsonl --model demo",
    "posttrain check --train rows.csv --map prompt=ask completion=reply --model demo",
    "posttrain check checkpoints/adapter",
    "posttrain check runs/imported",
)


def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="A behavior: a bundled name, a .yaml file or a file of problems. Or a model, an adapter, or the folder of a finished run.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Whose tokenizer and chat template write the prompts; its weights are not loaded."
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="WHAT is a data set to train on: show what is learned of it, token by token.")
    ] = False,
    row: Annotated[int, typer.Option("--row", metavar="N", help="With --train: the row to show, from 0.")] = 0,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", metavar="N", help="With --train: tokens of a row at most; what the model reads without it."),
    ] = None,
    behavior: Annotated[
        str | None,
        typer.Option(
            "--behavior",
            metavar="BEHAVIOR",
            help="Of a model: whose questions and right answers it is asked; a few everyday ones without it.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="openai:URL",
            help="Of a model: a server that serves it too; are the probabilities of its answers those of the model here?",
        ),
    ] = None,
    columns: options.Map = None,
    verifier: options.VerifierOption = None,
    system: options.System = None,
    split_eval: options.SplitEval = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a data set, a model or a run without a sample.

    It says what is read, how texts are graded, and what may be wrong; of a run whether its files are whole and its samples can be believed.
    """
    if train:
        others = {
            "--verifier": verifier,
            "--system": system,
            "--split-eval": split_eval,
            "--behavior": behavior,
            "--engine": engine,
        }
        _refuse_others(what, "data set to train on", others)
        _check_rows(options.mapped_rows(what, columns, "--map") or what, model, row, max_length, as_json)
        return
    of_problems = {"--model": model, "--map": columns, "--verifier": verifier, "--system": system, "--split-eval": split_eval}
    if _is_model(what):
        _refuse_others(what, "model", of_problems)
        _check_model(what, behavior, engine, as_json)
        return
    if (Path(what) / "run.json").is_file():
        _refuse_others(what, "finished run", {**of_problems, "--behavior": behavior, "--engine": engine})
        _check_run(what, as_json)
        return
    _refuse_others(what, "file of problems", {"--behavior": behavior, "--engine": engine})
    from posttrain.diagnose.behaviors.behavior_options import read_behavior_options
    from posttrain.diagnose.pipeline.check_data import check_data
    from posttrain.diagnose.report.data_check_words import data_check_lines

    given = read_behavior_options(system=system, verifier=verifier, columns=columns or None, split_eval=split_eval)
    found = check_data(what, given, model=model)
    print(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(data_check_lines(found)))


def _check_model(what: str, behavior: str | None, engine: str | None, as_json: bool) -> None:
    from posttrain.diagnose.pipeline.model_check import inspect_model
    from posttrain.diagnose.report.model_check_words import model_check_lines

    checked = inspect_model(what, behavior=behavior, served=engine)
    print(json.dumps(checked.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(model_check_lines(checked)))


def _check_run(what: str, as_json: bool) -> None:
    from posttrain.diagnose.pipeline.check_run import check_run
    from posttrain.diagnose.report.run_check_words import run_check_lines

    found = check_run(what)
    print(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(run_check_lines(found)))


def _refuse_others(what: str, kind: str, given: Mapping[str, object]) -> None:
    """Refuse options that mean something else than WHAT.

    Raises:
        SettingsError: Code `option_of_other_check`.
    """
    from posttrain.diagnose.errors import SettingsError

    if names := [name for name, value in given.items() if value]:
        raise SettingsError(
            f"check {what}: got {names[0]}, which says nothing of a {kind}; leave it out", code="option_of_other_check"
        )


def _check_rows(what: str | MappedRows, model: str | None, row: int, max_length: int | None, as_json: bool) -> None:
    from posttrain.diagnose.errors import SettingsError

    if model is None:
        raise SettingsError("check --train: --model is missing; give the MODEL whose tokenizer writes the rows", code="no_model")
    from posttrain.trainers.data.row_check import check_rows
    from posttrain.trainers.data.row_check_words import row_check_lines, token_line, warning_lines

    found = check_rows(what, model, row=row, max_length=max_length)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    print("\n".join(row_check_lines(found)))
    for shown in found.shown:
        print(f"row {shown.row}, {shown.role.value}: learned is what stands in [ ]")
        console.print(
            Text.assemble("  ", *((text, "bold green" if learned else "dim") for text, learned in token_line(shown.tokens)))
        )
    print("\n".join(warning_lines(found.warnings)))


def _is_model(what: str) -> bool:
    """Return whether WHAT is a model or an adapter: a folder that holds one, a .gguf file, a hub id, or `demo`."""
    path = Path(what)
    if what == "demo" or path.suffix.lower() == ".gguf":
        return True
    if (
        re.fullmatch(r"[\w-]+/[\w.-]+", what)
        and not path.exists()
        and not re.search(r"\.(ya?ml|jsonl?|ndjson|csv|tsv|parquet)(\.gz)?$", what, re.I)
    ):
        return True
    return path.is_dir() and any((path / name).exists() for name in ("config.json", "adapter_config.json"))
