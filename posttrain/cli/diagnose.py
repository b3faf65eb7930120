"""`posttrain diagnose`: measure behaviors and decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli import options
from posttrain.cli.printing import open_reporter, print_diagnosis, typed_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.diagnose.pipeline.diagnose_run import DiagnoseOptions
    from posttrain.diagnose.pipeline.environment_run import EnvironmentRun
    from posttrain.diagnose.pipeline.request import DiagnoseRequest
    from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun

EXAMPLES = (
    "posttrain diagnose demo products --out runs/products --max-tokens-total 20000",
    "posttrain diagnose path/to/model my.jsonl --out runs/mine --dry-run",
    "posttrain diagnose path/to/model my.jsonl --out runs/mine --limit 50 --max-tokens 1024 --verifier number",
    "posttrain diagnose --from runs/imported --epsilon 0.02",
    "posttrain diagnose --from runs/step_200 --before runs/step_100",
    "posttrain diagnose path/to/model my.jsonl --out runs/mine --before runs/earlier --teacher path/to/teacher",
)


Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="MODEL", help="A stronger model that could be distilled: is it worth it?")
]
Earlier = Annotated[
    str | None,
    typer.Option("--earlier", metavar="MODEL", help="An earlier checkpoint: what was lost since, and how far did it drift?"),
]
Before = Annotated[
    Path | None, typer.Option("--before", metavar="RUN", help="An earlier run on the same behaviors: what was solved then?")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Rows that might be trained on (.jsonl, .json, .csv, .parquet, or hf:NAME[:CONFIG][:SPLIT]): would they expand or reshape?",
    ),
]


FromRun = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Decide again from the samples of a finished or imported run, in its folder, with --before, --retention-weight, --epsilon and --primary-k; "
        "without MODEL and BEHAVIOR, because nothing is sampled.",
    ),
]
Epsilon = Annotated[
    float | None,
    typer.Option("--epsilon", metavar="X", help="With --from: success rate under which a problem is out of support."),
]
PrimaryK = Annotated[
    int | None,
    typer.Option("--primary-k", metavar="K", help="With --from: the k of the pass@k that is held against a threshold."),
]
_WITHOUT_MODEL = frozenset({"from_run", "before", "retention_weight", "epsilon", "primary_k", "as_json", "quiet"})
"""Parameters that deciding again takes."""


SplitName = Annotated[
    str, typer.Option("--split", help="eval, or train: samples to learn from with `posttrain train --from`, never a verdict.")
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", help="Engines to open, on this machine or on a Ray cluster (reports/CLUSTER.md).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sampled and what it can detect, and stop.")]


def diagnose(
    context: typer.Context,
    model: options.ModelUnlessFrom = None,
    behaviors: options.BehaviorsUnlessFrom = None,
    out: options.OutUnlessDry = None,
    samples: options.Samples = None,
    precision: options.Precision = None,
    max_tokens_total: options.MaxTokensTotal = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    system: options.System = None,
    verifier: options.VerifierOption = None,
    limit: options.Limit = None,
    columns: options.Map = None,
    split_eval: options.SplitEval = None,
    probes: options.Probes = "auto",
    teacher: Teacher = None,
    earlier: Earlier = None,
    before: Before = None,
    data: Data = None,
    data_map: options.DataMap = None,
    split: SplitName = "eval",
    engine: options.Engine = "transformers",
    workers: Workers = 1,
    retention_weight: options.RetentionWeight = 1.0,
    from_run: FromRun = None,
    epsilon: Epsilon = None,
    primary_k: PrimaryK = None,
    pilot: options.Pilot = "on",
    seed: options.Seed = 0,
    dry_run: DryRun = False,
    as_json: options.AsJson = False,
    track: options.Track = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure behaviors, find their bottlenecks, name the next stage."""
    if from_run is not None:
        _decide_again(context, from_run, as_json)
        return
    model, behaviors = options.require_model(model, behaviors, epsilon, primary_k)
    folder = options.require_out(out, dry_run)
    if not dry_run:
        options.check_models(engine, model, teacher, earlier)

    from posttrain.diagnose.pipeline.environment_run import read_request
    from posttrain.diagnose.thresholds import Thresholds

    given: DiagnoseOptions = {
        "engine": engine,
        "workers": workers,
        "samples": samples,
        "precision": precision,
        "max_tokens_total": max_tokens_total,
        "probes": options.split_names("--probes", probes),
        "teacher": teacher,
        "earlier": earlier,
        "before": before,
        "data": options.mapped_rows(data, data_map),
        "thresholds": Thresholds(retention_weight=retention_weight),
        "pilot": options.is_on("--pilot", pilot),
        "seed": seed,
        "split": _split(split),
        "command": typed_command(),
    }
    settings = options.behavior_options(context.params)
    request = read_request(model, behaviors, out=folder, settings=settings, **given)
    if dry_run:
        _say_plan(request)
        return
    print_diagnosis(_measure(request, quiet, track), as_json)


def _measure(request: DiagnoseRequest | EnvironmentRun, quiet: bool, track: Sequence[str] | None) -> DiagnosedRun:
    """Measure, with progress on stderr and numbers sent to trackers."""
    from posttrain.diagnose.pipeline.diagnose_run import run_request

    with open_reporter(quiet, track) as reporter:
        return run_request(request, reporter)


def _decide_again(context: typer.Context, run: Path, as_json: bool) -> None:
    """Decide a finished run again, with what the command line gives."""
    from posttrain.diagnose.pipeline.second_decision import decide_again

    given = options.given_names(context)
    options.refuse_needing_model(given - _WITHOUT_MODEL)
    names = given & {"before", "retention_weight", "epsilon", "primary_k"}
    print_diagnosis(decide_again(run, **{name: context.params[name] for name in names}, command=typed_command()), as_json)


def _say_plan(request: DiagnoseRequest | EnvironmentRun) -> None:
    """Print what would be sampled, after what can be checked without a model."""
    from posttrain.diagnose.pipeline.checks_before_sampling import check_folders
    from posttrain.diagnose.pipeline.environment_run import EnvironmentRun, plan_environment
    from posttrain.diagnose.pipeline.run_plan import plan_run

    if isinstance(request, EnvironmentRun):
        print(plan_environment(request))
        return
    check_folders(request)
    print("\n".join(plan_run(request).all_lines))


def _split(name: str) -> Any:
    from posttrain.diagnose.errors import SettingsError
    from posttrain.diagnose.types import Split

    if name not in ("eval", "train"):
        raise SettingsError(f"--split: got {name!r}; allowed are eval and train (final is sampled once, at the end of a loop)")
    return Split(name)
