"""Whether every stage improves its own quantity where its need was planted, and what training on rare successes costs mastered behaviors.

    python benchmarks/stages.py --out reports/benchmarks/stages.md

One small Llama with planted needs (see `stage_plants.py`) is trained once and kept in build/stages. Starting from it, every recipe is run by
`posttrain.trainers.train` on the train problems of the behavior whose need it addresses, and its own quantity is measured before and
after on held-out problems (see `stage_measures.py`). `--only NAME ...` reruns some rows; results stay in build/benchmarks/stages.json,
from which the page is written. One core; about half an hour. Exit code 1 where a quantity did not improve.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stage_measures import SAMPLES, Probe, Values, load
from stage_plants import EVAL_PROBLEMS, TASKS, TRAIN_PROBLEMS, Planted, plant

from posttrain import trainers
from posttrain.analysis.stats import paired_delta_interval, t_interval
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.stage import FrozenModel
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper, StepStatus
from posttrain.trainers.training import trainer
from posttrain.trainers.training.result import TrainingResult

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "benchmarks" / "stages.json"
CHECKPOINTS = ROOT / "build" / "benchmarks" / "stages"
PASS_1, ACCURACY, MARGIN, DIVERGENCE = "pass@1", "pair accuracy", "margin, nats", "KL to the teacher, nats a token"
FALLS = frozenset({DIVERGENCE})
"""Quantities that should fall."""


# ---------------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of the page: a recipe, the behavior whose need it addresses, and its settings."""

    recipe: str
    behavior: str
    settings: str
    measures: tuple[str, ...] = (PASS_1,)
    start: str = "base"
    teacher: str = ""
    earlier: str = ""


# A model of this size takes rates a hundred times those of the papers. Imitation, also where it is mixed in: 1e-3, as far as the base model's
# own training goes at the end; policy gradients: 3e-4, since 16 x 8 samples a step are a noisy gradient; pairs: 1e-4, since nothing but a
# margin holds the likelihood of the better answer; what draws from the student or learns a judge: between these. Steps: about a minute.
_ROWS = "learning_rate=1e-3 rows_per_batch=32 num_steps=60"
_GROUPS = "learning_rate=3e-4 problems_per_batch=16 group_size=8 num_steps=40"
_PAIRS = "learning_rate=1e-4 rows_per_batch=16 num_steps=60"
_STUDENT = "learning_rate=5e-4 problems_per_batch=32 num_steps=40"
_GUIDED = "learning_rate=1e-3 problems_per_batch=16 group_size=8 num_steps=60"
_JUDGE = "learning_rate=5e-4 rows_per_batch=32 num_steps=60"
_PAIRED = (PASS_1, ACCURACY, MARGIN)
_TAUGHT = (DIVERGENCE, PASS_1)

_rows = partial(Trial, settings=_ROWS)
_groups = partial(Trial, behavior="reverse", settings=_GROUPS)
_pairs = partial(Trial, behavior="reverse", settings=_PAIRS, measures=_PAIRED)
_student = partial(Trial, behavior="reverse", settings=_STUDENT, measures=_TAUGHT, teacher="teacher")
_guided = partial(Trial, behavior="rotate", settings=_GUIDED)
_back = partial(Trial, behavior="copy", start="damaged", earlier="base")

TRIALS: dict[str, Trial] = {
    "sft": _rows(recipe="sft", behavior="sort", settings="learning_rate=1e-3 rows_per_batch=32 num_steps=120"),
    "dft": _rows(recipe="dft", behavior="reverse"),
    "rft": _rows(recipe="rft", behavior="reverse"),
    "grpo": _groups(recipe="grpo"),
    "rloo": _groups(recipe="rloo"),
    "dr_grpo": _groups(recipe="dr_grpo"),
    "dapo": _groups(recipe="dapo"),
    "gspo": _groups(recipe="gspo"),
    "cispo": _groups(recipe="cispo"),
    "ppo": _groups(recipe="ppo"),
    "online_dpo": _groups(recipe="online_dpo"),
    "dpo": _pairs(recipe="dpo"),
    # At its default beta of .1 the margin aimed at is 5 nats a token, 30 a word: the better answer falls with the worse one on the way.
    "ipo": _pairs(recipe="ipo", settings=f"{_PAIRS} beta=0.5"),
    "kto": _pairs(recipe="kto"),
    # Without a reference or an imitated answer nothing holds the right answer up once the margin is there: a third of the steps.
    "simpo": _pairs(recipe="simpo", settings="learning_rate=1e-4 rows_per_batch=16 num_steps=20"),
    "orpo": _pairs(recipe="orpo"),
    "cpo": _pairs(recipe="cpo"),
    "reward_model": Trial(recipe="reward_model", behavior="reverse", settings=_JUDGE, measures=(ACCURACY,)),
    "process_reward_model": Trial(
        recipe="process_reward_model",
        behavior="steps",
        settings="learning_rate=1e-3 rows_per_batch=64 num_steps=200 num_samples=4",
        measures=("step accuracy",),
    ),
    "process": _groups(
        recipe="process", behavior="steps", settings="learning_rate=3e-4 problems_per_batch=8 group_size=8 num_steps=40"
    ),
    "guided_grpo": _guided(recipe="guided_grpo", settings=f"{_GUIDED} anneal_after=0.8"),
    "luffy": _guided(recipe="luffy"),
    "chord": _guided(recipe="chord"),
    "hpt": _guided(recipe="hpt"),
    "seq_kd": _rows(
        recipe="seq_kd", behavior="sort", settings="learning_rate=1e-3 rows_per_batch=32 num_steps=120", teacher="teacher"
    ),
    "logit_kd": _rows(recipe="logit_kd", behavior="reverse", measures=_TAUGHT, teacher="teacher"),
    "gkd": _student(recipe="gkd"),
    "opd": _student(recipe="opd"),
    "minillm": _student(recipe="minillm"),
    "self_distill": _rows(recipe="self_distill", behavior="swap"),
    "replay": _back(recipe="replay", settings="learning_rate=3e-4 rows_per_batch=32 num_steps=40"),
    "merge": _back(recipe="merge", settings="share=0.5"),
    "opd --earlier": _back(recipe="opd", settings="learning_rate=3e-4 problems_per_batch=32 num_steps=40"),
}
REASONS = {
    "simpo": "nothing holds the right answer up while the wrong one is pushed down: both become less likely (log π of the right answer falls too), "
    "and answers that stand in no pair gain. `dpo`, `cpo` and `orpo`, which imitate the right answer as well, do not share this.",
}
"""Why a quantity did not improve."""
RARE_SIGNAL = "rare_signal"
RARE_SETTINGS = "learning_rate=1e-3 problems_per_batch=16 group_size=16 num_steps=100"


# --------------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, kw_only=True)
class Change:
    """A quantity on held-out problems, before and after."""

    quantity: str
    before: float
    after: float
    low: float
    high: float
    """95 % interval of the mean change, paired by problem."""

    @property
    def met(self) -> bool:
        return self.high < 0 if self.quantity in FALLS else self.low > 0


class Measurements:
    """Hold the planted models and what is measured of them once."""

    def __init__(self, planted: Planted) -> None:
        self.planted = planted
        self.probes = {name: Probe(planted.behavior(name)) for name in TASKS}
        self._known: dict[tuple[str, str, str], Values] = {}

    @cached_property
    def models(self) -> dict[str, FrozenModel]:
        return {name: load(self.planted.folder / name) for name in ("base", "teacher", "damaged")}

    @cached_property
    def pairs(self) -> Any:
        return self.probes["reverse"].pairs(self.models["base"])

    @cached_property
    def steps(self) -> Any:
        return self.probes["steps"].labelled_steps(self.models["base"])

    def before(self, trial: Trial, quantity: str) -> Values:
        """Measure the quantity at the start; for a reward model, the score of a constant answer."""
        key = (trial.start, trial.behavior, quantity)
        if key not in self._known:
            if trial.recipe == "reward_model":
                return np.full(EVAL_PROBLEMS, 0.5)
            if quantity == "step accuracy":
                constant = [self.probes["steps"].step_accuracy(answer, self.steps) for answer in (False, True)]
                return max(constant, key=np.nanmean)
            self._known[key] = self._value(self.models[trial.start], trial.behavior, quantity)
        return self._known[key]

    def after(self, trial: Trial, quantity: str, folder: Path) -> Values:
        """Measure the quantity of the checkpoint that a stage made."""
        probe = self.probes[trial.behavior]
        if trial.recipe == "reward_model":
            return probe.reward_accuracy(folder, self.pairs)
        if quantity == "step accuracy":
            return probe.step_accuracy(folder, self.steps)
        return self._value(load(folder), trial.behavior, quantity)

    def pass_at_1(self, policy: FrozenModel, behavior: str) -> Values:
        return self._value(policy, behavior, PASS_1)

    def _value(self, policy: FrozenModel, behavior: str, quantity: str) -> Values:
        probe = self.probes[behavior]
        if quantity == PASS_1:
            return probe.pass_at_1(policy)
        if quantity == DIVERGENCE:
            return probe.divergence(policy, self.models["teacher"])
        margins = probe.margins(policy, self.pairs)
        return margins if quantity == MARGIN else np.where(np.isnan(margins), np.nan, (margins > 0).astype(float))


def compare(quantity: str, before: Values, after: Values) -> Change:
    """Compute the mean change with its interval over problems."""
    bounded = quantity not in (MARGIN, DIVERGENCE)
    interval = paired_delta_interval(before, after) if bounded else t_interval(after - before)
    return Change(
        quantity=quantity,
        before=float(np.nanmean(before)),
        after=float(np.nanmean(after)),
        low=interval.low,
        high=interval.high,
    )


def run(trial: Trial, name: str, planted: Planted) -> tuple[TrainingResult, Path]:
    """Train in a separate folder."""
    out = CHECKPOINTS / name.replace(" --", "-")
    shutil.rmtree(out, ignore_errors=True)
    result = trainers.train(
        trial.recipe,
        planted.folder / trial.start,
        [planted.behavior(trial.behavior)],
        out=out,
        overrides=[*trial.settings.split(), "dev_share=0"],
        seed=0,
        teacher=planted.folder / trial.teacher if trial.teacher else None,
        earlier=planted.folder / trial.earlier if trial.earlier else None,
    )
    return result, out


def try_recipe(name: str, measured: Measurements) -> dict[str, Any]:
    """Measure one row of the page."""
    trial = TRIALS[name]
    begun = time.process_time()
    result, out = run(trial, name, measured.planted)
    seconds = time.process_time() - begun
    changes = [compare(each, measured.before(trial, each), measured.after(trial, each, out)) for each in trial.measures]
    row: dict[str, Any] = {
        "trial": asdict(trial),
        "changes": [asdict(change) for change in changes],
        "optimizer_steps": result.num_steps,
        "seconds": seconds,
    }
    if trial.earlier:
        row["undamaged"] = float(np.nanmean(measured.pass_at_1(measured.models[trial.earlier], trial.behavior)))
        row["cost"] = asdict(
            compare(PASS_1, *(measured.pass_at_1(one, "sort") for one in (measured.models[trial.start], load(out))))
        )
    return row


# -------------------------------------------------------------------------------------------------------------- rare signal


@contextmanager
def stepping_on_every_batch() -> Iterator[None]:
    """Let the optimizer step where a batch has no signal, as a loop does that knows no such thing: momentum moves the weights."""
    careful = Stepper.step

    def step(self: Stepper, rows: Any, old: dict[int, torch.Tensor], number: int = 0) -> StepOutcome:
        outcome = careful(self, rows, old, number)
        if outcome.status is StepStatus.NO_SIGNAL:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()
        return outcome

    trainer.Stepper.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        trainer.Stepper.step = careful  # type: ignore[method-assign]


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


WAYS: dict[str, tuple[str, Callable[[], Any]]] = {
    "a step on every batch": ("signal_scaled=false", stepping_on_every_batch),
    "no step without signal": ("signal_scaled=false", as_it_is),
    "no step without signal, and steps as large as the share of groups with one": ("signal_scaled=true", as_it_is),
}


def try_rare_signal(measured: Measurements) -> dict[str, Any]:
    """GRPO on what is out of reach, in three ways, and what it does to what was mastered."""
    before = measured.pass_at_1(measured.models["base"], "copy")
    ways = {}
    for way, (setting, patch) in WAYS.items():
        trial = Trial(recipe="grpo", behavior="sort", settings=f"{RARE_SETTINGS} {setting}")
        with patch():
            result, out = run(trial, "rare_signal", measured.planted)
        log = [json.loads(line) for line in result.log.read_text().splitlines()]
        groups = [(one["groups"], one["groups_without_signal"]) for one in log if one["event"] == "step"]
        after = load(out)
        ways[way] = {
            "setting": setting,
            "copy": asdict(compare(PASS_1, before, measured.pass_at_1(after, "copy"))),
            "sort": asdict(
                compare(PASS_1, measured.pass_at_1(measured.models["base"], "sort"), measured.pass_at_1(after, "sort"))
            ),
            "batches": len(groups),
            "batches_with_signal": sum(without_signal < 1 for _, without_signal in groups),
            "groups": sum(number for number, _ in groups),
            "groups_with_signal": sum(number * (1 - without_signal) for number, without_signal in groups),
            "seconds": result.seconds,
        }
    return {"ways": ways}


# ------------------------------------------------------------------------------------------------------------------ the page


def page(rows: dict[str, Any], base: dict[str, Any]) -> str:
    """All that the results file holds, as Markdown."""
    done = [name for name in TRIALS if name in rows]
    changes = [Change(**one) for name in done for one in rows[name]["changes"]]
    covered = {rows[name]["trial"]["recipe"] for name in done}
    lines = [
        "# Does every stage improve its own quantity?",
        "",
        "    python benchmarks/stages.py --out reports/benchmarks/stages.md",
        "",
        f"A Llama of {base['weights']:,} weights, one start for all, in which each need was planted (`benchmarks/stage_plants.py` says how);",
        f"{TRAIN_PROBLEMS} train problems a behavior, {EVAL_PROBLEMS} held-out ones, on which everything below is measured; pass@1 from {SAMPLES} samples at",
        "T = 1. Each recipe is run once, with one seed. The interval is of the mean change, paired by problem (95 %); *met* means that it excludes 0 in",
        "the right direction. It does not hold what another seed of training would add.",
        "",
        f"{len(covered)} of {len(RECIPES)} recipes run; {sum(one.met for one in changes)} of {len(changes)} quantities met.",
        "",
        "| recipe | planted need | quantity | before | after | change | met | optimizer steps | processor seconds |",
        "| --- | --- | --- | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    for name in done:
        row = rows[name]
        for place, one in enumerate(row["changes"]):
            change = Change(**one)
            trial = row["trial"]
            need = f"{trial['behavior']}: " + (
                f"lost (was {row['undamaged']:.2f})" if trial["earlier"] else TASKS[trial["behavior"]].need
            )
            head = f"| `{name}` | {need} " if place == 0 else "| | "
            tail = f"{row['optimizer_steps']} | {row['seconds']:.0f} |" if place == 0 else "| |"
            lines.append(
                f"{head}| {change.quantity} | {change.before:.3f} | {change.after:.3f} | {_interval(change)} "
                f"| {'yes' if change.met else '**no**'} | {tail}"
            )
    return "\n".join([*lines, *_reasons(rows, done), *_costs(rows), *_rare_signal(rows), *_settings(rows, done)]) + "\n"


def _interval(change: Change) -> str:
    return f"{change.after - change.before:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _reasons(rows: dict[str, Any], done: list[str]) -> list[str]:
    missed = [name for name in done if not all(Change(**one).met for one in rows[name]["changes"])]
    known = [f"- `{name}`: {REASONS[name]}" for name in missed if name in REASONS]
    return ["", "Why not:", "", *known] if known else []


def _costs(rows: dict[str, Any]) -> list[str]:
    known = [(name, Change(**rows[name]["cost"])) for name in TRIALS if "cost" in rows.get(name, {})]
    if not known:
        return []
    return [
        "",
        "Bringing copy back costs what the damaging stage had won on sort:",
        "",
        "| recipe | pass@1 of sort before | after | change |",
        "| --- | ---: | ---: | --- |",
        *(f"| `{name}` | {one.before:.3f} | {one.after:.3f} | {_interval(one)} |" for name, one in known),
    ]


def _rare_signal(rows: dict[str, Any]) -> list[str]:
    if RARE_SIGNAL not in rows:
        return []
    lines = [
        "",
        "## What a rare success costs",
        "",
        "    python benchmarks/stages.py --only rare_signal --out reports/benchmarks/stages.md",
        "",
        f"`grpo` on sort, which the model was never shown ({RARE_SETTINGS}), and what it does to copy, which is mastered and not trained on.",
        "",
        "| optimizer | batches with signal | groups with signal | copy before | after | change | sort before | after |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for way, found in rows[RARE_SIGNAL]["ways"].items():
        copy, sort = Change(**found["copy"]), Change(**found["sort"])
        lines.append(
            f"| {way} (`{found['setting']}`) | {found['batches_with_signal']} of {found['batches']} | {found['groups_with_signal']:.0f} of "
            f"{found['groups']:.0f} | {copy.before:.3f} | {copy.after:.3f} | {_interval(copy)} | {sort.before:.3f} | {sort.after:.3f} |"
        )
    return lines


def _settings(rows: dict[str, Any], done: list[str]) -> list[str]:
    lines = ["", "## Settings", "", "All others are the recipes' defaults.", "", "| recipe | settings |", "| --- | --- |"]
    for name in done:
        trial = rows[name]["trial"]
        models = "".join(f" --{kind} {trial[kind]}" for kind in ("teacher", "earlier") if trial[kind])
        lines.append(f"| `{name}` | `train {trial['recipe']} {trial['start']} {trial['behavior']}{models}` {trial['settings']} |")
    return lines


def read_results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
    """Run the requested rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*TRIALS, RARE_SIGNAL], help="rows to run; others are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks" / "stages.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = Measurements(plant(ROOT / "build" / "stages"))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only or [*TRIALS, RARE_SIGNAL]:
        row = try_rare_signal(measured) if name == RARE_SIGNAL else try_recipe(name, measured)
        RESULTS.write_text(json.dumps(read_results() | {name: row}, indent=1))
        print(f"{name}: {json.dumps(row.get('changes', row))}", file=sys.stderr)
        weights = sum(parameter.numel() for parameter in measured.models["base"].model.parameters())
        options.out.write_text(page(read_results(), {"weights": weights}))
    rows = read_results()
    sys.exit(0 if all(Change(**one).met for name in TRIALS if name in rows for one in rows[name]["changes"]) else 1)


if __name__ == "__main__":
    main()
