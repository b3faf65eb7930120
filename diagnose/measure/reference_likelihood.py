"""How likely the reference paths are, token by token and step by step.

A path is only as likely as its weakest step: the first step below epsilon is where a sampler would have to be lucky. The sum over a
path punishes length and the mean hides one bad token, so both are kept, with the rank of every token (arXiv 2504.13837 compares
perplexities in this way).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt, Engine, OnTokens, ScoreRequest
from posttrain.diagnose.types import Behavior, PathLikelihoodMeasurement, PathScore, Problem


def score_references(engine: Engine, behavior: Behavior, problems: Sequence[Problem], *, on_tokens: OnTokens) -> list[PathScore]:
    """Score every reference path of these problems, the end token included."""
    todo = []
    for problem in problems:
        prompt = engine.codec.encode_prompt(problem.prompt, behavior.prompt)
        todo += [
            (problem, i, prompt, engine.codec.encode_path(prompt, reference)) for i, reference in enumerate(problem.references)
        ]
    return score_paths(engine, behavior, todo, on_tokens=on_tokens)


def score_paths(
    engine: Engine,
    behavior: Behavior,
    todo: Sequence[tuple[Problem, int, EncodedPrompt, EncodedPath]],
    *,
    on_tokens: OnTokens,
) -> list[PathScore]:
    """Score paths of problems behind prompts.

    Args:
        engine: An engine that can score.
        behavior: What is measured.
        todo: Problem, number that the score is to have as `reference_index`, prompt and path.
        on_tokens: Called with the number of tokens just scored.
    """
    requests = [ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path.token_ids) for _, _, prompt, path in todo]
    return [
        PathScore(
            behavior=behavior.name,
            problem_id=problem.id,
            split=problem.split,
            reference_index=number,
            token_ids=path.token_ids,
            token_texts=path.token_texts,
            token_steps=np.array(path.token_steps, dtype=np.int32),
            policy_logprobs=scores.logprobs,
            ranks=scores.ranks,
            engine=engine.info.fingerprint,
        )
        for (problem, number, _, path), scores in zip(todo, engine.score(requests, on_tokens=on_tokens), strict=True)
    ]


def step_logprobs(path: PathScore) -> npt.NDArray[np.float64]:
    """Return the [steps] log-probability of each step given everything before it."""
    sums = np.zeros(int(path.token_steps.max()) + 1)
    np.add.at(sums, path.token_steps, path.policy_logprobs.astype(np.float64))
    return sums


def summarize_references(behavior: Behavior, paths: Sequence[PathScore]) -> PathLikelihoodMeasurement | None:
    """Summarize the scored paths of one behavior; None where it has no references."""
    mine = tuple(path for path in paths if path.behavior == behavior.name)
    if not mine:
        return None
    log_epsilon = np.log(behavior.measure.epsilon)
    steps = [step_logprobs(path) for path in mine]
    improbable = [np.flatnonzero(values < log_epsilon) for values in steps]
    return PathLikelihoodMeasurement(
        paths=mine,
        nll_per_token=np.array([-path.policy_logprobs.astype(np.float64).mean() for path in mine]),
        weakest_step=np.array([values.argmin() for values in steps]),
        first_improbable_step=np.array([found[0] if len(found) else -1 for found in improbable]),
    )
