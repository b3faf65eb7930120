"""Are verdicts right? Every planted behavior is diagnosed blind through the command line and compared with what it really is.

    python benchmarks/truth/labels.py [--quick] [--jobs 2] [--seeds 8]

For every checkpoint (a family and a seed) there is one `posttrain diagnose` over all plants, one over the plant that an earlier checkpoint could do, with
`--earlier`, and one over the broken measurements; all at the default budget, with `--probes auto`. A few verdicts that stay open are repeated with four times
the samples. Results are kept in build/truth, one file per unit of work; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from scipy.stats import binomtest

from posttrain.analysis.stats import mean_interval
from truth.checkpoints import Schedule, make_checkpoint
from truth.families import FAMILIES, HELD_OUT
from truth.plants import BROKEN, PLANTS, Checkpoint
from truth.truth import find_truth, write_json

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "truth"
FIRST_SEED, DEFAULT_SEEDS = 2, 8
"""Seeds of the checkpoints; before the first one lie those that faults were found on."""
QUICK_PLANTS = ("missing_support", "poor_choice", "mastered", "guided_only")
QUICK_BROKEN = ("too_short", "wrong_pattern")
BINS = (0.0, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
SAMPLES, MORE = 16, 4
MOST_REPEATED = 2
"""Open verdicts of a checkpoint that are repeated with more samples."""
LABELS = (
    "missing_support",
    "guided_only",
    "poor_choice",
    "mixed",
    "scaffold_bound",
    "attrition",
    "format",
    "decoding",
    "mastered",
)
GAPS = ("missing_support", "guided_only", "poor_choice", "mixed", "scaffold_bound", "attrition")
"""Labels that claim that the model lacks a capability, or uses it badly."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was said of a plant, and what is so."""

    family: str
    seed: int
    plant: str
    setting: str
    """`blind`, `earlier`, `broken`, or `more` samples."""
    truth: str
    bottleneck: str
    confidence: float
    leans_to: str | None
    stage: str
    pass_1: float | None
    sentence: str

    @property
    def checkpoint(self) -> str:
        """Return the name of the checkpoint."""
        return f"{self.family}-{self.seed}"

    @property
    def is_open(self) -> bool:
        """Return whether no label was given."""
        return self.bottleneck == "inconclusive"

    @property
    def is_right(self) -> bool:
        """Return whether the label is the true one."""
        return self.bottleneck == self.truth


# ------------------------------------------------------------------------------------------------------------------ the command line


def diagnose(model: Path, behaviors: Sequence[Path], out: Path, *options: str) -> list[dict[str, object]]:
    """Run the command line, unless it was run; returns the behaviors of diagnosis.json.

    Exit code 2 is that of measurements that are broken, and expected.
    """
    found = out / "diagnosis.json"
    if not found.exists():
        command = [
            sys.executable,
            "-m",
            "posttrain",
            "diagnose",
            str(model),
            *map(str, behaviors),
            "--out",
            str(out),
            *options,
            "--quiet",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode not in (0, 2) or not found.exists():
            raise RuntimeError(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return list(json.loads(found.read_text())["behaviors"])


def _verdict(checkpoint: Checkpoint, plant: str, setting: str, truth: str, found: Mapping[str, object]) -> Verdict:
    curve = {int(one["k"]): one["estimate"] for one in found.get("pass_at_k") or []}  # type: ignore[attr-defined]
    return Verdict(
        family=checkpoint.family,
        seed=checkpoint.seed,
        plant=plant,
        setting=setting,
        truth=truth,
        bottleneck=str(found["bottleneck"]),
        confidence=float(found["confidence"]),  # type: ignore[arg-type]
        leans_to=None if found.get("leans_to") is None else str(found["leans_to"]),
        stage=str(found["stage"]["name"]),  # type: ignore[index]
        pass_1=curve.get(1),
        sentence=str(found["sentence"]),
    )


# ----------------------------------------------------------------------------------------------------------------- a checkpoint


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is made and diagnosed."""

    families: tuple[str, ...] = tuple(FAMILIES)
    seeds: tuple[int, ...] = tuple(range(FIRST_SEED, FIRST_SEED + DEFAULT_SEEDS))
    plants: tuple[str, ...] = tuple(PLANTS)
    broken: tuple[str, ...] = tuple(BROKEN)
    folder: Path = BUILD
    schedule: Schedule = field(default_factory=Schedule)
    repeat: int = MOST_REPEATED

    @property
    def units(self) -> list[tuple[str, int]]:
        """Return the checkpoints: every family with its first seed comes before the next seed."""
        return [(family, seed) for seed in self.seeds for family in self.families]

    def checkpoint(self, family: str, seed: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.folder / "checkpoints" / f"{family}-{seed}"

    def result(self, family: str, seed: int) -> Path:
        """Return the file of the verdicts on a checkpoint."""
        return self.folder / "labels" / f"{family}-{seed}.json"


def judge_checkpoint(design: Design, family: str, seed: int) -> list[Verdict]:
    """Make a checkpoint, diagnose it, measure what is so; what is done already is read."""
    path = design.result(family, seed)
    if path.exists():
        return [Verdict(**one) for one in json.loads(path.read_text())]
    torch.set_num_threads(1)
    checkpoint = make_checkpoint(family, seed, design.checkpoint(family, seed), teacher=False, schedule=design.schedule)
    runs = design.folder / "runs-labels" / f"{family}-{seed}"
    truths = {plant: find_truth(checkpoint, plant, design.folder / "truths") for plant in design.plants}
    files = [checkpoint.behavior(plant) for plant in design.plants]
    found = diagnose(checkpoint.base, files, runs / "blind", "--seed", str(seed))
    verdicts = [
        _verdict(checkpoint, plant, "blind", truths[plant].label_alone, one)
        for plant, one in zip(design.plants, found, strict=True)
    ]
    for plant in (plant for plant in design.plants if PLANTS[plant].earlier):
        options = ("--earlier", str(checkpoint.earlier), "--seed", str(seed))
        (one,) = diagnose(checkpoint.base, [checkpoint.behavior(plant)], runs / "earlier", *options)
        verdicts.append(_verdict(checkpoint, plant, "earlier", truths[plant].label, one))
    if design.broken:
        broken = {kind: checkpoint.broken(kind) for kind in design.broken}
        found = diagnose(checkpoint.base, [path for path, _ in broken.values()], runs / "broken", "--seed", str(seed))
        verdicts += [_verdict(checkpoint, kind, "broken", "invalid", one) for kind, one in zip(broken, found, strict=True)]
    undecided = [one for one in verdicts if one.setting == "blind" and one.is_open and not _is_guessing(one)]
    for one in sorted(undecided, key=lambda one: (one.plant, one.family))[: design.repeat]:
        options = ("--samples", str(MORE * SAMPLES), "--seed", str(seed))
        (again,) = diagnose(checkpoint.base, [checkpoint.behavior(one.plant)], runs / f"more-{one.plant}", *options)
        verdicts.append(_verdict(checkpoint, one.plant, "more", one.truth, again))
    write_json(path, [asdict(one) for one in verdicts])
    return verdicts


def _is_guessing(one: Verdict) -> bool:
    return one.plant in PLANTS and PLANTS[one.plant].label == "guessing"


def run(design: Design, jobs: int, report: Callable[[str], None]) -> list[Verdict]:
    """Judge all checkpoints, those with results by reading these.

    Args:
        design: What to make and diagnose.
        jobs: Checkpoints that are worked on at once.
        report: Called with a line after each of them.
    """
    verdicts: list[Verdict] = []
    started, todo = time.monotonic(), design.units
    made = 0
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        running = {pool.submit(judge_checkpoint, design, *unit): unit for unit in todo}
        for place, future in enumerate(as_completed(running), start=1):
            mine = future.result()
            verdicts += mine
            made += 1
            rest = (time.monotonic() - started) / made * (len(todo) - place)
            family, seed = running[future]
            said = [one for one in mine if one.setting in ("blind", "earlier") and not _is_guessing(one)]
            wrong = [f"{one.plant} is {one.truth}, said {one.bottleneck}" for one in said if not one.is_open and not one.is_right]
            report(
                f"{place} of {len(todo)}: {family} {seed}; {len(said)} verdicts, wrong: {'; '.join(wrong) or 'none'}; about {rest:.0f} s left"
            )
    return sorted(verdicts, key=lambda one: (one.family, one.seed, one.setting, one.plant))


def read_results(folder: Path = BUILD) -> list[Verdict]:
    """Return all verdicts that were kept."""
    return [Verdict(**one) for path in sorted((folder / "labels").glob("*.json")) for one in json.loads(path.read_text())]


# ------------------------------------------------------------------------------------------------------------------------ the page


def labels_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the part of the page that is about labels: tuning families and the held-out family apart."""
    groups = {
        "Tuning families": [one for one in verdicts if one.family != HELD_OUT],
        f"Held-out family ({HELD_OUT})": [one for one in verdicts if one.family == HELD_OUT],
    }
    groups = {title: mine for title, mine in ({"All": verdicts} | groups).items() if mine}
    lines = ["## Labels", "", *_intro(verdicts), "", *_summary_table(groups)]
    lines += ["", "### Truth and verdict", "", *_confusion(_judged(verdicts))]
    lines += ["", "### By true label", "", *_by_label(_judged(verdicts))]
    lines += ["", "### Is `confidence` right?", "", *_reliability(_judged(verdicts))]
    lines += ["", "### Broken measurements and decoys", "", *_broken(verdicts), "", *_decoys(verdicts)]
    lines += ["", "### Wrong verdicts", "", *_wrong(_judged(verdicts))]
    return "\n".join(lines) + "\n"


def _judged(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that have a right label: those on plants at the default budget, guessing left out."""
    return [one for one in verdicts if one.setting in ("blind", "earlier") and not _is_guessing(one)]


def _intro(verdicts: Sequence[Verdict]) -> list[str]:
    checkpoints, families = {one.checkpoint for one in verdicts}, {one.family for one in verdicts}
    text = (
        f"{len(checkpoints)} checkpoints of {len(families)} families were diagnosed blind at the default budget ({SAMPLES} samples of each of 40 problems, "
        "probes as they choose). What is so was measured with exact path probabilities (benchmarks/truth/truth.py). Intervals are of 95 %, over checkpoints, and wide where none of these differ."
    )
    return [text]


def _share(values: Sequence[bool], verdicts: Sequence[Verdict]) -> str:
    """Write a share with its interval, clustered by checkpoint."""
    if not values:
        return "none"
    found = mean_interval([float(one) for one in values], [one.checkpoint for one in verdicts])
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}] of {len(values)}"


def _exact_share(values: Sequence[bool]) -> str:
    """Write a share with its exact interval (Clopper and Pearson), as if all were independent."""
    if not values:
        return "none"
    found = binomtest(sum(values), len(values)).proportion_ci(method="exact")
    return f"{sum(values)} of {len(values)} [{found.low:.3f}, {found.high:.3f}]"


def _summary_table(groups: Mapping[str, Sequence[Verdict]]) -> list[str]:
    lines = [
        "| | right label, of conclusive verdicts | the same, every verdict counted alone | label open | decision open | open labels settled rightly by four times as many samples |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, mine in groups.items():
        judged = _judged(mine)
        said = [one for one in judged if not one.is_open]
        again = [one for one in mine if one.setting == "more"]
        cells = [
            _share([one.is_right for one in said], said),
            _exact_share([one.is_right for one in said]),
            _share([one.is_open for one in judged], judged),
            _share([one.stage == "sample_more" for one in judged], judged),
            _share([one.is_right for one in again], again),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _confusion(judged: Sequence[Verdict]) -> list[str]:
    said = [label for label in (*LABELS, "invalid", "inconclusive") if any(one.bottleneck == label for one in judged)]
    lines = [f"| truth | {' | '.join(said)} |", f"| --- |{' ---: |' * len(said)}"]
    for truth in LABELS:
        mine = [one for one in judged if one.truth == truth]
        cells = [sum(one.bottleneck == label for one in mine) for label in said]
        if mine:
            lines.append(
                f"| {truth} | {' | '.join(f'**{n}**' if label == truth else str(n or '') for label, n in zip(said, cells, strict=True))} |"
            )
    return lines


def _by_label(judged: Sequence[Verdict]) -> list[str]:
    lines = ["| truth | verdicts | right, of conclusive ones | label open | decision open |", "| --- | ---: | --- | --- | --- |"]
    for truth in LABELS:
        mine = [one for one in judged if one.truth == truth]
        said = [one for one in mine if not one.is_open]
        if mine:
            cells = [_share([one.is_right for one in said], said), _share([one.is_open for one in mine], mine)]
            lines.append(
                f"| {truth} | {len(mine)} | {' | '.join(cells)} | {_share([one.stage == 'sample_more' for one in mine], mine)} |"
            )
    return lines


def reliability(judged: Sequence[Verdict]) -> list[tuple[float, float, int, float, float, float]]:
    """Return, per bin of confidence: its ends, the verdicts in it, their mean confidence, the share right of label or leaning, and that share's lower bound."""
    rows = []
    for low, high in itertools.pairwise(BINS):
        mine = [one for one in judged if low <= one.confidence < high or one.confidence == high == 1.0]
        if mine:
            right = [float((one.leans_to if one.is_open else one.bottleneck) == one.truth) for one in mine]
            found = mean_interval(right, [one.checkpoint for one in mine])
            rows.append((low, high, len(mine), sum(one.confidence for one in mine) / len(mine), found.estimate, found.low))
    return rows


def _reliability(judged: Sequence[Verdict]) -> list[str]:
    lines = ["| confidence | verdicts | mean confidence | right label or leaning |", "| --- | ---: | ---: | --- |"]
    for low, high, num, mean, right, bound in reliability(judged):
        lines.append(f"| {low:.2f} to {high:.2f} | {num} | {mean:.3f} | {right:.3f} (from {bound:.3f}) |")
    return lines


def _broken(verdicts: Sequence[Verdict]) -> list[str]:
    lines = ["| broken measurement | what is broken | called invalid |", "| --- | --- | --- |"]
    for kind, what in BROKEN.items():
        mine = [one for one in verdicts if one.setting == "broken" and one.plant == kind]
        if mine:
            lines.append(f"| {kind} | {what} | {sum(one.bottleneck == 'invalid' for one in mine)} of {len(mine)} |")
    return lines


def calls_a_gap(one: Verdict) -> bool:
    """Return whether a verdict says that a capability is missing or badly used."""
    return one.bottleneck in GAPS


def leans_to_a_gap(one: Verdict) -> bool:
    """Return whether an open verdict takes that for most probable."""
    return one.is_open and one.leans_to in GAPS


def _decoys(verdicts: Sequence[Verdict]) -> list[str]:
    lines = ["| decoy | verdicts | truth | called a capability gap | open, leans to one |", "| --- | ---: | --- | ---: | ---: |"]
    for plant, kind in PLANTS.items():
        mine = [one for one in verdicts if one.setting == "blind" and one.plant == plant]
        if kind.decoy and mine:
            no_gap = [one for one in mine if kind.label == "guessing" or one.truth not in GAPS]
            called, leaning = sum(map(calls_a_gap, no_gap)), sum(map(leans_to_a_gap, no_gap))
            truths = ", ".join(sorted({kind.label if kind.label == "guessing" else one.truth for one in mine}))
            lines.append(f"| {plant} | {len(mine)} | {truths} | {called} | {leaning} |")
    return lines


def _wrong(judged: Sequence[Verdict]) -> list[str]:
    wrong = [one for one in judged if not one.is_open and not one.is_right]
    if not wrong:
        return ["None."]
    lines = ["| checkpoint | plant | truth | verdict |", "| --- | --- | --- | --- |"]
    return lines + [f"| {one.checkpoint} | {one.plant} | {one.truth} | {one.sentence} |" for one in wrong]


def main() -> int:
    """Run, print and keep the page part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one family, one seed, few plants: about two minutes")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS, help="checkpoints of each family")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seeds from this one on: new ones are fresh draws")
    options = parser.parse_args()
    seeds = tuple(range(options.first_seed, options.first_seed + options.seeds))
    design = quick_design() if options.quick else Design(seeds=seeds)
    verdicts = run(design, options.jobs, lambda line: print(line, file=sys.stderr, flush=True))
    text = labels_markdown(verdicts)
    (design.folder / "labels.md").write_text(text)
    print(text)
    return 0


def quick_design() -> Design:
    """Return the design of `--quick`."""
    return Design(
        families=("words",),
        seeds=(0,),
        plants=QUICK_PLANTS,
        broken=QUICK_BROKEN,
        folder=BUILD / "quick",
        schedule=Schedule(clean=350, planted=160, lost=20),
        repeat=0,
    )


if __name__ == "__main__":
    sys.exit(main())
