"""Validity checks: can the numbers of a behavior be believed at all?

A zero often shows no lack of capability but a prompt without its generation marker, an answer that is cut off, or a verifier that refuses what
is right. Each of these is a check here, and one that is not met makes the verdict `invalid`: fix the setup first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.diagnose.engines.base import Engine, OnTokens, ScoreRequest
from posttrain.diagnose.measure.check_values import DEPLOYMENT_POLICY, Checked, Failure, counted
from posttrain.diagnose.measure.derailed_samples import describe_derailed
from posttrain.diagnose.measure.format_check import check_format
from posttrain.diagnose.measure.sample_checks import (
    SampledBehavior,
    check_candidates,
    check_contradiction,
    check_shares,
    spread_samples,
)
from posttrain.diagnose.measure.setup_checks import SetupChecks
from posttrain.diagnose.measure.unread_samples import UnreadSamples, show_unread
from posttrain.diagnose.storage.rollout_table import Bools, RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Outcome,
    PathScore,
    Problem,
    Rollout,
    ValidityCode,
    ValidityMeasurement,
    check_estimate,
)

_MOST_RESCORED = 16
_OF_WRONG_FORMAT = frozenset(
    {ValidityCode.TRUNCATED, ValidityCode.NO_END, ValidityCode.UNREAD, ValidityCode.NO_TEMPLATE, ValidityCode.WRONG_TEMPLATE}
)
"""What a prompt in a wrong format leads to."""
_EXPLAIN_FEW_SUCCESSES = _OF_WRONG_FORMAT | {ValidityCode.UNFINISHED_THOUGHT, ValidityCode.MISSING_GRADES}


def rescore_samples(
    engine: Engine, behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable, *, on_tokens: OnTokens
) -> list[PathScore]:
    """Score some of the samples: the first one of each problem, 16 at most."""
    prompts = {problem.id: engine.codec.encode_prompt(problem.prompt, behavior.prompt) for problem in problems}
    chosen = _first_samples(rollouts, list(prompts))
    requests = [ScoreRequest(prompt_ids=prompts[r.problem_id].token_ids, path_ids=r.token_ids) for r in chosen]
    return [
        PathScore(
            behavior=r.behavior,
            problem_id=r.problem_id,
            split=r.split,
            reference_index=r.sample_index,
            token_ids=r.token_ids,
            token_texts=("",) * len(r.token_ids),
            token_steps=np.zeros(len(r.token_ids), dtype=np.int32),
            policy_logprobs=scores.logprobs,
            ranks=scores.ranks,
            engine=r.engine,
        )
        for r, scores in zip(chosen, engine.score(requests, on_tokens=on_tokens), strict=True)
    ]


def check_validity(
    behavior: Behavior,
    engine: Engine,
    thresholds: Thresholds,
    setup: SetupChecks,
    samples: SampledBehavior | None = None,
) -> ValidityMeasurement:
    """Check whether the numbers of a behavior can be believed.

    Args:
        behavior: What was measured.
        engine: With what.
        thresholds: Of the verdict.
        setup: What was found before sampling.
        samples: What was sampled and scored; None where nothing was.
    """
    found, unread = list(setup.checked), UnreadSamples()
    if samples is not None and samples.counts.num_sampled.any():
        unread = show_unread(samples.problems, spread_samples(samples, ended_unread(samples.rollouts)))
        found += _check_samples(behavior, engine, thresholds, samples, unread)
        if setup.accepts_candidates and (listing := check_candidates(behavior, thresholds, samples)):
            found.append(listing)
    failures = [failure for _, failures in found for failure in failures]
    return ValidityMeasurement(
        behavior=behavior.name,
        checks=tuple(check for check, _ in found),
        notes=(*engine.info.notes, *_notes(behavior, engine, samples), *setup.notes),
        failures=tuple(failure.words for failure in failures),
        failure_codes=tuple(failure.code for failure in failures),
        unread=unread.texts,
        share_stated=unread.share_stated,
        prompt_example=setup.prompt.text,
    )


def _check_samples(
    behavior: Behavior, engine: Engine, thresholds: Thresholds, samples: SampledBehavior, unread: UnreadSamples
) -> list[Checked]:
    """Check what samples and scores say; of failures that explain each other, the cause is told alone."""
    counts, paths = samples.counts, samples.paths
    found = check_shares(behavior, engine, thresholds, samples, unread)
    found = with_format_check(engine, behavior, thresholds, samples.formats, found)
    if (contradiction := check_contradiction(behavior, thresholds, counts, paths)) is not None:
        is_explained = any(failure.code in _EXPLAIN_FEW_SUCCESSES for _, failures in found for failure in failures)
        found.append((contradiction[0], []) if is_explained else contradiction)
    if samples.rescored:
        first = _first_samples(samples.rollouts, counts.problem_ids)
        found.append(_check_agreement(engine, first, samples.rescored))
    return found


def ended_unread(rollouts: RolloutTable) -> Bools:
    """Return [samples] those in which no answer could be read: of those that came to their end, where there are any."""
    ended = rollouts.unparsed & ~rollouts.truncated
    return ended if ended.any() else rollouts.unparsed


def with_format_check(
    engine: Engine, behavior: Behavior, thresholds: Thresholds, formats: Sequence[PathScore], found: list[Checked]
) -> list[Checked]:
    """Put the check of the prompt's format before others; where it fails, they lose the failures that a wrong format explains.

    Args:
        engine: What scored.
        behavior: What is measured.
        thresholds: Of the verdict.
        formats: What `score_formats` returned; empty where there was no need.
        found: The other checks.
    """
    in_format = check_format(engine, behavior, thresholds, formats) if formats else None
    if in_format is None:
        return found
    if not in_format[1]:
        return [in_format, *found]
    rest = [(check, [one for one in failures if one.code not in _OF_WRONG_FORMAT]) for check, failures in found]
    return [in_format, *rest]


def _check_agreement(engine: Engine, sampled: Sequence[Rollout], rescored: Sequence[PathScore]) -> Checked:
    """Check that sampler and scorer give the same tokens the same log-probabilities, up to precision."""
    gaps = np.concatenate([r.policy_logprobs - a.policy_logprobs for r, a in zip(sampled, rescored, strict=True)])
    gaps = gaps[np.isfinite(gaps)]  # an engine may not know the probabilities of its samples
    gap, tolerance = float(np.abs(gaps).mean()) if gaps.size else np.nan, engine.info.logprob_tolerance
    what = (
        f"mean |sampler − scorer| log-probability per token, nats ({engine.info.sample_dtype} against {engine.info.score_dtype})"
    )
    name = "validity: sampler-scorer gap"
    check = check_estimate(name, "<=", counted(gap), tolerance, n=len(gaps), what=what, unit="samples")
    if check.outcome is not Outcome.NOT_MET:
        return check, []
    text = f"sampler and scorer disagree by {gap:.3f} nats per token, {tolerance:g} is explained by precision: use one precision for both, or another engine"
    return check, [Failure(ValidityCode.SAMPLER_SCORER_GAP, text)]


def _first_samples(rollouts: RolloutTable, problem_ids: Sequence[str]) -> list[Rollout]:
    """Return the first sample of each problem, 16 at most."""
    first = ~rollouts.greedy & (rollouts.sample_index == 0) & (rollouts.num_tokens > 0) & (rollouts.places(problem_ids) >= 0)
    return rollouts.rows(np.flatnonzero(first)[:_MOST_RESCORED])


def _notes(behavior: Behavior, engine: Engine, samples: SampledBehavior | None) -> list[str]:
    notes = []
    if samples is not None and samples.derailed.any():
        share = float(samples.derailed.sum() / samples.counts.num_samples.sum())
        notes.append(describe_derailed(share, behavior.sampling.max_tokens))
    if not behavior.sampling.samples_the_policy:
        notes.append(DEPLOYMENT_POLICY)
    template = engine.codec.tokenizer.chat_template if engine.codec.tokenizer is not None else None
    if template and behavior.prompt.format == "completion" and engine.info.name == "transformers":
        notes.append("The model has a chat template, and the behavior asks for completion format.")
    return notes
