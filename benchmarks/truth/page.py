"""The page of the truth benchmark, and its figure, from what is on disk.

python benchmarks/truth/page.py
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.figure import Figure

from posttrain.analysis.figures.style import paper
from truth import labels
from truth.equal_cost import MOST_SAMPLED, MOST_STEPS
from truth.families import HELD_OUT
from truth.regret import (
    EVALUATION,
    MIXED_IN,
    WEIGHTS,
    PlantResult,
    bootstrap_interval,
    effects,
    regrets,
)
from truth.regret_plants import ADVICE, CHANGE_DECODING, NONE, REFERENCE_CLASSES, ROOT, SFT_THEN_GRPO
from truth.regret_results import TUNING, all_plants, read_costs, read_results
from truth.regret_runs import ANSWERS, SAMPLES

PAGE = ROOT / "reports" / "benchmarks" / "truth.md"
FIGURE = PAGE.with_suffix(".png")
WEIGHT = 1.0
"""λ, where one is shown."""
STAGES = ("sft", "rft", "grpo", "hpt", "guided_grpo", SFT_THEN_GRPO, "opd", "seq_kd", "self_distill", "replay", CHANGE_DECODING)
RETAINED = "with rows of the mastered behavior mixed in (`--retain`)"
NUM_WORST = 8
CLASS_NAMES = {"none": "no references", "few": "1–15", "some": "16–63", "many": "64 or more"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> list[str]:
    """Return the lines of a table whose first `words` columns hold words and the others numbers."""
    align = [" --- " if place < words else " ---: " for place in range(len(header))]
    lines = [header, align, *rows]
    return ["|" + "|".join(f" {cell.strip()} " for cell in line) + "|" for line in lines]


def signed(value: float) -> str:
    """Return a change, without a sign where it rounds to nothing."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


# ------------------------------------------------------------------------------------------------------------------- regret


def regret_cell(values: Any, cells: Sequence[str]) -> str:
    """Return a mean regret with its interval."""
    low, high = bootstrap_interval(values, cells)
    return f"{max(0.0, values.mean()) if abs(values.mean()) < 5e-4 else values.mean():.3f} [{low:.2f}, {high:.2f}]"


def groups_of(results: Sequence[PlantResult]) -> dict[str, list[PlantResult]]:
    """Return the plants by what is available, and by whether tuning may look at their family."""
    found = {"all": list(results)}
    for each, words in CLASS_NAMES.items():
        found[words] = [result for result in results if result.plant.reference_class == each]
    found["a teacher"] = [result for result in results if result.plant.teacher]
    found["an earlier checkpoint"] = [result for result in results if result.plant.earlier]
    found["tuning families"] = [result for result in results if result.plant.family != HELD_OUT]
    found[f"held out: {HELD_OUT}"] = [result for result in results if result.plant.family == HELD_OUT]
    return {name: members for name, members in found.items() if members}


def regret_table(results: Sequence[PlantResult]) -> list[str]:
    """Return rules by λ."""
    cells = [result.plant.cell for result in results]
    columns = [regrets(results, weight) for weight in WEIGHTS]
    rows = []
    for names in zip(*columns, strict=True):
        head = names[0].partition(" (")[0]
        stages = list(dict.fromkeys(name.partition(" (")[2].rstrip(")") for name in names if "(" in name))
        label = f"{head} (`{'`, `'.join(stages)}`)" if stages else head
        rows.append(
            [
                f"**{label}**" if head == "named by diagnose" else label,
                *(regret_cell(column[name], cells) for column, name in zip(columns, names, strict=True)),
            ]
        )
    return table(["stage", *(f"λ = {weight:g}" for weight in WEIGHTS)], rows)


def availability_table(results: Sequence[PlantResult]) -> list[str]:
    """Return rules by what is available; the best constant is that of the group."""
    groups = groups_of(results)
    columns = {name: regrets(members, WEIGHT) for name, members in groups.items()}
    rules = list(next(iter(columns.values())))
    rows = []
    for place, rule in enumerate(rules):
        cells = []
        for name, members in groups.items():
            key = list(columns[name])[place]
            cells.append(regret_cell(columns[name][key], [each.plant.cell for each in members]))
            if "(" in key:
                cells[-1] += f" `{key.partition(' (')[2].rstrip(')')}`"
        rows.append([rule.partition(" (")[0], *cells])
    return table(["stage", *(f"{name} ({len(members)})" for name, members in groups.items())], rows)


def worst_table(results: Sequence[PlantResult]) -> list[str]:
    """Return the plants on which the named stage loses most."""
    ordered = sorted(results, key=lambda result: -result.regret(result.named, WEIGHT))[:NUM_WORST]
    rows = []
    for result in ordered:
        best = result.best(WEIGHT)
        rows.append(
            [
                result.plant.name,
                result.label,
                f"{result.bottleneck} {result.confidence:.2f}" if result.bottleneck else "",
                changes(result, result.named),
                changes(result, best),
                reason(result),
                f"{result.regret(result.named, WEIGHT):.2f}",
            ]
        )
    header = ["plant", "truth", "diagnosis", "named: gain, loss on retention", "best: gain, loss on retention", "why", "regret"]
    return table(header, rows, words=6)


def reason(result: PlantResult) -> str:
    """Return why the named stage is not the best one."""
    if result.named == "sample_more":
        return "the decision is open"
    if result.bottleneck not in ("", "inconclusive", result.label):
        return "another label"
    if result.named in ADVICE - {CHANGE_DECODING}:
        return "nothing is done"
    best = result.best(WEIGHT)
    gained, kept = (
        result.utility(best, EVALUATION, each) - result.utility(result.named, EVALUATION, each) for each in (0.0, WEIGHT)
    )
    return "gains less" if gained > kept / 2 else "costs more on retention"


def changes(result: PlantResult, stage: str) -> str:
    """Return gain on the target and loss on retention of a stage on a plant."""
    runs = result.outcomes.get(stage, ())
    if not runs:
        return f"`{stage}`: nothing is done"
    gains = [after - before for before, after in (run.target[EVALUATION] for run in runs)]
    losses = [before - after for before, after in (run.retention[EVALUATION] for run in runs)]
    return f"`{stage}` {signed(float(np.mean(gains)))}, {signed(float(np.mean(losses)))}"


# ------------------------------------------------------------------------------------------------------------------ effects


def effects_table(results: Sequence[PlantResult], *, held_out: bool = False) -> list[str]:
    """Return gains and losses by label and references (rows) and stage (columns)."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in effects(results):
        found[row["label"], row["references"]][row["stage"]] = row
    stages = [stage for stage in STAGES if any(stage in row for row in found.values())]
    order = list(REFERENCE_CLASSES)
    seen = {(result.label, result.plant.reference_class) for result in results}
    rows = []
    for label, references in sorted(found, key=lambda key: (key[0], order.index(key[1]))):
        if (label, references) not in seen:
            continue
        known = found[label, references]
        best = max((row["gain"] - row["loss"] for row in known.values()), default=0.0)
        rows.append([label, CLASS_NAMES[references], *(effect_cell(known.get(stage), best) for stage in stages)])
    return table(["truth", "references", *(f"`{stage}`" for stage in stages)], rows, words=2)


def effect_cell(row: dict[str, Any] | None, best: float) -> str:
    """Return gain and loss, in bold for the best stage of a row."""
    if row is None:
        return ""
    words = f"{signed(row['gain'])} / {signed(row['loss'])}"
    return f"**{words}**" if row["gain"] - row["loss"] >= best - 1e-9 and best > 0 else words


# ------------------------------------------------------------------------------------------------------------------ the page


def cost_table(costs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the stages really spent, as a share of the budget."""
    spent: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[int]] = defaultdict(list)
    for one in costs:
        spent[one["stage"]].append(one["spent"])
        steps[one["stage"]].append(one["optimizer_steps"])
    rows = [
        [
            f"`{stage}`",
            str(len(spent[stage])),
            f"{np.median(steps[stage]):.0f}",
            f"{np.median(spent[stage]):.2f}",
            f"{np.quantile(spent[stage], 0.1):.2f}–{np.quantile(spent[stage], 0.9):.2f}",
        ]
        for stage in sorted(spent)
    ]
    return table(["stage", "runs", "optimizer steps, median", "share of the budget spent, median", "10 % to 90 %"], rows)


def regret_part(
    modes: Mapping[str, Sequence[PlantResult]], runs: Mapping[str, Sequence[PlantResult]], costs: Sequence[dict[str, Any]]
) -> list[str]:
    """Return the half of the page that is about stages.

    Args:
        modes: With retention and without: the plants that have a regret; the first one is shown in full.
        runs: The same with all plants that have a run.
        costs: Of all runs.
    """
    main, *others = modes
    results = modes[main]
    num_cells, families = len({result.plant.cell for result in results}), sorted({result.plant.family for result in results})
    named = Counter(result.named for result in results).most_common()
    lines = [
        "## What the named stage loses",
        "",
        f"{len(results)} plants (a kind of behavior in a checkpoint, with what is available) in {num_cells} cells and {len(families)} families",
        f"({', '.join(families)}). Advice rests on effects that were measured on other checkpoints, drawn with other seeds (the last tables; all",
        f"together {len(costs):,} runs). Each plant was diagnosed by `posttrain diagnose` at its default budget, given the",
        "same references, teacher and earlier checkpoint as the stages, and the retention behavior where it is mixed in.",
        "A stage runs with its default settings, in float32; only the number of steps is set: all",
        f"stages may spend {ANSWERS:,} passes over a mean reference path (a trained token is 3 forward passes, a generated or scored one 1), in at",
        f"most {MOST_STEPS} steps, {MOST_SAMPLED} for stages that sample in every step. A pipeline spends half of the budget on each of its stages.",
        "",
        "Utility: gain in pass@1 on the target, less λ times the fall of pass@1 on a mastered behavior, both on 40 held-out problems at T = 1",
        f"({SAMPLES['target']} and {SAMPLES['retention']} samples). Regret: utility of the best stage, picked on one sample set and scored on another, less that of the",
        "stage named, averaged over seeds of training. Advice that trains nothing is worth 0, `change_decoding` what greedy decoding gains. Intervals: 95 %,",
        "bootstrap over cells. With `--retain` a stage chooses the weights that it saves at λ = 1, whatever the column.",
        "",
        f"Stages {main}, {seeds_of(results)}:",
        "",
        *regret_table(results),
        "",
    ]
    for other in others:
        on_condition = sum(result.named.endswith(MIXED_IN) for result in modes[other])
        lines += [
            f"Stages {other}, {len(modes[other])} plants, {seeds_of(modes[other])}; the retention behavior was not given, and {on_condition} stages are named on",
            "condition that one is mixed in: these count as they are then:",
            "",
            *regret_table(modes[other]),
            "",
        ]
    lines += [
        f"At λ = {WEIGHT:g}, {main}, by what is available (number of plants); the best constant is chosen for each column apart:",
        "",
        *availability_table(results),
        "",
        f"Named stages: {', '.join(f'`{name}` {number}' for name, number in named)}.",
        "",
        "### Where the named stage loses most",
        "",
        *worst_table(results),
        "",
        "### What the stages gain and cost",
        "",
        "Share of what was left to gain (at least −1) / fall of pass@1 on retention, mean over plants and seeds of the tuning families, by true label; in bold the",
        "stage with the highest difference. With intervals: `python benchmarks/truth/regret.py --effects FILE`.",
    ]
    for mode, members in runs.items():
        lines += ["", f"Stages {mode}:", "", *effects_table(members)]
    return [*lines, "", "### What they spent", "", *cost_table(costs)]


def seeds_of(results: Sequence[PlantResult]) -> str:
    """Return how many runs the stages that train have on a plant."""
    counts = sorted(
        {len(runs) for result in results for stage, runs in result.outcomes.items() if stage not in (NONE, CHANGE_DECODING)}
    )
    words = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{words} seed{'s' * (words != '1')} of training"


def write_page() -> Path:
    """Write the page, with what there is of labels and of stages, and the figure."""
    names = {RETAINED: True, "without `--retain`": False}
    modes = {mode: read_results(retained=retained) for mode, retained in names.items()}
    most = max(map(len, modes.values()))
    modes = {mode: results for mode, results in modes.items() if results and 2 * len(results) >= most}
    known = all_plants(TUNING)
    runs = {mode: read_results(retained=retained, plants=known, partly=True) for mode, retained in names.items()}
    lines = [
        "# Is the verdict true, and does the advice pay?",
        "",
        "    make truth        # python benchmarks/truth/run.py: hours of one core, resumable; --quick for a smoke test",
        "",
        "Small checkpoints in which bottlenecks were planted (`benchmarks/truth/plants.py`) are diagnosed blind, and every stage is trained on",
        f"them at equal cost. No threshold and no effect was tuned on the family *{HELD_OUT}*.",
        "",
        f"![Reliability of the confidence, and regret of the rules]({FIGURE.name})",
        "",
        *labels_part(),
        *(regret_part(modes, runs, read_costs()) if modes else []),
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")
    draw(next(iter(modes.values()), []))
    return PAGE


def labels_part() -> list[str]:
    """Return the half of the page that is about labels."""
    verdicts = labels.read_results()
    return [*labels.labels_markdown(verdicts).rstrip().splitlines(), ""] if verdicts else []


# ---------------------------------------------------------------------------------------------------------------- the figure


def draw(results: Sequence[PlantResult]) -> None:
    """Draw the reliability of the confidence beside the regret of the rules."""
    with paper():
        figure = Figure(figsize=(6.9, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_reliability(left)
        draw_regrets(right, results)
        figure.savefig(FIGURE, dpi=200)


def draw_reliability(ax: Any) -> None:
    """Draw how often verdicts, or what open ones lean to, were right against their confidence, in bins."""
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    judged = [one for one in labels.read_results() if one.setting in ("blind", "earlier") and one.plant != "guessing"]
    for place, (_, _, num, confidence, right, low) in enumerate(labels.reliability(judged) if judged else ()):
        ax.plot([confidence, confidence], [low, right], color="C0", linewidth=1)
        ax.plot(confidence, right, "o", color="C0", markersize=4)
        below = -9 - 9 * (place % 2)  # neighbors must not run into each other
        ax.annotate(f"{num}", (confidence, right), xytext=(-3, below), textcoords="offset points", fontsize=6, ha="right")
    ax.set(xlabel="confidence of the verdict", ylabel="share that is right", xlim=(0.3, 1.02), ylim=(0.3, 1.02))


def draw_regrets(ax: Any, results: Sequence[PlantResult]) -> None:
    """Draw mean regrets with their intervals, the lowest on top."""
    if not results:
        return
    cells = [result.plant.cell for result in results]
    found = sorted(regrets(results, WEIGHT).items(), key=lambda one: -one[1].mean())
    for place, (name, values) in enumerate(found):
        low, high = bootstrap_interval(values, cells)
        ax.barh(place, values.mean(), height=0.6, color="C0" if name.startswith("named") else "0.75")
        ax.plot([low, high], [place, place], color="0.2", linewidth=1)
    ax.set_yticks(range(len(found)), [name.replace("best constant in hindsight", "best constant") for name, _ in found])
    ax.grid(visible=False, axis="y")
    ax.set(xlabel=f"mean regret, λ = {WEIGHT:g}")


if __name__ == "__main__":
    print(write_page())
