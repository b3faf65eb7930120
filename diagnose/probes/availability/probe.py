"""The probe itself."""

from __future__ import annotations

from posttrain.diagnose.probes.availability import scoring
from posttrain.diagnose.probes.availability.finding import make_finding
from posttrain.diagnose.probes.availability.steps import OWN, REFERENCE
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Probe, ProbeContext, ProbeCost
from posttrain.diagnose.types import Behavior, Bottleneck, SkipReason, Split


class Availability(Probe):
    """Reachability and availability of right paths, step by step."""

    name = "availability"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        problems = behavior.split(split)
        texts = [len(reference.text.encode()) + 1 for p in problems for reference in p.references[:1]]
        own = min(scoring.MOST_PATHS, len(problems)) * behavior.sampling.max_tokens
        # A token has a byte at least. Reference paths are scored twice: as they are, and with a wrong answer.
        references = 2 * sum(sorted(texts, reverse=True)[: scoring.MOST_PATHS])
        return ProbeCost(
            scored_tokens=references + own, when="where there are references or right samples, and it is not mastered"
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if context.paths is None and not context.counts.num_correct.any():
            return SkipReason.NO_RIGHT_PATHS
        if context.posterior.label is Bottleneck.MASTERED:
            return SkipReason.MASTERED
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        rng = context.generator()
        scored = scoring.likeliest_references(context, rng)
        own = scoring.own_right_samples(context, rng)
        margins = scoring.answer_margins(context, scored, rng)
        paths = [*scoring.score_paths(context, REFERENCE, scored), *scoring.score_paths(context, OWN, own)]
        return make_finding(context, paths, margins)
