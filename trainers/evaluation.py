"""Looks at the dev slice, for early stopping and for choosing a checkpoint. Never a verdict: verdicts speak of the eval split."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.policy import sample_graded
from posttrain.trainers.types import GradeFn, LiveEngine, TrainingSet

Evaluate = Callable[[], float]
"""Scores the model as it is now; higher is better."""


def dev_success(
    engine: LiveEngine, graders: Mapping[str, GradeFn], training_set: TrainingSet, *, num_samples: int, seed: int
) -> Evaluate:
    """Mean reward over samples of the dev problems, drawn with the same seeds at every look, which makes looks comparable.

    Raises:
        SettingsError: The dev slice is empty.
    """
    _require_dev(training_set)

    def evaluate() -> float:
        engine.refresh()
        rows = sample_graded(engine, graders, training_set.dev, num_samples=num_samples, temperature=1.0, seed=f"dev|{seed}")
        rewards = [row.reward for row in rows if row.reward is not None]
        return sum(rewards) / len(rewards) if rewards else float("nan")

    return evaluate


def dev_likelihood(engine: LiveEngine, training_set: TrainingSet) -> Evaluate:
    """Mean log-probability per token of the dev problems' reference paths, nats.

    Raises:
        SettingsError: The dev slice is empty or has no references.
    """
    _require_dev(training_set)
    rows = encode_references(engine, training_set.dev)
    if not rows:
        raise SettingsError("eval_every needs references in the dev slice, or a verifier; leave it out, or raise dev_share")
    requests = [ScoreRequest(prompt_ids=row.prompt_ids, path_ids=row.completion_ids) for row in rows]

    def evaluate() -> float:
        engine.refresh()
        scores = engine.score(requests)
        return sum(float(score.logprobs.sum()) for score in scores) / sum(len(score.logprobs) for score in scores)

    return evaluate


def _require_dev(training_set: TrainingSet) -> None:
    if not training_set.dev:
        raise SettingsError(
            "eval_every needs a dev slice, and this training set has none; raise dev_share, or give more train problems"
        )
