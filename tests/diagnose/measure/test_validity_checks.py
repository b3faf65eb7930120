"""Which measurements are called invalid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.probes import addition_problems, sampled_context

from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure.sample_checks import SampledBehavior
from posttrain.diagnose.measure.setup_checks import check_setup
from posttrain.diagnose.measure.validity_checks import check_validity, rescore_samples
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Grade,
    GradeStatus,
    Outcome,
    PathScore,
    SamplingMeasurement,
    ValidityCode,
    ValidityMeasurement,
)
from posttrain.diagnose.verifiers.selftest import CaseCount, SelfTest, SelfTestFailure

PASSED = SelfTest(cases=())


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine.for_behaviors([addition_problems(6)], {f"p{i}": 0.5 for i in range(6)})


@pytest.fixture
def measured(engine: ScriptedEngine, tmp_path: Path) -> MeasuredBehavior:
    return sampled_context(addition_problems(6), engine, tmp_path, "none", n=4)


def check(
    engine: ScriptedEngine,
    measured: MeasuredBehavior,
    *,
    selftest: SelfTest = PASSED,
    counts: SamplingMeasurement | None = None,
    rescored: list[PathScore] | None = None,
) -> ValidityMeasurement:
    sampled = SampledBehavior(
        problems=measured.problems, counts=counts or measured.counts, rollouts=measured.rollouts, rescored=rescored or []
    )
    setup = check_setup(measured.behavior, engine, Thresholds(), selftest, measured.problems)
    return check_validity(measured.behavior, engine, Thresholds(), setup, sampled)


def outcomes(validity: ValidityMeasurement) -> dict[str, Outcome]:
    return {one.name.removeprefix("validity: "): one.outcome for one in validity.checks}


def test_sampler_and_scorer_that_agree_are_believed_and_others_are_not(
    engine: ScriptedEngine, measured: MeasuredBehavior
) -> None:
    rescored = rescore_samples(engine, measured.behavior, measured.problems, measured.rollouts, on_tokens=lambda _: None)
    assert len(rescored) == 6
    found = check(engine, measured, rescored=rescored)
    assert outcomes(found)["sampler-scorer gap"] is Outcome.MET
    assert not found.failures
    shifted = [replace(path, policy_logprobs=path.policy_logprobs - np.float32(1.0)) for path in rescored]
    found = check(engine, measured, rescored=shifted)
    assert outcomes(found)["sampler-scorer gap"] is Outcome.NOT_MET
    assert len(found.failures) == 1


@pytest.mark.parametrize(
    ("field", "name", "code"),
    [
        ("num_truncated", "truncated share", ValidityCode.TRUNCATED),
        ("num_missing", "missing share", ValidityCode.MISSING_GRADES),
        ("num_unparsed", "unparsed share", ValidityCode.UNREAD),
        ("num_unfinished_thoughts", "unfinished thoughts", ValidityCode.UNFINISHED_THOUGHT),
    ],
)
def test_too_many_samples_without_a_grade_are_not_met(
    engine: ScriptedEngine, measured: MeasuredBehavior, field: str, name: str, code: ValidityCode
) -> None:
    before = check(engine, measured)
    assert outcomes(before).get(name, Outcome.MET) in (Outcome.MET, Outcome.INCONCLUSIVE)
    counts = replace(measured.counts, **{field: measured.counts.num_samples})  # type: ignore[arg-type]
    found = check(engine, measured, counts=counts)
    assert outcomes(found)[name] is Outcome.NOT_MET
    assert found.failure_codes == (code,)
    assert len(found.failures) == 1


def test_a_verifier_that_fails_its_self_test_is_not_believed(engine: ScriptedEngine, measured: MeasuredBehavior) -> None:
    wrong = SelfTestFailure(problem_id="p0", text="???", grade=Grade(status=GradeStatus.SCORED, score=1.0))
    selftest = SelfTest(cases=(CaseCount(name="garbage", num_texts=6, num_failed=1, examples=(wrong,)),))
    found = check(engine, measured, selftest=selftest)
    assert outcomes(found)["texts without an answer refused"] is Outcome.NOT_MET
    assert found.failure_codes == (ValidityCode.ACCEPTS_ANYTHING,)
