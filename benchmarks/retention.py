"""What retained rows, and the choice of weights between start and end, save of mastered behaviors, and what they cost the target.

    python benchmarks/retention.py --out reports/benchmarks/retention.md

The small Llama with planted needs (see `stage_plants.py`) masters copy, and does most of swap behind its hint. Each stage trains on another behavior with copy
retained at several shares of every batch, and at the default share with the weights chosen as `train --retain` does; the target, copy and the hinted swap, which is not retained, are measured before and after on held-out
problems. Results stay in build/benchmarks/retention.json, from which the page is written; a run that is there is not made again. One core; about fifteen
minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stage_measures import SAMPLES, Probe, Values, load
from stage_plants import EVAL_PROBLEMS, HINT, TASKS, Planted, plant

from posttrain import trainers
from posttrain.analysis.stats import paired_delta_interval
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.stage import FrozenModel

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "benchmarks" / "retention.json"
CHECKPOINT = ROOT / "build" / "benchmarks" / "retention"
SEEDS = (0, 1)
RETAINED, THIRD = "copy", "hinted"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A stage, the behavior whose need it addresses, and its settings, which are those of `stages.py`."""

    stage: str
    target: str
    settings: str


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How a behavior is retained."""

    share: float
    """Of the rows of a batch."""
    chosen: bool = False
    """Whether the weights are chosen between start and end; else the last are saved."""

    @property
    def name(self) -> str:
        return f"{self.share:g}{', weights chosen' * self.chosen}"

    @property
    def settings(self) -> list[str]:
        return [f"retain_share={self.share}", *([] if self.chosen else ["retain_weight=null"])]


DEFAULT = Retention(share=TrainingConfig.model_fields["retain_share"].default, chosen=True)
RETENTIONS = (*(Retention(share=share) for share in (0.0, 0.1, 0.25, 0.5)), DEFAULT)
TRIALS = (
    Trial(stage="sft", target="sort", settings="learning_rate=1e-3 rows_per_batch=32 num_steps=120"),
    Trial(stage="grpo", target="reverse", settings="learning_rate=3e-4 problems_per_batch=16 group_size=8 num_steps=40"),
    Trial(stage="hpt", target="rotate", settings="learning_rate=1e-3 problems_per_batch=16 group_size=8 num_steps=60"),
)


def write_hinted(planted: Planted) -> None:
    """Write the swap behind its hint as a behavior: what the base model does beside copy."""
    rows = [json.loads(line) for line in planted.behavior("swap").with_suffix(".jsonl").read_text().splitlines()]
    plain = [{key: value for key, value in row.items() if key != "hint"} for row in rows]
    hinted = [row | {"prompt": f"Hint: {HINT}\n{row['prompt']}"} for row in plain]
    planted.behavior(THIRD).with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in hinted))
    planted.behavior(THIRD).write_text(planted.behavior("swap").read_text().replace("swap.jsonl", f"{THIRD}.jsonl"))


def measure(planted: Planted, policy: FrozenModel, names: Sequence[str]) -> dict[str, list[float]]:
    """Return behavior → [P] pass@1 of each held-out problem."""
    return {name: Probe(planted.behavior(name)).pass_at_1(policy).tolist() for name in names}


def run(planted: Planted, trial: Trial, retention: Retention, seed: int) -> dict[str, Any]:
    """Train a stage once and measure what became of the three behaviors."""
    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    result = trainers.train(
        trial.stage,
        planted.base,
        [planted.behavior(trial.target)],
        out=CHECKPOINT,
        overrides=[*trial.settings.split(), *retention.settings],
        seed=seed,
        retain=[planted.behavior(RETAINED)] if retention.share else (),
    )
    return {
        "trained_tokens": result.trained_tokens,
        "retained_tokens": result.retained_tokens,
        "generated_tokens": result.generated_tokens + result.choice_tokens,
        "kept_share": result.kept_share,
        "after": measure(planted, load(CHECKPOINT), (trial.target, RETAINED, THIRD)),
    }


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One stage with one retention: paired changes by problem, the mean over the seeds."""

    trial: Trial
    retention: Retention
    runs: Sequence[dict[str, Any]]
    before: dict[str, list[float]]

    def change(self, name: str) -> Values:
        """[P] mean change of pass@1 of each problem."""
        return np.mean([run["after"][name] for run in self.runs], axis=0) - np.array(self.before[name])

    def describe(self, name: str) -> str:
        """Return the mean change, its 95 % interval over problems, and the change under each seed."""
        before, after = np.array(self.before[name]), np.mean([run["after"][name] for run in self.runs], axis=0)
        interval = paired_delta_interval(before, after)
        seeds = ", ".join(f"{np.mean(run['after'][name]) - before.mean():+.2f}" for run in self.runs)
        return f"{np.mean(after - before):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] ({seeds})"

    @property
    def utility(self) -> float:
        """The gain on the target less the mean loss on the two behaviors that are not trained."""
        lost = -np.mean([self.change(name).mean() for name in (RETAINED, THIRD)])
        return float(self.change(self.trial.target).mean() - lost)

    def cost(self, name: str) -> float:
        return float(np.mean([run[name] for run in self.runs]))


COSTS = ("utility", "trained tokens", "of them retained", "generated tokens")


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


def page(results: dict[str, Any]) -> str:
    """Write all that the results hold as Markdown."""
    before = results["before"]
    cells = []
    for trial in TRIALS:
        runs = {one: [results[key] for seed in SEEDS if (key := key_of(trial, one, seed)) in results] for one in RETENTIONS}
        if all(runs.values()):  # a stage is compared over all, or not at all
            cells += [Cell(trial=trial, retention=one, runs=runs[one], before=before) for one in RETENTIONS]
    rates = ", ".join(f"{name} {np.mean(before[name]):.3f}" for name in before)
    lines = [
        "# What retention saves, and what it costs",
        "",
        "    python benchmarks/retention.py --out reports/benchmarks/retention.md",
        "",
        f"The model of `benchmarks/stage_plants.py` masters copy and does most of swap behind its hint (here *{THIRD}*). Each stage trains one other behavior with copy retained at",
        f"a share of every batch; {THIRD} is not retained. *Weights chosen*: of five points between the weights before and after training the one with the highest utility on dev",
        f"slices is saved; else the last weights. Changes of pass@1 on {EVAL_PROBLEMS} held-out problems, {SAMPLES} samples each at T = 1, mean of {len(SEEDS)} seeds of training with",
        "the 95 % interval over problems, and in parentheses under each seed. The interval does not hold the spread between seeds.",
        f"Before training: {rates}.",
        "",
        _row(
            "stage",
            "target",
            "share",
            "gain on the target",
            "change of copy (retained)",
            f"change of {THIRD} (not retained)",
            *COSTS,
        ),
        "| --- | --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        trial = cell.trial
        changes = " | ".join(cell.describe(name) for name in (trial.target, RETAINED, THIRD))
        costs = " | ".join(f"{cell.cost(name):,.0f}" for name in ("trained_tokens", "retained_tokens", "generated_tokens"))
        lines.append(f"| `{trial.stage}` | {trial.target} | {cell.retention.name} | {changes} | {cell.utility:+.3f} | {costs} |")
    lines += ["", f"Utility: the gain on the target less the mean loss on copy and {THIRD}. Its mean over the stages:", ""]
    lines += [
        "| share | mean utility | mean gain | mean loss of copy | mean loss of " + THIRD + " | trained tokens, × those without |"
    ]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    bare = np.mean([cell.cost("trained_tokens") for cell in cells if cell.retention.share == 0])
    for retention in RETENTIONS:
        own = [cell for cell in cells if cell.retention == retention]
        gain = np.mean([cell.change(cell.trial.target).mean() for cell in own])
        losses = [-np.mean([cell.change(name).mean() for cell in own]) for name in (RETAINED, THIRD)]
        tokens = np.mean([cell.cost("trained_tokens") for cell in own]) / bare
        mark = " (default)" if retention == DEFAULT else ""
        lines.append(
            f"| {retention.name}{mark} | {np.mean([cell.utility for cell in own]):+.3f} | {gain:+.3f} | {losses[0]:+.3f} | {losses[1]:+.3f} | {tokens:.2f} |"
        )
    if missing := [f"`{one.stage}`" for one in TRIALS if one not in [cell.trial for cell in cells]]:
        lines += ["", f"Not run to the end: {', '.join(missing)}."]
    settings = [f"| `{one.stage}` | {one.target}: {TASKS[one.target].need} | {one.settings} |" for one in TRIALS]
    lines += ["", "## Settings", "", "All others are the recipes' defaults.", "", "| stage | target and its need | settings |"]
    return "\n".join([*lines, "| --- | --- | --- |", *settings]) + "\n"


def key_of(trial: Trial, retention: Retention, seed: int) -> str:
    return f"{trial.stage} {retention.name} {seed}"


def main() -> None:
    """Run what is not in the results yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    planted = plant(ROOT / "build" / "stages")
    write_hinted(planted)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "before" not in results:
        names = [*(trial.target for trial in TRIALS), RETAINED, THIRD]
        results["before"] = measure(planted, load(planted.base), names)
    for trial in TRIALS:
        for retention in RETENTIONS:
            for seed in SEEDS:
                if (key := key_of(trial, retention, seed)) in results:
                    continue
                results[key] = run(planted, trial, retention, seed)
                RESULTS.parent.mkdir(parents=True, exist_ok=True)
                RESULTS.write_text(json.dumps(results))
                means = {name: round(float(np.mean(values)), 3) for name, values in results[key]["after"].items()}
                print(key, means, flush=True)
    out.write_text(page(results))


if __name__ == "__main__":
    main()
