"""What a verdict rests on, and how the evidence of further probes changes a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.diagnose.importing.source_facts import SourceFacts
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Contribution,
    ContributionKind,
    Cost,
    Finding,
    LabelEvidence,
    PathLikelihoodMeasurement,
    Problem,
    SamplingMeasurement,
    ValidityMeasurement,
)

_PRIORITY = (
    Bottleneck.INCONCLUSIVE,
    Bottleneck.ATTRITION,
    Bottleneck.DECODING,
    Bottleneck.SCAFFOLD_BOUND,
    Bottleneck.GUIDED_ONLY,
)
"""Whose evidence comes first: that nothing can be said, then what was there before, then what needs no training, then what a scaffold reaches already, then what a part of
a reference path reaches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Hold everything that was measured of one behavior."""

    behavior: Behavior
    problems: Sequence[Problem]
    """The measured problems, in the order of `counts`."""
    counts: SamplingMeasurement
    validity: ValidityMeasurement
    """Whether the counts can be believed."""
    paths: PathLikelihoodMeasurement | None = None
    """Likelihood of the reference paths, where there are any."""
    findings: Sequence[Finding] = ()
    """Of the further probes, which may say why."""
    cost: Cost = field(default_factory=Cost)
    """What the measurement took."""
    source: SourceFacts | None = None
    """Where imported samples come from; None where an engine of ours sampled."""

    @property
    def independent(self) -> bool:
        """Return whether further samples of a problem could have come out otherwise: not at temperature 0, and no copies."""
        return not self.behavior.sampling.greedy and (self.source is None or self.source.independent)

    @property
    def shows_support(self) -> bool:
        """Return whether a missing success says something about support: independent samples of the policy itself."""
        return self.behavior.sampling.samples_the_policy and self.independent


@dataclass(frozen=True, kw_only=True, slots=True)
class WeighedLabel:
    """A label after the evidence of the further probes, with what each of them did to it."""

    label: Bottleneck
    confidence: float
    contributions: tuple[Contribution, ...]
    trains_as: Bottleneck | None = None
    """The label whose stages fit, where evidence decided and they are those of another one."""
    left_open: str = ""
    """Why evidence leaves the label open, in words; empty where none does."""


def weigh_evidence(
    label: Bottleneck, confidence: float, shares: Mapping[Bottleneck, float], findings: Sequence[Finding], thresholds: Thresholds
) -> WeighedLabel:
    """Change a label where a probe has sure evidence for another one.

    Evidence stands against the labels that it would replace. It makes its own label as sure as the evidence is, times the probability of all
    labels that it stands against together: where the samples leave two of them open, and the evidence stands against both, it decides. Of
    several that would change the label the first of `_PRIORITY` does.

    Args:
        label: What the samples alone say.
        confidence: How sure that is.
        shares: Posterior probability of each label that evidence can replace.
        findings: Of the further probes.
        thresholds: From which confidence on a label counts.
    """
    applicable = [
        (finding, one)
        for finding in findings
        for one in finding.evidence
        if _sureness(one, shares) > 0.0 and (label in one.instead_of or label is Bottleneck.INCONCLUSIVE)
    ]
    sure = [pair for pair in applicable if _sureness(pair[1], shares) >= thresholds.confidence]
    winner = min(sure, key=lambda pair: _PRIORITY.index(pair[1].label)) if sure else None
    contributions = tuple(_contribution(finding, label, applicable, winner) for finding in findings)
    if winner is not None:
        label, confidence = winner[1].label, _sureness(winner[1], shares)
    left_open = winner[1].because if winner is not None and label is Bottleneck.INCONCLUSIVE else ""
    trains_as = winner[1].trains_as if winner is not None else None
    return WeighedLabel(label=label, confidence=confidence, contributions=contributions, trains_as=trains_as, left_open=left_open)


def share_with_evidence(shares: Mapping[Bottleneck, float], findings: Sequence[Finding]) -> dict[Bottleneck, float]:
    """Return the probability of each label where evidence that is not sure enough to decide takes its part of those that it stands against.

    Args:
        shares: Posterior probability of each label, by the samples alone.
        findings: Of the further probes.
    """
    left = dict(shares)
    evidence = [one for finding in findings for one in finding.evidence if one.label in _PRIORITY]
    for one in sorted(evidence, key=lambda found: _PRIORITY.index(found.label)):
        moved = {label: one.confidence * left[label] for label in one.instead_of if label in left}
        for label, share in moved.items():
            left[label] -= share
        if total := sum(moved.values()):
            name = one.trains_as or one.label
            left[name] = left.get(name, 0.0) + total
    return left


def _sureness(evidence: LabelEvidence, shares: Mapping[Bottleneck, float]) -> float:
    """Return the probability that the label of some evidence is right."""
    return evidence.confidence * sum(shares.get(label, 0.0) for label in evidence.instead_of)


def _contribution(
    finding: Finding,
    label: Bottleneck,
    applicable: Sequence[tuple[Finding, LabelEvidence]],
    winner: tuple[Finding, LabelEvidence] | None,
) -> Contribution:
    """Say what one probe did to the verdict.

    Args:
        finding: What it found.
        label: What the samples alone say.
        applicable: All evidence for another label, with its finding.
        winner: The evidence that changed the label, with its finding; None where none did.
    """
    mine = [one for other, one in applicable if other is finding]
    if winner is not None and winner[0] is finding:
        kind, best = ContributionKind.DECIDED, winner[1].label
        words = f"makes it {best} instead of {label}, because {winner[1].because}"
    elif mine and winner is None:
        surest = max(mine, key=lambda one: one.confidence)
        kind, best = ContributionKind.NOT_SURE_ENOUGH, surest.label
        words = f"gives {best} a probability of {surest.confidence:.2f}, not enough to change {label}"
    elif mine:
        kind, best = ContributionKind.ANOTHER_DECIDED, mine[0].label
        words = f"has evidence for {best} too; another probe decided"
    elif finding.evidence:
        kind, best = ContributionKind.NOT_APPLICABLE, finding.evidence[0].label
        words = f"has evidence for {best}, which cannot replace {label}"
    else:
        kind, best = ContributionKind.NONE, None
        words = "has no evidence for another label" if winner is not None else f"leaves it at {label}"
    return Contribution(probe=finding.probe, kind=kind, label=best, words=words)
