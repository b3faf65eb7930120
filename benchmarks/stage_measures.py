"""Quantities by which a stage is evaluated, per problem on the eval split, which no stage has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification

from posttrain.diagnose import load_behavior
from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.types import Split
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.trainers.models.loading import load_frozen
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.policy import RolloutSampler
from posttrain.trainers.sources.step_scores import by_reward_model, step_ends
from posttrain.trainers.sources.verified import make_pairs
from posttrain.trainers.stage import FrozenModel
from posttrain.trainers.training_types import TrainingProblem, TrainingRow

Values = npt.NDArray[np.float64]
SAMPLES = 8
"""Of each problem, for pass@1."""
SEED = "held out"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Probe:
    """The held-out problems of one behavior, and what can be measured on them."""

    behavior_file: Path

    @cached_property
    def items(self) -> list[TrainingProblem]:
        behavior = load_behavior(self.behavior_file)
        return [TrainingProblem(behavior=behavior, problem=problem) for problem in behavior.split(Split.EVAL)]

    def sample(self, policy: FrozenModel, num_samples: int, *, graded: bool = True) -> list[TrainingRow]:
        """Sample at T = 1, `num_samples` of each problem."""
        behavior = self.items[0].behavior
        with Grader(behavior) as grader:
            graders = {behavior.name: grader.grade} if graded else None
            sampler = RolloutSampler(engine=policy.engine, graders=graders)
            return sampler.sample_problems(self.items, num_samples=num_samples, seed=SEED)

    def by_problem(self, rows: Sequence[TrainingRow], values: Sequence[float]) -> Values:
        """Return [P] the mean over the rows of each problem, NaN where there is none."""
        found: dict[str, list[float]] = {item.problem.id: [] for item in self.items}
        for row, value in zip(rows, values, strict=True):
            found[row.problem_id].append(value)
        return np.array([np.mean(each) if each else np.nan for each in found.values()])

    def pass_at_1(self, policy: FrozenModel) -> Values:
        """Return [P] the share of samples that the verifier accepts."""
        rows = self.sample(policy, SAMPLES)
        return self.by_problem(rows, [float(row.reward or 0.0) for row in rows])

    def pairs(self, policy: FrozenModel) -> tuple[list[TrainingRow], list[TrainingRow]]:
        """Return right and wrong answers: samples of a policy, the reference where none is right."""
        rows = [*self.sample(policy, SAMPLES), *encode_references(policy.engine, self.items)]
        pairs = make_pairs(rows, {self.items[0].behavior.name: 1.0}, 1)
        return pairs[::2], pairs[1::2]

    def margins(self, policy: FrozenModel, pairs: tuple[Sequence[TrainingRow], Sequence[TrainingRow]]) -> Values:
        """Return [P] log π(right) − log π(wrong), nats."""
        right, wrong = (np.array(_log_likelihoods(policy, rows)) for rows in pairs)
        return self.by_problem(pairs[0], list(right - wrong))

    def divergence(self, student: FrozenModel, teacher: FrozenModel) -> Values:
        """Return [P] KL(student‖teacher) per token over the full vocabulary, on new samples of the student, nats."""
        rows = self.sample(student, 4, graded=False)
        mine, theirs = (_distributions(one, rows) for one in (student, teacher))
        return self.by_problem(rows, [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(mine, theirs, strict=True)])

    def reward_accuracy(self, folder: Path, pairs: tuple[Sequence[TrainingRow], Sequence[TrainingRow]]) -> Values:
        """Return [P] whether a reward model prefers the right answer."""
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        right, wrong = (np.array([_reward(model, row) for row in rows]) for rows in pairs)
        return self.by_problem(pairs[0], list((right > wrong) + 0.5 * (right == wrong)))

    def labelled_steps(self, policy: FrozenModel) -> tuple[list[TrainingRow], list[list[bool]]]:
        """Return samples in lines, and whether everything up to the end of each line equals the reference path."""
        rows, labels = [], []
        answers = {item.problem.id: item.problem.answer.split("\n") for item in self.items}
        for row in self.sample(policy, 4):
            ends = step_ends(policy.tokenizer, row.completion_ids, "\n")
            lines, right = row.text.split("\n"), answers[row.problem_id]
            labels.append([lines[: n + 1] == right[: n + 1] for n in range(len(ends))])
            # The full answer is right only where nothing follows.
            labels[-1][-1] = lines == right
            rows.append(_with_steps(row, ends))
        return rows, labels

    def step_accuracy(self, folder: Path | bool, steps: tuple[Sequence[TrainingRow], Sequence[Sequence[bool]]]) -> Values:
        """[P] share of steps that a process reward model, or a constant answer, judges as they are."""
        rows, labels = steps
        if isinstance(folder, bool):
            scores: Sequence[Sequence[float]] = [[float(folder)] * len(each) for each in labels]
        else:
            scores = by_reward_model(str(folder), CPU)(rows, 0)
        right = [
            float(np.mean([(score > 0.5) == label for score, label in zip(said, known, strict=True)]))
            for said, known in zip(scores, labels, strict=True)
        ]
        return self.by_problem(rows, right)


def load(folder: Path) -> FrozenModel:
    return load_frozen(str(folder), device=CPU)


def _with_steps(row: TrainingRow, ends: tuple[int, ...]) -> TrainingRow:
    return replace(row, step_ends=ends, step_scores=(0.0,) * len(ends))


def _log_likelihoods(policy: FrozenModel, rows: Sequence[TrainingRow]) -> list[float]:
    requests = [ScoreRequest(prompt_ids=row.prompt_ids, path_ids=row.completion_ids) for row in rows]
    return [float(score.logprobs.sum()) for score in policy.engine.score(requests)]


@torch.no_grad()
def _distributions(policy: FrozenModel, rows: Sequence[TrainingRow]) -> list[torch.Tensor]:
    """[T, V] log-probabilities before each completion token."""
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        tokens = row.prompt_ids + row.completion_ids
        ids[place, : len(tokens)] = torch.tensor(tokens)
    # Causal, and padded on the right: what is padded is never read.
    logprobs = torch.log_softmax(policy.model(input_ids=ids).logits.double(), -1)
    return [
        logprobs[place, len(row.prompt_ids) - 1 : len(row.prompt_ids) + len(row.completion_ids) - 1]
        for place, row in enumerate(rows)
    ]


@torch.no_grad()
def _reward(model: torch.nn.Module, row: TrainingRow) -> float:
    return float(model(input_ids=torch.tensor([row.prompt_ids + row.completion_ids])).logits[0, 0])
