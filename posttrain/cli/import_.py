"""`posttrain import`: samples of another tool become a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli import options
from posttrain.cli.printing import open_reporter, print_diagnosis, typed_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.diagnose.types import Sampling

EXAMPLES = (
    "posttrain import counts pass_counts.jsonl --out runs/mine",
    "posttrain import table samples.csv --columns problem=qid correct=is_right text=output --out runs/mine",
    "posttrain import lm-eval results/ --out runs/harness",
    "posttrain import prime-rl outputs/rollouts --by-step --out runs/steps",
    "posttrain import trl output/completions --score accuracy_reward --step 200 --out runs/step-200",
    "posttrain import table rollouts.parquet --columns correct=reward --success 0.5 --by-step --out runs/steps",
)


def _list_formats(asked: bool) -> None:
    """Print the formats, and end."""
    if asked:
        from posttrain.diagnose.importing.formats import FORMATS

        for one in FORMATS.values():
            print(f"{one.name:<16}{one.title}: {one.files}")
        raise typer.Exit


Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN...",
        help="Which column says what, all pairs up to the next option: problem, correct, text, prompt, answer, group, behavior, policy, stop, ... "
        "Usual names are found without it; NAME= leaves one out.",
    ),
]
SamplingSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--sampling",
        metavar="NAME=X...",
        help="How the samples were taken, where you know and the files do not tell: temperature=1 top_p=1 top_k=0 max_tokens=4096. Without it a missing "
        "success says nothing about support.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", metavar="NAME", help="What turns token ids into texts, for open-instruct, which keeps ids alone."
    ),
]
AcceptBiased = Annotated[
    bool,
    typer.Option(
        "--accept-biased", help="Take a source that left samples out in a way that shifts success rates; the report says so."
    ),
]
Success = Annotated[
    float | None,
    typer.Option(
        "--success", metavar="X", help="A sample is right from this score on; 1 by default, where scores lie in [0, 1]."
    ),
]
Step = Annotated[
    str | None, typer.Option("--step", metavar="POLICY", help="Which step or model to take, where there are several.")
]


def import_(
    format_name: Annotated[
        str, typer.Argument(metavar="FORMAT", help="What wrote the files: table, counts, or a tool; --list has all.")
    ],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders that hold them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run; with --by-step, for one run per policy.")],
    columns: Columns = None,
    score: Annotated[
        str | None,
        typer.Option("--score", metavar="NAME", help="Which metric, scorer or reward counts, where there are several."),
    ] = None,
    filter_name: Annotated[
        str | None, typer.Option("--filter", metavar="NAME", help="Which filter counts, where there are several.")
    ] = None,
    behavior: Annotated[
        str | None, typer.Option("--behavior", metavar="NAME", help="Which task of several to take, or how to call the only one.")
    ] = None,
    sampling: SamplingSettings = None,
    success: Success = None,
    split: Annotated[
        str, typer.Option("--split", help="eval: never trained on. train or final, where these problems are for that.")
    ] = "eval",
    step: Step = None,
    by_step: Annotated[bool, typer.Option("--by-step", help="Write one run per step or model, in OUT/POLICY.")] = False,
    tokenizer: Tokenizer = None,
    accept_biased: AcceptBiased = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="List the formats, and stop.", is_eager=True, callback=_list_formats)
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Diagnose the samples that another tool stored.

    No model is needed. `compare`, `gate`, `report` and `plot` take the run.
    """
    from posttrain.diagnose.importing.imported import ReadOptions
    from posttrain.diagnose.pipeline.import_run import ImportSettings, import_by_policy, import_run
    from posttrain.diagnose.pipeline.read_and_import import read_samples

    read = ReadOptions(
        columns=_pairs("--columns", columns or (), may_be_empty=True),
        score=score,
        filter=filter_name,
        behavior=behavior,
        tokenizer=tokenizer,
        accept_biased=accept_biased,
    )
    settings = ImportSettings(
        out=out,
        success=success,
        split=options.any_split(split),
        step=step,
        sampling=_sampling(sampling or ()),
        paths=paths,
        command=typed_command(),
    )
    reporter = open_reporter(quiet)
    if not by_step:
        print_diagnosis(import_run(read_samples(format_name, paths, read, reporter), settings, reporter), as_json)
        return
    for policy, run in import_by_policy(read_samples(format_name, paths, read, reporter), settings, reporter).items():
        if policy:
            print(f"{policy}:")
        print_diagnosis(run, as_json)


def _pairs(option: str, words: Sequence[str], *, may_be_empty: bool = False) -> dict[str, str]:
    from posttrain.diagnose.errors import SourceError

    pairs = [word.partition("=") for word in words]
    for word, (name, equals, value) in zip(words, pairs, strict=True):
        if not (name and equals and (value or may_be_empty)):
            raise SourceError(
                f"{option}: got {word!r}; write NAME=VALUE, such as problem=qid or temperature=1", code="not_a_pair"
            )
    return {name: value for name, _, value in pairs}


def _sampling(words: Sequence[str]) -> Sampling | None:
    """Return what the user says of the sampler; None where nothing is said."""
    from posttrain.diagnose.errors import SourceError
    from posttrain.diagnose.importing.sampler_settings import NAMES, read_sampling
    from posttrain.diagnose.strict_settings import unknown

    given = _pairs("--sampling", words)
    for name, value in given.items():
        if name not in NAMES:
            raise SourceError(f"--sampling: {unknown('setting', name, NAMES)}", code="unknown_name")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            raise SourceError(f"--sampling: got {name}={value}; allowed: numbers, such as temperature=1", code="not_a_number")
    numbers = {name: float(value) if "." in value else int(value) for name, value in given.items()}
    found = read_sampling({"temperature": 1.0, **numbers}) if given else None
    if given and found is None:
        raise SourceError(
            f"--sampling: got {' '.join(words)}, which no sampler takes; a temperature lies between 0.001 and 1000, or is 0",
            code="sampling",
        )
    return found
