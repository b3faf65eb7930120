"""Which further probes to run, running them, and reading what they found.

`auto` runs a probe where its answer could change what is advised (`Probe.worth`) and gives it a share of what the samples cost; a probe
that is named runs if it can, with more. Findings lie in the run directory as `probes/<behavior>.<probe>.json`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.dataclass_fields import fields_of
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import SettingsError, UserError
from posttrain.diagnose.probes import PROBES
from posttrain.diagnose.probes.base import AvailableInputs, MeasuredBehavior, Probe, ProbeContext, ProbeCost
from posttrain.diagnose.probes.earlier_run import earlier_rollouts
from posttrain.diagnose.probes.finding_json import result_from_json, result_to_json
from posttrain.diagnose.probes.sampler import FOLDER, ProbeSampler
from posttrain.diagnose.sampling.behavior_sampler import SamplingSettings
from posttrain.diagnose.storage.run_directory import DECISION, RunDirectory
from posttrain.diagnose.storage.shard_file import refuse_damage
from posttrain.diagnose.strict_settings import closest
from posttrain.diagnose.types import Behavior, ProbeResult, Purpose, SkipReason, Split

AUTO, NONE = "auto", "none"
AUTO_SHARE, NAMED_SHARE = 0.5, 1.0
"""Tokens that a probe may generate, as a share of those that the samples took: chosen by itself, and asked for by name."""


@dataclass(frozen=True, kw_only=True)
class ProbeInputs:
    """What there is beside the model: engines of other models, an earlier run, a data set."""

    teacher: Engine | None = None
    earlier: Engine | None = None
    before: Path | None = None
    data: tuple[DataRow, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeRun:
    """Which probes to run, and what those of all behaviors share."""

    names: Sequence[str]
    """`auto`, `none`, or probes."""
    inputs: ProbeInputs
    settings: SamplingSettings
    """Those with which the behaviors were sampled."""


def choose_probes(names: Sequence[str]) -> tuple[Probe, ...]:
    """Return the probes of these names; all for `auto`, which then decides one by one, and none for `none`.

    Raises:
        SettingsError: there is no such probe (`unknown_probe`), one is named twice (`probe_twice`), or `none` stands beside others
            (`none_with_probes`).
    """
    known = {probe.name: probe for probe in PROBES}
    for name in names:
        if name not in (AUTO, NONE, *known):
            raise SettingsError(
                f"--probes: got {name!r}, allowed are {AUTO}, {NONE} and {', '.join(known)}{closest(name, known)}",
                code="unknown_probe",
            )
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise SettingsError(f"--probes: got {twice!r} twice; name each probe once", code="probe_twice")
    if NONE in names:
        if len(names) > 1:
            raise SettingsError(f"--probes: got {', '.join(names)}; {NONE} goes with nothing else", code="none_with_probes")
        return ()
    return PROBES if AUTO in names else tuple(known[name] for name in names)


def plan_lines(
    names: Sequence[str], behavior: Behavior, split: Split, available: AvailableInputs, sample_tokens: int
) -> tuple[list[str], int, int]:
    """Write what each probe would take at most; and return the sums of generated and scored tokens."""
    lines, generated, scored = [], 0, 0
    for probe in choose_probes(names):
        planned = probe.plan(behavior, split, available)
        if planned.impossible is not None:
            lines.append(f"  probe {probe.name}: cannot run, {planned.impossible.words}")
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


def run_probes(run: ProbeRun, measured: MeasuredBehavior, grade: GradeTexts, *, tokens_left: int | None) -> None:
    """Run what is worth it and not there yet; every probe leaves its finding, or why it was skipped.

    Args:
        run: The probes and what they work with.
        measured: What the samples of the behavior say.
        grade: Grades texts of one problem.
        tokens_left: What the samples left of a total budget; None where there is none.
    """
    if not measured.counts.num_samples.sum():
        return
    behavior = measured.behavior
    for probe in choose_probes(run.names):
        name = _name(behavior, probe.name)
        if run.settings.directory.part(FOLDER, name).exists():
            continue
        budget = _budget(probe, run.names, int(measured.rollouts.num_tokens.sum()))
        if tokens_left is not None:
            budget = max(0, min(budget, tokens_left - tokens_of_probes(run.settings.directory, behavior)))
        sampler = ProbeSampler(
            probe=probe.name,
            behavior=behavior,
            split=measured.split,
            policy=run.settings.engine,
            grade=grade,
            seed=run.settings.sampling_seed,
            directory=run.settings.directory,
            reporter=run.settings.reporter,
            budget=budget,
        )
        context = ProbeContext(
            **fields_of(measured),
            sampler=sampler,
            thresholds=run.settings.thresholds,
            policy=run.settings.engine,
            teacher=run.inputs.teacher,
            earlier=run.inputs.earlier,
            earlier_rollouts=None if run.inputs.before is None else earlier_rollouts(run.inputs.before, behavior),
            data=run.inputs.data,
        )
        run.settings.directory.write_part(FOLDER, name, result_to_json(_run_probe(probe, context, run)))


def _run_probe(probe: Probe, context: ProbeContext, run: ProbeRun) -> ProbeResult:
    """Run one probe, or say why not."""
    start = time.monotonic()
    skipped = _why_not(probe, context, run)
    if skipped is not None:
        return ProbeResult(probe=probe.name, question=probe.question, skipped=skipped)
    try:
        found = probe.run(context)
    except (
        UserError
    ) as error:  # an engine may lack what a probe needs (the tokens of a path, or room for them), and samples are not lost to it
        return ProbeResult(probe=probe.name, question=probe.question, skipped=SkipReason.NOT_SUPPORTED, detail=str(error))
    cost = {part: getattr(context.sampler, part) for part in ("samples", "generated_tokens", "scored_tokens", "teacher_tokens")}
    found = replace(found, probe=probe.name, behavior=context.behavior.name, **cost, seconds=round(time.monotonic() - start, 2))
    return ProbeResult(probe=probe.name, question=probe.question, finding=found)


def _why_not(probe: Probe, context: ProbeContext, run: ProbeRun) -> SkipReason | None:
    """Say why a probe is not run; None where it is. Whoever names a probe wants it, whether it is worth its cost or not."""
    behavior = context.behavior
    cost = probe.plan(behavior, context.split, AvailableInputs.of(run.inputs))
    if cost.impossible is not None:
        return cost.impossible
    if cost.scored_tokens and not cost.generated_tokens and not run.settings.engine.info.can_score:
        return SkipReason.CANNOT_SCORE
    if probe.name not in run.names:
        skipped = SkipReason.RETENTION if behavior.purpose is Purpose.RETENTION else probe.worth(context)
        if skipped is not None:
            return skipped
    if cost.generated_tokens and context.sampler.budget < behavior.sampling.max_tokens:
        return SkipReason.BUDGET_SPENT
    return None


def tokens_of_probes(directory: RunDirectory, behavior: Behavior) -> int:
    """Return tokens that the finished probes of a behavior generated."""
    return sum(one.finding.generated_tokens for one in read_probe_results(directory, behavior) if one.finding)


def read_probe_results(
    directory: RunDirectory, behavior: Behavior, *, decided_again: Sequence[str] = ()
) -> tuple[ProbeResult, ...]:
    """Return what became of each probe of a behavior, in the order of `PROBES`; those that were not asked for are left out.

    Args:
        directory: The run.
        behavior: One of its behaviors.
        decided_again: Probes that `write_decided_again` wrote, which count in the place of what the run itself found.

    Raises:
        RunError: A file of them is damaged.
    """
    found = []
    for probe in PROBES:
        name = _name(behavior, probe.name)
        folder = DECISION if probe.name in decided_again else FOLDER
        path = directory.part(folder, name)
        if path.exists() or folder == DECISION:
            content = directory.read_part(folder, name)
            with refuse_damage(path):
                found.append(result_from_json(content, probe.question))
    return tuple(found)


def write_decided_again(directory: RunDirectory, behavior: Behavior, answer: ProbeResult) -> None:
    """Write what a probe finds when a run is decided again; what the run itself found stays."""
    directory.write_part(DECISION, _name(behavior, answer.probe), result_to_json(answer))


def _name(behavior: Behavior, probe: str) -> str:
    return f"{behavior.name}.{probe}"
