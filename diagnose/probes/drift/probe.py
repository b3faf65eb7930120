"""The probe itself."""

from __future__ import annotations

import numpy as np

from posttrain.diagnose.probes.base import AvailableInputs, Finding, Probe, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.probes.drift import answers
from posttrain.diagnose.probes.drift.finding import ModelsGiven, make_finding
from posttrain.diagnose.probes.drift.rates import compare_rates
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import Behavior, Rollout, SkipReason, Split

_FEWEST = 8
"""Sampling ends where what is left of the budget pays less than an eighth of a round: a shard that small costs more than it tells."""


class Drift(Probe):
    """Compares the policy with an earlier one: an engine that holds it, a run that measured it, or both."""

    name = "drift"

    def __init__(self, *, num_samples: int = 16, num_own: int = 4):
        """Take sizes.

        Args:
            num_samples: Answers of the earlier policy per problem; 16 show a fall from .5 to 0, and not one from .1.
            num_own: Answers of the policy per problem, of those that are there, that are scored for the reverse KL.
        """
        self.num_samples, self.num_own = num_samples, num_own

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`: answers of the earlier policy, and both kinds of answers under both policies."""
        tokens = len(behavior.split(split)) * behavior.sampling.max_tokens
        when = "unless the samples say mastered"
        if available.earlier:
            scored = 2 * tokens * (self.num_samples + self.num_own)
            return ProbeCost(generated_tokens=tokens * self.num_samples, scored_tokens=scored, when=when)
        if available.before:
            return ProbeCost(scored_tokens=tokens * self.num_samples, when=when)
        return ProbeCost(impossible=SkipReason.NO_EARLIER_POLICY)

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`: nothing is lost where everything is mastered, and nothing moved between a model and itself."""
        if context.earlier is not None and context.earlier.info.model_fingerprint == context.policy.info.model_fingerprint:
            return SkipReason.SAME_MODEL
        if context.surely_mastered:
            return SkipReason.MASTERED
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`: sample the earlier policy, score under both, compare."""
        sampled = self._sample_earlier(context) if context.earlier is not None else []
        earlier_run = context.earlier_rollouts
        forward = reverse = None
        if context.earlier is not None:
            forward = answers.score_under_both(context, context.earlier, sampled, "answers of the earlier policy")
            reverse = answers.score_under_both(context, context.earlier, self._own(context), "its own answers")
        elif earlier_run is not None:
            forward = self._verified_before(context, earlier_run)
        rates = compare_rates(context, context.thresholds, sampled, earlier_run)
        models = ModelsGiven.POLICY if context.earlier is None else ModelsGiven.BOTH
        plain = context.behavior.sampling.samples_the_policy
        return make_finding(context, context.thresholds, rates, forward, reverse, models=models, plain=plain)

    def _sample_earlier(self, context: ProbeContext) -> list[Rollout]:
        """Return answers of the earlier policy: round after round over the problems, as far as the budget is sure to last."""
        assert context.earlier is not None
        count, most = len(context.problems), context.behavior.sampling.max_tokens
        prompts = [context.sampler.prompt(p, context.earlier).token_ids for p in context.problems]
        rollouts: list[Rollout] = []
        start, fewest = 0, 1
        # Sample number t is sample t // P of problem t % P.
        while (end := min(self.num_samples * count, start + context.sampler.tokens_left // most)) - start >= fewest:
            bounds = [(-((place - start) // count), -((place - end) // count)) for place in range(count)]
            prompt_requests = [
                PromptRequest(problem=problem, prompt_ids=prompt, num=last - first, first=first)
                for problem, prompt, (first, last) in zip(context.problems, prompts, bounds, strict=True)
                if last > first
            ]
            for samples in context.sampler.sample(prompt_requests, condition="earlier policy", engine=context.earlier):
                rollouts += samples
            start, fewest = end, min(max(1, count // _FEWEST), self.num_samples * count - end or 1)
        return rollouts

    def _own(self, context: ProbeContext) -> list[Rollout]:
        """Return the first answers of the policy to each problem."""
        return answers.first_rollouts(context, context.rollouts, ~context.rollouts.greedy, self.num_own)

    def _verified_before(self, context: ProbeContext, table: RolloutTable) -> answers.ScoredAnswers:
        """Return the right answers of an earlier run, under the policy; what the earlier policy said of them was kept."""
        right = table.succeeded(context.behavior.measure.success) & ~table.greedy
        rollouts = answers.first_rollouts(context, table, right, self.num_samples)
        encoded = answers.encode_rollouts(context.policy, context, rollouts)
        # An earlier run does not say what its tokens meant; that ours begin alike says that they are cut alike.
        alike = [
            rollout.token_ids[: max(1, len(path) - 2)] == path[: max(1, len(path) - 2)]
            for rollout, path in zip(rollouts, encoded, strict=True)
        ]
        same = bool(np.mean(alike) > 0.5) if alike else True
        paths = [rollout.token_ids for rollout in rollouts] if same else encoded
        before = np.array([rollout.policy_logprobs.sum(dtype=np.float64) for rollout in rollouts], dtype=np.float64)
        after = context.sampler.total_logprobs(rollouts, paths, what="right answers of the earlier run")
        return answers.gather_answers(context, rollouts, before, after, same)
