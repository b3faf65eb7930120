"""One run of the regret: a stage at a given cost, and pass@1 of target and retention afterwards.

The unit of cost is one forward pass of one token: a generated or scored token counts 1, a trained one 3 (forward, and twice that backward). Every
stage may spend `ANSWERS` times the tokens of a mean reference path; a few steps of it are tried first, and from what they cost follows the
number of steps. What a run really spent stands in its result.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from posttrain import trainers
from posttrain.diagnose import load_behavior
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.stage_catalogue import Need
from posttrain.diagnose.types import Behavior, Split, reaches
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.trainers.models.loading import load_frozen
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.policy import RolloutSampler, problem_prompts
from posttrain.trainers.stage import FrozenModel
from posttrain.trainers.training_types import TrainingProblem
from truth.equal_cost import SETTINGS, Cost, cost_of, steps_within
from truth.regret_plants import BUILD, NONE, Plant, Unit, needs_of, open_checkpoint, parts_of, uses_references, write_json

ANSWERS = 4000
"""The budget of a stage in passes of a mean reference path: `sft` at 16 rows a step takes 83 steps, `grpo` at 64 samples 16 to 60."""
SAMPLES = {"target": 16, "retention": 8}
"""Of each problem and sample set."""
SAMPLE_SETS = ("selection", "evaluation")
"""The best stage is picked on one and scored on the other."""
CPU = torch.device("cpu")
# ------------------------------------------------------------------------------------------------------------------ inputs


def inputs_of(stage: str, plant: Plant) -> tuple[Path, dict[str, Any]]:
    """Return the behavior file and the models with which a stage is trained on a plant."""
    checkpoint = open_checkpoint(plant.family, plant.seed)
    behavior = checkpoint.behavior(plant.kind, plant.references if uses_references(stage) else 160)
    if not needs_of(stage) & {Need.TEACHER, Need.EARLIER_CHECKPOINT}:
        return behavior, {}
    return behavior, {"teacher": checkpoint.teacher} if plant.teacher else {"earlier": checkpoint.earlier}


@cache
def answer_tokens(plant: Plant) -> float:
    """Return the mean number of tokens of a reference path of a cell, with the end token."""
    checkpoint = open_checkpoint(plant.family, plant.seed)
    behavior = load_behavior(checkpoint.behavior(plant.kind, 160))
    rows = encode_references(_policy(checkpoint.base).engine, _items(behavior, Split.TRAIN), 1)
    return sum(len(row.completion_ids) for row in rows) / len(rows)


# ---------------------------------------------------------------------------------------------------------------- training


def _planned_steps(unit: Unit, stage: str, model: Path, behavior: Path, given: dict[str, Any], budget: float) -> int:
    """Return the number of steps of a stage from the base model, found once for all seeds."""
    path = unit.path.parent / "steps" / f"{stage}-{unit.path.stem.rpartition('-')[0]}-{budget:.0f}.json"
    if not path.exists():
        write_json(path, {"num_steps": steps_within(budget, stage, model, behavior, given)})
    return int(json.loads(path.read_text())["num_steps"])


def train_unit(unit: Unit, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train the stage, or the stages of a pipeline one after the other; return the checkpoint, and what is known of the run."""
    checkpoint = open_checkpoint(unit.plant.family, unit.plant.seed)
    parts = parts_of(unit.stage)
    budget = ANSWERS * answer_tokens(unit.plant) / len(parts)
    model, cost, done = Path(checkpoint.base), Cost(), []
    for number, stage in enumerate(parts):
        behavior, given = inputs_of(stage, unit.plant)
        if unit.retained:
            given["retain"] = [checkpoint.retention]
        overrides: list[str] = []
        if RECIPES[stage].transform is None:
            if number == 0:
                num_steps = _planned_steps(unit, stage, model, behavior, given, budget)
            else:
                num_steps = steps_within(budget, stage, model, behavior, given)
            overrides = [f"num_steps={num_steps}", *SETTINGS]
        result = trainers.train(
            stage, model, [behavior], out=folder / f"trained-{number}", overrides=overrides, seed=unit.seed, **given
        )
        model = result.checkpoint
        cost += cost_of(stage, result)
        done.append(
            {
                "stage": stage,
                "overrides": overrides,
                "optimizer_steps": result.num_steps,
                "without_signal": result.num_skipped,
                "ending": result.ending.value,
                "moved": result.moved,
            }
        )
    return model, {"parts": done, "budget": budget * len(parts), "cost": cost.to_json()}


# --------------------------------------------------------------------------------------------------------------- measuring


@cache
def _policy(folder: Path) -> FrozenModel:
    return load_frozen(str(folder), device=CPU)


def _items(behavior: Behavior, split: Split = Split.EVAL) -> list[TrainingProblem]:
    return [TrainingProblem(behavior=behavior, problem=problem) for problem in behavior.split(split)]


@cache
def _measured(path: Path) -> tuple[list[TrainingProblem], Grader]:
    behavior = load_behavior(path)
    return _items(behavior), Grader(behavior)


def count_successes(policy: FrozenModel, path: Path, *, seed: str, num_samples: int, temperature: float = 1.0) -> list[int]:
    """Return how many samples of each eval problem succeed."""
    items, grader = _measured(path)
    behavior = items[0].behavior
    sampler = RolloutSampler(engine=policy.engine, graders={behavior.name: grader.grade})
    rows = sampler.sample(problem_prompts(policy.engine, items), num_samples=num_samples, temperature=temperature, seed=seed)
    counts = {item.problem.id: 0 for item in items}
    for row in rows:
        counts[row.problem_id] += row.reward is not None and reaches(row.reward, behavior.measure.success)
    return list(counts.values())


def measure(policy: FrozenModel, plant: Plant, *, greedy: bool = False) -> dict[str, Any]:
    """Return the successes on the eval problems of target and retention, per sample set."""
    checkpoint = open_checkpoint(plant.family, plant.seed)
    found: dict[str, Any] = {"samples": SAMPLES}
    for name, path in (("target", checkpoint.behavior(plant.kind, 160)), ("retention", checkpoint.retention)):
        found[name] = {
            each: count_successes(policy, path, seed=f"regret|{each}", num_samples=SAMPLES[name]) for each in SAMPLE_SETS
        }
        if greedy:
            found[name]["greedy"] = count_successes(policy, path, seed="greedy", num_samples=1, temperature=0.0)
    return found


# -------------------------------------------------------------------------------------------------------------------- units


def baseline_path(plant: Plant) -> Path:
    return BUILD / "runs" / plant.cell / "baseline.json"


def run_baseline(plant: Plant) -> Path:
    """Measure a plant before any training."""
    begun = time.monotonic()
    base = Path(open_checkpoint(plant.family, plant.seed).base)
    found = measure(_policy(base), plant, greedy=True)
    facts = {"stage": NONE, "cell": plant.cell, "answer_tokens": answer_tokens(plant), "seconds": time.monotonic() - begun}
    return write_json(baseline_path(plant), facts | found)


def run_unit(unit: Unit) -> Path:
    """Train and measure one run, and write its result; a stage that refuses its inputs leaves the model as it is, and that is written."""
    begun, used = time.monotonic(), time.process_time()
    facts: dict[str, Any] = {
        "cell": unit.plant.cell,
        "references": unit.plant.references if uses_references(unit.stage) else None,
        "stage": unit.stage,
        "retained": unit.retained,
        "training_seed": unit.seed,
    }
    folder = Path(tempfile.mkdtemp())
    try:
        model, done = train_unit(unit, folder)
        facts |= done | measure(load_frozen(str(model), device=CPU), unit.plant)
    except UserError as error:
        facts |= {"refused": error.code, "message": str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return write_json(unit.path, facts | {"seconds": time.monotonic() - begun, "processor_seconds": time.process_time() - used})
