"""Recipes that change the weights at once, without an optimizer: `merge`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.models.saved_model import check_saved
from posttrain.trainers.recipes.registry import check_inputs, find_recipe
from posttrain.trainers.stage import TrainingInputs
from posttrain.trainers.training.checkpoint_writer import CheckpointWriter
from posttrain.trainers.training.dev_evaluation import Evaluate
from posttrain.trainers.training.dev_selection import BEFORE, DevSelection
from posttrain.trainers.training.memory import describe_run
from posttrain.trainers.training.preparation import make_scorer, refuse_contradictions
from posttrain.trainers.training.result import Ending, TrainingResult
from posttrain.trainers.training.training_log import TrainingLog
from posttrain.trainers.training_types import OnStep


def run_transform(
    recipe_name: str,
    inputs: TrainingInputs,
    config: TrainingConfig,
    *,
    out: Path,
    on_step: OnStep | None = None,
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Change the weights of a model in place, evaluate on the dev slice before and after where that is asked for, and save.

    Args:
        recipe_name: A recipe with a `transform`.
        inputs: As for `run_recipe`.
        config: Of the recipe's config class.
        out: Folder for `training_log.jsonl` and `checkpoint/`.
        on_step: Called with every logged object.
        evaluate: Evaluates on the dev slice, where `config.eval_every` is set.
        say: Called with a line for people before the weights are changed.

    Raises:
        SettingsError: As for `run_recipe`, and what the transform refuses.
        BehaviorError: The recipe does not learn from the data that was given.
    """
    recipe, begun, ending = find_recipe(recipe_name), time.monotonic(), Ending.FINISHED
    moved = False
    assert recipe.transform is not None
    refuse_contradictions(recipe, config, evaluate)
    inputs.model.eval()
    check_inputs(recipe, inputs)
    transform = recipe.transform(inputs, config)
    scorer, selection = make_scorer(inputs, config), DevSelection(config=config)
    writer, num_steps = CheckpointWriter(out=out, recipe=recipe, config=config, inputs=inputs), 0
    check_saved(inputs.model, inputs.tokenizer)
    if say is not None:
        say(describe_run(scorer, inputs, (), None, averaged=False))

    def evaluate_after(step: int) -> None:
        nonlocal ending
        if evaluate is None or config.eval_every is None:
            return
        if selection.add(inputs.processes.broadcast(evaluate(scorer)), step):
            writer.write("checkpoint", num_steps, selection.evaluations)
        log.write(selection.log_record())
        ending = selection.ending()

    with TrainingLog(out / "training_log.jsonl", on_step) as log:
        log.write({"event": "prepared", "num_batches": 0, "seconds": time.monotonic() - begun})
        evaluate_after(BEFORE)
        if ending is Ending.FINISHED:
            changed = transform()
            log.write({"event": "transformed", **changed})
            moved = changed["moved"] > 0
            num_steps = 1
            evaluate_after(0)
        if not selection.best_is_saved:
            writer.write("checkpoint", num_steps, selection.evaluations)
    return TrainingResult(
        recipe=recipe_name,
        ending=ending,
        num_steps=num_steps,
        moved=moved,
        seconds=time.monotonic() - begun,
        log=log.path,
        checkpoint=out / "checkpoint",
    )
