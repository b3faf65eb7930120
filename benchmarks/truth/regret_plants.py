"""Which plants the regret is measured on, what is available for each of them, and which stages are tried there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.diagnose.stage_catalogue import STAGES, Need

if TYPE_CHECKING:
    from truth.plants import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "truth"
"""Whatever is computed, one file per unit of work; what is there is not computed again."""
REFERENCES = (160, 0, 16, 4)
"""How many of the train problems carry references."""
REFERENCE_CLASSES = {"none": 0, "few": 1, "some": 16, "many": 64}
"""Class → the smallest number of references in it."""
NONE, CHANGE_DECODING, SFT_THEN_GRPO = "none", "change_decoding", "sft_then_grpo"
ADVICE = frozenset(name for name, stage in STAGES.items() if not stage.trains)
THEN = "_then_"
"""Joins the stages of a pipeline, which share the budget equally."""
_PER_CHECKPOINT = (
    ("missing_support", "poor_choice", "mixed", "guided_only", "mastered"),
    ("poor_choice", "missing_support", "scaffold_bound", "format", "single_bad_step"),
    ("poor_choice", "mixed", "guided_only", "attrition", "missing_support"),
    ("single_bad_step", "poor_choice", "missing_support", "mixed", "attrition"),
    ("missing_support", "guided_only", "decoding", "poor_choice", "mixed"),
)
"""Kinds that are tried in each checkpoint: those in which stages differ most are tried in most of them."""


@dataclass(frozen=True, order=True)
class Plant:
    """One kind of behavior in one checkpoint, with what is available for it."""

    family: str
    seed: int
    kind: str
    references: int = 160
    teacher: bool = False
    earlier: bool = False

    @property
    def cell(self) -> str:
        """Names the checkpoint and the kind: plants of one cell differ only in what is available."""
        return f"{self.family}-{self.seed}/{self.kind}"

    @property
    def name(self) -> str:
        return f"{self.cell}-r{self.references}" + "-teacher" * self.teacher + "-earlier" * self.earlier

    @property
    def reference_class(self) -> str:
        return reference_class(self.references)


@dataclass(frozen=True, order=True)
class Unit:
    """One run: a stage on a plant with one seed of training."""

    seed: int
    plant: Plant
    stage: str
    retained: bool = False

    @property
    def path(self) -> Path:
        """The file of its result; plants whose difference the stage does not see share it."""
        given = f"r{self.plant.references}" if uses_references(self.stage) else "any"
        if needs_of(self.stage) & {Need.TEACHER, Need.EARLIER_CHECKPOINT}:
            given += "-teacher" if self.plant.teacher else "-earlier"
        return BUILD / "runs" / self.plant.cell / f"{self.stage}{'+retain' * self.retained}-{given}-{self.seed}.json"


def reference_class(references: int) -> str:
    """Return `none`, `few` (1 to 15), `some` (16 to 63) or `many`."""
    return [name for name, least in REFERENCE_CLASSES.items() if references >= least][-1]


def parts_of(stage: str) -> list[str]:
    """Return the recipes of a stage: one, or those of a pipeline."""
    return stage.split(THEN)


def needs_of(stage: str) -> frozenset[Need]:
    return frozenset[Need]().union(*(STAGES[part].needs for part in parts_of(stage)))


def uses_references(stage: str) -> bool:
    """Return whether the references make a difference; pairs and worked examples are made of them."""
    return bool(needs_of(stage) & {Need.REFERENCES, Need.PAIRS}) or "self_distill" in parts_of(stage)


def can_run(stage: str, plant: Plant) -> bool:
    """Return whether a plant has what a stage needs; advice can always be followed."""
    if stage in ADVICE:
        return True
    if any(part not in STAGES or not STAGES[part].trains for part in parts_of(stage)):
        return False
    needs = needs_of(stage)
    taught = plant.teacher or plant.earlier
    return (plant.references > 0 or Need.REFERENCES not in needs) and (
        taught or not needs & {Need.TEACHER, Need.EARLIER_CHECKPOINT}
    )


def stages_of(plant: Plant, named: Sequence[str] = ()) -> list[str]:
    """Return the stages that are compared on a plant: those that its needs are met for, and what the diagnoses named."""
    stages = [NONE, CHANGE_DECODING, "sft", "rft", "grpo", "hpt", "guided_grpo", SFT_THEN_GRPO]
    if plant.teacher:
        stages += ["opd", "seq_kd"]
    if plant.earlier:
        stages.append("replay")
    if plant.kind == "scaffold_bound":
        stages.append("self_distill")
    stages += [stage for stage in named if stage not in ADVICE and stage not in stages]
    return [stage for stage in stages if can_run(stage, plant)]


def choose_plants(families: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Plant]:
    """Return the plants of the benchmark: the kinds rotate over families and seeds, and what is available over the kinds.

    A third of the cells is tried at a second number of references.
    """
    plants = []
    for seed, (index, family) in product(seeds, enumerate(families)):
        number = seed * len(families) + index
        for place, kind in enumerate(_PER_CHECKPOINT[(index + seed) % len(_PER_CHECKPOINT)]):
            earlier = kind == "attrition"
            teacher = not earlier and (number + 2 * place) % 3 == 0
            turn = number + place
            plants.append(Plant(family, seed, kind, REFERENCES[turn % 4], teacher, earlier))
            if turn % 3 == 0 and kind not in ("mastered", "decoding"):
                plants.append(Plant(family, seed, kind, REFERENCES[(turn + 2) % 4], False, earlier))
    return plants


@cache
def open_checkpoint(family: str, seed: int) -> Checkpoint:
    """Return a checkpoint with all its plants, trained where it is not there yet."""
    from truth.checkpoints import make_checkpoint

    return make_checkpoint(family, seed, BUILD / "checkpoints" / f"{family}-{seed}")


def unfinished(units: Sequence[Unit]) -> list[Unit]:
    """Return one unit of each result that is not there yet, in order."""
    found: dict[Path, Unit] = {}
    for unit in sorted(units):
        if not unit.path.exists():
            found.setdefault(unit.path, unit)
    return list(found.values())


def write_json(path: Path, value: object) -> Path:
    """Write a file at once, so that a stopped process leaves none that is half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{time.time_ns()}")
    part.write_text(json.dumps(value, indent=1))
    return part.replace(path)
