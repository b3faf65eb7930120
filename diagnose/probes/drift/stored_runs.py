"""The drift probe on two finished runs, without a model: what their samples say of each other."""

from __future__ import annotations

from dataclasses import replace

from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.drift.finding import ModelsGiven, make_finding
from posttrain.diagnose.probes.drift.rates import compare_rates
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import ProbeResult, SkipReason

NAME = "drift"


def compare_stored_runs(
    measured: MeasuredBehavior, thresholds: Thresholds, earlier: RolloutTable, *, independent: bool, plain: bool
) -> ProbeResult:
    """Return what the drift probe finds in the samples of two runs of one behavior.

    Args:
        measured: The behavior with what its samples say now.
        thresholds: Every number that decides.
        earlier: Its samples in the earlier run; problems that are not among them count as not sampled before.
        independent: Whether samples of a problem are independent in both runs.
        plain: Whether both policies were sampled at temperature 1 without truncation.
    """
    answer = ProbeResult(probe=NAME, question=QUESTIONS[NAME])
    if not measured.counts.num_samples.any():
        return replace(answer, skipped=SkipReason.NO_SAMPLES)
    if not independent:
        detail = "the samples of a problem are not independent in one of the two runs (temperature 0 or duplicates)"
        return replace(answer, skipped=SkipReason.NOT_SUPPORTED, detail=detail)
    rates = compare_rates(measured, thresholds, (), earlier)
    found = make_finding(measured, thresholds, rates, models=ModelsGiven.NONE, plain=plain)
    return replace(answer, finding=replace(found, probe=NAME, behavior=measured.behavior.name))
