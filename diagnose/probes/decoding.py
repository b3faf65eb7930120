"""The decoding probe: does a cooler temperature master what the policy does unreliably at temperature 1?

Where it does, nothing has to be trained: the model knows which answer is its best one. The same problems are sampled at the cooler
temperatures and compared with their samples at temperature 1, paired by problem; greedy decoding, which is always measured, stands
beside them. The evidence for `decoding` is the posterior probability that the mean success rate over the behavior's problems is at least
`Thresholds.mastered` at one of the temperatures, or greedily.

**When it cannot help** (`ceiling`). Cooling moves mass to what is likely already: a problem can be mastered that way where greedy
decoding solves it, or where right answers hold the majority at temperature 1 and are only spread over more paths than the wrong one. Of
greedy answers that ran into the length limit nothing is known, since loops are typical of temperature 0. Where too few problems are
of these kinds for the mean to reach `mastered`, no tokens are spent.

Sources: gains may be temperature, arXiv 2504.13837 (which compares at matched temperatures) and arXiv 2507.14843; loops under greedy
decoding, arXiv 1904.09751.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, mean_interval, paired_delta_interval
from posttrain.diagnose.probes import conditions
from posttrain.diagnose.probes.base import (
    AvailableInputs,
    Finding,
    LabelEvidence,
    Note,
    Probe,
    ProbeContext,
    ProbeCost,
    PromptRequest,
)
from posttrain.diagnose.storage.rollout_table import GREEDY
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, Outcome, SkipReason, Split, decide

TEMPERATURES = (0.6, 0.3)
"""Between the policy and greedy decoding: the usual setting of deployed models, and one at which only borderline choices stay random."""
MOST_PROBLEMS = 96
"""More than for a scaffold, since the question is on which side of `mastered` a mean lies, not whether it doubles: the standard error of
a rate near .9 over 96 problems is at most .03."""


class DecodingOutcome(StrEnum):
    """Whether a cooler temperature masters the behavior."""

    MASTERS = "masters"
    NOT_SHOWN = "not_shown"
    NOT_MEASURED = "not_measured"


class DecodingProbe(Probe):
    """Samples at cooler temperatures, as the module says."""

    name = "decoding"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        if not behavior.sampling.samples_the_policy:
            return ProbeCost(impossible=SkipReason.DEPLOYMENT_POLICY)
        problems = min(MOST_PROBLEMS, len(behavior.split(split)))
        return ProbeCost(
            generated_tokens=len(TEMPERATURES) * conditions.SAMPLES * problems * behavior.sampling.max_tokens,
            when="where the behavior is solved now and then, and greedy decoding leaves it open whether cooler sampling masters it",
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        mastered, level = context.thresholds.mastered, context.thresholds.level
        if context.surely_mastered:
            return SkipReason.MASTERED
        if not context.counts.num_correct.any() and not (context.counts.greedy_correct == 1).any():
            return SkipReason.NOTHING_TO_COOL
        greedy = mean_interval(context.counts.greedy_correct, context.counts.groups, level=level)
        if decide(">=", greedy.low, greedy.high, mastered) is Outcome.MET:
            return SkipReason.GREEDY_MASTERS
        most = mean_interval(ceiling(context), context.counts.groups, level=level)
        if decide(">=", most.low, most.high, mastered) is Outcome.NOT_MET:
            return SkipReason.COOLING_CANNOT_HELP
        if not conditions.enough(context, conditions.affordable(context, MOST_PROBLEMS, len(TEMPERATURES))[0]):
            return SkipReason.TOO_FEW_TOKENS
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        everything = range(len(context.problems))
        most, num = conditions.affordable(context, MOST_PROBLEMS, len(TEMPERATURES))
        sampled = sorted(conditions.in_random_order(context, everything)[:most])
        prompt_requests = [
            PromptRequest(problem, context.sampler.prompt(problem).token_ids, num)
            for problem in (context.problems[place] for place in sampled)
        ]
        cooler = {}
        for temperature in TEMPERATURES if prompt_requests else ():
            condition = f"T = {temperature:g}"
            sampling = replace(context.behavior.sampling, temperature=temperature)
            found = context.sampler.sample(prompt_requests, condition=condition, sampling=sampling)
            cooler[temperature] = conditions.compare_condition(context, condition, everything, sampled, found)
        found_rates = {one.condition: one.rate for one in cooler.values()}
        chances = {one.condition: _chance(conditions.mean_draws(context, one), context) for one in cooler.values()}

        table = conditions.ConditionTable(context, "T = 1", "at T = 1")
        for one in cooler.values():
            table.add(one, f"at {one.condition}")
        said = [f"{table.baseline.estimate:.2f} at T = 1"]
        said += [f"{one.rate.estimate:.2f} at {one.condition} (gain {conditions.signed(one.gain)})" for one in cooler.values()]
        if np.isfinite(context.counts.greedy_correct).any():
            rate, gain = _greedy(context)
            known = context.counts.greedy_correct[np.isfinite(context.counts.greedy_correct)]
            table.rows.append(conditions.table_row(GREEDY, len(known), len(known), int(known.sum()), rate, gain))
            table.numbers |= {"greedy pass@1": Estimate.of(rate)}
            said.append(f"{rate.estimate:.2f} greedily")
            if cooler:
                found_rates["temperature 0"], chances["temperature 0"] = rate, _chance(_greedy_draws(context), context)

        evidence: tuple[LabelEvidence, ...] = ()
        best = max(chances, key=lambda condition: chances[condition], default=None)
        mastered = context.thresholds.mastered
        verdict = f"No temperature is shown to reach {mastered:g}"
        outcome = DecodingOutcome.NOT_SHOWN if cooler else DecodingOutcome.NOT_MEASURED
        if best is not None and chances[best] > context.thresholds.evidence:
            rate = found_rates[best]
            because = f"the mean success rate is {rate.estimate:.2f} [{rate.low:.2f}, {rate.high:.2f}] at {best}, {table.baseline.estimate:.2f} at T = 1"
            evidence = (
                LabelEvidence(
                    label=Bottleneck.DECODING,
                    instead_of=(Bottleneck.MIXED, Bottleneck.POOR_CHOICE),
                    confidence=chances[best],
                    because=because,
                ),
            )
            if chances[best] >= context.thresholds.confidence:
                verdict, outcome = f"{best} masters it without training", DecodingOutcome.MASTERS
        return Finding(
            outcome=outcome,
            summary=f"Success {', '.join(said)}. {verdict}.",
            numbers=table.numbers,
            rows=tuple(table.rows),
            problems=conditions.per_problem(context, list(cooler.values())),
            evidence=evidence,
            notes=() if prompt_requests else (Note("budget_ended", "The budget did not hold the samples of one problem."),),
        )


def ceiling(context: ProbeContext) -> npt.NDArray[np.float64]:
    """Return [P] how likely it is that cooling can master each problem, as the module says."""
    majority = context.posterior.mixture.interval_probabilities([context.thresholds.decoding.majority])[:, 1]
    table = context.rollouts
    place = table.places([problem.id for problem in context.problems])
    looping = np.zeros(len(context.problems), dtype=np.bool_)
    looping[place[(place >= 0) & table.greedy & table.truncated]] = True
    greedy = context.counts.greedy_correct
    return np.asarray(np.where((greedy == 1) | np.isnan(greedy) | looping, 1.0, majority))


def _chance(means: npt.NDArray[np.float64], context: ProbeContext) -> float:
    """Return the posterior probability of being mastered; half a draw is always left to the contrary."""
    return float(((means >= context.thresholds.mastered).sum() + 0.5) / (means.size + 1))


def _greedy_draws(context: ProbeContext) -> npt.NDArray[np.float64]:
    """Return [D] posterior draws of the mean success of greedy decoding."""
    known = np.flatnonzero(np.isfinite(context.counts.greedy_correct))
    correct = context.counts.greedy_correct[known].astype(np.int64)
    return conditions.fit(context, known, np.ones_like(correct), correct).mean


def _greedy(context: ProbeContext) -> tuple[Interval, Interval]:
    """Return the success of greedy decoding, and its paired difference from temperature 1."""
    sampling, level = context.counts, context.thresholds.level
    base = conditions.rates(sampling.num_samples, sampling.num_correct)
    if not sampling.sampled_equally:  # plain rates are biased after adaptive sampling
        base = context.posterior.mixture.problem_means()
    gain = paired_delta_interval(base, sampling.greedy_correct, sampling.groups, level=level)
    return mean_interval(sampling.greedy_correct, sampling.groups, level=level), gain
