"""Validity checks: can the numbers of a behavior be believed at all?

A zero is often not a capability but a prompt without its generation marker, an answer that is cut off, or a verifier that refuses what
is right. Each of these is a check here, and one that is not met makes the verdict `invalid`: repair first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.analysis.stats import wilson_interval
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, OnTokens, ScoreRequest
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import (
    Behavior,
    Check,
    Outcome,
    PathScore,
    Problem,
    Rollout,
    SamplingMeasurement,
    ValidityMeasurement,
    decide,
)
from posttrain.diagnose.verifiers.selftest import CaseCount, SelfTest

_AGREEMENT_ROLLOUTS = 16

UNPARSED = "validity: unparsed share"
"""Reported, but never a reason to call a run invalid: the lenient reading decides whether format is what binds."""


def draw_agreement(
    engine: Engine, behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable, *, on_tokens: OnTokens
) -> list[PathScore]:
    """Score some of our own samples again: the first sample of each problem, 16 at most."""
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


def measure(
    behavior: Behavior,
    engine: Engine,
    thresholds: Any,
    selftest: SelfTest,
    sampling: SamplingMeasurement,
    rollouts: RolloutTable,
    agreement: Sequence[PathScore],
) -> ValidityMeasurement:
    """Put the checks together.

    Args:
        behavior: What was measured.
        engine: With what.
        thresholds: The `Thresholds` of the verdict.
        selftest: What the verifier said of answers whose grade is known.
        sampling: The counts.
        rollouts: The samples themselves.
        agreement: Some of them, scored again.
    """
    problem = behavior.problems[0]
    prompt = engine.codec.encode_prompt(problem.prompt, behavior.prompt)
    notes, failures = (
        [*engine.info.notes, *_notes(behavior, engine)],
        [_selftest_words(case) for case in selftest.cases if case.num_failed],
    )
    tried, failed = sum(case.num_texts for case in selftest.cases), sum(case.num_failed for case in selftest.cases)
    checks = [
        _exact(
            "validity: verifier self-test",
            ">=",
            1 - failed / max(1, tried),
            1.0,
            tried,
            "share of texts with a known grade that the verifier graded so",
            "texts",
        ),
        _prompt_check(engine, prompt, failures),
    ]
    n, missing = int(sampling.num_samples.sum()), int(sampling.num_missing.sum())
    if n + missing:
        checks += [
            _share(
                "validity: truncated share",
                int(sampling.num_truncated.sum()),
                n,
                thresholds.max_truncated,
                "samples that ran into max_tokens",
            ),
            _share(
                UNPARSED, int(sampling.num_unparsed.sum()), n, thresholds.max_unparsed, "samples in which no answer could be read"
            ),
            _share(
                "validity: missing share",
                missing,
                n + missing,
                thresholds.max_missing,
                "samples whose verifier failed or timed out",
            ),
        ]
        if checks[-3].outcome is Outcome.NOT_MET:
            failures.append(
                f"{checks[-3].estimate:.0%} of samples ran into max_tokens={behavior.sampling.max_tokens}; raise sampling.max_tokens or add a stop text"
            )
    if agreement:
        drawn = _first_samples(rollouts, sampling.problem_ids)
        gaps = np.concatenate([r.policy_logprobs - a.policy_logprobs for r, a in zip(drawn, agreement, strict=True)])
        gaps = gaps[np.isfinite(gaps)]  # an engine may not know the probabilities of its samples
        gap, tolerance = float(np.abs(gaps).mean()) if gaps.size else np.nan, engine.info.logprob_tolerance
        what = f"mean |sampler − scorer| log-probability per token, nats ({engine.info.sample_dtype} against {engine.info.score_dtype})"
        checks.append(_exact("validity: sampler-scorer gap", "<=", gap, tolerance, len(gaps), what, "samples"))
        if checks[-1].outcome is Outcome.NOT_MET:
            failures.append(f"sampler and scorer disagree by {gap:.3f} nats per token, {tolerance:g} is explained by precision")
    return ValidityMeasurement(
        behavior=behavior.name, checks=tuple(checks), notes=tuple(notes), failures=tuple(failures), prompt_example=prompt.text
    )


def _first_samples(rollouts: RolloutTable, problem_ids: Sequence[str]) -> list[Rollout]:
    """The first sample of each problem, 16 at most."""
    first = ~rollouts.greedy & (rollouts.sample_index == 0) & (rollouts.num_tokens > 0) & (rollouts.places(problem_ids) >= 0)
    return rollouts.rows(np.flatnonzero(first)[:_AGREEMENT_ROLLOUTS])


def _selftest_words(case: CaseCount) -> str:
    """What the verifier got wrong, with an example."""
    verb = "refuses" if case.name in ("answer", "reference") else "accepts"
    first = case.examples[0]
    kinds = {
        "answer": "the reference answer", "reference": "the whole reference path", "empty": "an empty text", "garbage": "garbage",
        "other_answer": "another problem's answer", "echo": "the echoed prompt", "candidates": "a list of candidate answers",
    }  # fmt: skip
    text = first.text if len(first.text) <= 60 else first.text[:57] + "..."
    return f"the verifier {verb} {kinds[case.name]} in {case.num_failed} of {case.num_texts} tries, e.g. {text!r} for problem {first.problem_id}"


def _notes(behavior: Behavior, engine: Engine) -> list[str]:
    notes = []
    if not behavior.sampling.samples_the_policy:
        notes.append(
            "Sampled under a deployment policy (a temperature other than 1, or truncation): it says nothing about support."
        )
    if (
        behavior.prompt.format == "completion"
        and engine.info.name == "transformers"
        and engine.codec.tokenizer is not None
        and engine.codec.tokenizer.chat_template
    ):
        notes.append("The model has a chat template, and the behavior asks for completion format.")
    return notes


def _prompt_check(engine: Engine, prompt: EncodedPrompt, failures: list[str]) -> Check:
    """One begin-of-text token at most, and a chat that ends where the model must answer."""
    tokenizer: Any = engine.codec.tokenizer
    problems = []
    if tokenizer is not None:
        bos = tokenizer.bos_token_id
        if bos is not None and prompt.token_ids[:2] == (bos, bos):
            problems.append("the prompt begins with two begin-of-text tokens")
        if prompt.format == "chat":
            turn = [{"role": "user", "content": "x"}]
            bare = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False)
            if tokenizer.apply_chat_template(
                turn, tokenize=False, add_generation_prompt=True
            ) == bare and prompt.text.rstrip().endswith(("x", ".", "?")):
                problems.append("the chat template adds no generation prompt, so the model is not told to answer")
    failures += problems
    return _exact(
        "validity: prompt",
        ">=",
        float(not problems),
        1.0,
        1,
        "the chat template is applied and ended by the generation prompt, with one begin-of-text token at most",
        "prompts",
    )


def _exact(name: str, op: str, value: float, threshold: float, n: int, what: str, unit: str) -> Check:
    outcome = decide(op, value, value, threshold) if n else Outcome.INCONCLUSIVE
    return Check(
        name=name,
        op=op,
        estimate=value,
        low=value,
        high=value,
        threshold=threshold,
        n=n,
        method="counted",
        outcome=outcome,
        what=what,
        unit=unit,
    )


def _share(name: str, count: int, n: int, threshold: float, what: str) -> Check:
    interval = wilson_interval(count, n)
    outcome = decide("<=", interval.low, interval.high, threshold)
    return Check(
        name=name, op="<=", estimate=count / n if n else float("nan"), low=interval.low, high=interval.high, threshold=threshold, n=n,
        method="Wilson over samples", outcome=outcome, what=what, unit="samples",
    )  # fmt: skip
