"""The probe itself: which problems are probed, in which order, within the budget."""

from __future__ import annotations

from posttrain.diagnose.probes.base import AvailableInputs, Finding, Probe, ProbeContext, ProbeCost
from posttrain.diagnose.probes.prefix_ladder import search
from posttrain.diagnose.probes.prefix_ladder.finding import MOST_PROBLEMS, make_finding
from posttrain.diagnose.probes.prefix_ladder.ladder import Ladder, build_ladders, candidate_problems
from posttrain.diagnose.probes.prefix_ladder.placebo import sample_placebos
from posttrain.diagnose.types import Behavior, Bottleneck, SkipReason, Split

FEWEST_PROBLEMS = 4
"""Ladders that are started however small the budget is: a share over fewer says nothing."""


class PrefixLadder(Probe):
    """Measures success from the first part of a reference path, for problems that are out of reach."""

    name = "prefix_ladder"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        num = min(MOST_PROBLEMS, sum(bool(problem.references) for problem in behavior.split(split)))
        if not num:
            return ProbeCost(impossible=SkipReason.NO_REFERENCES)
        samples = num * (search.BASELINE + search.MOST_SAMPLES) + 3 * min(num, search.PLACEBO_PROBLEMS) * search.PLACEBO_SAMPLES
        return ProbeCost(
            generated_tokens=samples * behavior.sampling.max_tokens, when="where enough problems may be out of support"
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if not any(problem.references for problem in context.problems):
            return SkipReason.NO_REFERENCES
        if context.posterior.label is Bottleneck.MASTERED:
            return SkipReason.MASTERED
        share = float(context.posterior.counts[:, 0].mean()) / max(1, len(context.problems))
        if share < context.thresholds.prefix_ladder.share_out_of_support:
            return SkipReason.WITHIN_SUPPORT
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        candidates = candidate_problems(context, context.generator("problems"))
        building = build_ladders(context, candidates)
        ladders: list[Ladder] = []
        tried = 0
        # As many ladders at once as the budget is expected to decide: a few decided ladders say more than many started.
        while num := min(
            MOST_PROBLEMS - len(ladders), max(search.affordable_ladders(context), 0 if ladders else FEWEST_PROBLEMS)
        ):
            started: list[Ladder] = []
            for ladder in building:
                tried += 1
                if ladder is not None:
                    started.append(ladder)
                if len(started) == num:
                    break
            if not started:
                break
            search.sample_baseline(context, started)
            search.search_rungs(context, started)
            ladders += started
        placebos = sample_placebos(context, ladders, context.generator("placebos"))
        return make_finding(context, ladders, len(candidates), tried - len(ladders), placebos)
