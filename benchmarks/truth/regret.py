"""What the named stage loses against the best one, and what every stage gains and costs by label.

    python benchmarks/truth/regret.py                        # a table from the runs that are there
    python benchmarks/truth/regret.py --effects FILE         # effects of stages as JSON, from the tuning families alone

The utility of a stage is its gain in pass@1 on the target less λ times the fall of pass@1 on the retention behavior, at equal cost. The regret of
a rule on a plant is the utility of the best stage less that of the stage which the rule names, averaged over seeds of training. The best stage is
picked on one set of samples and scored on another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.diagnose.stage_catalogue import Need
from truth.families import HELD_OUT
from truth.regret_plants import (
    CHANGE_DECODING,
    NONE,
    REFERENCE_CLASSES,
    Plant,
    Unit,
    uses_references,
)

SELECTION, EVALUATION = "selection", "evaluation"
WEIGHTS = (0.0, 1.0, 2.0)
"""λ, of the loss on retention."""
RESAMPLES = 2000
GATE_K, GATE = 16, 0.5
MIXED_IN = " --retain"
"""Stands after a stage that was named on condition of it."""
LEAST_ROOM = 0.05
"""Least part of pass@1 that is said to be left: what is mastered would otherwise lose a hundred times what can be won."""
Array = npt.NDArray[np.float64]


# ----------------------------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """pass@1 before and after one run, per sample set."""

    target: Mapping[str, tuple[float, float]]
    retention: Mapping[str, tuple[float, float]]

    def utility(self, samples: str, weight: float) -> float:
        """Return the gain on the target less `weight` times the loss on retention; what retention gains beside counts for nothing."""
        (before, after), (kept, left) = self.target[samples], self.retention[samples]
        return (after - before) - weight * max(0.0, kept - left)

    @property
    def relative_gain(self) -> float:
        """The gain as a share of what was left to gain, at least −1."""
        before, after = np.mean(list(self.target.values()), axis=0)
        return float(max(-1.0, (after - before) / max(1.0 - before, LEAST_ROOM)))

    @property
    def loss(self) -> float:
        """The fall of pass@1 on retention."""
        before, after = np.mean(list(self.retention.values()), axis=0)
        return float(before - after)


@dataclass(frozen=True, kw_only=True)
class PlantResult:
    """All that is known of one plant."""

    plant: Plant
    label: str
    named: str
    """The stage that the diagnosis names, or its advice."""
    outcomes: Mapping[str, Sequence[Outcome]]
    """Stage → its runs, one per seed."""
    pass_at_k: float
    """pass@16 before training."""
    retained: bool = False
    bottleneck: str = ""
    confidence: float = float("nan")

    def utility(self, stage: str, samples: str, weight: float) -> float:
        """Return the mean utility of a stage; one that cannot run, and advice without effect, does nothing."""
        runs = self.outcomes.get(stage, ())
        return float(np.mean([run.utility(samples, weight) for run in runs])) if runs else 0.0

    def best(self, weight: float) -> str:
        """Return the best stage by the samples for selection."""
        return max(self.outcomes, key=lambda stage: self.utility(stage, SELECTION, weight))

    def regret(self, stage: str, weight: float) -> float:
        """Return what a stage loses against the best one, on the samples for evaluation."""
        return self.utility(self.best(weight), EVALUATION, weight) - self.utility(stage, EVALUATION, weight)

    def random_regret(self, weight: float) -> float:
        """Return the expected regret of a stage at random, of those that can run."""
        return float(np.mean([self.regret(stage, weight) for stage in self.outcomes]))


def asks_for_retention(diagnosis: Mapping[str, Any]) -> bool:
    """Return whether a stage is named on condition that rows of a retention behavior are mixed in."""
    return Need.RETENTION in (diagnosis.get("stage") or {}).get("needs", ())


def rates_of(result: Mapping[str, Any], name: str, samples: str) -> Array:
    """Return [P] the success rate of each problem."""
    return np.array(result[name][samples]) / result["samples"][name]


def outcome_of(baseline: Mapping[str, Any], run: Mapping[str, Any]) -> Outcome:
    """Return what a run changed; nothing where the stage refused its inputs."""
    after = baseline if "refused" in run else run

    def change(name: str) -> dict[str, tuple[float, float]]:
        return {
            samples: (float(rates_of(baseline, name, samples).mean()), float(rates_of(after, name, samples).mean()))
            for samples in (SELECTION, EVALUATION)
        }

    return Outcome(target=change("target"), retention=change("retention"))


def greedy_outcome(baseline: Mapping[str, Any]) -> Outcome:
    """Return what decoding greedily changes."""

    def change(name: str) -> dict[str, tuple[float, float]]:
        greedy = float(np.mean(baseline[name]["greedy"]))
        return {samples: (float(rates_of(baseline, name, samples).mean()), greedy) for samples in (SELECTION, EVALUATION)}

    return Outcome(target=change("target"), retention=change("retention"))


def pass_at_k(baseline: Mapping[str, Any]) -> float:
    """Return pass@16: the share of problems with a success among the 16 samples for selection."""
    return float(np.mean(np.array(baseline["target"][SELECTION]) > 0))


def collect(
    plant: Plant,
    label: str,
    baseline: Mapping[str, Any],
    runs: Mapping[Unit, Mapping[str, Any]],
    diagnosis: Mapping[str, Any] | None,
    *,
    retained: bool,
) -> PlantResult:
    """Return what is known of a plant from its files.

    Args:
        plant: The plant.
        label: Its true label.
        baseline: Measured before training.
        runs: Finished runs of the plant.
        diagnosis: Its entry of diagnosis.json, None where it was not diagnosed.
        retained: Whether the retention behavior was given. If not, runs that mixed in rows of it stand for a stage that was named on that condition.
    """
    outcomes: dict[str, list[Outcome]] = {NONE: [outcome_of(baseline, baseline)], CHANGE_DECODING: [greedy_outcome(baseline)]}
    for unit, run in sorted(runs.items()):
        if unit.retained or not retained:
            outcomes.setdefault(unit.stage + MIXED_IN * (unit.retained and not retained), []).append(outcome_of(baseline, run))
    entry = diagnosis or {}
    named = (entry.get("stage") or {}).get("name", NONE)
    return PlantResult(
        plant=plant,
        label=label,
        named=named + MIXED_IN * (not retained and asks_for_retention(entry)),
        outcomes=outcomes,
        pass_at_k=pass_at_k(baseline),
        retained=retained,
        bottleneck=entry.get("bottleneck", ""),
        confidence=entry.get("confidence") or float("nan"),
    )


# -------------------------------------------------------------------------------------------------------------------- rules


Rule = Callable[[PlantResult], str]


def always(stage: str) -> Rule:
    """Return the rule that names one stage wherever it can run, and nothing elsewhere."""
    return lambda result: stage if stage in result.outcomes else NONE


def pass_gate(result: PlantResult) -> str:
    """Name `grpo` where pass@16 is at least one half, else `sft`."""
    return always("grpo" if result.pass_at_k >= GATE else "sft")(result)


def hpt_rule(result: PlantResult) -> str:
    """Name `hpt`, which imitates what is never solved and reinforces the others; without references only the latter is left."""
    return "hpt" if "hpt" in result.outcomes else "grpo"


RULES: dict[str, Rule] = {
    "named by diagnose": lambda result: result.named,
    "always sft": always("sft"),
    "always grpo": always("grpo"),
    "pass@16 gate": pass_gate,
    "hpt": hpt_rule,
}
RANDOM, CONSTANT = "random", "best constant in hindsight"


def best_constant(results: Sequence[PlantResult], weight: float) -> str:
    """Return the stage with the highest mean utility over plants, by the samples for selection; it does nothing where it cannot run."""
    stages = sorted({stage for result in results for stage in result.outcomes})
    return max(stages, key=lambda stage: float(np.mean([result.utility(stage, SELECTION, weight) for result in results])))


def regrets(results: Sequence[PlantResult], weight: float) -> dict[str, Array]:
    """Return rule → [plants] its regret."""
    constant = best_constant(results, weight)
    found = {name: [result.regret(rule(result), weight) for result in results] for name, rule in RULES.items()}
    found[RANDOM] = [result.random_regret(weight) for result in results]
    found[f"{CONSTANT} ({constant})"] = [result.regret(constant, weight) for result in results]
    return {name: np.array(values) for name, values in found.items()}


def bootstrap_interval(values: Array, cells: Sequence[str], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean by a bootstrap over cells: plants that share their runs stay together."""
    names, member = np.unique(np.asarray(cells), return_inverse=True)
    sums, sizes = np.bincount(member, weights=values), np.bincount(member)
    chosen = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


# ------------------------------------------------------------------------------------------------------------------ effects


def effects(results: Sequence[PlantResult]) -> list[dict[str, Any]]:
    """Return gains and losses by label, references, stage and retention, from the tuning families alone.

    A stage to which references make no difference has one effect for all numbers of references. Runs that several plants share count once.
    Intervals are for a further plant, not for the mean; how much plants differ is pooled over all rows.
    """
    runs: dict[tuple[str, str, str, bool], dict[str, list[Outcome]]] = defaultdict(dict)
    for result in results:
        if result.plant.family == HELD_OUT:
            continue
        for stage, outcomes in result.outcomes.items():
            if stage == NONE or stage.endswith(MIXED_IN):
                continue
            classes = [result.plant.reference_class] if uses_references(stage) else list(REFERENCE_CLASSES)
            for each in classes:
                runs[result.label, each, stage, result.retained][result.plant.cell] = list(outcomes)
    order = list(REFERENCE_CLASSES)
    means = {
        key: {
            "gain": np.array([np.mean([one.relative_gain for one in outcomes]) for outcomes in cells.values()]),
            "loss": np.array([np.mean([one.loss for one in outcomes]) for outcomes in cells.values()]),
        }
        for key, cells in runs.items()
    }
    spread = {name: pooled_spread([found[name] for found in means.values()]) for name in ("gain", "loss")}
    rows = []
    for key, found in means.items():
        row: dict[str, Any] = dict(zip(("label", "references", "stage", "retained"), key, strict=True))
        for name, values in found.items():
            half = spread[name] * np.sqrt(1.0 + 1.0 / len(values))
            center = float(values.mean())
            row |= {name: round(center, 4), f"{name}_low": round(max(-1.0, center - half), 4)}
            row[f"{name}_high"] = round(min(1.0, center + half), 4)
        rows.append(row | {"plants": len(runs[key]), "runs": sum(map(len, runs[key].values()))})
    return sorted(rows, key=lambda row: (row["label"], order.index(row["references"]), row["stage"], row["retained"]))


def pooled_spread(groups: Sequence[Array]) -> float:
    """Return the half-width of an interval that holds a further plant in 95 % of cases, were the mean of the others known.

    Args:
        groups: Means of the plants of each row. How much plants differ is pooled over all rows, since each has few.
    """
    degrees = sum(len(values) - 1 for values in groups)
    if not degrees:
        return 2.0
    variance = sum(((values - values.mean()) ** 2).sum() for values in groups) / degrees
    return float(scipy.stats.t.ppf(0.975, degrees) * np.sqrt(variance))


# ---------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Print the regrets, or write the effects."""
    from truth.regret_results import TUNING, all_plants, read_results

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effects", type=Path, metavar="FILE", help="write the effects of stages there")
    options = parser.parse_args()
    if options.effects:
        plants = all_plants(TUNING)
        rows = effects([one for retained in (False, True) for one in read_results(retained=retained, plants=plants, partly=True)])
        options.effects.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        print(f"{len(rows)} effects: {options.effects}")
        return
    for retained in (False, True):
        results = read_results(retained=retained)
        if not results:
            continue
        print("with --retain" if retained else "without --retain")
        for name, values in regrets(results, 1.0).items():
            low, high = bootstrap_interval(values, [result.plant.cell for result in results])
            print(f"  {name:45} {values.mean():.3f} [{low:.3f}, {high:.3f}]  {len(values)} plants")


if __name__ == "__main__":
    main()
