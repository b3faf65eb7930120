"""Samples cut off in noise are failures; samples cut off in coherent text are a sign of a limit that is too low."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.probes import addition_problems, sampled_context

from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure.derailed_samples import derailed_samples
from posttrain.diagnose.measure.group_outcomes import group_outcomes
from posttrain.diagnose.measure.sample_checks import SampledBehavior
from posttrain.diagnose.measure.setup_checks import check_setup
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.measure.validity_checks import check_validity
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import ValidityCode, ValidityMeasurement
from posttrain.diagnose.verifiers.selftest import SelfTest

COHERENT, NOISE = -1.0, -4.3
"""Nats per token, of samples that end and of derailed ones of a model of 135 M parameters."""


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine.for_behaviors([addition_problems(6)], {f"p{i}": 0.5 for i in range(6)})


@pytest.fixture
def measured(engine: ScriptedEngine, tmp_path: Path) -> MeasuredBehavior:
    return sampled_context(addition_problems(6), engine, tmp_path, "none", n=10)


def cut_off(rollouts: RolloutTable, every: int, nats: float) -> RolloutTable:
    """Return the samples with every so-many-th one cut off, in text of this mean log-probability."""
    truncated = np.arange(len(rollouts)) % every == 0
    return replace(
        rollouts,
        truncated=truncated,
        unparsed=truncated,
        policy_logprob_sum=np.where(truncated, nats, COHERENT) * rollouts.num_tokens,
    )


def check(engine: ScriptedEngine, measured: MeasuredBehavior, rollouts: RolloutTable) -> ValidityMeasurement:
    behavior = measured.behavior
    counts = count_successes(behavior, measured.problems, rollouts)
    setup = check_setup(behavior, engine, Thresholds(), SelfTest(cases=()), measured.problems)
    samples = SampledBehavior(problems=measured.problems, counts=counts, rollouts=rollouts)
    return check_validity(behavior, engine, Thresholds(), setup, samples)


def test_derailed_samples_are_found_once(measured: MeasuredBehavior) -> None:
    rollouts = cut_off(measured.rollouts, 3, NOISE)
    counts = count_successes(measured.behavior, measured.problems, rollouts)
    samples = SampledBehavior(problems=measured.problems, counts=counts, rollouts=rollouts)
    assert samples.derailed is samples.derailed
    assert (samples.derailed == derailed_samples(rollouts)).all()


def test_samples_cut_off_in_noise_do_not_break_the_measurement(engine: ScriptedEngine, measured: MeasuredBehavior) -> None:
    rollouts = cut_off(measured.rollouts, 3, NOISE)
    found = check(engine, measured, rollouts)
    assert (derailed_samples(rollouts) == (rollouts.truncated & ~rollouts.greedy)).all()
    assert not found.failure_codes
    assert any("derail" in note for note in found.notes)


def test_samples_cut_off_in_coherent_text_do(engine: ScriptedEngine, measured: MeasuredBehavior) -> None:
    found = check(engine, measured, cut_off(measured.rollouts, 3, COHERENT))
    assert ValidityCode.TRUNCATED in found.failure_codes
    assert not any("derail" in note for note in found.notes)


def test_where_most_samples_are_cut_off_none_is_said_to_derail(engine: ScriptedEngine, measured: MeasuredBehavior) -> None:
    rollouts = cut_off(measured.rollouts, 1, NOISE)
    assert not derailed_samples(rollouts).any()
    assert check(engine, measured, rollouts).failure_codes


def test_a_model_whose_every_sample_is_as_unlikely_does_not_derail(measured: MeasuredBehavior) -> None:
    rollouts = cut_off(measured.rollouts, 3, NOISE)
    rollouts = replace(rollouts, policy_logprob_sum=NOISE * rollouts.num_tokens)
    assert not derailed_samples(rollouts).any()


def test_a_forecast_counts_derailed_samples_as_too_hard_and_cut_off_ones_as_truncated(measured: MeasuredBehavior) -> None:
    truncated = {
        nats: group_outcomes(measured.behavior, measured.problems, cut_off(measured.rollouts, 3, nats)).num_truncated.sum()
        for nats in (NOISE, COHERENT)
    }
    assert truncated[NOISE] == 0
    assert truncated[COHERENT] > 0
