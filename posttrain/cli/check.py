"""`posttrain check`: what can be known without spending samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli import options

EXAMPLES = (
    "posttrain check my.jsonl",
    "posttrain check my.jsonl --map prompt=question answer=target --model demo",
)


def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A behavior: a bundled name, a .yaml file or a file of problems. Or a model or an adapter."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Whose tokenizer and chat template write the prompts; its weights are not loaded."
        ),
    ] = None,
    columns: options.Map = None,
    verifier: options.VerifierOption = None,
    system: options.System = None,
    split_eval: options.SplitEval = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a data set or a model without spending samples: what is read, how texts are graded, what may be wrong."""
    if _is_model(what):
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError(f"check: got the model {what}; allowed: a behavior file or a file of problems", code="not_checked")
    from posttrain.diagnose.behaviors.behavior_options import read_behavior_options
    from posttrain.diagnose.pipeline.check_data import check_data
    from posttrain.diagnose.report.data_check_words import data_check_lines

    given = read_behavior_options(system=system, verifier=verifier, columns=columns or None, split_eval=split_eval)
    found = check_data(what, given, model=model)
    print(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(data_check_lines(found)))


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
