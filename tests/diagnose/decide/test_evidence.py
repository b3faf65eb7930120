"""How sure evidence of a probe makes its label, from the labels that it stands against."""

from __future__ import annotations

import pytest

from posttrain.diagnose.decide.evidence import share_with_evidence, weigh_evidence
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, ContributionKind, Finding, LabelEvidence

MISSING, POOR, MASTERED = Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED


@pytest.mark.parametrize(
    ("label", "shares", "against", "sure", "kind", "confidence"),
    [
        # Of two labels that are open, the evidence stands against both.
        (Bottleneck.INCONCLUSIVE, {MISSING: 0.6, POOR: 0.4}, (MISSING, POOR), 0.99, ContributionKind.DECIDED, 0.99),
        # It stands against one of them alone, and the other may be right.
        (Bottleneck.INCONCLUSIVE, {MISSING: 0.6, POOR: 0.4}, (MISSING,), 0.99, ContributionKind.NOT_SURE_ENOUGH, 0.6),
        # Both are sure, together they are not.
        (MISSING, {MISSING: 0.96, POOR: 0.04}, (MISSING,), 0.96, ContributionKind.NOT_SURE_ENOUGH, 0.96),
        (MISSING, {MISSING: 0.98, POOR: 0.02}, (MISSING,), 0.98, ContributionKind.DECIDED, 0.98**2),
        # What it stands against is ruled out.
        (POOR, {MISSING: 0.001, POOR: 0.999}, (MISSING,), 0.99, ContributionKind.NOT_APPLICABLE, 0.999),
        # Labels that the samples did not give, such as `format`, are not replaced.
        (Bottleneck.FORMAT, {}, (MISSING, POOR), 0.99, ContributionKind.NOT_APPLICABLE, 0.97),
    ],
)
def test_evidence_is_as_sure_as_it_is_and_as_what_it_stands_against(
    label: Bottleneck,
    shares: dict[Bottleneck, float],
    against: tuple[Bottleneck, ...],
    sure: float,
    kind: ContributionKind,
    confidence: float,
) -> None:
    evidence = LabelEvidence(label=Bottleneck.SCAFFOLD_BOUND, instead_of=against, confidence=sure, because="x")
    finding = Finding(probe="scaffold", behavior="b", outcome="o", summary="s", evidence=(evidence,))
    before = max(shares.values(), default=0.97)
    found = weigh_evidence(label, before, shares, [finding], Thresholds())
    assert found.contributions[0].kind is kind
    assert found.label is (Bottleneck.SCAFFOLD_BOUND if kind is ContributionKind.DECIDED else label)
    assert found.confidence == pytest.approx(confidence)


def test_evidence_that_does_not_decide_takes_its_part() -> None:
    """A stage is chosen by it, and the verdict leans to it, where the label is open."""
    guided = LabelEvidence(label=Bottleneck.GUIDED_ONLY, instead_of=(MISSING,), confidence=0.9, because="x")
    scaffold = LabelEvidence(label=Bottleneck.SCAFFOLD_BOUND, instead_of=(MISSING, POOR), confidence=0.5, because="x")
    findings = [Finding(probe=one.label, behavior="b", outcome="o", summary="s", evidence=(one,)) for one in (guided, scaffold)]
    found = share_with_evidence({MISSING: 0.8, POOR: 0.2}, findings)
    assert found[Bottleneck.SCAFFOLD_BOUND] == pytest.approx(0.5)
    assert found[Bottleneck.GUIDED_ONLY] == pytest.approx(0.9 * 0.4)
    assert found[MISSING] == pytest.approx(0.1 * 0.4)
    assert sum(found.values()) == pytest.approx(1)
    assert share_with_evidence({}, findings) == {}
