"""What a training run is asked for: one frozen request, checked when it is made, the same from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.diagnose.behaviors.row_sources import RowSource, check_row_source
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.base import TakesWeights
from posttrain.diagnose.engines.models.adapter_folder import require_peft
from posttrain.diagnose.engines.models.model_source import check_model
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.stage_catalogue import HOW_TO_GIVE, STAGES, available_needs, trainable_needs
from posttrain.diagnose.storage.output_folder import content_of
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.types import Behavior, Split
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES, can_retain
from posttrain.trainers.training_types import TrainingSet


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """One stage to be trained.

    Raises:
        SettingsError: What is given contradicts itself or is not what the stage needs.
        RunError: The folder of the checkpoint exists already.
        UserError: There is nothing to train on; see `TrainingSet`.
    """

    stage: str
    """Name of a recipe."""
    model: str
    """A MODEL: a Hugging Face directory or id, a GGUF file, or `demo`."""
    behaviors: tuple[Behavior, ...]
    """Their train split is learned from."""
    config: TrainingConfig
    """Of the recipe's config class."""
    out: Path
    """Folder of the checkpoint, which is not there yet."""
    data: RowSource | None = None
    """Rows, in a file or as `hf:NAME[:CONFIG][:SPLIT]`; `MappedRows` says which column holds what."""
    from_run: str | Path | None = None
    """Folder of a diagnosis whose train samples are learned from."""
    teacher: str | Path | None = None
    earlier: str | Path | None = None
    engine: TakesWeights | None = None
    """An open engine, used in place of the one that the config names."""
    retain: tuple[Behavior, ...] = ()
    """Behaviors that are not to be lost; right answers to their train problems are mixed into every batch."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.data and self.from_run:
            raise SettingsError(
                "train: got --data and --from; give one of them: a stage learns from rows of one origin",
                code="two_origins_of_rows",
            )
        for behavior in self.behaviors:
            offered = available_needs(behavior, teacher=bool(self.teacher), earlier=bool(self.earlier))
            found = trainable_needs(offered, data=bool(self.data))
            lacking = [need for need in STAGES[self.stage].needs if need not in found]
            if lacking:
                raise SettingsError(
                    f"train {self.stage}: {'; '.join(HOW_TO_GIVE[need] for need in lacking)} for {behavior.name}; give that, or "
                    "name another stage (see `posttrain stages`)",
                    code="missing_input",
                )
        check_retained(self.retain, self.behaviors, [self.stage])
        refuse_existing(self.out)
        refuse_shared_problems([*self.behaviors, *self.retain])
        self.make_training_set()

    def make_training_set(self) -> TrainingSet:
        """Return the train problems of the behaviors, with the dev slice cut off."""
        return TrainingSet(self.behaviors, dev_share=self.config.dev_share)

    @property
    def retained(self) -> tuple[Behavior, ...]:
        """The behaviors of which rows are mixed in: none where their share is 0."""
        return self.retain if self.config.retain_share > 0 else ()


def check_retained(retain: Sequence[Behavior], trained: Sequence[Behavior], stages: Sequence[str]) -> None:
    """Refuse behaviors that cannot be retained.

    Args:
        retain: Behaviors that are not to be lost.
        trained: Behaviors that are trained on.
        stages: One of them at least must have room for rows of others; empty where they are not known yet.

    Raises:
        SettingsError: Codes `stage_cannot_retain`, `retained_is_trained`, `retained_without_train_problems`.
    """
    if retain and stages and not any(can_retain(RECIPES[stage]) for stage in stages):
        raise SettingsError(
            f"--retain: got {retain[0].name} for {', '.join(stages)}, which takes no steps or saves no policy; leave --retain out, or name "
            "another stage",
            code="stage_cannot_retain",
        )
    for behavior in retain:
        if found := next((other for other in trained if _holds_same_problems(behavior, other)), None):
            raise SettingsError(
                f"--retain: got {behavior.name}, which is trained on{'' if found.name == behavior.name else f' as {found.name}'}; give it once, either "
                "to be trained or to be retained",
                code="retained_is_trained",
            )
        if not behavior.split(Split.TRAIN):
            raise SettingsError(
                f"--retain: got {behavior.name}, which has no problem of the train split, and measured problems are never trained on; set split.train "
                "in its file, or leave it out",
                code="retained_without_train_problems",
            )


def can_be_retained(behavior: Behavior, trained: Sequence[Behavior]) -> bool:
    """Return whether a behavior has train problems, and is none of those that are trained on."""
    return bool(behavior.split(Split.TRAIN)) and not any(_holds_same_problems(behavior, other) for other in trained)


def _holds_same_problems(retained: Behavior, trained: Behavior) -> bool:
    """Return whether two behaviors are one: by their name, or since half of the problems of the retained one are trained on."""
    if retained.name == trained.name:
        return True
    mine, theirs = ({(normalise(p.question), normalise(p.answer)) for p in b.split(Split.TRAIN)} for b in (retained, trained))
    return bool(mine) and 2 * len(mine & theirs) >= len(mine)


def refuse_existing(out: Path) -> None:
    """Refuse a folder for a checkpoint that holds something.

    Raises:
        RunError: Code `out_exists`.
    """
    if out.exists() and (not out.is_dir() or content_of(out)):
        raise RunError(f"--out {out}: exists already; give a new folder for the checkpoint", code="out_exists")


def check_before_loading(request: TrainRequest) -> None:
    """Check what can be known without a model: that the files, runs, models and packages are there, and that settings fit each other.

    Raises:
        UserError: One is missing, or the folder of the checkpoint cannot be written.
    """
    check_writable(request.out)
    for model in (request.model, request.teacher, request.earlier):
        if model:
            check_model(str(model))
    if request.data:
        check_row_source(request.data)
    if request.from_run:
        RunDirectory(Path(request.from_run)).read_json()
    check_config(request.stage, request.config)


def check_config(stage: str, config: TrainingConfig) -> None:
    """Refuse settings that need what the stage, or this installation, does not have.

    Raises:
        SettingsError: Codes `nothing_to_evaluate`, `missing_eval_every`, `missing_package`.
    """
    if config.eval_every is not None and RECIPES[stage].saves != "policy":
        raise SettingsError(
            f"eval_every evaluates what a policy samples, and {stage} makes none; leave it out", code="nothing_to_evaluate"
        )
    if config.sweep_steps is not None and RECIPES[stage].saves != "policy":
        raise SettingsError(
            f"sweep_steps chooses by what a policy samples, and {stage} makes none; leave it out", code="nothing_to_evaluate"
        )
    for name in ("target", "max_dev_loss"):
        if getattr(config, name) is not None and config.eval_every is None:
            raise SettingsError(
                f"{name} is about evaluations of the dev slice, and eval_every is not set; set it, or leave {name} out",
                code="missing_eval_every",
            )
    if config.lora_rank is not None:
        require_peft("lora_rank")


def resolve_config(
    stage: str, config: str | Path | None, overrides: Sequence[str], seed: int | None, engine: str | None = None
) -> TrainingConfig:
    """Return the settings of a stage; seed and engine win over the file and the overrides where they are given.

    Raises:
        SettingsError: No such stage, a stage that trains nothing, or settings that it does not have.
    """
    if stage not in RECIPES:
        why = "trains nothing" if stage in STAGES else "is no stage"
        raise SettingsError(f"stage: got {stage!r}, which {why}; allowed are {', '.join(RECIPES)}", code="unknown_stage")
    own = [f"{key}={json.dumps(value)}" for key, value in (("seed", seed), ("engine", engine)) if value is not None]
    return load_config(stage, Path(config) if config else None, [*overrides, *own])


def refuse_shared_problems(behaviors: Sequence[Behavior]) -> None:
    """Refuse behaviors of which one trains on what another measures: the split of each knows only its own problems.

    Raises:
        SettingsError: Two behaviors share a problem in that way.
    """

    def questions(splits: set[Split]) -> dict[tuple[str, str], str]:
        return {
            (normalise(p.question), normalise(p.answer)): f"{b.name}/{p.id}"
            for b in behaviors
            for p in b.problems
            if p.split in splits
        }

    train, held = questions({Split.TRAIN}), questions({Split.EVAL, Split.FINAL})
    shared = sorted(set(train) & set(held))
    if shared:
        raise SettingsError(
            f"behaviors: {len(shared)} problems stand in the train split of one and are measured by another (first: {train[shared[0]]} and "
            f"{held[shared[0]]}); measured problems are never trained on, so give the files one split, or name them one at a time",
            code="measured_problems",
        )
