"""`posttrain loop`: diagnose, train, measure again."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from posttrain.cli import options
from posttrain.cli.printing import interval, open_reporter, print_diagnosis, typed_command

EXAMPLES = (
    "posttrain loop demo products spell_backward --out runs/first --set num_steps=6",
    "posttrain loop path/to/model my.jsonl --out runs/loop --rounds 2 --max-tokens-total 200000",
    "posttrain loop path/to/model new.yaml kept.yaml --out runs/loop --rounds 6 --budget-tokens 2000000",
    "posttrain loop path/to/model my.jsonl --out runs/loop --limit 100 --max-tokens 512",
    "posttrain loop path/to/model my.jsonl --out runs/sft-grpo --rounds 2 --stages sft,grpo",
    "posttrain loop path/to/model my.jsonl --rounds 2 --stages sft,grpo --dry-run",
    "posttrain loop path/to/model my.jsonl --out runs/kept --retain products spell_backward",
)

_AS_GIVEN = (
    "rounds",
    "samples",
    "precision",
    "max_tokens_total",
    "budget_tokens",
    "engine",
    "config",
    "retention_weight",
    "seed",
)


def loop(
    context: typer.Context,
    model: options.Model,
    behaviors: options.Behaviors,
    out: options.OutUnlessDry = None,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds",
            help="Stages to run at most, each followed by a new measurement. Ends earlier when all targets are mastered, two rounds in a row "
            "bring no gain, the budget is spent, or nothing that trains is left.",
        ),
    ] = 1,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages", metavar="A,B,C", help="Run these instead of the stages that the diagnosis names, one per round."
        ),
    ] = None,
    samples: options.Samples = None,
    precision: options.Precision = None,
    max_tokens_total: options.MaxTokensTotal = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(
            "--budget-tokens",
            metavar="N",
            help="Tokens that the whole loop may generate and train on, the final split not counted; checked before every stage.",
        ),
    ] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    system: options.System = None,
    verifier: options.VerifierOption = None,
    limit: options.Limit = None,
    columns: options.Map = None,
    split_eval: options.SplitEval = None,
    probes: options.Probes = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="ENGINE", help="What samples, in every diagnosis and in training: transformers or vllm."
        ),
    ] = "transformers",
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    retain: options.LoopRetain = None,
    retention_weight: options.RetentionWeight = 1.0,
    pilot: options.Pilot = "on",
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured and trained at most, and stop.")] = False,
    track: options.Track = None,
    quiet: options.Quiet = False,
) -> None:
    """Diagnose, run the named stage, and measure again."""
    options.check_models(engine, model)

    from posttrain.trainers import loop as run_loop
    from posttrain.trainers.distributed.launch import is_rank_zero

    folder = options.require_out(out, dry_run)
    loaded = options.load_behaviors(behaviors, context.params)
    retained = options.retained_names(retain)
    asked: dict[str, Any] = {name: context.params[name] for name in _AS_GIVEN} | {
        "stages": () if stages is None else options.split_names("--stages", stages),
        "probes": options.split_names("--probes", probes),
        "overrides": overrides or [],
        "retain": options.load_behaviors(retained, {"limit": limit}) if retained else retained,
        "pilot": options.is_on("--pilot", pilot),
        "command": typed_command(),
    }
    if dry_run:
        _print_plan(model=model, behaviors=loaded, out=folder, **asked)
        return
    with open_reporter(quiet, track) as reporter:
        result = run_loop(model, loaded, out=folder, reporter=reporter, **asked)
    if is_rank_zero():
        _print_loop(result)


def _print_plan(**asked: Any) -> None:
    """Print what would be measured and trained."""
    from posttrain.trainers.diagnose_and_train.loop_plan import plan_loop
    from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest

    print("\n".join(plan_loop(LoopRequest(**asked))))


def _print_loop(result: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from posttrain.diagnose.comparison.comparison_words import ROLE_MEANINGS, role_words
    from posttrain.diagnose.comparison.loop_json import LoopFile
    from posttrain.diagnose.comparison.loop_words import VERDICTS, keep_words
    from posttrain.diagnose.storage.json_model import read_model

    file = read_model(result.path / "loop.json", LoopFile)
    if result.transition is None:
        print(f"ended: {file.words}")
        print_diagnosis(result.before, as_json=False)
        return
    shown = next(one for one in result.rounds if one.after.path == result.transition.after.path)
    table = Table(title=f"from the start to round {shown.number}", title_justify="left")
    for column in ("behavior", "problems", "pass@1 before", "pass@1 after", "change (paired 95 %)", "what happened"):
        table.add_column(column, justify="left" if column in ("behavior", "what happened") else "right", no_wrap=True)
    for transition, split in ((result.transition, "eval"), (result.final, "final")):
        for behavior in transition.behaviors if transition else ():
            table.add_row(
                f"{behavior.name}{' (trained)' if behavior.trained else ''}", f"{behavior.num_problems} {split}", interval(behavior.pass_at_1_before),
                interval(behavior.pass_at_1_after), interval(behavior.delta, signed=True), role_words(behavior.role),
            )  # fmt: skip
    for one in result.rounds:
        changes = ", ".join(f"{change.behavior} {interval(change.delta, signed=True)}" for change in one.changes)
        print(f"round {one.number}: {one.stage} on {', '.join(one.trained)} {VERDICTS[one.verdict]} ({changes})")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    behaviors = [one for transition in (result.transition, result.final) if transition for one in transition.behaviors]
    for words, role in {role_words(one.role): one.role.role for one in behaviors}.items():
        print(f"{words}: {ROLE_MEANINGS[role]}")
    for diagnosis in shown.after.diagnoses:
        print(f"now: {diagnosis.sentence}")
    print(f"ended: {file.words}")
    print(keep_words(file))
    print(f"report: {result.report_html}")
