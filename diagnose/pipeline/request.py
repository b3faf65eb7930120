"""What a diagnosis is asked for: one frozen, validated object that the command line and Python both build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors import load_behavior, load_behaviors
from posttrain.diagnose.behaviors.row_sources import RowSource, check_row_source, fingerprint_row_source
from posttrain.diagnose.engines import check_workers, parse_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.probes.runner import AUTO, choose_probes
from posttrain.diagnose.sampling.plan import Goal, check_seed, sampling_goal
from posttrain.diagnose.sampling.shards import PILOT_SAMPLES
from posttrain.diagnose.sampling.token_budget import too_small
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, LimitSource, Split


@dataclass(frozen=True, kw_only=True)
class DiagnoseRequest:
    """A diagnosis to be made. What is wrong is refused when the request is built, before anything is opened or written.

    Raises:
        UserError: anything given is wrong.
    """

    model: str | Path
    """A Hugging Face directory or id, a GGUF file, `demo`, or what the engine reads."""
    behaviors: Sequence[str | Path | Behavior]
    """Names of bundled behaviors, YAML or JSONL files, or loaded ones."""
    out: str | Path
    """The run directory."""
    engine: str | Engine = "transformers"
    """Name of an engine, or an open one."""
    workers: int = 1
    """Engines to open, each in a process of its own, on this machine or on a Ray cluster."""
    samples: int | None = None
    """Samples per problem at the behavior's sampling settings, beside one greedy sample; 16 where neither precision nor a budget is given."""
    precision: float | None = None
    """In place of a number: sample in rounds, where it changes the verdict most, until the label is decided and the 95 % interval of pass@k
    at the primary k is this wide to either side."""
    max_tokens_total: int | None = None
    """Sample in rounds until the label is decided, or this many tokens are generated, over all behaviors; those that are nearest to a label
    come first."""
    probes: Sequence[str] = (AUTO,)
    """Further probes: `auto` for those whose answer could change the advice, `none`, or names."""
    teacher: str | Engine | None = None
    """A stronger MODEL, or an open engine, that could be distilled."""
    earlier: str | Engine | None = None
    """An earlier checkpoint of the same model, or an open engine of it."""
    before: str | Path | None = None
    """An earlier run on the same behaviors."""
    data: RowSource | None = None
    """Rows that might be trained on, in a file or a data set (`read_training_rows`)."""
    pilot: bool = True
    """Whether a behavior whose first eight greedy samples show that its settings do not fit is left there."""
    seed: int = 0
    """Random seed for sampling. The model is part of the generators' key, so that two models never share samples."""
    split: Split = Split.EVAL
    """Which problems to measure: eval, or final once at the end."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Every number that the verdict depends on."""
    command: str = ""
    """What to print under "how to reproduce"."""

    loaded: tuple[Behavior, ...] = field(init=False)
    """The behaviors themselves."""
    goal: Goal = field(init=False)
    """What samples are taken for."""

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        object.__setattr__(self, "loaded", resolve_behaviors(self.behaviors))
        object.__setattr__(self, "goal", sampling_goal(self.samples, self.precision, self.max_tokens_total))
        choose_probes(self.probes)
        if not self.loaded:
            raise SettingsError("behaviors: got none, at least one is needed; see `posttrain behaviors`", code="no_behavior")
        check_workers(self.workers)
        check_seed(self.seed)
        if isinstance(self.engine, str):
            parse_engine(self.engine)
        if self.data is not None:
            check_row_source(self.data)
        for behavior in self.loaded:
            if not behavior.split(self.split):
                raise SettingsError(
                    f"behavior {behavior.name}: its {self.split} split is empty; give it problems, or measure another split",
                    code="empty_split",
                )
            if behavior.measure.epsilon >= self.thresholds.mastered:
                raise SettingsError(
                    f"behavior {behavior.name}: measure.epsilon is {behavior.measure.epsilon:g}; it must lie below "
                    f"{self.thresholds.mastered:g}, the rate from which a problem counts as mastered",
                    code="epsilon",
                )

        self._check_budget()

    def _check_budget(self) -> None:
        """Refuse a limit of tokens that the first greedy samples alone may exceed: one of each of eight problems, however long, and a token of each other."""
        if (total := self.goal.max_tokens) is None:
            return
        needed = 0
        for behavior in self.loaded:
            num_problems = len(behavior.split(self.split))
            pilot = min(num_problems, PILOT_SAMPLES)
            longest = 1 if behavior.limit_source is LimitSource.AUTO else behavior.sampling.max_tokens
            needed += pilot * longest + num_problems - pilot
        if total < needed:
            raise too_small(f"{total:,} tokens, and the first greedy samples may take {needed:,}", needed)

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must share, as run.json holds it; what the engine says of itself comes beside it."""
        return {
            "behaviors": {behavior.name: behavior.fingerprint for behavior in self.loaded},
            "samples": self.goal.samples,
            "precision": self.goal.precision,
            "max_tokens_total": self.goal.max_tokens,
            "probes": list(self.probes),
            "teacher": _name_of(self.teacher),
            "earlier": _name_of(self.earlier),
            "before": None if self.before is None else str(self.before),
            "data": None if self.data is None else fingerprint_row_source(self.data)[:16],
            "seed": self.seed,
            "split": self.split.value,
            "thresholds": asdict(self.thresholds),
        }


def resolve_behaviors(behaviors: Sequence[str | Path | Behavior]) -> tuple[Behavior, ...]:
    """Load what is named, keep what is loaded, refuse duplicates.

    Raises:
        SettingsError: two behaviors have one name (`same_behavior_twice`).
    """
    names = [b for b in behaviors if not isinstance(b, Behavior)]
    if len(names) == len(behaviors):
        return load_behaviors([str(n) for n in names])
    loaded = tuple(b if isinstance(b, Behavior) else load_behavior(b) for b in behaviors)
    seen = [b.name for b in loaded]
    if len(set(seen)) < len(seen):
        raise SettingsError(f"behaviors: got the names {', '.join(seen)}; each may be given once", code="same_behavior_twice")
    return loaded


def _name_of(model: str | Engine | None) -> str | None:
    return model if model is None or isinstance(model, str) else model.info.model_fingerprint
