"""The scaffold probe: does success depend on help that a deployed model will not have?

The same problems with and without help: with worked examples in the prompt, with a hint, with the first half of a teacher's answer, and as the
best of n by the verifier. Each is compared with the baseline success rates of the same problems.

**The rule** (`bound_probability`). A behavior is `scaffold_bound` where its mean success rate is below `Thresholds.reachable` without the scaffold, at
least that with the scaffold, and at least `Thresholds.scaffold.times` times the baseline rate; the confidence is the posterior probability of all
three together. Baseline answers are read leniently there, so that a scaffold that only teaches the format is not taken for one that carries the behavior.
A scaffold that exists for a minority of the problems is no evidence about the behavior. Nor is best-of-n, however high:
that the model has right answers and does not choose them is what `poor_choice` means. A teacher's half makes any
problem easier that is reached at all, so it counts only where the problems are out of support; stages are then chosen as for `guided_only`.

What is given must not give the answer away: worked examples are train problems only; a hint that states the answer is left out; a
teacher's half is cut, on the student's tokens, before the answer first appears.

Sources: gains that vanish once teacher, search or scaffold is removed are what consolidation is for (arXiv 2604.07941 §2.3, §7.2.1);
worked examples, arXiv 2005.14165; success from the prefix of a better policy's answer, arXiv 2601.18779.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, paired_delta_interval, pass_at_k
from posttrain.diagnose.behaviors.answer_span import find_answer, prefix_texts, tokens_before_answer
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
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
from posttrain.diagnose.probes.conditions import ConditionResult
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Estimate,
    Message,
    Problem,
    PromptFormat,
    Reference,
    SkipReason,
    Split,
    reaches,
)

MOST_PROBLEMS = 48
"""Of one condition. The standard error of a mean rate is then at most .5/√48 = .07, small beside a doubling that passes one half."""
NUM_EXAMPLES = 3
"""Worked examples in the prompt: enough to show task and format, few enough for short contexts."""
BEST_OF = (4, 16)
HINT_TEMPLATE = "Hint: {hint}\n{question}"
"""The hint stands before the question, since the end of a prompt is where completion cues such as `=` or `A:` stand. In a chat the last
user turn is the question."""


# ---------------------------------------------------------------------------------------------------------------------- help


def worked_examples(behavior: Behavior, seed: str) -> tuple[Problem, ...]:
    """Return at most `NUM_EXAMPLES` train problems with a reference, at random by the seed; with different answers where there are any.

    Never a problem that is measured, nor one that is the same as it by its key.
    """
    kept = {problem.key for problem in behavior.problems if problem.split is not Split.TRAIN}
    candidates = [p for p in behavior.split(Split.TRAIN) if p.references and p.key not in kept]
    candidates.sort(key=lambda problem: hashlib.sha256(f"{seed}/{problem.id}".encode()).digest())
    firsts = {problem.answer: problem for problem in reversed(candidates)}
    varied = [problem for problem in candidates if firsts[problem.answer] is problem]
    rest = [problem for problem in candidates if firsts[problem.answer] is not problem]
    return tuple((varied + rest)[:NUM_EXAMPLES])


def with_examples(
    problem: Problem, prompt_format: PromptFormat, examples: Sequence[Problem]
) -> tuple[str | tuple[Message, ...], PromptFormat]:
    """Return a problem's prompt after worked examples, and the format that writes it; examples that the format has already come first.

    A prompt that is a chat of its own gets them as turns, after its system messages.
    """
    pairs = [(example.question, example.references[0].text.strip()) for example in examples]
    if isinstance(problem.prompt, str):
        return problem.prompt, replace(prompt_format, examples=(*prompt_format.examples, *pairs))
    num_system = next((i for i, message in enumerate(problem.prompt) if message.role != "system"), len(problem.prompt))
    turns = [turn for question, answer in pairs for turn in (Message("user", question), Message("assistant", answer))]
    return (*problem.prompt[:num_system], *turns, *problem.prompt[num_system:]), prompt_format


def with_hint(problem: Problem) -> str | tuple[Message, ...]:
    """Return a problem's prompt with its hint, as `HINT_TEMPLATE` says."""
    assert problem.hint is not None
    if isinstance(problem.prompt, str):
        return _hinted(problem.prompt, problem.hint)
    last = max(i for i, message in enumerate(problem.prompt) if message.role == "user" or i == 0)
    turn = problem.prompt[last]
    return (*problem.prompt[:last], Message(turn.role, _hinted(turn.content, problem.hint)), *problem.prompt[last + 1 :])


def _hinted(question: str, hint: str) -> str:
    return HINT_TEMPLATE.replace("{hint}", hint).replace("{question}", question)


# --------------------------------------------------------------------------------------------------------------------- probe


class ScaffoldOutcome(StrEnum):
    """Whether success depends on a scaffold."""

    BOUND = "bound"
    NOT_SHOWN = "not_shown"
    NOT_MEASURED = "not_measured"


class ScaffoldProbe(Probe):
    """Samples with each scaffold, as the module says."""

    name = "scaffold"

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`."""
        problems = behavior.split(split)
        helped = [len(problems)] if worked_examples(behavior, "") else []
        hinted = sum(problem.hint is not None for problem in problems)
        helped += [hinted] if hinted >= conditions.FEWEST_PROBLEMS else []
        samples = sum(conditions.SAMPLES * min(MOST_PROBLEMS, num) for num in helped)
        if available.teacher:
            samples += (conditions.SAMPLES + 1) * min(MOST_PROBLEMS, len(problems))
        elif not helped:
            return ProbeCost(impossible=SkipReason.NO_SCAFFOLD)
        return ProbeCost(
            generated_tokens=samples * behavior.sampling.max_tokens,
            when="where the baseline success rate may lie below the level that counts as reachable",
        )

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`."""
        low = float((context.posterior.mean < context.thresholds.reachable).mean())
        if low < 1.0 - context.thresholds.confidence:
            return SkipReason.REACHABLE
        todo = _to_sample(context, _hinted_places(context)[0])
        if not todo:
            return SkipReason.HINTS_STATE_THE_ANSWER
        if not conditions.enough(context, conditions.affordable(context, MOST_PROBLEMS, len(todo), _TEACHER in todo)[0]):
            return SkipReason.TOO_FEW_TOKENS
        return None

    def run(self, context: ProbeContext) -> Finding:
        """See `Probe`."""
        examples = worked_examples(context.behavior, context.seed)
        hinted, telling = _hinted_places(context)
        notes = []
        if telling:
            notes.append(Note("hints_state_the_answer", f"{telling} hints state the answer and were left out."))
        if examples:
            text = f"Worked examples: the train problems {', '.join(problem.id for problem in examples)}."
            notes.append(Note("worked_examples", text))
        results = []
        todo = _to_sample(context, hinted)
        while todo:
            most, samples = conditions.affordable(context, MOST_PROBLEMS, len(todo), _TEACHER in todo)
            name = todo.pop(0)
            exists = hinted if name == _HINT else list(range(len(context.problems)))
            sampled = sorted(conditions.in_random_order(context, exists)[:most])
            prompt_requests = self._prompt_requests(context, name, sampled, samples, examples)
            if not conditions.enough(context, len(prompt_requests)):
                text = f"Not sampled {name}: {len(prompt_requests)} problems are left of the budget and of what may be given."
                notes.append(Note("not_sampled", text))
                continue
            share = len(exists) / len(context.problems) * len(prompt_requests) / len(sampled)
            if len(prompt_requests) < len(sampled):
                of = f"{len(sampled) - len(prompt_requests)} of {len(sampled)}"
                text = f"Left out, since no start of the teacher's answer keeps the answer back: {of} problems."
                notes.append(Note("left_out", text))
                exists = list(prompt_requests)
            found = context.sampler.sample(list(prompt_requests.values()), condition=name)
            results.append(conditions.compare_condition(context, name, exists, list(prompt_requests), found, share))
        notes += _format_notes(context, results)
        return self._finding(context, results, notes)

    def _prompt_requests(
        self, context: ProbeContext, name: str, sampled: Sequence[int], num: int, examples: Sequence[Problem]
    ) -> dict[int, PromptRequest]:
        """Return place of a problem → what to ask of it under a condition; problems without what it takes are left out."""
        if name == _TEACHER:
            return _from_teacher(context, sampled, num)
        prompt_requests = {}
        for place in sampled:
            problem, prompt_format = context.problems[place], context.behavior.prompt
            if name == _EXAMPLES:
                prompt, prompt_format = with_examples(problem, prompt_format, examples)
            else:
                prompt = with_hint(problem)
            prompt_requests[place] = PromptRequest(
                problem, context.policy.codec.encode_prompt(prompt, prompt_format).token_ids, num
            )
        return prompt_requests

    def _finding(self, context: ProbeContext, results: Sequence[ConditionResult], notes: Sequence[Note]) -> Finding:
        # What exists for a minority of the problems says nothing of the behavior.
        bound = {
            one.condition: bound_probability(context, one)
            for one in results
            if one.share > context.thresholds.scaffold.share_of_problems
        }
        table = conditions.ConditionTable(context, "baseline", "baseline")
        baseline = table.baseline
        said = [f"Baseline {baseline.estimate:.2f}"]
        for one in results:
            table.add(one, one.condition)
            said.append(f"{one.condition} {one.rate.estimate:.2f} (gain {conditions.signed(one.gain)})")
        for k, rate, gain in _best_of(context):
            table.rows.append(conditions.table_row(f"best of {k}", *table.counts, rate, gain))
            table.numbers |= {f"best of {k}": Estimate.of(rate), f"gain best of {k}": Estimate.of(gain)}
            said.append(f"best of {k} {rate.estimate:.2f}")
        evidence = tuple(
            LabelEvidence(
                label=Bottleneck.SCAFFOLD_BOUND,
                instead_of=_INSTEAD_OF[one.condition],
                trains_as=Bottleneck.GUIDED_ONLY if one.condition == _TEACHER else None,
                confidence=bound[one.condition],
                because=f"the mean success rate is {baseline.estimate:.2f} without and {one.rate.estimate:.2f} {one.condition} "
                f"(gain {conditions.signed(one.gain)}, paired by problem)",
            )
            for one in results
            if bound.get(one.condition, 0.0) > context.thresholds.evidence
        )
        names = [name for name, chance in bound.items() if chance >= context.thresholds.confidence]
        outcome = ScaffoldOutcome.BOUND if names else ScaffoldOutcome.NOT_SHOWN if results else ScaffoldOutcome.NOT_MEASURED
        verdict = f"It works only {' or '.join(names)}" if names else "No scaffold is shown to carry it"
        return Finding(
            outcome=outcome,
            summary=f"{', '.join(said)}. {verdict}.",
            numbers=table.numbers,
            rows=tuple(table.rows),
            problems=conditions.per_problem(context, results),
            evidence=evidence,
            notes=tuple(notes),
        )


_EXAMPLES, _HINT, _TEACHER = "with worked examples", "with a hint", "from a teacher's first half"
_ANY = (Bottleneck.MISSING_SUPPORT, Bottleneck.MIXED, Bottleneck.POOR_CHOICE)
_INSTEAD_OF = {_EXAMPLES: _ANY, _HINT: _ANY, _TEACHER: (Bottleneck.MISSING_SUPPORT,)}
"""Which labels the success with each scaffold stands against."""


def bound_probability(context: ProbeContext, one: ConditionResult) -> float:
    """Return the posterior probability that the behavior works with this scaffold only: the rule of the module.

    Finitely many draws prove no certainty: half a draw is always left to the contrary.
    """
    read = np.maximum(context.counts.num_correct, context.counts.num_lenient_correct)
    baseline = conditions.fit(context, one.stands_for, context.counts.num_samples[one.stands_for], read[one.stands_for]).mean
    helped = conditions.mean_draws(context, one)
    reachable = context.thresholds.reachable
    holds = (baseline < reachable) & (helped >= reachable) & (helped >= context.thresholds.scaffold.times * baseline)
    return float((holds.sum() + 0.5) / (holds.size + 1))


def _to_sample(context: ProbeContext, hinted: Sequence[int]) -> list[str]:
    """Return the conditions that can be sampled, in order."""
    possible = {
        _EXAMPLES: bool(worked_examples(context.behavior, context.seed)),
        _HINT: len(hinted) >= conditions.FEWEST_PROBLEMS,
        _TEACHER: context.teacher is not None,
    }
    return [name for name, yes in possible.items() if yes]


def _from_teacher(context: ProbeContext, sampled: Sequence[int], num: int) -> dict[int, PromptRequest]:
    """Return place of a problem → what to ask, from the first half of one answer of the teacher, right or wrong."""
    assert context.teacher is not None
    problems = [context.problems[place] for place in sampled]
    prompts = [context.sampler.prompt(problem, context.teacher).token_ids for problem in problems]
    prompt_requests = [PromptRequest(problem, ids, 1) for problem, ids in zip(problems, prompts, strict=True)]
    started = {}
    for place, (answer,) in zip(
        sampled, context.sampler.sample(prompt_requests, condition="teacher's answers", engine=context.teacher), strict=True
    ):
        problem, reference = context.problems[place], Reference(steps=(answer.text,))
        prompt = context.sampler.prompt(problem)
        path = context.policy.codec.encode_path(prompt, reference)
        texts = prefix_texts(path, reference)
        cut = min(
            (len(texts) - 1) // 2,
            tokens_before_answer(problem, texts, context.sampler.grade, context.behavior.measure.success),
        )
        if cut > 0:
            started[place] = PromptRequest(problem, prompt.token_ids, num, path.token_ids[:cut], texts[cut])
    return started


def _hinted_places(context: ProbeContext) -> tuple[list[int], int]:
    """Return the places of the problems with a hint that keeps the answer back, and how many hints do not."""
    hinted = [(place, problem) for place, problem in enumerate(context.problems) if problem.hint is not None]
    kept = [place for place, problem in hinted if not _tells(context, problem)]
    return kept, len(hinted) - len(kept)


def _tells(context: ProbeContext, problem: Problem) -> bool:
    """Return whether a hint states an answer that the question does not."""
    assert problem.hint is not None
    if find_answer(problem.hint, problem.answer) is not None and find_answer(problem.question, problem.answer) is None:
        return True
    (grade,) = context.sampler.grade(problem, [problem.hint])
    return reaches(max(grade.score or 0.0, grade.lenient_score or 0.0), context.behavior.measure.success)


def _best_of(context: ProbeContext) -> list[tuple[int, Interval, Interval]]:
    """Return (n, success rate of the best of n by the verifier, its gain), from the baseline samples.

    Unbiased where n does not exceed them; by likelihood where problems were sampled unequally often.
    """
    counts, mixture, level = context.counts, context.posterior.mixture, context.thresholds.level
    n, c, groups = counts.num_samples, counts.num_correct, counts.groups
    ks = [k for k in BEST_OF if k <= n.max(initial=0)]
    intervals = estimate_pass_at_k(n, c, groups, ks, level=level, equally=counts.sampled_equally, mixture=mixture)
    if counts.sampled_equally:
        one = conditions.rates(n, c)
        gains = [paired_delta_interval(one, pass_at_k(n, c, k), groups, level=level) for k in ks]
    else:
        sampled = mixture.draw_rates(rng=np.random.default_rng(0), num_draws=context.thresholds.num_draws)
        gains = [_posterior_gain(sampled, k, level) for k in ks]
    return list(zip(ks, intervals, gains, strict=True))


def _posterior_gain(sampled: npt.NDArray[np.float64], k: int, level: float) -> Interval:
    """Return how much more k attempts succeed than one, from [D, P] posterior draws of success rates."""
    gains = (1 - (1 - sampled) ** k - sampled).mean(axis=1)
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(gains.mean()), float(low), float(high), "posterior of these problems")


def _format_notes(context: ProbeContext, results: Sequence[ConditionResult]) -> list[Note]:
    """Say where a scaffold makes answers readable, part of its gain is format."""
    sampling = context.counts
    malformed = sampling.num_unparsed + np.maximum(sampling.num_truncated, sampling.num_unfinished_thoughts)
    baseline = float(malformed.sum() / max(1, sampling.num_samples.sum()))
    shares = [(one.condition, one.num_malformed / max(1, int(one.num_samples.sum()))) for one in results]
    return [
        Note(
            "gain_is_format",
            f"{baseline:.0%} of the baseline samples were cut off or could not be read, {share:.0%} {condition}: a part of its gain is format.",
        )
        for condition, share in shares
        if baseline - share >= context.thresholds.scaffold.share_of_format
    ]
