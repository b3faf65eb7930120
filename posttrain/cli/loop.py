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
    "posttrain loop path/to/model my.jsonl --out runs/loop --limit 100 --max-tokens 512",
    "posttrain loop path/to/model my.jsonl --out runs/sft-grpo --rounds 2 --stages sft,grpo",
)


def loop(
    model: options.Model,
    behaviors: options.Behaviors,
    out: options.Out,
    rounds: Annotated[int, typer.Option("--rounds", help="Stages to run at most, each followed by a new measurement.")] = 1,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages", metavar="A,B,C", help="Run these instead of the stages that the diagnosis names, one per round."
        ),
    ] = None,
    samples: options.Samples = None,
    precision: options.Precision = None,
    max_tokens_total: options.MaxTokensTotal = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    system: options.System = None,
    verifier: options.VerifierOption = None,
    limit: options.Limit = None,
    probes: options.Probes = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="ENGINE", help="What samples, in every diagnosis and in training: transformers or vllm."
        ),
    ] = "transformers",
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    pilot: options.Pilot = "on",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Diagnose, run the named stage, and measure again."""
    options.check_models(engine, model)

    from posttrain.trainers import loop as run_loop
    from posttrain.trainers.distributed.launch import is_rank_zero

    loaded = options.load_behaviors(
        behaviors, max_tokens=max_tokens, temperature=temperature, system=system, verifier=verifier, limit=limit
    )
    result = run_loop(
        model, loaded, out=out, rounds=rounds, stages=() if stages is None else options.split_names("--stages", stages), probes=options.split_names("--probes", probes), samples=samples, precision=precision, max_tokens_total=max_tokens_total,
        engine=engine, config=config, overrides=overrides or [], pilot=options.is_on("--pilot", pilot), seed=seed, command=typed_command(), reporter=open_reporter(quiet),
    )  # fmt: skip
    if is_rank_zero():
        _print_loop(result)


def _print_loop(result: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from posttrain.diagnose.comparison.comparison_words import role_words

    if not result.rounds:
        print_diagnosis(result.before, as_json=False)
        return
    table = Table(title=" → ".join(f"{r.stage} on {', '.join(r.trained)}" for r in result.rounds), title_justify="left")
    for column in ("behavior", "problems", "pass@1 before", "pass@1 after", "change (paired 95 %)", "what happened"):
        table.add_column(column, justify="left" if column in ("behavior", "what happened") else "right", no_wrap=True)
    for transition, split in ((result.transition, "eval"), (result.final, "final")):
        for behavior in transition.behaviors if transition else ():
            table.add_row(
                f"{behavior.name}{' (trained)' if behavior.trained else ''}", f"{behavior.num_problems} {split}", interval(behavior.pass_at_1_before),
                interval(behavior.pass_at_1_after), interval(behavior.delta, signed=True), role_words(behavior.role),
            )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for diagnosis in result.rounds[-1].after.diagnoses:
        print(f"now: {diagnosis.sentence}")
    print(f"checkpoint: {result.rounds[-1].checkpoint}")
    print(f"report: {result.report_html}")
