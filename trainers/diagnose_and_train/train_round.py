"""Train the stage of one round, or find it trained by an earlier call."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.comparison.loop_json import StageOrigin
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import checksum_of_file, read_json, write_json
from posttrain.trainers.diagnose_and_train.choose_stage import StageChoice
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest, setting_of
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training.result import Ending, TrainingResult

_FOR_PEOPLE = ("README.md", "training_log.jsonl")
"""Files of a checkpoint that no model is loaded from."""


def make_train_request(request: LoopRequest, plan: RoundPlan, model: str, earlier: str | None, out: Path) -> TrainRequest:
    """Return the request of one round; overrides that are no settings of a stage that a diagnosis named are left out.

    Args:
        request: What the loop is asked for.
        plan: The stage, and the behaviors to train on.
        model: The MODEL that it starts from.
        earlier: A checkpoint from before, as a MODEL.
        out: Folder of the checkpoint.
    """
    stage = plan.choice.stage
    overrides = [text for text in request.overrides if request.stages or setting_of(text) in RECIPES[stage].config.model_fields]
    if plan.learning_rate is not None:
        overrides.append(f"learning_rate={plan.learning_rate!r}")
    if request.retention_weight != 1.0 and "retain_weight" not in map(setting_of, overrides):
        overrides.append(f"retain_weight={request.retention_weight!r}")
    return TrainRequest(
        stage=stage,
        model=model,
        behaviors=tuple(behavior for behavior in request.loaded if behavior.name in plan.choice.trained),
        config=request.config_of(stage, overrides),
        out=out,
        earlier=earlier,
        retain=request.retained_in(stage, plan.choice.trained, targets=plan.choice.reason is StageOrigin.CONSOLIDATION),
    )


def train_round(
    checkpoint: Path,
    choice: StageChoice,
    make_request: Callable[[Path], TrainRequest],
    train: Callable[[TrainRequest], TrainingResult],
) -> Mapping[str, Any]:
    """Train the stage of a round, unless its checkpoint is there already, and return what it did, as `stage-N.json` holds it.

    Args:
        checkpoint: Its place, `stage-N`.
        choice: What the round runs.
        make_request: Returns what is to be trained there.
        train: What trains.

    Raises:
        RunError: The checkpoint of an earlier call has changed (`damaged_checkpoint`), or is of another stage (`other_stage`).
        UserError: The stage cannot be trained.
    """
    # The marker stands outside the checkpoint and is written last: a stage that was stopped half-way goes on from its state.
    marker = checkpoint.with_name(f"{checkpoint.name}.json")
    if marker.exists():
        summary = read_json(marker, remedy="remove it to train this stage again")
        _refuse_damaged(checkpoint, summary, marker)
        there, here = (
            f"{stage} on {', '.join(names)}"
            for stage, names in ((summary["stage"], summary["trained"]), (choice.stage, choice.trained))
        )
        if there != here:
            raise RunError(
                f"{checkpoint}: holds {there}, this round runs {here}; give a new folder, or remove this round and those after it",
                code="other_stage",
            )
        return summary
    shutil.rmtree(checkpoint, ignore_errors=True)
    request = make_request(checkpoint)
    result = train(request)
    write_json(marker, _stage_summary(result, request) | {"files": _checksums(checkpoint)})
    return read_json(marker)


def _stage_summary(result: TrainingResult, request: TrainRequest) -> dict[str, Any]:
    return {
        "stage": result.recipe,
        "trained": [behavior.name for behavior in request.behaviors],
        "ending": result.ending.value,
        "optimizer_steps": result.num_steps,
        "batches_without_signal": result.num_skipped,
        "learning_rate": result.learning_rate,
        "moved": result.moved and result.ending is not Ending.NOTHING_TO_LEARN,
        "trained_tokens": result.trained_tokens,
        "generated_tokens": result.generated_tokens,
        "seconds": result.seconds,
        "retained": [behavior.name for behavior in request.retained],
        "retain_share": request.config.retain_share if request.retained else 0.0,
        "retained_rows": result.retained_rows,
        "retained_tokens": result.retained_tokens,
        "kept_share": result.kept_share,
    }


def _checksums(checkpoint: Path) -> dict[str, str]:
    """Return the checksums of what a model is loaded from, by the name of the file."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name not in _FOR_PEOPLE]
    return {path.relative_to(checkpoint).as_posix(): checksum_of_file(path) for path in files}


def _refuse_damaged(checkpoint: Path, summary: Mapping[str, Any], marker: Path) -> None:
    """Refuse a checkpoint of an earlier call whose files are not those that were written.

    Raises:
        RunError: Code `damaged_checkpoint`.
    """
    known: Mapping[str, str] = summary.get("files", {})  # earlier versions wrote none
    found = _checksums(checkpoint) if known else {}
    changed = next((name for name, checksum in known.items() if found.get(name) != checksum), None)
    if changed is not None:
        what = "has changed since it was written" if changed in found else "is missing"
        raise RunError(
            f"{checkpoint / changed} {what}; remove {marker} to train this stage again, or put the file back",
            code="damaged_checkpoint",
        )
