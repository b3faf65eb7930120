"""The drift probe: what an earlier policy π0 had that this one, π, has lost, and how far it has moved on the task's prompts.

Two distances, in nats. The forward KL(π0‖π) is the mean of log π0(y) − log π(y) over answers of the earlier policy; on the new task's
prompts it predicts what is forgotten elsewhere (arXiv 2509.04259). The reverse KL(π‖π0) is the same over answers of the policy itself.
Both are plain Monte-Carlo means, unbiased and noisy; one engine's scorer gives both terms, so that two equal models are 0 apart
exactly and not the distance between a sampler's and a scorer's precision.

Two losses. A problem is lost where its success rate fell under a test (Fisher's, false discoveries at 5 % of those named). A right answer
of the earlier policy is lost where it became less likely by more than log(1/ε): what one draw found then takes more than 1/ε draws now.

Attrition is argued where most of what holds the policy back was there before: of the problems that are not mastered now, more than
half were in support before and keep less than half of their success rate. That is a statement about the posterior of both
policies' rates, which are fitted apart; so it is made only where the tests find a fall as well, which under two equal models happens in
5 % of runs at most. Measured for this project on 150 pairs of draws of one model (12 to 32 problems, 16 and 32 or 64 samples): a fall in 2 %, an
one in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, fit_mixture, mean_interval, problem_change_tests, t_interval
from posttrain.diagnose.engines.base import Engine, ScoreRequest
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import AvailableInputs, Finding, LabelEvidence, Note, ProbeContext, ProbeCost, PromptRequest
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import Behavior, Bottleneck, Estimate, Reference, Rollout, SkipReason, Split, StopReason

_FEWEST = 8
"""Drawing ends where what is left of the budget pays less than an eighth of a round: a shard that small costs more than it tells."""

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answers:
    """Some answers under both policies (arrays of length N)."""

    place: npt.NDArray[np.int64]
    """Index of the problem."""
    right: npt.NDArray[np.bool_]
    num_tokens: npt.NDArray[np.int64]
    before: Floats64
    """Summed natural log-probability under the earlier policy."""
    after: Floats64
    """The same under the policy."""
    same_tokens: bool
    """Whether both policies read the same tokens, so that a number per token means something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rates:
    """Success before and now, per problem."""

    before: MixturePosterior
    p_before: Floats64
    """[P] posterior mean; NaN where the earlier policy was not drawn."""
    p_after: Floats64
    """[P]"""
    states: tuple[str, ...]
    """[P] a `ProblemChange`."""
    fell: npt.NDArray[np.bool_]
    """[P] whether the tests find that the rate fell."""
    lost: Floats64
    """[P] posterior probability of having been in support and keeping less than half of the rate."""
    confidence: float
    """Posterior probability that most problems that are not mastered are lost."""
    num_lost: Estimate


class DriftOutcome(StrEnum):
    """What became of an earlier policy's successes."""

    LOST = "lost"
    """Surely most of what is not mastered was lost."""
    SOME_FELL = "some_fell"
    """The tests find problems whose success rate fell."""
    NONE_FELL = "none_fell"
    UNKNOWN = "unknown"
    """Nothing is known of the earlier policy's success."""


class Drift:
    """Compares the policy with an earlier one: an engine that holds it, a run that measured it, or both."""

    name = "drift"
    question = QUESTIONS[name]

    def __init__(self, *, num_samples: int = 16, num_own: int = 4):
        """Take sizes.

        Args:
            num_samples: Answers of the earlier policy per problem; 16 show a fall from .5 to 0, and not one from .1.
            num_own: Answers of the policy per problem, of those that are there, that are scored for the reverse KL.
        """
        self.num_samples, self.num_own = num_samples, num_own

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """Answers of the earlier policy, and both kinds of answers under both policies."""
        tokens = len(behavior.split(split)) * behavior.sampling.max_tokens
        when = "unless the samples say mastered"
        if available.earlier:
            scored = 2 * tokens * (self.num_samples + self.num_own)
            return ProbeCost(generated_tokens=tokens * self.num_samples, scored_tokens=scored, when=when)
        if available.before:
            return ProbeCost(scored_tokens=tokens * self.num_samples, when=when)
        return ProbeCost(impossible=SkipReason.NO_EARLIER_POLICY)

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """Nothing is lost where everything is mastered, and nothing moved between a model and itself."""
        if context.earlier is not None and context.earlier.info.model_fingerprint == context.policy.info.model_fingerprint:
            return SkipReason.SAME_MODEL
        if (
            context.measured.posterior.label is Bottleneck.MASTERED
            and context.measured.posterior.confidence >= context.thresholds.confidence
        ):
            return SkipReason.MASTERED
        return None

    def run(self, context: ProbeContext) -> Finding:
        """Draw the earlier policy, score both, compare."""
        drawn = self._draw(context) if context.earlier is not None else []
        earlier_run = context.earlier_rollouts
        forward = reverse = None
        if context.earlier is not None:
            forward = _under_both(context, context.earlier, drawn, "answers of the earlier policy")
            reverse = _under_both(context, context.earlier, self._own(context), "its own answers")
        elif earlier_run is not None:
            forward = self._verified_before(context, earlier_run)
        rates = _rates(context, drawn, earlier_run)
        return _finding(context, rates, forward, reverse)

    def _draw(self, context: ProbeContext) -> list[Rollout]:
        """Answers of the earlier policy: round after round over the problems, as far as the budget is sure to last."""
        assert context.earlier is not None
        count, most = len(context.measured.problems), context.measured.behavior.sampling.max_tokens
        prompts = [
            context.earlier.codec.encode_prompt(p.prompt, context.measured.behavior.prompt).token_ids
            for p in context.measured.problems
        ]
        rollouts: list[Rollout] = []
        start, fewest = 0, 1
        # Draw number t is sample t // P of problem t % P.
        while (end := min(self.num_samples * count, start + context.sampler.tokens_left // most)) - start >= fewest:
            bounds = [(-((place - start) // count), -((place - end) // count)) for place in range(count)]
            prompt_requests = [
                PromptRequest(problem=problem, prompt_ids=prompt, num=last - first, first=first)
                for problem, prompt, (first, last) in zip(context.measured.problems, prompts, bounds, strict=True)
                if last > first
            ]
            for samples in context.sampler.sample(prompt_requests, condition="earlier policy", engine=context.earlier):
                rollouts += samples
            start, fewest = end, min(max(1, count // _FEWEST), self.num_samples * count - end or 1)
        return rollouts

    def _own(self, context: ProbeContext) -> list[Rollout]:
        """The first answers of the policy to each problem."""
        return _first_rows(context, context.measured.rollouts, ~context.measured.rollouts.greedy, self.num_own)

    def _verified_before(self, context: ProbeContext, table: RolloutTable) -> _Answers:
        """The right answers of an earlier run, under the policy; what the earlier policy said of them was kept."""
        right = table.succeeded(context.measured.behavior.measure.success) & ~table.greedy
        rollouts = _first_rows(context, table, right, self.num_samples)
        encoded = _encode(context.policy, context, rollouts)
        # An earlier run does not say what its tokens meant; that ours begin alike says that they are cut alike.
        alike = [
            rollout.token_ids[: max(1, len(path) - 2)] == path[: max(1, len(path) - 2)]
            for rollout, (_, path) in zip(rollouts, encoded, strict=True)
        ]
        same = bool(np.mean(alike) > 0.5) if alike else True
        requests = [
            ScoreRequest(prompt_ids=prompt, path_ids=rollout.token_ids if same else path)
            for rollout, (prompt, path) in zip(rollouts, encoded, strict=True)
        ]
        after = context.sampler.score(requests, what="right answers of the earlier run")
        return _answers(
            context, rollouts, [_total(r.policy_logprobs) for r in rollouts], [_total(s.logprobs) for s in after], same
        )


# ------------------------------------------------------------------------------------------------------------------- answers


def _first_rows(context: ProbeContext, table: RolloutTable, kept: npt.NDArray[np.bool_], most: int) -> list[Rollout]:
    """The first rollouts of each problem among those `kept` [R], at most so many of one."""
    places = table.places([problem.id for problem in context.measured.problems])
    rows = np.flatnonzero((places >= 0) & kept & (table.num_tokens > 0))
    rows = rows[np.argsort(places[rows], kind="stable")]
    ranks = np.arange(len(rows)) - np.searchsorted(places[rows], places[rows])
    return table.rows(rows[ranks < most])


def _encode(engine: Engine, context: ProbeContext, rollouts: Sequence[Rollout]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompt and answer as an engine cuts them; a truncated answer has no end token."""
    prompts = {
        problem.id: engine.codec.encode_prompt(problem.prompt, context.measured.behavior.prompt)
        for problem in context.measured.problems
    }
    encoded = []
    for rollout in rollouts:
        prompt = prompts[rollout.problem_id]
        path = engine.codec.encode_path(prompt, Reference(steps=(rollout.text,))).token_ids
        encoded.append((prompt.token_ids, path[:-1] or path if rollout.truncated else path))
    return encoded


def _under_both(context: ProbeContext, earlier: Engine, rollouts: Sequence[Rollout], what: str) -> _Answers:
    """Score answers under both policies: their own tokens where both read the same, else each its own way to cut the text."""
    rollouts = [rollout for rollout in rollouts if rollout.token_ids and rollout.stop is not StopReason.ERROR]
    sides = [_encode(engine, context, rollouts) for engine in (earlier, context.policy)]
    same = all(first[1] == second[1] for first, second in zip(*sides, strict=True))
    sums = []
    for engine, side, name in zip((earlier, context.policy), sides, ("the earlier policy", "the policy"), strict=True):
        requests = [
            ScoreRequest(prompt_ids=prompt, path_ids=rollout.token_ids if same else path)
            for rollout, (prompt, path) in zip(rollouts, side, strict=True)
        ]
        scores = context.sampler.score(requests, engine=engine, what=f"{what} under {name}")
        sums.append([_total(one.logprobs) for one in scores])
    return _answers(context, rollouts, sums[0], sums[1], same)


def _total(logprobs: npt.NDArray[np.float32]) -> float:
    return float(logprobs.sum(dtype=np.float64))


def _answers(
    context: ProbeContext, rollouts: Sequence[Rollout], before: Sequence[float], after: Sequence[float], same: bool
) -> _Answers:
    places = {problem.id: place for place, problem in enumerate(context.measured.problems)}
    success = context.measured.behavior.measure.success
    return _Answers(
        place=np.array([places[rollout.problem_id] for rollout in rollouts], dtype=np.int64),
        right=np.array([bool(rollout.succeeded(success)) for rollout in rollouts], dtype=np.bool_),
        num_tokens=np.array([len(rollout.token_ids) for rollout in rollouts], dtype=np.int64),
        before=np.array(before, dtype=np.float64),
        after=np.array(after, dtype=np.float64),
        same_tokens=same,
    )


def _means(place: npt.NDArray[np.int64], values: Floats64, weights: Floats64 | None, count: int) -> Floats64:
    """[P] sum of values over the sum of weights (their number where None), per problem; NaN where there is none."""
    totals = np.bincount(place, weights=values, minlength=count)
    sizes = np.bincount(place, weights=weights, minlength=count)
    return np.asarray(totals / np.where(sizes > 0, sizes, np.nan))


# --------------------------------------------------------------------------------------------------------------------- rates


def _outcomes(context: ProbeContext, table: RolloutTable) -> list[npt.NDArray[np.bool_]]:
    """Per problem, whether each of its samples with a known outcome succeeded, in the order in which they were drawn."""
    places = table.places([problem.id for problem in context.measured.problems])
    kept = np.flatnonzero((places >= 0) & ~table.greedy & ~table.missing)
    kept = kept[np.argsort(places[kept], kind="stable")]
    success = table.succeeded(context.measured.behavior.measure.success)[kept]
    return np.split(success, np.searchsorted(places[kept], np.arange(1, len(context.measured.problems))))


def _even(outcomes: Sequence[npt.NDArray[np.bool_]], equally: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Samples and successes for a test that needs a number of samples that was not chosen by looking at them.

    Where problems were drawn in rounds, the first samples of each count, as many as the problem with the fewest has.
    """
    sizes = np.array([one.size for one in outcomes])
    fewest = sizes.max(initial=0) if equally else sizes[sizes > 0].min(initial=sizes.max(initial=0))
    return np.minimum(sizes, fewest), np.array([int(one[:fewest].sum()) for one in outcomes])


def _rates(context: ProbeContext, drawn: Sequence[Rollout], earlier_run: RolloutTable | None) -> _Rates:
    """Success before, from the earlier run where there is one and else from what was drawn, held against success now."""
    success, epsilon, groups = (
        context.measured.behavior.measure.success,
        context.measured.behavior.measure.epsilon,
        context.measured.counts.groups,
    )
    if earlier_run is not None:
        counts = count_successes(context.measured.behavior, context.measured.problems, earlier_run)
        n_before, c_before = counts.num_samples, counts.num_correct
        thinned = _even(_outcomes(context, earlier_run), counts.sampled_equally)
    else:
        known: dict[str, list[bool]] = {problem.id: [] for problem in context.measured.problems}
        for rollout in drawn:
            if (right := rollout.succeeded(success)) is not None:
                known[rollout.problem_id].append(right)
        n_before, c_before = (np.array([f(one) for one in known.values()], dtype=np.int64) for f in (len, sum))
        thinned = n_before, c_before  # how many there are hangs on the budget, not on what was seen
    before = fit_mixture(n_before, c_before, marks=(epsilon, context.thresholds.mastered), groups=groups)
    after = context.measured.posterior.mixture
    n_after, c_after = _even(_outcomes(context, context.measured.rollouts), context.measured.counts.sampled_equally)
    rate = context.thresholds.change.false_discovery_rate
    entered, changed = (problem_change_tests(*thinned, n_after, c_after, rate=rate, below=edge) for edge in (epsilon, None))
    fell = changed.q_attrition <= rate

    rng, num_draws = np.random.default_rng(0), context.thresholds.num_draws
    was, now = (mixture.draw_rates(rng=rng, num_draws=num_draws) for mixture in (before, after))
    held = (now < context.thresholds.mastered) & (n_before > 0)
    lost = held & (was >= epsilon) & (now < context.thresholds.drift.kept * was)
    most = lost.sum(axis=1) > context.thresholds.drift.share_lost * np.maximum(held.sum(axis=1), 1)
    found = int(fell.sum())
    high = float(np.quantile(lost.sum(axis=1), 0.5 + context.thresholds.level / 2))
    reach = [mixture.interval_probabilities([epsilon])[:, 1] for mixture in (before, after)]
    states = classify_changes(reach[0], reach[1], entered.q_expansion, entered.q_attrition, context.thresholds.change)
    return _Rates(
        before=before,
        p_before=np.where(n_before > 0, before.problem_interval()[0], np.nan),
        p_after=after.problem_interval()[0],
        states=tuple(state.value for state in states),
        fell=fell,
        lost=lost.mean(axis=0),
        # Finitely many draws prove no certainty: half a draw is always left to the other side.
        confidence=(int(most.sum()) + 0.5) / (num_draws + 1),
        num_lost=Estimate(
            estimate=float(found),
            low=(1 - rate) * found,
            high=max(float(found), high),
            method="Fisher's tests, 5 % of those found may be false; high: posterior of halved rates",
        ),
    )


# ------------------------------------------------------------------------------------------------------------------- finding


def _finding(context: ProbeContext, rates: _Rates, forward: _Answers | None, reverse: _Answers | None) -> Finding:
    count, groups, level = len(context.measured.problems), context.measured.counts.groups, context.thresholds.level
    plain = context.measured.behavior.sampling.samples_the_policy
    numbers: dict[str, Estimate] = {}
    forward_kl = np.full(count, np.nan)
    # Draws from a cooled or truncated sampler are no draws from the policy, and their mean is no KL.
    for name, answers in (("forward", forward if context.earlier is not None else None), ("reverse", reverse)):
        if answers is None or not plain:
            continue
        change = answers.before - answers.after if name == "forward" else answers.after - answers.before
        per_sample = _means(answers.place, change, None, count)
        forward_kl = per_sample if name == "forward" else forward_kl
        if answers.same_tokens:
            per_token = _means(answers.place, change, answers.num_tokens.astype(np.float64), count)
            numbers[f"{name} KL per token"] = Estimate.of(
                t_interval(per_token, groups, level=level, method="Monte Carlo, t over problems")
            )
        numbers[f"{name} KL per sample"] = Estimate.of(
            t_interval(per_sample, groups, level=level, method="Monte Carlo, t over problems")
        )

    change, kept = np.full(count, np.nan), np.full(count, np.nan)
    if forward is not None:
        gain, place = (forward.after - forward.before)[forward.right], forward.place[forward.right]
        change = _means(place, gain, None, count)
        kept = _means(place, (gain >= np.log(context.measured.behavior.measure.epsilon)).astype(np.float64), None, count)
        numbers["share of earlier right answers still likely"] = Estimate.of(mean_interval(kept, groups, level=level))
    numbers["problems lost"] = rates.num_lost
    numbers["pass@1 before"] = Estimate.of(rates.before.pass_at_k(1, level=level))
    numbers["pass@1 now"] = Estimate.of(context.measured.posterior.mixture.pass_at_k(1, level=level))
    rows = tuple(
        {
            "id": problem.id,
            "p_before": _json(rates.p_before[i]),
            "p_after": _json(rates.p_after[i]),
            "forward_kl": _json(forward_kl[i]),
            "change": _json(change[i]),
            "lost": bool(rates.fell[i]),
        }
        for i, problem in enumerate(context.measured.problems)
    )
    problems = {
        problem.id: {
            "state": rates.states[i],
            "fell": bool(rates.fell[i]),
            "probability_lost": float(rates.lost[i]),
            "earlier_right_answers_still_likely": _json(kept[i]),
        }
        for i, problem in enumerate(context.measured.problems)
    }
    evidence = _evidence(rates, plain, count, context.thresholds.evidence)
    return Finding(
        probe=context.sampler.probe,
        behavior=context.measured.behavior.name,
        outcome=_outcome(rates, evidence, context.thresholds.confidence),
        summary=_summary(numbers, rates),
        numbers=numbers,
        rows=rows,
        problems=problems,
        evidence=evidence,
        notes=_notes(context, forward, plain),
    )


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _outcome(rates: _Rates, evidence: Sequence[LabelEvidence], confidence: float) -> DriftOutcome:
    """Say what became of the earlier policy's successes."""
    if np.isnan(rates.p_before).all():
        return DriftOutcome.UNKNOWN
    if evidence and evidence[0].confidence >= confidence:
        return DriftOutcome.LOST
    return DriftOutcome.SOME_FELL if rates.fell.any() else DriftOutcome.NONE_FELL


def _summary(numbers: Mapping[str, Estimate], rates: _Rates) -> str:
    drawn = ~np.isnan(rates.p_before)
    if not drawn.any():
        return "Nothing is known of the earlier policy's success on these problems."
    before, now = float(rates.p_before[drawn].mean()), float(rates.p_after[drawn].mean())
    said = f"{int(rates.fell.sum())} of {int(drawn.sum())} problems fell (mean success {before:.2f} before, {now:.2f} now)"
    likely = numbers.get("share of earlier right answers still likely")
    if likely is not None and not np.isnan(likely.estimate):
        said += f"; {likely.estimate:.0%} of the earlier right answers are still likely"
    said += "."
    if "forward KL per sample" in numbers:
        said += f" On these prompts the policy has moved {numbers['forward KL per sample'].estimate:.3g} nats a sample"
        rate = numbers.get("forward KL per token")
        said += " (forward KL)." if rate is None else f", {rate.estimate:.3g} a token (forward KL)."
    return said


def _evidence(rates: _Rates, plain: bool, count: int, least: float) -> tuple[LabelEvidence, ...]:
    """Attrition, where it is more likely than not and the tests find a fall; support is spoken of under plain sampling only."""
    if not plain or not rates.fell.any() or rates.confidence <= least:
        return ()
    because = (
        f"most of what is not mastered was reachable before and keeps less than half of its success rate; "
        f"{int(rates.fell.sum())} of {count} problems fell under a test"
    )
    instead_of = (Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE)
    return (LabelEvidence(label=Bottleneck.ATTRITION, instead_of=instead_of, confidence=rates.confidence, because=because),)


def _notes(context: ProbeContext, forward: _Answers | None, plain: bool) -> tuple[Note, ...]:
    notes = []
    if not plain:
        notes.append(
            Note(
                code="deployment_policy",
                text="Sampled with a temperature or a truncation of its own: no KL and no statement about support, only how success changed.",
            )
        )
    if forward is not None and not forward.same_tokens:
        notes.append(
            Note(
                code="tokenizers_differ",
                text="The two checkpoints cut text into tokens differently: likelihoods are of whole texts, cut anew by each of them.",
            )
        )
    if context.earlier is None:
        notes.append(
            Note(
                code="no_earlier_checkpoint",
                text="Only an earlier run was given: likelihoods before are its sampler's own; a KL needs the earlier checkpoint itself (--earlier).",
            )
        )
    if forward is not None and not forward.right.any():
        notes.append(
            Note(
                code="no_right_answers_before",
                text="The earlier policy has no right answer among these samples, so there is none whose likelihood could have fallen.",
            )
        )
    if context.earlier is not None and plain:
        notes.append(
            Note(
                code="other_behaviors_not_measured",
                text="A small KL on these prompts does not show that nothing was forgotten elsewhere: measure a retention behavior too.",
            )
        )
    return tuple(notes)
