"""What a loop would do, before a model is loaded: `posttrain loop --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.diagnose.pipeline.diagnose_run import DiagnoseOptions
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.pipeline.run_plan import plan_run
from posttrain.diagnose.types import Split
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest, trainable_names
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training_plan import plan_training


def plan_loop(request: LoopRequest) -> tuple[str, ...]:
    """Return what a loop would measure and train at most, in lines for people; nothing is written, and no weights are read.

    Args:
        request: As for the loop.

    Raises:
        UserError: What is given is wrong, as far as that can be known without the model's weights.
    """
    num = request.num_rounds
    options: DiagnoseOptions = {**request.diagnose_options, "pilot": request.pilot}
    first = DiagnoseRequest(model=request.model, behaviors=request.loaded, out=request.out / "diagnosis-0", **options)
    plan = plan_run(first)
    final = sum(len(behavior.split(Split.FINAL)) for behavior in request.loaded)
    return (
        "diagnosis before the first round:",
        *(f"  {line}" for line in plan.all_lines),
        *_stages(request),
        f"the same measurement after each round: with {num} round{'s' * (num > 1)} at most {(1 + num) * plan.max_tokens:,} tokens are generated to measure",
        f"final split: {final} problems, measured at the start and at the end" if final else "final split: none",
        "budget: none; --budget-tokens sets one"
        if request.budget_tokens is None
        else f"budget: {request.budget_tokens:,} generated and trained tokens, checked before every stage",
    )


def _stages(request: LoopRequest) -> Iterator[str]:
    """Yield what is trained: each stage that the user names, or how one is chosen."""
    if not request.stages:
        num = request.num_rounds
        yield f"rounds: {num} at most, each the stage that the diagnosis before it names; `posttrain train STAGE ... --dry-run` says what one takes"
        return
    for number, stage in enumerate(request.stages, start=1):
        names = trainable_names(request.loaded, stage)
        train = TrainRequest(
            stage=stage,
            model=request.model,
            behaviors=tuple(one for one in request.loaded if one.name in names),
            config=request.config_of(stage, request.overrides),
            out=request.out / f"stage-{number}",
            retain=request.retained_in(stage, names),
        )
        yield f"round {number}:"
        yield from (f"  {line}" for line in plan_training(train).lines)
