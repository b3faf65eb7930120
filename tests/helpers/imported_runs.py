"""Runs of imported samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, SampleSource
from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Sampling

SOURCE = SampleSource(format="table", model="m")
SAMPLED_PLAINLY = SampleSource(format="table", model="m", sampling=Sampling(max_tokens=0))


def sample(problem: str = "p1", score: float | None = 1.0, **given: Any) -> ImportedSample:
    return ImportedSample(behavior=given.pop("behavior", "sums"), problem=problem, score=score, **given)


def run_of(samples: Sequence[ImportedSample], out: Path, source: SampleSource = SOURCE, **settings: Any) -> DiagnosedRun:
    return store_run(ImportedSamples(source=source, samples=samples), ImportSettings(out=out, **settings))


def samples_of(outcomes: Mapping[str, Sequence[float | None]], **given: Any) -> list[ImportedSample]:
    """Return samples with these scores, by problem."""
    return [sample(name, score, **given) for name, scores in outcomes.items() for score in scores]


def spread(num_problems: int, num_samples: int, right: int, **given: Any) -> list[ImportedSample]:
    """Return samples of several problems, each with the same number of right ones, spread over its samples."""
    scores = [float((i * right) % num_samples < right) for i in range(num_samples)]
    return samples_of({f"p{i}": scores for i in range(num_problems)}, **given)
