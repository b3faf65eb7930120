"""How the cells of `held_out_statistics.py` are judged, and the page that says so."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from held_out_library import BORDERLINE, CAP, THRESHOLD_STEPS, THRESHOLDS, interval_of, posterior_of, run_entry
from held_out_rates import CHANGES, EPSILON, FAMILIES, MASTERED
from scipy.stats import beta, binom

Cell = dict[str, Any]
COVERS, ERRS = 0.93, 0.05
"""What is asked for: coverage of at least, errors of at most."""
DOUBT = 0.05
"""Probability at which chance is ruled out, for each cell alone."""
EDGES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
NUM_GATES = 2 * len(THRESHOLD_STEPS)
WORST = 3
WHAT = {"adaptive": ", after adaptive rounds", "adaptive change": ", after adaptive rounds", "clusters": ", clustered"}
PARTS = ("means", "run", "adaptive", "clusters", "missing", "deltas", "change", "adaptive change", "missing change")


def is_below(covered: float, total: float) -> bool:
    """Return whether so few of the intervals cover that a coverage of 93 % is ruled out."""
    return total > 0 and float(binom.cdf(round(covered), round(total), COVERS)) < DOUBT


def is_above(wrong: float, total: float) -> bool:
    """Return whether that number of wrong ones rules out an error of 5 %."""
    return total > 0 and float(binom.sf(round(wrong) - 1, round(total), ERRS)) < DOUBT


def bounds(count: float, total: float) -> str:
    """Return the exact 95 % interval of a proportion."""
    k, n = round(count), round(total)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return f"{low:.2f}–{high:.2f}"


def suspicious(cell: Cell) -> bool:
    """Return whether something in a screened cell is worse than it should be, at a level that a faultless one reaches now and then."""
    intervals = any(
        float(binom.cdf(round(covered * _weight(name, cell, row)), round(total * _weight(name, cell, row)), 0.95)) < 0.02
        for name, row in cell.get("intervals", {}).items()
        for total, covered in ((row[1], row[2]), (row[0] - row[1], row[3]))
    )
    gates = any(max(row) and float(binom.sf(max(row) - 1, cell["runs"], ERRS)) < 0.05 for row in cell.get("gates", {}).values())
    nulls = any(
        " its null" in name and float(binom.sf(row[0] - 1, row[1], 0.025)) < 0.05 for name, row in cell.get("rates", {}).items()
    )
    return intervals or gates or nulls


def _weight(name: str, cell: Cell, row: list[float]) -> float:
    """Return what an interval counts: single problems of one run are related, so that a run counts as one."""
    return cell["runs"] / row[0] if name == "single problems" else 1.0


def page(cells: dict[str, Cell], command: str, num_confirmed: int) -> str:
    """Write the Markdown page."""
    runs, seconds = sum(cell["runs"] for cell in cells.values()), sum(cell["seconds"] for cell in cells.values())
    families = "; ".join(f"*{name}*: {_doc(make)}" for name, make in FAMILIES.items())
    changes = "; ".join(f"*{name}*: {_doc(make)}" for name, make in CHANGES.items())
    text = "\n".join(
        [
            "# Statistics on held-out distributions",
            "",
            f"`{command}`: {runs:,} runs in {len(cells)} cells, {seconds / 60:.0f} minutes of one core ({platform.machine()}).",
            "",
            (
                f"ε = {EPSILON:.4f}, mastered = {MASTERED}. The parameters of a family are drawn afresh for every run. Truth is that of the population, of which the "
                "problems of a run are a sample, unless the interval says that it is about these problems."
            ),
            "",
            (
                "**How a cell is judged.** A cell is a family with a number of problems P and of samples n. Every cell is screened; "
                + (
                    f"{num_confirmed} looked worse than they should and were run again with fresh seeds, which alone count for them. "
                    if num_confirmed
                    else "none was run again. "
                )
                + f"A cell *fails* where chance (binomial, {DOUBT:.0%} for each cell alone) does not explain "
                f"fewer than {COVERS:.0%} of intervals that cover, or more than {ERRS:.0%} errors. Of cells whose intervals cover in 95 % of runs, one in thirteen shows less than 93 % of 200 runs by chance, and "
                "fewer than one in 1,000 fails. The same is asked of every family and of every size, pooled. Where an interval says *not identified*, it is counted apart: its ends are bounds."
            ),
            "",
            f"Families: {families}.",
            "",
            f"Changes: {changes}.",
            "",
            *coverage_section(cells),
            *gate_section(cells),
            *label_section(cells),
            *role_section(cells),
            *null_section(cells),
            *effort_section(cells),
            *extremes_section(),
        ]
    )
    return re.sub(r"\bnan\b", "–", text)


def _doc(make: Callable[..., Any]) -> str:
    text = (make.__doc__ or "").strip().rstrip(".")
    return text.removeprefix("Make ")


def _where(key: str) -> str:
    _part, family, problems, n = key.split("|")[:4]
    return f"{family}, P = {problems}" + (f", n = {n}" if n != "0" else "")


def _selected(cells: dict[str, Cell], *parts: str) -> dict[str, Cell]:
    return {key: cell for key, cell in cells.items() if key.split("|")[0] in parts}


def coverage_section(cells: dict[str, Cell]) -> list[str]:
    """Write the table of coverage."""
    lines = [
        "## Coverage of 95 % intervals",
        "",
        "| quantity | cells | intervals | identified | cover | bounds of the others cover | mean width | cells that fail | families, sizes that fail | lowest cells (95 % interval of the coverage) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for part in PARTS:
        chosen = _selected(cells, part)
        names = dict.fromkeys(name for cell in chosen.values() for name in cell.get("intervals", {}))
        for name in names:
            rows = {key: cell["intervals"][name] for key, cell in chosen.items() if name in cell.get("intervals", {})}
            lines.append(_coverage_row(part, name, rows, chosen))
    return [*lines, ""]


def _coverage_row(part: str, name: str, rows: dict[str, list[float]], cells: dict[str, Cell]) -> str:
    total, known, covered, others, width = (sum(row[i] for row in rows.values()) for i in range(5))
    pooled: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    failed, ranked = 0, []
    for key, row in rows.items():
        weight = _weight(name, cells[key], row)
        counts = [row[2] * weight, row[1] * weight, row[3] * weight, (row[0] - row[1]) * weight]
        failed += _fails(counts)
        _, family, size = key.split("|", 2)
        for margin in (family, size):
            pooled[margin] = [a + b for a, b in zip(pooled[margin], counts, strict=True)]
        if counts[1] >= 5:
            ranked.append((row[2] / row[1], f"{_where(key)}: {row[2] / row[1]:.2f} ({bounds(counts[0], counts[1])})"))
    margins = ", ".join(margin.replace("|", " × ") for margin, counts in pooled.items() if _fails(counts)) or "none"
    what = WHAT.get(part, "")
    found = f"{covered / known:.3f}" if known else "–"
    bound = f"{others / (total - known):.3f}" if total > known else "–"
    worst = "; ".join(text for _, text in sorted(ranked)[:WORST])
    return f"| {name}{what} | {len(rows)} | {total:,.0f} | {known / total:.2f} | {found} | {bound} | {width / total:.2f} | {failed} | {margins} | {worst} |"


def _fails(counts: list[float]) -> bool:
    """Return whether intervals, identified or not, cover too seldom: covered and number of either."""
    return is_below(counts[0], counts[1]) or is_below(counts[2], counts[3])


def gate_section(cells: dict[str, Cell]) -> list[str]:
    """Write the table of false gates."""
    steps = ", ".join(f"{step:+g}" for step in THRESHOLD_STEPS)
    lines = [
        "## False gates",
        "",
        (
            f"`>=` and `<=` at {steps} from the truth, {NUM_GATES} gates a metric: false are *met* where the condition does not hold and *proven not met* where it does. Of each cell the "
            "gate that is false most often counts."
        ),
        "",
        "| metric | cells | runs | false, mean of the worst gates | cells that fail | highest cells |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for part in PARTS:
        chosen = _selected(cells, part)
        for name in dict.fromkeys(name for cell in chosen.values() for name in cell.get("gates", {})):
            rows = {
                key: (max(cell["gates"][name]), cell["runs"]) for key, cell in chosen.items() if name in cell.get("gates", {})
            }
            total = sum(number for _, number in rows.values())
            failed = sum(is_above(*row) for row in rows.values())
            ranked = sorted(((wrong / number, key) for key, (wrong, number) in rows.items()), reverse=True)[:WORST]
            worst = "; ".join(f"{_where(key)}: {share:.2f}" for share, key in ranked if share > 0)
            lines.append(
                f"| {name}{WHAT.get(part, '')} | {len(rows)} | {total:,} | "
                f"{sum(wrong for wrong, _ in rows.values()) / total:.3f} | {failed} | {worst} |"
            )
    return [*lines, ""]


def label_section(cells: dict[str, Cell]) -> list[str]:
    """Write how often labels are right: by label and confidence, by family, and by size."""
    once, rounds = _selected(cells, "run"), _selected(cells, "adaptive")
    lines = ["## Labels of behaviors", "", *_reliability(_labels(once)), ""]
    lines += [
        (
            f"Conclusive are labels with a confidence of {THRESHOLDS.confidence:g} or more; under *rounds* the adaptive rounds ended on their own or at {CAP} samples of a problem on average. "
            "Labels of problems: the share wrong of those that are labelled, mean over runs."
        ),
        "",
        "| family | runs | conclusive | wrong | wrong, given conclusive | rounds: runs | samples of a problem | conclusive | wrong | problems: labelled | wrong | after rounds: labelled | wrong |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for family in (*FAMILIES, BORDERLINE):
        mine = {key: cell for key, cell in once.items() if key.split("|")[1] == family}
        later = {key: cell for key, cell in rounds.items() if key.split("|")[1] == family}
        first, last = _labels(mine), _labels(later)
        if not first and not last:
            continue
        sure, late = _sure(first), _sure(last)
        wrong = sum(not right for _, _, right, *_ in sure)
        used = _rate(later, "samples per problem")
        lines.append(
            f"| {family} | {len(first):,} | {len(sure):,} | {wrong} | {wrong / max(1, len(sure)):.3f}{_flag(wrong, len(sure))} | {len(last)} | {used:.0f} | "
            f"{len(late)} | {sum(not right for _, _, right, *_ in late)}{_flag(sum(not right for _, _, right, *_ in late), len(late))} | "
            f"{_rate(mine, 'problem labels named'):.2f} | {_rate(mine, 'problem labels wrong'):.3f} | {_rate(later, 'problem labels named'):.2f} | "
            f"{_rate(later, 'problem labels wrong'):.3f} |"
        )
    kinds = [f"{name}: {_rate(once, name):.3f}" for name in _rate_names(once) if name.startswith("problems named")]
    return [*lines, "", "Share wrong of problems by label, " + "; ".join(kinds) + ".", "", *_by_size(once), ""]


def _by_size(cells: dict[str, Cell]) -> list[str]:
    lines = ["| problems | n | conclusive | wrong |", "|--:|--:|--:|--:|"]
    sizes = dict.fromkeys(tuple(key.split("|")[2:4]) for key in cells)
    for problems, n in sizes:
        sure = _sure(_labels({key: cell for key, cell in cells.items() if key.split("|")[2:4] == [problems, n]}))
        wrong = sum(not right for _, _, right, *_ in sure)
        lines.append(f"| {problems} | {n} | {len(sure):,} | {wrong}{_flag(wrong, len(sure))} |")
    return lines


def role_section(cells: dict[str, Cell]) -> list[str]:
    """Write how often the kind of a role is right."""
    chosen = _selected(cells, "change", "null")
    lines = [
        "## Kinds of roles",
        "",
        "A kind is said where it is certain, and is open elsewhere; *leans*: how often the way that an open kind leans is right. *Wrong problems*: of those called expanded or attrited, mean over runs.",
        "",
        '| change | runs | a role is said | gain and loss confused | a kind is said | wrong | leans | right | "with attrition" said | and nothing left support | wrong problems |',
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for change in CHANGES:
        mine = {key: cell for key, cell in chosen.items() if key.split("|")[1] == change}
        if not mine:
            continue
        sure, leaning = _sure(rows := _labels(mine)), [row for row in rows if row[0].startswith("leans")]
        wrong = sum(not right for _, _, right, *_ in sure)
        said = [cell["rates"].get("with attrition, and nothing left support", [0, 0]) for cell in mine.values()]
        runs, falsely = (
            sum(cell["runs"] for cell in mine.values()),
            _rate(mine, "problems called expanded or attrited that are not"),
        )
        lines.append(
            f"| {change} | {runs:,} | {_rate(mine, 'a role is said'):.3f} | {_rate(mine, 'gain and loss confused'):.3f} | {len(sure):,} | "
            f"{wrong}{_flag(wrong, len(sure))} | {len(leaning)} | {sum(row[2] for row in leaning)} | {sum(row[1] for row in said):.0f} | "
            f"{sum(row[0] for row in said):.0f} | {falsely:.3f}{_flag(falsely * runs, runs)} |"
        )
    kinds = [
        f"{kind}: {sum(not row[2] for row in rows)} of {len(rows)}{_flag(sum(not row[2] for row in rows), len(rows))}"
        for kind in ("expansion", "attrition", "reshaping")
        if (rows := [row for row in _sure(_labels(chosen)) if row[0] == kind])
    ]
    failed = [
        f"{_where(key)}: {row[0] / row[1]:.3f}"
        for key, cell in _selected(cells, "null").items()
        if is_above(*(row := cell["rates"]["a role is said"]))
    ]
    return [
        *lines,
        "",
        "Wrong by kind, " + ("; ".join(kinds) or "none said") + ". "
        "Cells in which one model, sampled twice, gets a role in more than 5 % of runs: " + ("; ".join(failed) or "none") + ".",
        "",
    ]


def null_section(cells: dict[str, Cell]) -> list[str]:
    """Write how often one model, sampled twice, lies outside its null."""
    chosen = _selected(cells, "null")
    lines = [
        "## Nulls of support dynamics",
        "",
        "One model, sampled twice: how often the observed number lies outside the 95 % range of its null.",
        "",
        "| number | cells | above | below | cells that fail | highest cells |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in ("SRR", "NDR", "SDS", "NSCR"):
        ranked, failed = [], 0
        for key, cell in chosen.items():
            above, below = (cell["rates"].get(f"{name} {side} its null", [0, 0]) for side in ("above", "below"))
            if above[1]:
                failed += is_above(above[0] + below[0], above[1])
                ranked.append(((above[0] + below[0]) / above[1], key))
        worst = "; ".join(f"{_where(key)}: {share:.2f}" for share, key in sorted(ranked, reverse=True)[:WORST])
        lines.append(
            f"| {name} | {len(ranked)} | {_rate(chosen, f'{name} above its null'):.3f} | {_rate(chosen, f'{name} below its null'):.3f} | {failed} | {worst} |"
        )
    return [*lines, ""]


def effort_section(cells: dict[str, Cell]) -> list[str]:
    """Write how often a gate is decided by the effort that was said to decide it."""
    chosen = _selected(cells, "settles")
    lines = ["## Effort that is said to decide a gate", ""]
    lines += [
        "Of gates on pass@1 that are open, with an estimate as right as the words assume: the share that the effort decides (labels promise 0.8).", "",
        "| effort | gates | decided (95 % interval) |", "|---|--:|--:|",
    ]  # fmt: skip
    for name in _rate_names(chosen):
        rows = [cell["rates"][name] for cell in chosen.values() if name in cell["rates"]]
        decided, total = sum(row[0] for row in rows), sum(row[1] for row in rows)
        lines.append(
            f"| {name.removeprefix('gates decided by the ')} | {total:,.0f} | {decided / total:.2f} ({bounds(decided, total)}) |"
        )
    return [*lines, ""]


EXTREMES: dict[str, tuple[list[int], list[int]]] = {
    "1 problem, 2 of 8": ([8], [2]),
    "1 problem, 0 of 64": ([64], [0]),
    "1 problem, 64 of 64": ([64], [64]),
    "2 problems, 0 of 4": ([4] * 2, [0] * 2),
    "8 problems, 0 of 4": ([4] * 8, [0] * 8),
    "8 problems, 4 of 4": ([4] * 8, [4] * 8),
    "8 problems, 2 of 4": ([4] * 8, [2] * 8),
    "300 problems, 0 of 64": ([64] * 300, [0] * 300),
    "300 problems, 64 of 64": ([64] * 300, [64] * 300),
    "300 problems, 0 of 4": ([4] * 300, [0] * 300),
    "200 problems: 146 with 0, 46 with 1, 8 with 2 of 16": ([16] * 200, [0] * 146 + [1] * 46 + [2] * 8),
    "20 problems, half of them without a sample, 3 of 16": ([16] * 10 + [0] * 10, [3] * 10 + [0] * 10),
}


def extremes_section() -> list[str]:
    """Write what is said of counts at the ends of what can be seen."""
    lines = [
        "## Extremes", "", "What is said, as it is; there is no truth to hold it against.", "",
        "| counts | label | confidence | pass@1 | share within support | share mastered |", "|---|---|--:|---|---|---|",
    ]  # fmt: skip
    for name, (n, c) in EXTREMES.items():
        samples, right = np.array(n), np.array(c)
        known, measured = posterior_of(samples, right), run_entry(samples, right)
        found = [interval_of(measured, metric) for metric in ("pass@1", "share_within_support", "share_mastered")]
        texts = [f"{'not identified ' if np.isnan(one.estimate) else ''}[{one.low:.2f}, {one.high:.2f}]" for one in found]
        lines.append(f"| {name} | {known.label.value} | {known.confidence:.3f} | {' | '.join(texts)} |")
    return [*lines, ""]


def _labels(cells: dict[str, Cell]) -> list[list[Any]]:
    return [row for cell in cells.values() for row in cell.get("labels", [])]


def _sure(rows: Iterable[list[Any]]) -> list[list[Any]]:
    return [row for row in rows if row[1] >= THRESHOLDS.confidence]


def _flag(wrong: int, total: int) -> str:
    return " **fails**" if wrong == wrong and is_above(wrong, total) else ""


def _rate_names(cells: dict[str, Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells.values() for name in cell.get("rates", {})))


def _rate(cells: dict[str, Cell], name: str) -> float:
    rows = [cell["rates"][name] for cell in cells.values() if name in cell.get("rates", {})]
    return sum(row[0] for row in rows) / sum(row[1] for row in rows) if rows else float("nan")


def _reliability(rows: list[list[Any]]) -> list[str]:
    """Make the table of what is said against how often it is right; *too sure* where chance does not explain a gap of more than .05."""
    said: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for name, confidence, right, *_ in rows:
        said[name].append((confidence, right))
        said["all"].append((confidence, right))
    lines = ["| said | probability | number | mean probability | right | difference | |", "|---|---|--:|--:|--:|--:|---|"]
    for name in [*(name for name in said if name != "all"), "all"]:
        for low, high in pairwise(EDGES):
            inside = [row for row in said[name] if low <= row[0] < high or (high == 1.0 and row[0] == 1.0)]
            if not inside:
                continue
            mean, right = (float(np.mean([row[i] for row in inside])) for i in (0, 1))
            least = max(0.0, mean - 0.05)
            sure = float(binom.cdf(sum(row[1] for row in inside), len(inside), least)) < DOUBT
            lines.append(
                f"| {name} | {low:g} to {high:g} | {len(inside):,} | {mean:.3f} | {right:.3f} | {right - mean:+.3f} | {'too sure' if sure else ''} |"
            )
    return lines
