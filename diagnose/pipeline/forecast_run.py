"""Forecast how many groups of samples will carry no learning signal, from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.decide.signal_forecast import PROMPTS_PER_STEP, check_group, forecast_group_signal
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.measure.group_outcomes import group_outcomes
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.report.signal_words import signal_view
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.storage.group_signal_json import ForecastEntry, ForecastFile, GroupSignalEntry
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.verifiers.imported_grades import KIND as IMPORTED


def forecast(run: str | Path, *, group_size: int | None = None, prompts_per_step: int = PROMPTS_PER_STEP) -> ForecastFile:
    """Forecast the groups without signal of every behavior of a run; no model is needed.

    Args:
        run: The folder of a `posttrain diagnose`, or of imported samples.
        group_size: G, samples of one prompt that a trainer compares with each other; `measure.group_size` of the behavior where None.
        prompts_per_step: B.

    Raises:
        SettingsError: A number out of range.
        RunError: The run cannot be read, or no sample of it has a grade (`no_grades`).
    """
    check_group(2 if group_size is None else group_size, prompts_per_step)
    found = []
    finished = assemble(run)
    for measured in finished.behaviors:
        entry = behavior_forecast(measured, finished.settings, group_size=group_size, prompts_per_step=prompts_per_step)
        if entry is not None:
            name = measured.behavior.name
            view = signal_view(entry)
            assert view is not None
            found.append(
                ForecastEntry(name=name, sentence=f"{name}: {view['sentence']}", advice=view["advice"], group_signal=entry)
            )
    if not found:
        raise RunError(f"run {run}: no sample has a grade; grade them with `posttrain regrade {run} --out NEW`", code="no_grades")
    return ForecastFile(run=str(run), behaviors=found)


def behavior_forecast(
    measured: DiagnosedBehavior,
    settings: Mapping[str, Any],
    *,
    group_size: int | None = None,
    prompts_per_step: int = PROMPTS_PER_STEP,
) -> GroupSignalEntry | None:
    """Forecast one behavior.

    Args:
        measured: The behavior.
        settings: Settings of its run.
        group_size: As for `forecast`.
        prompts_per_step: As for `forecast`.

    Returns:
        The forecast; None where no sample has a grade.
    """
    if not measured.sampling.num_samples.any():
        return None
    behavior, seed = measured.behavior, int(settings["seed"])
    thresholds = Thresholds.from_json(settings["thresholds"])
    posterior = posterior_of(measured.sampling, epsilon=behavior.measure.epsilon, thresholds=thresholds, seed=seed)
    return forecast_group_signal(
        group_outcomes(behavior, measured.problems, measured.table),
        measured.sampling.problem_ids,
        group_size=group_size or behavior.measure.group_size,
        prompts_per_step=prompts_per_step,
        policy_sampled=behavior.sampling.samples_the_policy,
        failures_told=behavior.verifier.kind != IMPORTED,
        mixture=posterior.mixture,
        seed=seed,
    )
