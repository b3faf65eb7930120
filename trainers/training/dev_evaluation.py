"""Evaluations on the dev slice, for early stopping and for choosing a checkpoint; verdicts are about the eval split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from posttrain.diagnose.engines.base import Engine, ScoreRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import reaches
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.policy import RolloutSampler, num_tokens
from posttrain.trainers.sources.verified import successes
from posttrain.trainers.step.chunked_divergence import divergence
from posttrain.trainers.step.forward_scores import MAX_TOKENS, ForwardScorer
from posttrain.trainers.step.logprobs import logprobs_of, run_model
from posttrain.trainers.step.means import MetricMeans
from posttrain.trainers.step.packing import collate, pack_rows, plan_micro_batches
from posttrain.trainers.training_types import TrainingRow, TrainingSet


@dataclass(frozen=True, kw_only=True, slots=True)
class DevEvaluation:
    """What the dev slice says about the model as it was."""

    score: float
    """Higher is better; what the checkpoint is chosen by."""
    pass_at_1: float | None = None
    """Share of samples that succeed; None where nothing was graded."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All numbers, to be logged."""


Evaluate = Callable[[ForwardScorer], DevEvaluation]
"""Evaluates the model as it is now, through the scorer of the run, which also holds the model before training."""


class DevEvaluator:
    """Evaluates a policy on the dev slice, with the same seeds every time, which makes evaluations comparable.

    An evaluation has pass@1 (`pass_at_1`), the share of truncated samples and their mean length, the entropy of the policy at its own samples'
    tokens and its divergence KL(policy‖start) there, exact over the vocabulary (`entropy`, `kl_to_start`, nats per token), and the mean
    log-probability per token of the reference paths (`reference_logprob`), where there are any. The score is pass@1 where samples are graded,
    else that log-probability.

    Args:
        sampler: Of the model in training; without graders only references are scored.
        training_set: Its dev slice is evaluated.
        num_samples: Of each problem.
        seed: Of the samples.

    Raises:
        SettingsError: The dev slice is empty, or has neither references nor a verifier.
    """

    def __init__(self, sampler: RolloutSampler, training_set: TrainingSet, *, num_samples: int, seed: int) -> None:
        if not training_set.dev:
            raise SettingsError(
                "eval_every needs a dev slice, and this training set has none; raise dev_share, or give more train problems",
                code="empty_dev_slice",
            )
        self.sampler, self.training_set = sampler, training_set
        self.num_samples, self.seed = num_samples, seed
        references = encode_references(sampler.engine, training_set.dev)
        longest = sampler.context
        self._references = [
            row for row in references if longest is None or len(row.prompt_ids) + len(row.completion_ids) <= longest
        ]
        if not sampler.graders and not self._references:
            raise SettingsError(
                "eval_every needs references in the dev slice, or a verifier; leave it out, or raise dev_share",
                code="dev_not_graded",
            )

    def __call__(self, scorer: ForwardScorer) -> DevEvaluation:
        """Evaluate the model as it is now."""
        engine, items = self.sampler.engine, self.training_set.dev
        engine.refresh()
        metrics: dict[str, float] = {}
        if self.sampler.graders:
            rows = self.sampler.sample_problems(items, num_samples=self.num_samples, seed=f"dev|{self.seed}")
            metrics |= _of_samples(rows, self.training_set) | _of_policy(scorer, rows)
        if self._references:
            metrics["reference_logprob"] = _mean_logprob(engine, self._references)
        passed = metrics.get("pass_at_1")
        return DevEvaluation(score=metrics["reference_logprob"] if passed is None else passed, pass_at_1=passed, metrics=metrics)


def pass_at_1(rows: Sequence[TrainingRow], training_set: TrainingSet) -> float:
    """Return the share of the graded samples of a set's problems that succeed; NaN where none is graded."""
    success = successes(training_set)
    passed = [reaches(row.reward, success[row.behavior]) for row in rows if row.reward is not None]
    return sum(passed) / len(passed) if passed else float("nan")


def _of_samples(rows: Sequence[TrainingRow], training_set: TrainingSet) -> dict[str, float]:
    nan = float("nan")
    return {
        "pass_at_1": pass_at_1(rows, training_set),
        "truncated": sum(row.truncated for row in rows) / len(rows) if rows else nan,
        "length": num_tokens(rows) / len(rows) if rows else nan,
    }


@torch.no_grad()
def _of_policy(scorer: ForwardScorer, rows: Sequence[TrainingRow]) -> dict[str, float]:
    """Return means over all tokens of the samples."""
    means = MetricMeans()
    packs = pack_rows(rows, range(len(rows)), share=False, hidden_size=1, max_tokens=MAX_TOKENS)
    for group in plan_micro_batches(packs, MAX_TOKENS):
        batch = collate(group).to(scorer.model.device)
        states = run_model(scorer.model, batch, scorer.policy.shortcuts, dtype=scorer.dtype)
        _, entropy = logprobs_of(states, batch.targets, entropy=True)
        assert entropy is not None
        means.add("entropy", entropy)
        if scorer.reference is not None:
            start = scorer.reference.frozen_states(batch, scorer.dtype)
            means.add("kl_to_start", divergence(states, start, beta=1.0))
    return means.result()


def _mean_logprob(engine: Engine, rows: Sequence[TrainingRow]) -> float:
    scores = engine.score([ScoreRequest(prompt_ids=row.prompt_ids, path_ids=row.completion_ids) for row in rows])
    return sum(float(score.logprobs.sum()) for score in scores) / sum(len(score.logprobs) for score in scores)
