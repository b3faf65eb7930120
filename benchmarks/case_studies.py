"""Case studies on a real model: what binds, the named stage, two others at equal cost, and a pipeline of two.

    python benchmarks/case_studies.py [--cases sums,products] [--budget 40000] [--page reports/case_studies.md]

Per case: `posttrain diagnose` with a mastered behavior beside it; then the named stage, the first two of sft, grpo and rft that it is not, and sft
followed by grpo with half of the budget each; all with `--retain` and default settings but for the number of steps, which is what the budget allows.
Its unit is a forward pass of one token: a token that runs through the model for training counts 3, a generated one 1, also one that is sampled to
choose the weights that are saved. Every checkpoint is measured with another seed and compared with the start, paired by problem. What is done
already is read from build/case_studies; a stage that was interrupted begins anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from truth.equal_cost import TRAINED, steps_for

from posttrain import diagnose, trainers
from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.types import Estimate
from posttrain.trainers.recipes.registry import RECIPES

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "case_studies"
MODEL, RETAINED = "demo", "copying"
USUAL = ("sft", "grpo", "rft")
"""What is tried without a diagnosis; two of them stand beside the named stage."""
NUM_ALTERNATIVES = 2
PIPELINE = ("sft", "grpo")
BUDGET = 40_000.0
OVERRUN = 1.2
"""Share of the budget that a stage may come to; one that costs more is trained again."""
NUM_TRIED = 1
"""Steps from which the cost of the others follows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A behavior, and the checkpoint that is asked for it."""

    name: str
    behavior: str
    """A bundled one, or a file below the repository."""
    story: str
    """What makes it a case of its own."""
    forgets_by: tuple[str, ...] = ()
    """What the model is trained with before, as arguments of `posttrain train`; then `demo` is the earlier checkpoint."""

    @property
    def folder(self) -> Path:
        """Return where its runs are."""
        return BUILD / self.name

    @property
    def earlier(self) -> str | None:
        """Return the checkpoint that could do more."""
        return MODEL if self.forgets_by else None

    def start(self) -> str:
        """Return the model that is diagnosed; it is trained where it must be."""
        if not self.forgets_by:
            return MODEL
        stage, behavior, *overrides = self.forgets_by
        out = self.folder / "start"
        if not out.exists():  # a checkpoint appears whole or not at all
            trainers.train(stage, MODEL, [behavior], out=out, overrides=overrides)
        return str(out)


CASES = {
    case.name: case
    for case in (
        Case(name="sums", behavior="sums", story="Sums of two digits, with two worked examples in the prompt."),
        Case(name="products", behavior="products", story="Products of two digits, with two worked examples in the prompt."),
        Case(
            name="echoes",
            behavior="benchmarks/case_behaviors/echoes.yaml",
            story="A convention of the house that no prompt states: a word is answered by saying it three times.",
        ),
        Case(
            name="marked_words",
            behavior="benchmarks/case_behaviors/marked_words.yaml",
            story="Another convention that no prompt states: a word is answered by the word in angle brackets. The model often says the word alone.",
        ),
        Case(
            name="forgotten_sums",
            behavior="sums",
            story="The same sums after eight steps of `sft` on `spell_backward` at a rate that is too high, with nothing retained.",
            forgets_by=("sft", "spell_backward", "num_steps=8", "learning_rate=0.0003"),
        ),
        Case(
            name="spell_backward",
            behavior="spell_backward",
            story="Words of four and five letters spelled backward by way of their letters; the model never succeeds.",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one stage, or a pipeline of them, did."""

    stages: list[str]
    num_steps: list[int]
    kept: list[float]
    """Of each stage the share of the way from the weights before it to those after it that was saved."""
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
    """What was found and done in one case."""

    case: Case
    sentence: str
    named: str
    changes: list[Change]


def passes_of(result: trainers.TrainingResult) -> float:
    """Return what a run cost, in forward passes of one token."""
    return float(TRAINED * result.input_tokens + result.generated_tokens + result.choice_tokens)


def stages_of(named: str) -> list[tuple[str, ...]]:
    """Return what is run: the named stage where it trains, two usual ones, and the pipeline."""
    alone = ([named] if named in RECIPES else []) + [one for one in USUAL if one != named][:NUM_ALTERNATIVES]
    return [*((one,) for one in alone), PIPELINE]


def train(case: Case, stage: str, model: str, out: Path, overrides: Sequence[str]) -> trainers.TrainingResult:
    """Train a stage as a user would: with what is retained, and the earlier checkpoint where it needs one."""
    given: dict[str, Any] = {"earlier": case.earlier} if Need.EARLIER_CHECKPOINT in STAGES[stage].needs else {}
    return trainers.train(stage, model, [case.behavior], out=out, overrides=overrides, retain=[RETAINED], **given)


def train_within(case: Case, stage: str, model: str, out: Path, budget: float) -> trainers.TrainingResult:
    """Train a stage with as many steps as may be spent, which a step that is tried tells; again with fewer where that step was cheaper than the others."""
    if RECIPES[stage].transform is not None:
        return train(case, stage, model, out, [])
    with tempfile.TemporaryDirectory() as folder:
        result, num_steps = train(case, stage, model, Path(folder) / "tried", [f"num_steps={NUM_TRIED}"]), NUM_TRIED
    while True:
        fixed = float(result.choice_tokens)
        num_steps = steps_for(budget, fixed=fixed, tried=passes_of(result) - fixed, num_tried=num_steps, most=None)
        shutil.rmtree(out, ignore_errors=True)
        result = train(case, stage, model, out, [f"num_steps={num_steps}"])
        if passes_of(result) <= OVERRUN * budget or num_steps == 1:
            return result


def run_stages(case: Case, stages: Sequence[str], budget: float) -> Change:
    """Train stages one after the other, measure and compare, unless that was done."""
    folder = case.folder / "-then-".join(stages)
    stored = folder / "change.json"
    if stored.exists():
        return Change(**json.loads(stored.read_text()))
    shutil.rmtree(folder, ignore_errors=True)  # what was interrupted
    folder.mkdir(parents=True)
    model, num_steps, passes, kept = case.start(), [], 0.0, []
    try:
        for place, stage in enumerate(stages):
            result = train_within(case, stage, model, folder / f"trained-{place}", budget / len(stages))
            model, passes = str(result.checkpoint), passes + passes_of(result)
            num_steps.append(result.num_steps)
            kept.append(result.kept_share)
    except UserError as error:
        change = Change(
            stages=list(stages), num_steps=num_steps, kept=kept, passes=passes, target={}, retained={}, refused=str(error)
        )
    else:
        diagnose.run(model, [case.behavior, RETAINED], out=folder / "after", probes=(), seed=1, pilot=False)
        found = diagnose.compare(case.folder / "before", folder / "after", out=folder / "compared", trained=[measured_name(case)])
        target, retained = (_change(found[name].delta) for name in (measured_name(case), RETAINED))
        change = Change(stages=list(stages), num_steps=num_steps, kept=kept, passes=passes, target=target, retained=retained)
    stored.write_text(json.dumps(asdict(change), indent=1))
    return change


def measured_name(case: Case) -> str:
    """Return the name of the behavior in a run."""
    return Path(case.behavior).stem


def _change(delta: Estimate) -> dict[str, float]:
    return {"estimate": delta.estimate, "low": delta.low, "high": delta.high}


def study(case: Case, budget: float) -> CaseStudy:
    """Diagnose a behavior, run the stages and return what they did."""
    before = case.folder / "before"
    if not (before / "diagnosis.json").exists():
        diagnose.run(case.start(), [case.behavior, RETAINED], out=before, earlier=case.earlier)
    found = json.loads((before / "diagnosis.json").read_text())["behaviors"][0]
    named = str(found["stage"]["name"])
    changes = []
    for stages in stages_of(named):
        changes.append(run_stages(case, stages, budget))
        print(
            f"{case.name}: {changes[-1].name}: {_words(changes[-1].target) or changes[-1].refused}", file=sys.stderr, flush=True
        )
    return CaseStudy(case=case, sentence=str(found["sentence"]), named=named, changes=changes)


def _words(change: Mapping[str, float]) -> str:
    return format_interval(change["estimate"], change["low"], change["high"], signed=True) if change else ""


def page(studies: Sequence[CaseStudy], budget: float) -> str:
    """Write the studies as Markdown."""
    lines = [
        "# Case studies on SmolLM2-135M-Instruct",
        "",
        f"    python benchmarks/case_studies.py --cases {','.join(one.case.name for one in studies)} --budget {budget:.0f}",
        "",
        f"Every stage may spend {budget:,.0f} forward passes of one token (a token that is trained on counts {TRAINED}, a generated one 1), with `--retain {RETAINED}`;",
        "`kept` is the share of the way from the weights before training to those after it that was saved, as the dev slices chose. Changes of pass@1 on held-out",
        "problems are paired by problem, with 95 % intervals; the model is measured again with another seed. One seed of training: another one can change more",
        "than the intervals show.",
    ]
    for one in studies:
        case, name = one.case, measured_name(one.case)
        lines += ["", f"## {case.name}", "", case.story, "", f"> {one.sentence}", ""]
        model = "runs/forgetful" if case.forgets_by else MODEL
        if case.forgets_by:
            stage, behavior, *overrides = case.forgets_by
            lines.append(f"    posttrain train {stage} {MODEL} {behavior} --set {' '.join(overrides)} --out runs/forgetful")
        earlier = f" --earlier {case.earlier}" if case.earlier else ""
        lines += [f"    posttrain diagnose {model} {case.behavior} {RETAINED}{earlier} --out runs/{case.name}", ""]
        lines += [
            f"| stage | steps | kept | passes | pass@1 of {name} | pass@1 of {RETAINED} |",
            "| --- | ---: | ---: | ---: | --- | --- |",
        ]
        for change in one.changes:
            stage = f"{change.name} (named)" if change.stages == [one.named] else change.name
            if change.refused:
                lines.append(f"| {stage} | | | | refused: {change.refused} | |")
            else:
                steps, kept = " + ".join(map(str, change.num_steps)), ", ".join(f"{share:g}" for share in change.kept)
                told = f"{_words(change.target)} | {_words(change.retained)}"
                lines.append(f"| {stage} | {steps} | {kept} | {change.passes:,.0f} | {told} |")
        lines += ["", _verdict(one)]
    return "\n".join(lines) + "\n"


def _verdict(one: CaseStudy) -> str:
    """Say whether the named stage was the best one, as far as the intervals tell."""
    ran = [change for change in one.changes if change.target]
    if not ran:
        return "No stage ran."
    best = max(ran, key=lambda change: change.target["estimate"])
    if best.target["estimate"] <= 0.0:
        return "No stage gained anything at this budget."
    named = next((change for change in ran if change.stages == [one.named]), None)
    if named is None:
        return f"The verdict names no training (`{one.named}`); of what was trained all the same, {best.name} changed most: {_words(best.target)}."
    if not named.target["estimate"] < best.target["estimate"]:
        others = [change.name for change in ran if change is not named and change.target["estimate"] == best.target["estimate"]]
        as_much = f", as much as {' and '.join(others)}" if others else ""
        return f"The named stage gained most{as_much}: {_words(named.target)}."
    apart = named.target["high"] < best.target["low"]
    return f"{best.name} gained more than the named stage ({_words(best.target)} against {_words(named.target)}); the intervals {'are apart' if apart else 'overlap'}."


def main() -> int:
    """Run the studies and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    parser.add_argument("--budget", type=float, default=BUDGET, help="forward passes of one token that a stage may spend")
    parser.add_argument("--page", type=Path, default=ROOT / "reports" / "case_studies.md")
    options = parser.parse_args()
    studies = [study(CASES[name], options.budget) for name in options.cases.split(",")]
    options.page.write_text(page(studies, options.budget))
    return 0


if __name__ == "__main__":
    sys.exit(main())
