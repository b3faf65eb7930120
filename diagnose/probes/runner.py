"""Which further probes to run, running them, and reading what they found.

`auto` runs a probe where its answer could change what is advised (`Probe.worth`) and gives it a share of what the samples cost; a probe
that is named runs if it can, with more. Findings lie in the run directory as `probes/<behavior>.<probe>.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes import PROBES
from posttrain.diagnose.probes.base import (
    FOLDER,
    AvailableInputs,
    Probe,
    ProbeContext,
    ProbeCost,
    finding_from_json,
    finding_to_json,
)
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.shards import GradeTexts
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory, write_json
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Answer, Behavior, PathLikelihoodMeasurement, Purpose, SamplingMeasurement, Split

AUTO, NONE = "auto", "none"
AUTO_SHARE, NAMED_SHARE = 0.5, 1.0
"""Tokens that a probe may generate, as a share of those that the samples took: chosen by itself, and asked for by name."""

_OF_TARGETS = "a retention behavior is watched, not trained; name the probe to run it all the same"


@dataclass(frozen=True, kw_only=True)
class ProbeInputs:
    """What there is beside the model: engines of other models, an earlier run, a data set."""

    teacher: Engine | None = None
    earlier: Engine | None = None
    before: Path | None = None
    data: tuple[DataRow, ...] | None = None

    @property
    def available(self) -> AvailableInputs:
        """Which of them there are."""
        return AvailableInputs(
            teacher=self.teacher is not None,
            earlier=self.earlier is not None,
            before=self.before is not None,
            data=self.data is not None,
        )


def choose_probes(names: Sequence[str]) -> tuple[Probe, ...]:
    """The probes of these names; all for `auto`, which then decides one by one, and none for `none`.

    Raises:
        SettingsError: there is no such probe.
    """
    known = {probe.name: probe for probe in PROBES}
    for name in names:
        if name not in (AUTO, NONE, *known):
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"--probes: got {name!r}, allowed are {AUTO}, {NONE} and {', '.join(known)}{hint}")
    if NONE in names:
        if len(names) > 1:
            raise SettingsError(f"--probes: got {', '.join(names)}; {NONE} goes with nothing else")
        return ()
    return PROBES if AUTO in names else tuple(known[name] for name in dict.fromkeys(names))


def plan_lines(
    names: Sequence[str], behavior: Behavior, split: Split, available: AvailableInputs, sample_tokens: int
) -> tuple[list[str], int, int]:
    """What each probe would take at most, in words; and the sums of generated and scored tokens."""
    lines, generated, scored = [], 0, 0
    for probe in choose_probes(names):
        planned = probe.plan(behavior, split, available)
        if planned.impossible:
            lines.append(f"  probe {probe.name}: cannot run, {planned.impossible}")
            continue
        tokens = min(planned.generated_tokens, _budget(probe, names, sample_tokens))
        generated, scored = generated + tokens, scored + planned.scored_tokens
        lines.append(f"  probe {probe.name}: {_cost_in_words(planned, tokens)}; runs {planned.when or 'always'}")
    return lines, generated, scored


def _cost_in_words(planned: ProbeCost, tokens: int) -> str:
    parts = [f"at most {tokens:,} tokens generated"] if planned.generated_tokens else []
    parts += [f"about {planned.scored_tokens:,} scored"] if planned.scored_tokens else []
    return ", ".join(parts) or "no tokens"


def _budget(probe: Probe, names: Sequence[str], sample_tokens: int) -> int:
    return int((NAMED_SHARE if probe.name in names else AUTO_SHARE) * sample_tokens)


def run_probes(
    names: Sequence[str],
    directory: RunDirectory,
    engine: Engine,
    helpers: ProbeInputs,
    grade: GradeTexts,
    behavior: Behavior,
    split: Split,
    sampling: SamplingMeasurement,
    rollouts: RolloutTable,
    paths: PathLikelihoodMeasurement | None,
    *,
    thresholds: Thresholds,
    seed: str,
    tokens_left: int | None,
    reporter: Reporter,
) -> None:
    """Run what is worth it and not there yet; every probe leaves its finding, or why it was skipped.

    Args:
        names: `auto`, `none`, or probes.
        directory: Where findings go.
        engine: The policy.
        helpers: What else there is.
        grade: Grades texts of one problem.
        behavior: What is probed.
        split: Which of its problems.
        sampling: What the samples showed.
        rollouts: The samples.
        paths: Likelihood of the references.
        thresholds: Every number a verdict hangs on.
        seed: Names the draw.
        tokens_left: What the samples left of a total budget; None where there is none.
        reporter: Where progress goes.
    """
    if not sampling.num_samples.sum():
        return
    known = posterior_of(sampling, epsilon=behavior.measure.epsilon, thresholds=thresholds)
    spent = int(rollouts.num_tokens.sum())
    for probe in choose_probes(names):
        target = _file(directory, behavior, probe.name)
        if target.exists():
            continue
        planned = probe.plan(behavior, split, helpers.available)
        budget = _budget(probe, names, spent)
        if tokens_left is not None:
            budget = max(0, min(budget, tokens_left - tokens_of_probes(directory, behavior)))
        context = ProbeContext(
            probe=probe.name,
            behavior=behavior,
            split=split,
            problems=behavior.split(split),
            engine=engine,
            grade=grade,
            sampling=sampling,
            known=known,
            rollouts=rollouts,
            paths=paths,
            thresholds=thresholds,
            seed=seed,
            directory=directory,
            reporter=reporter,
            budget=budget,
            teacher=helpers.teacher,
            earlier=helpers.earlier,
            before=_before(helpers.before, behavior),
            data=helpers.data,
        )
        skipped = planned.impossible
        if planned.scored_tokens and not planned.generated_tokens and not engine.info.can_score:
            skipped = "the engine cannot score"
        if not skipped and probe.name not in names:
            skipped = _OF_TARGETS if behavior.purpose is Purpose.RETENTION else probe.worth(context)
        if not skipped and planned.generated_tokens and budget < behavior.sampling.max_tokens:
            skipped = "the token budget is spent"
        if skipped:
            write_json(target, {"probe": probe.name, "skipped": skipped})
            continue
        start = time.monotonic()
        try:
            found = probe.run(context)
        except SettingsError as error:  # an engine may lack what a probe needs: the tokens of a path, or their probabilities
            write_json(target, {"probe": probe.name, "skipped": str(error)})
            continue
        cost = {part: getattr(context, part) for part in ("samples", "generated_tokens", "scored_tokens", "teacher_tokens")}
        found = replace(found, **cost, seconds=round(time.monotonic() - start, 2))
        write_json(target, {"probe": probe.name, "finding": finding_to_json(found)})


def tokens_of_probes(directory: RunDirectory, behavior: Behavior) -> int:
    """Tokens that the finished probes of a behavior generated."""
    return sum(_tokens_of(path) for probe in PROBES if (path := _file(directory, behavior, probe.name)).exists())


def read_answers(directory: RunDirectory, behavior: Behavior) -> tuple[Answer, ...]:
    """What became of each probe of a behavior, in the order of `PROBES`; those that were not asked for are left out."""
    answers = []
    for probe in PROBES:
        path = _file(directory, behavior, probe.name)
        if path.exists():
            data = json.loads(path.read_text())
            finding = finding_from_json(data["finding"]) if "finding" in data else None
            answers.append(Answer(probe=probe.name, question=probe.question, finding=finding, skipped=data.get("skipped", "")))
    return tuple(answers)


def _file(directory: RunDirectory, behavior: Behavior, probe: str) -> Path:
    return directory.path / FOLDER / f"{behavior.name}.{probe}.json"


def _tokens_of(path: Path) -> int:
    finding = json.loads(path.read_text()).get("finding")
    return int(finding["generated_tokens"]) if finding else 0


def _before(path: Path | None, behavior: Behavior) -> dict[str, Any] | None:
    """The behavior as an earlier run has it.

    Raises:
        SettingsError: the run does not hold it.
    """
    if path is None:
        return None
    directory = RunDirectory(path)
    directory.read_json()
    try:
        entries = json.loads(directory.diagnosis_json.read_text())["behaviors"]
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"--before {path}: its diagnosis.json cannot be read ({error}); give a finished run") from error
    for entry in entries:
        if entry["name"] == behavior.name:
            return {**entry, "rollouts": directory.rollout_table(behavior.name)}
    raise SettingsError(
        f"--before {path}: it measured {', '.join(entry['name'] for entry in entries)}, not {behavior.name}; give a run on the same behaviors"
    )
