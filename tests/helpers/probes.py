"""Contexts of probes over samples that are drawn as a run draws them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.engines.base import Engine, SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.measure.reference_likelihood import score_references, summarize_references
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.probes.sampler import ProbeSampler
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import shards
from posttrain.diagnose.storage.rollout_table import SAMPLED
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Cost,
    Finding,
    Grade,
    GradeStatus,
    MeasureSettings,
    PathLikelihoodMeasurement,
    Problem,
    PromptFormat,
    Sampling,
    Split,
    VerifierSpec,
    default_epsilon,
)
from posttrain.diagnose.verifiers.grader import Grader

SEED = "seed"
Answers = Sequence[tuple[str, float]]


def addition_problems(num: int = 24, *, max_tokens: int = 32) -> Behavior:
    """Return a behavior of sums, all of them measured."""
    return Behavior(
        name="sums",
        problems=tuple(
            Problem(id=f"p{i}", prompt=f"{i + 2} + {i + 100} =", answer=str(2 * i + 102), key=f"p{i}", split=Split.EVAL)
            for i in range(num)
        ),
        verifier=VerifierSpec(kind="number"),
        prompt=PromptFormat(format="completion"),
        sampling=Sampling(max_tokens=max_tokens),
        measure=MeasureSettings(epsilon=default_epsilon(8), primary_k=4),
    )


def grade_last_word(problem: Problem, texts: Sequence[str]) -> list[Grade]:
    """Grade a text by its last word, which is read as its answer."""
    words = [(text.split() or [""])[-1] for text in texts]
    return [Grade(status=GradeStatus.SCORED, score=float(word == problem.answer), extracted=word or None) for word in words]


class CountingEngine(ScriptedEngine):
    """Counts how often it is asked to sample."""

    def __init__(self, scripts: Mapping[str, Answers]):
        super().__init__(scripts)
        self.calls = 0

    def sample(self, requests: Sequence[SampleRequest], *rest: Any, **more: Any) -> Any:
        self.calls += 1
        return super().sample(requests, *rest, **more)


def store_samples(
    directory: RunDirectory,
    engine: Engine,
    behavior: Behavior,
    planned: Iterable[shards.Shard],
    *,
    grade: GradeTexts = grade_last_word,
    seed: str = SEED,
) -> None:
    """Sample shards that are not there yet."""
    for shard in planned:
        if not directory.shard("rollouts", shard.name).exists():
            ((_, rollouts),) = shards.sample_shards(engine, grade, behavior, [shard], seed=seed, on_tokens=lambda _: None)
            directory.write_rollouts(shard.name, rollouts, Cost(seconds=0.0))


def context_over(
    directory: RunDirectory,
    probe: str,
    behavior: Behavior,
    engine: Engine,
    *,
    grade: GradeTexts = grade_last_word,
    seed: str = SEED,
    budget: int = 10**6,
    thresholds: Thresholds | None = None,
    paths: PathLikelihoodMeasurement | None = None,
    **inputs: Any,
) -> ProbeContext:
    """Return the context of a probe over the samples of a run directory; `inputs` are further fields of `ProbeContext`."""
    thresholds = thresholds or Thresholds()
    rollouts = directory.rollout_table(behavior.name)
    counts = count_successes(behavior, behavior.split(Split.EVAL), rollouts)
    sampler = ProbeSampler(
        probe=probe,
        behavior=behavior,
        split=Split.EVAL,
        policy=engine,
        grade=grade,
        seed=seed,
        directory=directory,
        reporter=Reporter(quiet=True),
        budget=budget,
    )
    return ProbeContext(
        behavior=behavior,
        split=Split.EVAL,
        counts=counts,
        posterior=posterior_of(counts, epsilon=behavior.measure.epsilon, thresholds=thresholds),
        rollouts=rollouts,
        paths=paths,
        sampler=sampler,
        thresholds=thresholds,
        policy=engine,
        **inputs,
    )


def one_shard(behavior: Behavior, num: int) -> list[shards.Shard]:
    """Plan a single shard of `num` samples of each measured problem."""
    portions = tuple(shards.Portion(problem, 0, num) for problem in behavior.split(Split.EVAL))
    return [shards.Shard(name=f"{behavior.name}.eval-sampled.00000", decoding=SAMPLED, portions=portions)]


def sampled_context(behavior: Behavior, engine: Engine, folder: Path, probe: str, *, n: int = 16, **more: Any) -> ProbeContext:
    """Return a context over greedy samples and `n` others of each problem, sampled into a folder or read from it."""
    directory = RunDirectory(folder)
    none = np.zeros(len(behavior.split(Split.EVAL)), dtype=np.int64)
    planned = (*shards.plan_greedy(behavior, Split.EVAL), *shards.plan_round(behavior, Split.EVAL, none, none + n, 0))
    store_samples(directory, engine, behavior, planned)
    return context_over(directory, probe, behavior, engine, **more)


def restarted(context: ProbeContext, **changes: Any) -> ProbeContext:
    """Return the same context before its first sample; `changes` are fields of its sampler."""
    fresh = {"samples": 0, "generated_tokens": 0, "scored_tokens": 0, "teacher_tokens": 0, "num_calls": 0}
    return replace(context, sampler=replace(context.sampler, **fresh, **changes))


def with_measured(context: ProbeContext, **changes: Any) -> ProbeContext:
    """Return the context over other measurements."""
    return replace(context, **changes)


def with_counts(context: ProbeContext, **changes: Any) -> ProbeContext:
    """Return the context over other counts, the posterior as it was."""
    return with_measured(context, counts=replace(context.counts, **changes))


@contextmanager
def planted_context(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    engine: Engine,
    probe: str,
    *,
    samples: int = 48,
    max_tokens: int = 60,
    seed: str = "s",
    **more: Any,
) -> Iterator[ProbeContext]:
    """Write rows to a behavior file, measure it with its own verifier, and give the context of a probe, references scored."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "planted.yaml"
    file.write_text(
        "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n"
        f"sampling: {{max_tokens: {max_tokens}}}\n"
    )
    behavior = load_behavior(str(file))
    problems = behavior.split(Split.EVAL)
    none = np.zeros(len(problems), np.int64)
    directory = RunDirectory(folder / "run")
    with Grader(behavior) as grader:
        planned = shards.plan_round(behavior, Split.EVAL, none, none + samples, 0)
        for shard in planned:
            directory.shard("rollouts", shard.name).unlink(missing_ok=True)
        store_samples(directory, engine, behavior, planned, grade=grader.grade, seed=seed)
        scored = score_references(engine, behavior, problems, on_tokens=lambda _: None)
        paths = summarize_references(behavior, scored)
        yield context_over(directory, probe, behavior, engine, grade=grader.grade, seed=seed, paths=paths, **more)


def note_codes(finding: Finding) -> set[str]:
    """Return the codes of the notes of a finding."""
    return {note.code for note in finding.notes}
