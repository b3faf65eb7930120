"""Validity checks: can the numbers of a behavior be believed at all?

A zero often shows no lack of capability but a prompt without its generation marker, an answer that is cut off, or a verifier that refuses what
is right. Each of these is a check here, and one that is not met makes the verdict `invalid`: fix the setup first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.analysis.stats import wilson_interval
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, OnTokens, ScoreRequest
from posttrain.diagnose.engines.codec import TextCodec, chat_messages
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Check,
    Estimate,
    Outcome,
    PathScore,
    Problem,
    Rollout,
    SamplingMeasurement,
    ValidityMeasurement,
    check_estimate,
)
from posttrain.diagnose.verifiers.selftest import CaseCount, SelfTest

_MOST_RESCORED = 16
Checked = tuple[Check, list[str]]
"""A check, and what broke where it is not met, in words."""

UNPARSED = "validity: unparsed share"
"""Reported, but never a reason to call a run invalid: the lenient reading decides whether format is what binds."""


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
    selftest: SelfTest,
    counts: SamplingMeasurement,
    rollouts: RolloutTable,
    rescored: Sequence[PathScore],
) -> ValidityMeasurement:
    """Check whether the numbers of a behavior can be believed.

    Args:
        behavior: What was measured.
        engine: With what.
        thresholds: Of the verdict.
        selftest: What the verifier said of answers whose grade is known.
        counts: What was counted; no samples where the self-test failed.
        rollouts: The samples themselves.
        rescored: What `rescore_samples` returned; empty where the engine cannot score.
    """
    prompt = engine.codec.encode_prompt(behavior.problems[0].prompt, behavior.prompt)
    found = [_check_selftest(selftest), check_prompt(behavior, engine, prompt)]
    if counts.num_sampled.any():
        found += _check_shares(behavior, thresholds, counts)
    if rescored:
        found.append(_check_agreement(engine, _first_samples(rollouts, counts.problem_ids), rescored))
    return ValidityMeasurement(
        behavior=behavior.name,
        checks=tuple(check for check, _ in found),
        notes=(
            *engine.info.notes,
            *_notes(behavior, engine),
            *(f"Warning: {_selftest_words(case)}." for case in selftest.cases if case.num_failed and not case.blocks),
        ),
        failures=tuple(failure for _, failures in found for failure in failures),
        prompt_example=prompt.text,
    )


def _check_selftest(selftest: SelfTest) -> Checked:
    """Check that the verifier grades texts with a known grade so."""
    tried = sum(case.num_texts for case in selftest.cases)
    failed = sum(case.num_failed for case in selftest.cases if case.blocks)
    what = "share of texts with a known grade that the verifier graded so"
    share = _counted(1 - failed / tried if tried else np.nan)
    check = check_estimate("validity: verifier self-test", ">=", share, 1.0, n=tried, what=what, unit="texts")
    return check, [_selftest_words(case) for case in selftest.cases if case.blocks]


def _check_shares(behavior: Behavior, thresholds: Thresholds, counts: SamplingMeasurement) -> list[Checked]:
    """Check how many samples are truncated, cannot be read, or have no grade."""
    n, missing = int(counts.num_samples.sum()), int(counts.num_missing.sum())
    num_truncated, num_unparsed = int(counts.num_truncated.sum()), int(counts.num_unparsed.sum())
    longest, failed = "samples that ran into max_tokens", "samples whose verifier failed or timed out"
    truncated = _share("validity: truncated share", num_truncated, n, thresholds.max_truncated, longest)
    unparsed = _share(UNPARSED, num_unparsed, n, thresholds.max_unparsed, "samples in which no answer could be read")
    without_grade = _share("validity: missing share", missing, n + missing, thresholds.max_missing, failed)
    failures = []
    if truncated.outcome is Outcome.NOT_MET:
        share, limit = f"{truncated.estimate:.0%}", behavior.sampling.max_tokens
        failures.append(f"{share} of samples ran into max_tokens={limit}; raise sampling.max_tokens or add a stop text")
    return [(truncated, failures), (unparsed, []), (without_grade, [])]


def _check_agreement(engine: Engine, sampled: Sequence[Rollout], rescored: Sequence[PathScore]) -> Checked:
    """Check that sampler and scorer give the same tokens the same log-probabilities, up to precision."""
    gaps = np.concatenate([r.policy_logprobs - a.policy_logprobs for r, a in zip(sampled, rescored, strict=True)])
    gaps = gaps[np.isfinite(gaps)]  # an engine may not know the probabilities of its samples
    gap, tolerance = float(np.abs(gaps).mean()) if gaps.size else np.nan, engine.info.logprob_tolerance
    what = (
        f"mean |sampler − scorer| log-probability per token, nats ({engine.info.sample_dtype} against {engine.info.score_dtype})"
    )
    name = "validity: sampler-scorer gap"
    check = check_estimate(name, "<=", _counted(gap), tolerance, n=len(gaps), what=what, unit="samples")
    if check.outcome is not Outcome.NOT_MET:
        return check, []
    return check, [f"sampler and scorer disagree by {gap:.3f} nats per token, {tolerance:g} is explained by precision"]


def _first_samples(rollouts: RolloutTable, problem_ids: Sequence[str]) -> list[Rollout]:
    """Return the first sample of each problem, 16 at most."""
    first = ~rollouts.greedy & (rollouts.sample_index == 0) & (rollouts.num_tokens > 0) & (rollouts.places(problem_ids) >= 0)
    return rollouts.rows(np.flatnonzero(first)[:_MOST_RESCORED])


def _selftest_words(case: CaseCount) -> str:
    """Say what the verifier got wrong, with an example."""
    verb = "refuses" if case.name in ("answer", "reference") else "accepts"
    first = case.examples[0]
    kinds = {
        "answer": "the reference answer", "reference": "the whole reference path", "empty": "an empty text", "garbage": "garbage",
        "near_miss": "a wrong answer", "other_answer": "another problem's answer", "echo": "the echoed prompt", "candidates": "a list of candidate answers",
    }  # fmt: skip
    text = first.text if len(first.text) <= 60 else first.text[:57] + "..."
    return f"the verifier {verb} {kinds[case.name]} in {case.num_failed} of {case.num_texts} tries, e.g. {text!r} for problem {first.problem_id}"


def _notes(behavior: Behavior, engine: Engine) -> list[str]:
    notes = []
    if not behavior.sampling.samples_the_policy:
        text = "Sampled under a deployment policy (a temperature other than 1, or truncation): it says nothing about support."
        notes.append(text)
    template = engine.codec.tokenizer.chat_template if engine.codec.tokenizer is not None else None
    if template and behavior.prompt.format == "completion" and engine.info.name == "transformers":
        notes.append("The model has a chat template, and the behavior asks for completion format.")
    return notes


def check_prompt(behavior: Behavior, engine: Engine, prompt: EncodedPrompt) -> Checked:
    """Check that there is one begin-of-text token at most, and that a chat ends where the model must answer."""
    tokenizer: Any = engine.codec.tokenizer
    problems = []
    if tokenizer is not None:
        bos = tokenizer.bos_token_id
        if bos is not None and prompt.token_ids[:2] == (bos, bos):
            problems.append("the prompt begins with two begin-of-text tokens")
        if prompt.format == "chat" and isinstance(engine.codec, TextCodec):
            messages = chat_messages(behavior.problems[0].prompt, behavior.prompt)
            template = engine.codec.template
            if (
                template is not None
                and template.render(messages) == prompt.text
                and prompt.text.rstrip().endswith(messages[-1].content.strip())
            ):
                problems.append("the chat template adds no generation prompt, so the model is not told to answer")
    what = "the chat template is applied and ended by the generation prompt, with one begin-of-text token at most"
    right = _counted(float(not problems))
    return check_estimate("validity: prompt", ">=", right, 1.0, n=1, what=what, unit="prompts"), problems


def _counted(value: float) -> Estimate:
    """Return a number that is known exactly."""
    return Estimate(estimate=value, low=value, high=value, method="counted")


def _share(name: str, count: int, n: int, threshold: float, what: str) -> Check:
    """Check that a share of samples is not too large."""
    interval = wilson_interval(count, n)
    share = Estimate(estimate=count / n if n else np.nan, low=interval.low, high=interval.high, method="Wilson over samples")
    return check_estimate(name, "<=", share, threshold, n=n, what=what, unit="samples")
