"""Looks at the dev slice, for early stopping and for choosing a checkpoint. Never a verdict: verdicts speak of the eval split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from posttrain.diagnose.engines.base import Engine, ScoreRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.policy import num_tokens, sample_graded
from posttrain.trainers.sources.verified import successes
from posttrain.trainers.step.chunked_divergence import divergence
from posttrain.trainers.step.forward_scores import Scorer
from posttrain.trainers.step.logprobs import logprobs_of, run_model
from posttrain.trainers.step.means import MetricMeans
from posttrain.trainers.step.packing import collate, pack_rows, plan_micro_batches
from posttrain.trainers.training_types import GradeFn, TrainingRow, TrainingSet


@dataclass(frozen=True, kw_only=True, slots=True)
class DevEvaluation:
    """What the dev slice says about the model as it is."""

    score: float
    """Higher is better; what the checkpoint is chosen by."""
    pass_at_1: float | None = None
    """Share of samples that succeed; None where nothing was graded."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All numbers, to be logged."""


Evaluate = Callable[[Scorer], DevEvaluation]
"""Looks at the model as it is now, through the scorer of the run, which also holds the model before training."""


def dev_looks(
    engine: Engine,
    graders: Mapping[str, GradeFn] | None,
    training_set: TrainingSet,
    *,
    num_samples: int,
    seed: int,
    max_tokens: int = 4096,
) -> Evaluate:
    """What looks at a policy: samples the dev problems with the same seeds at every look, which makes looks comparable.

    A look has pass@1 (`pass_at_1`), the share of truncated samples and their mean length, the entropy of the policy at its own samples' tokens
    and its divergence KL(policy‖start) there, exact over the vocabulary (`entropy`, `kl_to_start`, nats per token), and the mean
    log-probability per token of the reference paths (`reference_logprob`), where there are any. The score is pass@1 where samples are graded,
    else that log-probability.

    Args:
        engine: Samples and scores the model in training.
        graders: By the behavior's name; None where there is no verifier.
        training_set: Its dev slice is looked at.
        num_samples: Of each problem.
        seed: Of the draws.
        max_tokens: Of one forward pass.

    Raises:
        SettingsError: The dev slice is empty, or has neither references nor a verifier.
    """
    if not training_set.dev:
        raise SettingsError(
            "eval_every needs a dev slice, and this training set has none; raise dev_share, or give more train problems"
        )
    references = encode_references(engine, training_set.dev)
    if not graders and not references:
        raise SettingsError("eval_every needs references in the dev slice, or a verifier; leave it out, or raise dev_share")

    def look(scorer: Scorer) -> DevEvaluation:
        engine.refresh()
        metrics: dict[str, float] = {}
        if graders:
            rows = sample_graded(engine, graders, training_set.dev, num_samples=num_samples, temperature=1.0, seed=f"dev|{seed}")
            metrics |= _of_samples(rows, training_set) | _of_policy(scorer, rows, max_tokens)
        if references:
            metrics["reference_logprob"] = _mean_logprob(engine, references)
        passed = metrics.get("pass_at_1")
        return DevEvaluation(score=metrics["reference_logprob"] if passed is None else passed, pass_at_1=passed, metrics=metrics)

    return look


def _of_samples(rows: Sequence[TrainingRow], training_set: TrainingSet) -> dict[str, float]:
    success = successes(training_set)
    passed = [row.reward >= success[row.behavior] for row in rows if row.reward is not None]
    nan = float("nan")
    return {
        "pass_at_1": sum(passed) / len(passed) if passed else nan,
        "truncated": sum(row.truncated for row in rows) / len(rows) if rows else nan,
        "length": num_tokens(rows) / len(rows) if rows else nan,
    }


@torch.no_grad()
def _of_policy(scorer: Scorer, rows: Sequence[TrainingRow], max_tokens: int) -> dict[str, float]:
    """MetricMeans over all tokens of the samples."""
    means = MetricMeans()
    packs = pack_rows(rows, range(len(rows)), share=False, hidden_size=1, max_tokens=max_tokens)
    for group in plan_micro_batches(packs, max_tokens):
        batch = collate(group).to(scorer.model.device)
        states = run_model(scorer.model, batch, scorer.shortcuts, dtype=scorer.dtype)
        _, entropy = logprobs_of(states, batch.targets, entropy=True)
        assert entropy is not None
        means.add("entropy", entropy)
        if scorer.reference is not None:
            start = scorer.reference.states(batch, scorer.dtype)
            means.add("kl_to_start", divergence(states, start, beta=1.0))
    return means.result()


def _mean_logprob(engine: Engine, rows: Sequence[TrainingRow]) -> float:
    scores = engine.score([ScoreRequest(prompt_ids=row.prompt_ids, path_ids=row.completion_ids) for row in rows])
    return sum(float(score.logprobs.sum()) for score in scores) / sum(len(score.logprobs) for score in scores)
