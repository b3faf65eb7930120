"""Case studies on a real model: what binds, the named stage, two others at equal cost, and a pipeline of two.

    python benchmarks/case_studies.py [--behaviors sums,products] [--budget 120000] [--page reports/case_studies.md]

Per behavior: `posttrain diagnose` with a mastered behavior beside it; then the named stage, the first two of sft, grpo and rft that it is not, and sft
followed by grpo with half of the budget each; all with `--retain`, and with as many steps as the budget allows. Its unit is a forward pass of one
token: a token that runs through the model for training counts 3, a generated one 1. Every checkpoint is measured with another seed and compared
with the start, paired by problem. What is done already is read from build/case_studies; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from truth.equal_cost import TRAINED, steps_for

from posttrain import diagnose, trainers
from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.types import Estimate
from posttrain.trainers.recipes.registry import RECIPES

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "case_studies"
MODEL, RETAINED = "demo", "copying"
BEHAVIORS = ("sums", "products", "spell_backward", "prime_factors")
USUAL = ("sft", "grpo", "rft")
"""What is tried without a diagnosis; two of them stand beside the named stage."""
NUM_ALTERNATIVES = 2
PIPELINE = ("sft", "grpo")
BUDGET = 120_000.0
SETTINGS = ("retain_weight=null",)
"""Of every stage: of so few steps the last weights are saved; to choose them would take most of the budget."""
NUM_TRIED = 2
"""Steps from which the cost of the others follows."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one stage, or a pipeline of them, did."""

    stages: list[str]
    num_steps: list[int]
    passes: float
    target: Mapping[str, float]
    """Change of pass@1: `estimate`, `low`, `high`."""
    retained: Mapping[str, float]
    refused: str = ""
    """Why it did not run."""

    @property
    def name(self) -> str:
        """Return the stages in words."""
        return " then ".join(f"`{one}`" for one in self.stages)


@dataclass(frozen=True, kw_only=True)
class CaseStudy:
    """One behavior of the model."""

    behavior: str
    sentence: str
    named: str
    changes: list[Change]


def passes_of(result: trainers.TrainingResult) -> float:
    """Return what a run cost, in forward passes of one token."""
    return float(TRAINED * result.input_tokens + result.generated_tokens)


def stages_of(named: str) -> list[tuple[str, ...]]:
    """Return what is run: the named stage where it trains, two usual ones, and the pipeline."""
    alone = ([named] if named in RECIPES else []) + [one for one in USUAL if one != named][:NUM_ALTERNATIVES]
    return [*((one,) for one in alone), PIPELINE]


def steps_within(budget: float, stage: str, model: str, behavior: str) -> int:
    """Try two steps of a stage, and return how many cost what may be spent."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tried"
        tried = trainers.train(
            stage, model, [behavior], out=out, overrides=[f"num_steps={NUM_TRIED}", *SETTINGS], retain=[RETAINED]
        )
        return steps_for(budget, fixed=0.0, tried=passes_of(tried), num_tried=NUM_TRIED, most=None)


def run_stages(behavior: str, stages: Sequence[str], budget: float) -> Change:
    """Train stages one after the other, measure and compare, unless that was done."""
    folder = BUILD / behavior / "-then-".join(stages)
    stored = folder / "change.json"
    if stored.exists():
        return Change(**json.loads(stored.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    model, num_steps, passes = MODEL, [], 0.0
    try:
        for place, stage in enumerate(stages):
            num = steps_within(budget / len(stages), stage, model, behavior)
            out = folder / f"trained-{place}"
            result = trainers.train(
                stage, model, [behavior], out=out, overrides=[f"num_steps={num}", *SETTINGS], retain=[RETAINED]
            )
            model, passes = str(result.checkpoint), passes + passes_of(result)
            num_steps.append(result.num_steps)
    except UserError as error:
        change = Change(stages=list(stages), num_steps=num_steps, passes=passes, target={}, retained={}, refused=str(error))
    else:
        diagnose.run(model, [behavior, RETAINED], out=folder / "after", probes=(), seed=1)
        found = diagnose.compare(BUILD / behavior / "before", folder / "after", out=folder / "compared", trained=[behavior])
        target, retained = (_change(found[name].delta) for name in (behavior, RETAINED))
        change = Change(stages=list(stages), num_steps=num_steps, passes=passes, target=target, retained=retained)
    stored.write_text(json.dumps(asdict(change), indent=1))
    return change


def _change(delta: Estimate) -> dict[str, float]:
    return {"estimate": delta.estimate, "low": delta.low, "high": delta.high}


def study(behavior: str, budget: float) -> CaseStudy:
    """Diagnose a behavior, run the stages and return what they did."""
    before = BUILD / behavior / "before"
    if not (before / "diagnosis.json").exists():
        diagnose.run(MODEL, [behavior, RETAINED], out=before)
    found = json.loads((before / "diagnosis.json").read_text())["behaviors"][0]
    named = str(found["stage"]["name"])
    changes = []
    for stages in stages_of(named):
        changes.append(run_stages(behavior, stages, budget))
        print(f"{behavior}: {changes[-1].name}: {_words(changes[-1].target) or changes[-1].refused}", file=sys.stderr, flush=True)
    return CaseStudy(behavior=behavior, sentence=str(found["sentence"]), named=named, changes=changes)


def _words(change: Mapping[str, float]) -> str:
    return format_interval(change["estimate"], change["low"], change["high"], signed=True) if change else ""


def page(studies: Sequence[CaseStudy], budget: float) -> str:
    """Write the studies as Markdown."""
    lines = [
        "# Case studies on SmolLM2-135M-Instruct",
        "",
        f"    python benchmarks/case_studies.py --behaviors {','.join(one.behavior for one in studies)} --budget {budget:.0f}",
        "",
        f"Every stage may spend {budget:,.0f} forward passes of one token (a token that is trained on counts {TRAINED}, a generated one 1), with `--retain {RETAINED} --set {SETTINGS[0]}`.",
        "Changes of pass@1 on held-out problems are paired by problem, with 95 % intervals; the model is measured again with another seed.",
    ]
    for one in studies:
        lines += ["", f"## {one.behavior}", "", f"> {one.sentence}", ""]
        lines += [f"    posttrain diagnose {MODEL} {one.behavior} {RETAINED} --out runs/{one.behavior}", ""]
        lines += [
            f"| stage | steps | passes | pass@1 of {one.behavior} | pass@1 of {RETAINED} |",
            "| --- | ---: | ---: | --- | --- |",
        ]
        for change in one.changes:
            name = f"{change.name} (named)" if change.stages == [one.named] else change.name
            if change.refused:
                lines.append(f"| {name} | | | refused: {change.refused} | |")
            else:
                steps = " + ".join(map(str, change.num_steps))
                lines.append(f"| {name} | {steps} | {change.passes:,.0f} | {_words(change.target)} | {_words(change.retained)} |")
        lines += ["", _verdict(one)]
    return "\n".join(lines) + "\n"


def _verdict(one: CaseStudy) -> str:
    """Say whether the named stage was the best one, as far as the intervals tell."""
    ran = [change for change in one.changes if change.target]
    if not ran:
        return "No stage ran."
    best = max(ran, key=lambda change: change.target["estimate"])
    named = next((change for change in ran if change.stages == [one.named]), None)
    if named is None:
        return f"The verdict names no training (`{one.named}`); of what was trained all the same, {best.name} changed most: {_words(best.target)}."
    if named is best:
        return f"The named stage gained most: {_words(named.target)}."
    apart = named.target["high"] < best.target["low"]
    return f"{best.name} gained more than the named stage ({_words(best.target)} against {_words(named.target)}); the intervals {'are apart' if apart else 'overlap'}."


def main() -> int:
    """Run the studies and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviors", default=",".join(BEHAVIORS), help="separated by commas")
    parser.add_argument("--budget", type=float, default=BUDGET, help="forward passes of one token that a stage may spend")
    parser.add_argument("--page", type=Path, default=ROOT / "reports" / "case_studies.md")
    options = parser.parse_args()
    studies = [study(behavior, options.budget) for behavior in options.behaviors.split(",")]
    options.page.write_text(page(studies, options.budget))
    return 0


if __name__ == "__main__":
    sys.exit(main())
