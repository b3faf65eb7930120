"""The verdict on counts whose bottleneck is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from posttrain.diagnose.decide.evidence import Measurements
from posttrain.diagnose.decide.routes import Situation, learning_signal, name_stage
from posttrain.diagnose.decide.utility import Offer
from posttrain.diagnose.decide.verdict import diagnose_behavior
from posttrain.diagnose.measure.label_posterior import label_posterior
from posttrain.diagnose.measure.sample_checks import UNPARSED
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Check,
    Diagnosis,
    Finding,
    LabelEvidence,
    MeasureSettings,
    Note,
    Outcome,
    Problem,
    Reference,
    Sampling,
    SamplingMeasurement,
    Split,
    StageAdvice,
    ValidityMeasurement,
    VerifierSpec,
    decide,
    default_epsilon,
)

PATH = Reference(steps=("1",))
ALL = frozenset({Need.REFERENCES, Need.VERIFIER})


def make(correct: npt.ArrayLike, n: int = 32, **changes: object) -> tuple[Behavior, SamplingMeasurement, ValidityMeasurement]:
    c = np.asarray(correct, dtype=np.int64)
    ids = tuple(f"p{i}" for i in range(len(c)))
    behavior = Behavior(
        name="b",
        problems=(
            *(Problem(id=i, prompt=i, answer="1", key=i, split=Split.EVAL) for i in ids),
            *(
                Problem(id=f"t{i}", prompt=f"t{i}", answer="1", key=f"t{i}", split=Split.TRAIN, references=(PATH,))
                for i in range(64)
            ),
        ),
        verifier=VerifierSpec(kind="number"),
        measure=MeasureSettings(epsilon=default_epsilon(8), primary_k=8),
    )
    zeros = np.zeros(len(c), dtype=np.int64)
    sampling = SamplingMeasurement(
        problem_ids=ids, groups=ids, num_samples=zeros + n, num_correct=c, num_missing=zeros, num_unparsed=zeros,
        num_truncated=zeros, num_unfinished_thoughts=zeros, num_thought_tokens=zeros, num_lenient_correct=c, greedy_correct=(c > n / 2).astype(float), num_tokens=zeros + 10 * n,
    )  # fmt: skip
    validity = ValidityMeasurement(behavior="b", checks=(), notes=(), failures=(), prompt_example="p")
    return behavior, replace(sampling, **changes), validity  # type: ignore[arg-type]


def diagnose(behavior: Behavior, sampling: SamplingMeasurement, validity: ValidityMeasurement, **changes: object) -> Diagnosis:
    return diagnose_behavior(
        Measurements(behavior=behavior, problems=behavior.split(Split.EVAL), counts=sampling, validity=validity),
        thresholds=Thresholds(**changes),  # type: ignore[arg-type]
        available=ALL,
        seed=0,
    )


@pytest.mark.parametrize(
    ("rates", "label", "stage"),
    [
        (np.zeros(40), Bottleneck.MISSING_SUPPORT, "sft"),
        (np.full(40, 0.4), Bottleneck.POOR_CHOICE, "grpo"),
        (np.linspace(0.1, 0.8, 40), Bottleneck.POOR_CHOICE, "grpo"),
        (np.full(40, 0.99), Bottleneck.MASTERED, "none"),
        (np.r_[np.zeros(36), np.full(4, 0.7)], Bottleneck.MISSING_SUPPORT, "sft"),
        (np.r_[np.zeros(25), np.full(15, 0.7)], Bottleneck.MIXED, None),
        (np.r_[np.zeros(3), np.full(37, 0.4)], Bottleneck.POOR_CHOICE, "grpo"),
    ],
)
def test_planted_bottlenecks_are_named(rates: npt.NDArray[np.float64], label: Bottleneck, stage: str | None) -> None:
    found = diagnose(*make(np.random.default_rng(1).binomial(32, rates)))
    assert found.bottleneck is label
    assert found.confidence >= 0.9
    assert found.stage is not None
    assert found.stage.name == stage or stage is None
    assert found.sentence.startswith("b: ")
    assert sum(found.shares.values()) == pytest.approx(1)


def test_too_few_samples_are_inconclusive_and_say_what_would_settle_it() -> None:
    found = diagnose(*make([0] * 20 + [1] * 4 + [2] * 9, n=2))
    assert found.bottleneck is Bottleneck.INCONCLUSIVE
    assert found.leans_to is Bottleneck.MIXED
    assert "%" not in found.sentence
    assert 0.5 < found.confidence < 0.95
    assert found.settles_with is not None
    assert found.settles_with.samples >= 8
    assert 0.5 <= found.settles_with.chance <= 1
    assert found.settles_with.tokens == pytest.approx(10 * found.settles_with.samples, rel=0.1)
    assert found.stage is not None
    assert found.stage.name == "grpo", "whichever of the two it is"
    assert "whichever it is, run grpo" in found.sentence


def test_what_may_be_mastered_is_trained_only_if_it_is_not() -> None:
    found = diagnose(*make(np.array([16] * 20 + [12] * 10), n=16))
    assert found.leans_to is Bottleneck.MASTERED
    assert found.stage is not None
    assert STAGES[found.stage.name].trains
    assert f"if it is not, run {found.stage.name}" in found.sentence


def test_missing_samples_that_could_decide_make_it_inconclusive() -> None:
    behavior, sampling, validity = make(np.zeros(40))
    found = diagnose(behavior, replace(sampling, num_samples=sampling.num_samples - 16, num_missing=np.full(40, 16)), validity)
    assert found.bottleneck is Bottleneck.INCONCLUSIVE
    assert "missing" in found.sentence
    few = replace(
        sampling, num_samples=sampling.num_samples - np.eye(40, dtype=np.int64)[0], num_missing=np.eye(40, dtype=np.int64)[0]
    )
    assert diagnose(behavior, few, validity).bottleneck is Bottleneck.MISSING_SUPPORT


def test_what_is_not_identified_is_given_as_bounds() -> None:
    found = diagnose(*make([0] * 120 + [1] * 40 + [2] * 20 + [3] * 12 + [4] * 8, n=4))
    far = found.pass_at_k[-1]
    assert far.k >= 32
    assert np.isnan(far.value.estimate)
    assert "not identified" in far.value.method
    assert far.value.high - far.value.low > 0.2
    counted = next(point for point in found.pass_at_k if point.k == 4)
    assert counted.value.estimate == pytest.approx(0.4)


def test_unequal_numbers_of_samples_are_read_by_likelihood() -> None:
    """Problems that were stopped at their first success have a success rate of 1/n, whatever their rate."""
    rng = np.random.default_rng(0)
    n = np.minimum(rng.geometric(0.2, 200), 30)
    found = diagnose(*make((n < 30).astype(int), n=32, num_samples=n, num_tokens=10 * n))
    check = next(c for c in found.checks if c.name == "pass@1")
    assert np.mean((n < 30) / n) > 0.3
    assert check.low <= 0.2 <= check.high
    assert check.estimate < 0.27
    assert "likelihood" in check.method


def test_a_lenient_reading_that_changes_the_label_is_format() -> None:
    found = diagnose(*make(np.zeros(40), num_lenient_correct=np.full(40, 31)))
    assert found.bottleneck is Bottleneck.FORMAT
    assert found.stage is not None
    assert found.stage.name == "sft", "nothing is right as read strictly, so that rft would learn from no sample"


def test_format_is_sure_where_the_lenient_label_is_open() -> None:
    """Read leniently, the behavior lies at the threshold of mastery; that it is better than it looks is sure."""
    found = diagnose(*make(np.zeros(40), num_lenient_correct=np.r_[np.full(20, 28), np.full(20, 29)]))
    assert found.bottleneck is Bottleneck.FORMAT
    assert found.confidence >= 0.95


def test_format_binds_where_most_failures_are_right_read_leniently_though_the_label_stays() -> None:
    """Unreliable either way: of 31 failures in 32 samples 23 are right and not read, and then 11."""
    found = diagnose(*make(np.ones(40), num_lenient_correct=np.full(40, 24)))
    assert found.bottleneck is Bottleneck.FORMAT
    assert diagnose(*make(np.ones(40), num_lenient_correct=np.full(40, 12))).bottleneck is Bottleneck.POOR_CHOICE


def test_greedy_mastery_is_decoding() -> None:
    found = diagnose(*make(np.full(40, 16), greedy_correct=np.ones(40)))
    assert found.bottleneck is Bottleneck.DECODING
    assert found.stage is not None
    assert found.stage.name == "change_decoding"
    assert found.confidence >= 0.95


def test_greedy_mastery_beside_samples_that_may_show_it_too_is_open() -> None:
    found = diagnose(*make(np.r_[np.full(20, 28), np.full(20, 29)], greedy_correct=np.ones(40)))
    assert found.bottleneck is Bottleneck.INCONCLUSIVE
    assert found.leans_to is Bottleneck.DECODING


@pytest.mark.parametrize("num_problems", [1, 4])
def test_few_problems_support_no_advice_but_may_be_mastered(num_problems: int) -> None:
    found = diagnose(*make(np.full(num_problems, 8)))
    assert found.bottleneck is Bottleneck.INCONCLUSIVE
    assert found.leans_to is Bottleneck.POOR_CHOICE
    assert found.stage is not None
    assert found.stage.name == "sample_more"
    assert found.settles_with is None, "no samples of these problems decide"
    hardly = diagnose(*make(np.full(num_problems, 4), n=4))
    assert (hardly.bottleneck, hardly.leans_to) == (Bottleneck.INCONCLUSIVE, Bottleneck.MASTERED)
    assert hardly.stage is not None
    assert hardly.stage.name == "sample_more"
    assert diagnose(*make(np.full(num_problems, 128), n=128)).bottleneck is Bottleneck.MASTERED
    assert diagnose(*make(np.full(5, 8))).bottleneck is Bottleneck.POOR_CHOICE


def test_a_truncated_sampler_never_yields_missing_support() -> None:
    behavior, sampling, validity = make(np.zeros(40))
    found = diagnose(replace(behavior, sampling=Sampling(top_p=0.9)), sampling, validity)
    assert found.bottleneck is Bottleneck.INCONCLUSIVE


@pytest.mark.parametrize("sampling", [Sampling(top_p=0.9), Sampling(temperature=0.7), Sampling(known=False)])
def test_a_mixture_with_problems_out_of_support_is_open_where_the_policy_was_not_sampled(sampling: Sampling) -> None:
    behavior, unsupported, validity = make(np.repeat([0, 16], 20), n=64)
    sampled = diagnose(behavior, unsupported, validity)
    assert sampled.bottleneck is Bottleneck.MIXED
    found = diagnose(replace(behavior, sampling=sampling), unsupported, validity)
    assert (found.bottleneck, found.leans_to, found.plan) == (Bottleneck.INCONCLUSIVE, Bottleneck.MIXED, ())
    assert "so a missing success says nothing about support" in found.sentence
    assert found.stage is not None
    assert found.stage.name == "sample_more"


def test_a_mixture_without_problems_out_of_support_has_its_label_however_it_was_sampled() -> None:
    behavior, reached, validity = make(np.repeat([16, 64], 20), n=64)
    found = diagnose(replace(behavior, sampling=Sampling(temperature=0.7)), reached, validity)
    assert found.bottleneck is Bottleneck.MIXED
    assert Bottleneck.MISSING_SUPPORT not in {part.label for part in found.plan}


def check(name: str, outcome: Outcome) -> Check:
    return Check(name=name, op="<=", estimate=0.9, low=0.8, high=0.95, threshold=0.2, n=10, method="", outcome=outcome)


def test_a_failed_validity_check_is_invalid_and_unread_samples_are_unless_a_lenient_reading_reads_them() -> None:
    behavior, sampling, validity = make(np.zeros(40))
    broken = replace(validity, checks=(check("validity: truncated share", Outcome.NOT_MET),))
    assert diagnose(behavior, sampling, broken).bottleneck is Bottleneck.INVALID
    unread = replace(validity, checks=(check(UNPARSED, Outcome.NOT_MET),))
    assert diagnose(behavior, sampling, unread).bottleneck is Bottleneck.INVALID
    readable = replace(sampling, num_lenient_correct=np.full(40, 20))
    assert diagnose(behavior, readable, unread).bottleneck is Bottleneck.FORMAT


def test_no_samples_at_all_is_invalid() -> None:
    zeros = np.zeros(4, dtype=np.int64)
    found = diagnose(*make(np.zeros(4), num_samples=zeros))
    assert found.bottleneck is Bottleneck.INVALID
    assert found.problems == ()


def test_the_same_measurements_give_the_same_diagnosis() -> None:
    parts = make(np.random.default_rng(3).binomial(32, np.linspace(0, 0.5, 40)))
    assert diagnose(*parts) == diagnose(*parts)


def test_checks_have_three_outcomes() -> None:
    assert decide(">=", 0.5, 0.7, 0.5) is Outcome.MET
    assert decide(">=", 0.4, 0.49, 0.5) is Outcome.NOT_MET
    assert decide(">=", 0.4, 0.6, 0.5) is Outcome.INCONCLUSIVE
    assert decide("<=", 0.1, 0.2, 0.2) is Outcome.MET
    assert decide("<=", 0.21, 0.3, 0.2) is Outcome.NOT_MET
    assert decide("<=", float("nan"), float("nan"), 0.2) is Outcome.INCONCLUSIVE


def test_a_route_depends_on_what_is_available() -> None:
    """Where no stage was measured."""

    def told(label: Bottleneck, *needs: Need, **changes: object) -> StageAdvice:
        return name_stage(Situation(label=label, offer=Offer(needs=frozenset(needs)), effects={}, **changes), Thresholds())  # type: ignore[arg-type]

    assert told(Bottleneck.MISSING_SUPPORT, *ALL).name == "sft"
    assert told(Bottleneck.MISSING_SUPPORT, Need.VERIFIER).name == "collect_references"
    assert told(Bottleneck.POOR_CHOICE, Need.REFERENCES).name == "sft"
    assert told(Bottleneck.POOR_CHOICE).name == "collect_verifier"
    assert "needs teacher" in dict(told(Bottleneck.MISSING_SUPPORT).alternatives)["seq_kd"]
    found = told(Bottleneck.POOR_CHOICE, Need.TEACHER, Need.VERIFIER, measured={"opd": "fits, since it is near", "grpo": "x"})
    assert "measured: fits, since it is near" in dict(found.alternatives)["opd"]
    assert found.why.endswith("; measured: x")


def test_a_stage_without_a_learning_signal_is_not_named() -> None:
    """No answer is right as read strictly: stages that learn from the policy's own successes would take no step."""
    found = diagnose(*make(np.zeros(40), num_lenient_correct=np.full(40, 31)))
    assert found.stage is not None
    assert (
        "too seldom to learn from: a group of 8 samples holds a success and a failure in 0%"
        in dict(found.stage.alternatives)["rft"]
    )
    heard = diagnose(*make(np.full(40, 8), num_lenient_correct=np.full(40, 32)))
    assert heard.bottleneck is Bottleneck.FORMAT
    assert heard.stage is not None
    assert "too seldom" not in " ".join(why for _, why in heard.stage.alternatives)


def test_references_that_begin_with_their_answer_leave_guidance_unknown() -> None:
    behavior, sampling, validity = make(np.zeros(40))
    note = Note("answer_at_the_start", "")
    none = Finding(probe="prefix_ladder", outcome="not_measured", summary="", notes=(note,))
    some = replace(none, outcome="unreachable", rows=({"rung": 1},))
    for finding, said in ((none, True), (some, False)):
        measured = Measurements(
            behavior=behavior, problems=behavior.split(Split.EVAL), counts=sampling, validity=validity, findings=(finding,)
        )
        found = diagnose_behavior(measured, thresholds=Thresholds(), available=ALL, seed=0)
        assert found.bottleneck is Bottleneck.MISSING_SUPPORT
        assert ("guided_not_applicable" in {one.code for one in found.caveats}) == said


@pytest.mark.parametrize(
    ("sure", "label", "leans_to"),
    [(0.99, "guided_only", None), (0.8, "inconclusive", "guided_only"), (0.3, "inconclusive", "missing_support")],
)
def test_evidence_that_does_not_decide_is_doubt(sure: float, label: str, leans_to: str | None) -> None:
    """The samples alone are sure of missing support."""
    behavior, sampling, validity = make(np.zeros(40), n=64)
    evidence = LabelEvidence(label=Bottleneck.GUIDED_ONLY, instead_of=(Bottleneck.MISSING_SUPPORT,), confidence=sure, because="x")
    finding = Finding(probe="prefix_ladder", outcome="undecided", summary="", evidence=(evidence,))
    measured = Measurements(
        behavior=behavior, problems=behavior.split(Split.EVAL), counts=sampling, validity=validity, findings=(finding,)
    )
    found = diagnose_behavior(measured, thresholds=Thresholds(), available=ALL, seed=0)
    assert (found.bottleneck, found.leans_to) == (label, leans_to)
    assert found.confidence == pytest.approx(max(sure, 1 - sure), abs=0.02)
    assert found.settles_with is None, "samples do not settle it"


def test_the_learning_signal_is_that_of_the_rates() -> None:
    n, c = np.full(60, 400), np.repeat([0, 40, 200, 400], 15)
    found = learning_signal(label_posterior(n, c, epsilon=default_epsilon(8), thresholds=Thresholds()), 8, 0.95)
    exact = np.mean(1 - (c / n) ** 8 - (1 - c / n) ** 8)
    assert found.share.estimate == pytest.approx(exact, abs=0.01)
    assert found.share.low <= exact <= found.share.high
