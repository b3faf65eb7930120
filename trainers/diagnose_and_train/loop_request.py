"""What a loop is asked for: one frozen request, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from posttrain.diagnose.engines import check_model
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.pipeline.diagnose_run import DiagnoseOptions
from posttrain.diagnose.pipeline.request import resolve_behaviors
from posttrain.diagnose.probes.runner import AUTO, choose_probes
from posttrain.diagnose.sampling.plan import Goal, sampling_goal
from posttrain.diagnose.stage_catalogue import STAGES, available_needs
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Purpose
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.recipes.registry import RECIPES, can_retain
from posttrain.trainers.rollouts.live_engines import EMBEDDED, check_engine
from posttrain.trainers.train_request import (
    can_be_retained,
    check_config,
    check_retained,
    refuse_shared_problems,
    resolve_config,
)
from posttrain.trainers.training_types import TrainingSet

MOST_ROUNDS = 1_000
"""Stages that one loop may run."""


class LoopOptions(TypedDict, total=False):
    """The optional fields of `LoopRequest`, which says what they mean."""

    rounds: int
    stages: Sequence[str]
    samples: int | None
    precision: float | None
    max_tokens_total: int | None
    budget_tokens: int | None
    probes: Sequence[str]
    engine: str
    config: str | Path | None
    overrides: Sequence[str]
    retain: Sequence[str | Path | Behavior] | None
    retention_weight: float
    pilot: bool
    seed: int
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRequest:
    """What a loop is asked for.

    Raises:
        UserError: Anything given is wrong.
    """

    model: str
    """A Hugging Face directory or id, a GGUF file, or `demo`."""
    behaviors: Sequence[str | Path | Behavior]
    """What to measure; those with purpose `target` may be trained."""
    out: Path
    """Folder of the loop."""
    rounds: int = 1
    """Stages at most; the loop ends early where `LoopEnd` says why."""
    stages: Sequence[str] = ()
    """Stages to run instead of the named ones, one per round."""
    samples: int | None = None
    """Samples per problem in every diagnosis; 16 where neither a precision nor a budget is given."""
    precision: float | None = None
    """In place of a number: half-width of the primary metric's interval, as for `posttrain.diagnose.run`."""
    max_tokens_total: int | None = None
    """In place of a number: generated tokens of each diagnosis at most, as for `posttrain.diagnose.run`."""
    budget_tokens: int | None = None
    """Generated and trained tokens of the whole loop at most, the final split not counted; checked before a stage begins, by what a round is
    expected to take."""
    probes: Sequence[str] = (AUTO,)
    """Further probes of every diagnosis, as for `posttrain.diagnose.run`."""
    engine: str = EMBEDDED
    """What samples, in every diagnosis and in training: `transformers` or `vllm`."""
    config: str | Path | None = None
    """YAML file with settings of the recipe."""
    overrides: Sequence[str] = ()
    """`key=value` settings of the recipe."""
    retain: Sequence[str | Path | Behavior] | None = None
    """Behaviors that are not to be lost: measured in every diagnosis and retained in every stage that can (see `TrainRequest.retain`). None: the
    behaviors with purpose `retention` that have train problems; an empty list: none."""
    retention_weight: float = 1.0
    """λ: what a fall of the retention behaviors counts against a gain of the same size on the targets, when a stage is named, when its weights are
    chosen, and when a round is judged."""
    pilot: bool = True
    """Whether to stop where a setup check or the pilot of the first diagnosis shows that settings do not fit; later diagnoses have no pilot."""
    seed: int = 0
    """Of sampling and of training."""
    command: str = ""
    """What to print under "how to reproduce"."""

    loaded: tuple[Behavior, ...] = field(init=False)
    """The behaviors themselves, with those to retain."""
    retained: tuple[str, ...] = field(init=False)
    """Names of the behaviors to retain."""
    goal: Goal = field(init=False)
    """What every diagnosis samples for."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run, and load the behaviors."""
        object.__setattr__(self, "goal", sampling_goal(self.samples, self.precision, self.max_tokens_total))
        if self.rounds < 1:
            raise SettingsError(f"--rounds: got {self.rounds}, at least 1 is needed", code="too_few_rounds")
        if self.rounds > MOST_ROUNDS:
            raise SettingsError(f"--rounds: got {self.rounds}, at most {MOST_ROUNDS:,} can be run", code="too_many_rounds")
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise SettingsError(
                f"--budget-tokens: got {self.budget_tokens}, at least 1 is needed; leave it out for no limit",
                code="budget_too_small",
            )
        if self.config and not self.stages:
            raise SettingsError(
                "--config: a file of settings belongs to one stage; name the stages with --stages, or use --set",
                code="config_without_stages",
            )
        check_engine(self.engine)
        loaded = self._with_retained(resolve_behaviors(self.behaviors))
        for stage in self.stages:
            check_engine(self.config_of(stage, self.overrides).engine)
            check_config(stage, self.config_of(stage, self.overrides))
            names = trainable_names(loaded, stage)
            TrainingSet([b for b in loaded if b.name in names], dev_share=self.config_of(stage, self.overrides).dev_share)
        if not self.stages:
            for text in self.overrides:  # while the stage is not known yet, each must be a setting of a recipe that may be named
                fitting = [name for name in RECIPES if setting_of(text) in RECIPES[name].config.model_fields]
                check_engine(resolve_config((fitting or list(RECIPES))[0], None, [text], self.seed).engine)
            shared = [text for text in self.overrides if setting_of(text) in TrainingConfig.model_fields]
            check_config("sft", resolve_config("sft", None, shared, self.seed))
            if targets := [b for b in loaded if b.purpose is Purpose.TARGET]:
                TrainingSet(targets)
        refuse_shared_problems(loaded)
        check_writable(self.out)
        check_model(self.engine, self.model)
        choose_probes(self.probes)
        object.__setattr__(self, "loaded", loaded)

    def _with_retained(self, behaviors: tuple[Behavior, ...]) -> tuple[Behavior, ...]:
        """Return the behaviors with those to retain behind them, and note the names of these."""
        targets = [behavior for behavior in behaviors if behavior.purpose is Purpose.TARGET]
        watched = [behavior for behavior in behaviors if behavior.purpose is Purpose.RETENTION]
        if self.retain is None:
            chosen = [one for one in watched if can_be_retained(one, targets)]
        else:
            chosen = [replace(one, purpose=Purpose.RETENTION) for one in resolve_behaviors(self.retain)] if self.retain else []
            check_retained(chosen, targets, self.stages)
        object.__setattr__(self, "retained", tuple(behavior.name for behavior in chosen))
        known = {behavior.name for behavior in watched}
        return (*behaviors, *(behavior for behavior in chosen if behavior.name not in known))

    def retained_in(self, stage: str, trained: Sequence[str], *, targets: bool = False) -> tuple[Behavior, ...]:
        """Return the behaviors that a stage retains which is trained on some others.

        Args:
            stage: Its name.
            trained: Names of the behaviors that it is trained on.
            targets: Whether the targets are retained as well: a stage that brings back something else is not to lose them.
        """
        if not can_retain(RECIPES[stage]):
            return ()
        learned = [behavior for behavior in self.loaded if behavior.name in trained]
        further = targets and (self.retain is None or bool(self.retain))
        kept = [one for one in self.loaded if one.name in self.retained or (further and one.purpose is Purpose.TARGET)]
        return tuple(one for one in kept if can_be_retained(one, learned))

    @property
    def diagnose_options(self) -> DiagnoseOptions:
        """Return what every diagnosis of the loop is asked for, beside model, behaviors, folder and pilot."""
        return {
            "engine": self.engine,
            "samples": self.samples,
            "precision": self.precision,
            "max_tokens_total": self.max_tokens_total,
            "probes": self.probes,
            "thresholds": Thresholds(retention_weight=self.retention_weight),
            "seed": self.seed,
            "command": self.command,
        }

    @property
    def num_rounds(self) -> int:
        """How many stages are run at most."""
        return len(self.stages) or self.rounds

    def config_of(self, stage: str, overrides: Sequence[str]) -> TrainingConfig:
        """Return the settings of a stage."""
        return resolve_config(stage, self.config, overrides, self.seed, None if self.engine == EMBEDDED else self.engine)

    def settings(self) -> dict[str, Any]:
        """Return what a resumed loop must share."""
        return {
            "model_fingerprint": fingerprint_model(self.model),
            "behaviors": {b.name: b.fingerprint for b in self.loaded},
            "samples": self.goal.samples,
            "precision": self.goal.precision,
            "max_tokens_total": self.goal.max_tokens,
            "budget_tokens": self.budget_tokens,
            "probes": list(self.probes),
            "engine": self.engine,
            "seed": self.seed,
            "rounds": self.num_rounds,
            "stages": list(self.stages),
            "config": Path(self.config).read_text() if self.config else None,
            "overrides": list(self.overrides),
            **({"retain": list(self.retained)} if self.retained else {}),
            **({"retention_weight": self.retention_weight} if self.retention_weight != 1.0 else {}),
        }


def trainable_names(behaviors: Sequence[Behavior], stage: str) -> tuple[str, ...]:
    """Return the names of the target behaviors that have what a stage needs."""
    names = tuple(b.name for b in behaviors if b.purpose is Purpose.TARGET and set(STAGES[stage].needs) <= available_needs(b))
    if not names:
        raise SettingsError(
            f"--stages: no target behavior has what {stage} needs ({', '.join(STAGES[stage].needs)}); give another stage",
            code="missing_input",
        )
    return names


def setting_of(override: str) -> str:
    """Return the name of the setting that a `key=value` sets."""
    return override.partition("=")[0].strip()
