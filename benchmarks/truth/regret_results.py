"""Diagnoses of the plants, blind through the command line, and everything that is on disk about them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truth import labels
from truth.families import FAMILIES, HELD_OUT
from truth.regret import PlantResult, asks_for_retention, collect
from truth.regret_plants import ADVICE, BUILD, Plant, Unit, choose_plants, open_checkpoint, stages_of
from truth.regret_runs import baseline_path

SEEDS = (0, 1, 2)
"""Of training."""
FRESH = (1,)
"""Seeds of the checkpoints on which it is measured what advice loses."""
TUNING = (0, 2)
"""Seeds of the checkpoints whose runs give the effects of stages, on which advice rests; on the last of them only with retention."""


def all_plants(seeds: Sequence[int] = FRESH) -> list[Plant]:
    """Return the plants in the checkpoints of some seeds; the held-out family is not among those whose effects are known."""
    plants = choose_plants(list(FAMILIES), seeds)
    return [plant for plant in plants if seeds != TUNING or plant.family != HELD_OUT]


# ---------------------------------------------------------------------------------------------------------------- diagnoses


@dataclass(frozen=True, order=True)
class DiagnosisRun:
    """One command line: the plants of a checkpoint for which the same models are available."""

    family: str
    seed: int
    teacher: bool
    earlier: bool
    retained: bool
    """Whether the retention behavior is diagnosed beside them, and so may be mixed in."""
    behaviors: tuple[tuple[str, int], ...]
    """Kind and number of references."""

    @property
    def folder(self) -> Path:
        name = f"{self.family}-{self.seed}" + "-teacher" * self.teacher + "-earlier" * self.earlier + "+retain" * self.retained
        return BUILD / "diagnoses" / name

    @property
    def is_finished(self) -> bool:
        return (self.folder / "diagnosis.json").exists()


def diagnosis_runs(plants: Sequence[Plant]) -> list[DiagnosisRun]:
    """Return the command lines that diagnose plants, with the retention behavior and without."""
    groups: dict[tuple[str, int, bool, bool], set[tuple[str, int]]] = defaultdict(set)
    for plant in plants:
        groups[plant.family, plant.seed, plant.teacher, plant.earlier].add((plant.kind, plant.references))
    return [
        DiagnosisRun(*key, retained, tuple(sorted(group))) for retained in (True, False) for key, group in sorted(groups.items())
    ]


def diagnose(run: DiagnosisRun) -> None:
    """Diagnose plants by the command line, with what is available and everything else by default."""
    checkpoint = open_checkpoint(run.family, run.seed)
    options = ["--teacher", str(checkpoint.teacher)] if run.teacher else []
    options += ["--earlier", str(checkpoint.earlier)] if run.earlier else []
    behaviors = [checkpoint.behavior(kind, references) for kind, references in run.behaviors]
    labels.diagnose(checkpoint.base, [*behaviors, *([checkpoint.retention] if run.retained else [])], run.folder, *options)


def read_diagnosis(plant: Plant, *, retained: bool) -> dict[str, Any] | None:
    """Return the entry of the target in diagnosis.json, None where there is none."""
    own = (plant.family, plant.seed, plant.teacher, plant.earlier, retained)
    path = DiagnosisRun(*own, ()).folder / "diagnosis.json"
    if not path.exists():
        return None
    name = open_checkpoint(plant.family, plant.seed).behavior(plant.kind, plant.references).stem
    return next((entry for entry in json.loads(path.read_text())["behaviors"] if entry["name"] == name), None)


def named_stages(plant: Plant, *, retained: bool) -> list[str]:
    """Return the stage that the diagnosis names, where it trains."""
    name = ((read_diagnosis(plant, retained=retained) or {}).get("stage") or {}).get("name")
    return [name] if name and name not in ADVICE else []


# ------------------------------------------------------------------------------------------------------------------ results


def units_of(plant: Plant, *, retained: bool, seeds: Sequence[int] = SEEDS) -> list[Unit]:
    """Return the runs of a plant."""
    stages = [stage for stage in stages_of(plant, named_stages(plant, retained=retained)) if stage not in ADVICE]
    return [Unit(seed, plant, stage, retained) for stage in stages for seed in seeds]


def truth_path(plant: Plant) -> Path:
    """Return the file of the measured truth of a cell, as `truth.truth.find_truth` names it."""
    return BUILD / "truths" / f"truth-{plant.family}-{plant.seed}-{plant.kind}.json"


def measure_truth(plant: Plant) -> None:
    """Measure what the behavior of a cell really is."""
    from truth.truth import find_truth

    find_truth(open_checkpoint(plant.family, plant.seed), plant.kind, BUILD / "truths")


def true_label(plant: Plant) -> str:
    """Return the measured label of a plant, or what it was meant to be where that is not measured."""
    path = truth_path(plant)
    if not path.exists():
        return plant.kind
    return str(json.loads(path.read_text())["label" if plant.earlier else "label_alone"])


def read_results(*, retained: bool, plants: Sequence[Plant] | None = None, partly: bool = False) -> list[PlantResult]:
    """Return what is known of each plant that was diagnosed and of which every stage was run, or of any with a run where `partly`."""
    results = []
    for plant in all_plants() if plants is None else plants:
        if not baseline_path(plant).exists():
            continue
        units = units_of(plant, retained=retained)
        done = [unit for unit in units if unit.path.exists()]
        diagnosis = read_diagnosis(plant, retained=retained)
        is_whole = diagnosis is not None and {unit.stage for unit in units} == {unit.stage for unit in done}
        if not done or not (partly or is_whole):
            continue
        runs = {unit: json.loads(unit.path.read_text()) for unit in [*done, *_mixed_in(plant, diagnosis, retained=retained)]}
        baseline = json.loads(baseline_path(plant).read_text())
        results.append(collect(plant, true_label(plant), baseline, runs, diagnosis, retained=retained))
    return results


def _mixed_in(plant: Plant, diagnosis: Mapping[str, Any] | None, *, retained: bool) -> list[Unit]:
    """Return the finished runs with rows of the retention behavior that a diagnosis without one asks for."""
    if retained or diagnosis is None or not asks_for_retention(diagnosis):
        return []
    unit = Unit(SEEDS[0], plant, diagnosis["stage"]["name"], retained=True)  # with the seed of the runs without it
    return [unit] if unit.path.exists() else []


def read_costs() -> list[dict[str, Any]]:
    """Return stage, share of the budget spent and optimizer steps of every finished run."""
    found = []
    for path in sorted((BUILD / "runs").glob("*/*/*-[0-9].json")):
        run = json.loads(path.read_text())
        if "cost" in run:
            steps = sum(part["optimizer_steps"] for part in run["parts"])
            stage = run["stage"] + " --retain" * run["retained"]
            found.append({"stage": stage, "spent": run["cost"]["passes"] / run["budget"], "optimizer_steps": steps})
    return found
