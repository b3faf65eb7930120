"""The probe itself."""

from __future__ import annotations

import numpy as np

from posttrain.diagnose.probes.base import AvailableInputs, Finding, Probe, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.probes.conditions import SAMPLES, affordable, compare_condition, enough, in_random_order
from posttrain.diagnose.probes.scaffold import MOST_PROBLEMS
from posttrain.diagnose.probes.teacher.contrast import OWN, compare_tokenizers, is_scorable, own_samples, score_under_both
from posttrain.diagnose.probes.teacher.finding import TeacherOutcome, make_finding
from posttrain.diagnose.types import Behavior, SkipReason, Split

TEACHER = "teacher"


class TeacherProbe(Probe):
    """See the module."""

    name = "teacher"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        if not available.teacher:
            return ProbeCost(impossible=SkipReason.NO_TEACHER)
        problems = min(MOST_PROBLEMS, len(behavior.split(split)))
        limit = behavior.sampling.max_tokens
        return ProbeCost(
            generated_tokens=problems * SAMPLES * limit,
            # Samples of both, scored by both.
            scored_tokens=2 * problems * (SAMPLES + 2 * OWN) * (limit + 1),
            when="where the behavior is not mastered",
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        if context.surely_mastered:
            return SkipReason.MASTERED
        if context.teacher is not None and context.teacher.info.model_fingerprint == context.policy.info.model_fingerprint:
            return SkipReason.SAME_MODEL
        if not enough(context, affordable(context, MOST_PROBLEMS, 1)[0]):
            return SkipReason.TOO_FEW_TOKENS
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        assert context.teacher is not None
        most, num = affordable(context, MOST_PROBLEMS, 1)
        sampled = sorted(in_random_order(context, range(len(context.problems)))[:most])
        if not sampled:
            return Finding(
                outcome=TeacherOutcome.NOT_MEASURED,
                summary="Not measured: the budget did not hold the teacher's samples of one problem.",
            )
        problems = [context.problems[place] for place in sampled]
        prompt_requests = [
            PromptRequest(problem, context.sampler.prompt(problem, context.teacher).token_ids, num) for problem in problems
        ]
        taught = context.sampler.sample(prompt_requests, condition=TEACHER, engine=context.teacher)
        success = compare_condition(context, TEACHER, range(len(context.problems)), sampled, taught)
        own = own_samples(context, sampled)
        theirs = [one for rollouts in taught for one in rollouts if is_scorable(one)]
        tokens = compare_tokenizers(context, problems, [*own, *theirs])
        same = tokens.answers and tokens.formats
        of_student = score_under_both(context, own, same, by_teacher=False)
        of_teacher = score_under_both(context, theirs, same, by_teacher=True)
        right = np.array([bool(one.succeeded(context.behavior.measure.success)) for one in own], dtype=np.bool_)
        return make_finding(context, success, of_student, of_teacher, right, tokens)
