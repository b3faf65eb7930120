"""What a page says of a verdict: the label, what to do next, and with which command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from posttrain.analysis.number_format import format_number, format_probability
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions, option_words
from posttrain.diagnose.report.words import BOTTLENECKS, ROLES, STEPS
from posttrain.diagnose.stage_catalogue import Interface, Need
from posttrain.diagnose.storage.diagnosis_json import SettlesEntry, StageEntry, VerdictEntry
from posttrain.diagnose.types import Bottleneck, Purpose

_TRAINING = frozenset({"off_policy", "on_policy", "mixed"})
USUAL_RETENTION = "copying"
"""The bundled behavior that a command names where rows of one that must not be lost should be mixed in and none is given."""
_TONES = {Bottleneck.MASTERED: "good", Bottleneck.INVALID: "broken", Bottleneck.INCONCLUSIVE: "open"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NextStart:
    """What a next stage starts from."""

    model: str
    run: str
    """The run directory that holds the verdict."""
    imported: bool = False
    """Whether the samples are another tool's, so that neither model nor train problems are at a place that a command could name."""
    retain: tuple[str, ...] = ()
    """What to write for the behaviors that are not to be lost and can be mixed in."""
    retention_weight: float = 1.0
    """λ of the decision, which the stage is to keep to."""
    teacher: str | None = None
    earlier: str | None = None
    """The other models of the diagnosis, which some stages learn from."""

    @classmethod
    def of(cls, model: str, run: str, entries: Iterable[VerdictEntry]) -> Self:
        """Return the start of the stages that some verdicts name."""
        retained = [one for one in entries if one.purpose is Purpose.RETENTION and one.num_train_problems]
        return cls(model=model, run=run, retain=tuple(one.source or one.name for one in retained))


def verdict_view(
    entry: VerdictEntry, anchor: str, start: NextStart, *, failures: Sequence[str] = (), no_verdict: bool = False
) -> dict[str, Any]:
    """Return everything that a page says of one verdict, as text.

    Args:
        entry: The verdict.
        anchor: Its place on the page.
        start: What a next stage starts from.
        failures: What the validity checks found wrong.
        no_verdict: Whether train problems were measured, so that the label is no verdict; its sentence says so.
    """
    label, meaning = BOTTLENECKS[entry.bottleneck]
    inconclusive = entry.bottleneck is Bottleneck.INCONCLUSIVE
    told = no_verdict or inconclusive or entry.bottleneck is Bottleneck.INVALID
    return {
        "anchor": anchor,
        "name": entry.name,
        "retention": entry.purpose is Purpose.RETENTION,
        "label": label,
        "tone": _TONES.get(entry.bottleneck, "work"),
        "confidence": None if inconclusive else format_probability(entry.confidence),
        "leans_to": None if entry.leans_to is None else BOTTLENECKS[entry.leans_to][0],
        "meaning": _told(entry) if told else _first_upper(meaning),
        "role": ROLES[entry.role] if entry.role is not None else None,
        "shares": [
            (BOTTLENECKS[Bottleneck(state)][0] if state in set(Bottleneck) else state, format_probability(share))
            for state, share in sorted(entry.shares.items(), key=lambda item: -item[1])
            if share > 0
        ],
        "stage": None if entry.stage is None else _stage_view(entry.stage),
        "plan": [
            (BOTTLENECKS[part.label][0], format_probability(part.share), part.stage, f"{len(part.problems)} problems")
            for part in entry.plan
        ],
        "command": next_command(entry, start),
        "todo": _todo(entry, failures, start),
        "settles": None if entry.settles_with is None else _settles(entry.settles_with, start),
        "caveats": entry.caveats,
    }


def next_command(entry: VerdictEntry, start: NextStart) -> str | None:
    """Return the command that trains the named stage; None where no stage trains."""
    if entry.stage is None or not trains(entry.stage) or _measures_all(entry) or start.imported:
        return None
    words = ["posttrain", "train", entry.stage.name, start.model, entry.source or entry.name, *option_words(entry.options)]
    mixed_in = start.retain if entry.stage.interface != Interface.NONE else ()
    if Need.RETENTION in entry.stage.needs and not mixed_in:
        mixed_in = (USUAL_RETENTION,)
    retain = ["--retain", *mixed_in] if mixed_in else []
    if mixed_in and start.retention_weight != 1.0:
        retain += ["--set", f"retain_weight={start.retention_weight:g}"]
    return shlex.join([*words, "--out", f"{start.run}-{entry.stage.name}", *_other_models(entry.stage, start), *retain])


def _other_models(stage: StageEntry, start: NextStart) -> list[str]:
    """Return the options that give a stage the models which it learns from; an earlier checkpoint teaches where there is no teacher."""
    if Need.EARLIER_CHECKPOINT in stage.needs:
        return ["--earlier", start.earlier] if start.earlier else []
    if Need.TEACHER in stage.needs and (given := start.teacher or start.earlier):
        return ["--teacher" if start.teacher else "--earlier", given]
    return []


def _measures_all(entry: VerdictEntry) -> bool:
    """Return whether `--split-eval all` left no problem to train on."""
    return BehaviorOptions.model_validate(entry.options).measures_all


def trains(stage: StageEntry) -> bool:
    """Return whether a stage changes weights; collecting, repairing and doing nothing are stages too."""
    return stage.provenance.replace("-", "_") in _TRAINING


def _stage_view(stage: StageEntry) -> dict[str, Any]:
    return {
        "name": stage.name if trains(stage) else STEPS.get(stage.name, stage.name.replace("_", " ")),
        "trains": trains(stage),
        "kind": "Next stage" if trains(stage) else "Next step",
        "why": _first_upper(stage.why),
        "provenance": stage.provenance.replace("_", "-"),
        "interface": stage.interface.replace("_", " "),
        "needs": ", ".join(stage.needs).replace("_", " ") or "nothing beyond the prompts",
        "alternatives": [(one.name, one.why) for one in stage.alternatives],
    }


def _told(entry: VerdictEntry) -> str:
    """Return the sentence of a verdict without the name that stands above it; a name within it stays as it is written."""
    text = entry.sentence.removeprefix(f"{entry.name}: ")
    return _first_upper(text) if text != entry.sentence else text


def _first_upper(text: str) -> str:
    """Return text as a sentence: a capital letter first, a point last."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ")")) else ".")


def _todo(entry: VerdictEntry, failures: Sequence[str], start: NextStart) -> str | None:
    """Return what to do where there is no command that trains."""
    if entry.stage is not None and trains(entry.stage):
        name = entry.stage.name
        if _measures_all(entry):
            return (
                f"All problems were measured, so that none is left to train on: diagnose again without --split-eval all, then train {name}; or train on "
                "problems of another file."
            )
        if not start.imported:
            return None
        return f"Train with a behavior file of such problems and a verifier: posttrain train {name} MODEL BEHAVIOR --out CKPT."
    match entry.bottleneck:
        case Bottleneck.INVALID:
            failure = failures[0] if failures else "see the validity checks"
            return f"Fix the setup, then diagnose again: {failure}"
        case Bottleneck.INCONCLUSIVE:
            return "Measure more before training anything."
        case Bottleneck.MASTERED:
            return "Keep it as a retention behavior while other stages run."
        case _ if entry.stage is None:
            return "No stage fits what is available; see the caveats."
        case _:
            return None


def _settles(more: SettlesEntry, start: NextStart) -> str:
    time = f", {format_number(math.ceil(more.seconds))} s at the speed so far" if not math.isnan(more.seconds) else ""
    if start.imported:
        return (
            f"{format_number(more.samples)} more samples, the same number of every problem, decide it in {100 * more.chance:.0f} % of simulated "
            "continuations."
        )
    return (
        f"{format_number(more.samples)} more samples (about {format_number(more.tokens)} tokens{time}), the same number of every problem, "
        f"decide it in {100 * more.chance:.0f} % of simulated continuations; --max-tokens-total samples in rounds and stops as soon "
        "as it is decided."
    )
