"""`posttrain train`: run one stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli import options
from posttrain.cli.options import Behaviors, ConfigFile, Model, Overrides, Quiet, TrainingEngine, check_models
from posttrain.cli.printing import open_reporter

if TYPE_CHECKING:
    from posttrain.diagnose.types import Behavior

EXAMPLES = (
    "posttrain train grpo demo products --out runs/products-grpo --set num_steps=4",
    "posttrain train grpo demo products --out runs/products-vllm --set num_steps=4 --engine vllm",
    "posttrain train sft path/to/model my.jsonl --out runs/mine-sft --data rows.jsonl --set lora_rank=16",
    "posttrain train sft path/to/model my.jsonl --out runs/mine-sft --retain products spell_backward",
    "posttrain train sft path/to/model my.jsonl --out runs/mine-sft --data hf:openai/gsm8k:main --dry-run",
)


def train(
    context: typer.Context,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="sft, dpo, grpo, opd, ...: see `posttrain stages`.")],
    model: Model,
    behaviors: Behaviors,
    out: Annotated[Path, typer.Option("--out", help="Folder of the checkpoint; any Hugging Face loader opens it.")],
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="A `posttrain diagnose --split train`: learn from its samples instead of sampling."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Rows to learn from (.jsonl, .json, .csv, .parquet, or hf:NAME[:CONFIG][:SPLIT]): demonstrations, chats, pairs, labels, steps, prompts.",
        ),
    ] = None,
    data_map: options.DataMap = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="The teacher of seq_kd, logit_kd, gkd, opd, minillm.")
    ] = None,
    earlier: Annotated[
        str | None, typer.Option("--earlier", metavar="MODEL", help="A checkpoint from before: replay, merge, opd back from it.")
    ] = None,
    retain: options.Retain = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    system: options.System = None,
    verifier: options.VerifierOption = None,
    limit: options.Limit = None,
    columns: options.Map = None,
    split_eval: options.SplitEval = None,
    engine: TrainingEngine = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed for the order of rows and for sampling.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, on how many rows, in how many steps, and stop.")
    ] = False,
    track: options.Track = None,
    quiet: Quiet = False,
) -> None:
    """Run one stage on the train split of behaviors."""
    check_models("transformers", model, teacher, earlier)

    from posttrain.trainers import train as run_train
    from posttrain.trainers.distributed.launch import is_rank_zero

    loaded, rows = options.load_behaviors(behaviors, context.params), options.mapped_rows(data, data_map)
    if dry_run:
        _print_plan(
            stage=stage, model=model, behaviors=loaded, settings=(config, overrides or [], seed, engine), out=out, data=rows, from_run=from_run,
            teacher=teacher, earlier=earlier, retain=options.retained_names(retain) or (),
        )  # fmt: skip
        return
    with open_reporter(quiet, track) as reporter:
        result = run_train(
            stage, model, loaded, out=out, config=config, overrides=overrides or [], seed=seed, data=rows, from_run=from_run,
            teacher=teacher, earlier=earlier, engine=engine, retain=options.retained_names(retain) or (), reporter=reporter,
        )  # fmt: skip
    if not is_rank_zero():
        return
    skipped = f", {result.num_skipped} batches without signal made none" if result.num_skipped else ""
    unmoved = ", the model hardly moved" if result.warning else ""
    print(
        f"{stage}: {result.ending.value.replace('_', ' ')}, {result.num_steps} optimizer steps{skipped}{unmoved}, {result.seconds:.0f} s"
    )
    too_long = {
        "rows dropped": result.num_rows_dropped,
        "answers cut": result.num_rows_cut,
        "problems not sampled": result.num_problems_dropped,
    }
    if any(too_long.values()):
        print(f"too long: {', '.join(f'{number} {what}' for what, number in too_long.items() if number)}")
    if result.retained_rows:
        print(f"retained: {result.retained_rows} rows, {result.retained_tokens} tokens of {result.trained_tokens} trained")
    print(f"checkpoint: {result.checkpoint}")


def _print_plan(
    *, stage: str, behaviors: Sequence[str | Behavior], settings: tuple[Path | None, list[str], int | None, str | None], retain: Sequence[str], **given: Any
) -> None:  # fmt: skip
    """Print what would be trained, after what can be checked without weights."""
    from posttrain.diagnose.pipeline.request import resolve_behaviors
    from posttrain.trainers.train_request import TrainRequest, resolve_config
    from posttrain.trainers.training_plan import plan_training

    config, overrides, seed, engine = settings
    request = TrainRequest(
        stage=stage,
        behaviors=resolve_behaviors(behaviors),
        config=resolve_config(stage, config, overrides, seed, engine),
        retain=resolve_behaviors(retain),
        **given,
    )
    print("\n".join(plan_training(request).lines))
