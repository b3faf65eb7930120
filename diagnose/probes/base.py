"""What every further probe is: a question, what the answer would cost, whether it could change anything, and the answer.

The sampling probe says *that* a behavior is out of reach or unreliable; these say *why*. Each is a module with a class that meets
`Probe` and a line in `PROBES` (`probes/__init__.py`). A probe draws through its `ProbeContext`, which stores every sample in the run directory,
so that a stopped probe goes on where it was; its `Finding` is plain data, and the verdict is decided from findings read back from disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq

from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.engines.base import Engine, SampleRequest, ScoreRequest, TokenScores
from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.shards import GradeTexts
from posttrain.diagnose.storage.rollout_table import METADATA_KEY, RolloutTable, to_rollouts
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Answer as Answer
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Cost,
    Estimate,
    PathLikelihoodMeasurement,
    Problem,
    Rollout,
    Sampling,
    SamplingMeasurement,
    Split,
)
from posttrain.diagnose.types import Finding as Finding
from posttrain.diagnose.types import LabelEvidence as LabelEvidence

FOLDER = "probes"
"""Of a run directory: samples as parquet, findings as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AvailableInputs:
    """What there is beside the model and its behaviors."""

    teacher: bool = False
    earlier: bool = False
    """An earlier checkpoint."""
    before: bool = False
    """An earlier run on the same behaviors."""
    data: bool = False
    """A data set that might be trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCost:
    """What a probe would take at most, said before a token is spent."""

    generated_tokens: int = 0
    scored_tokens: int = 0
    when: str = ""
    """In words: under which finding of the samples it runs."""
    impossible: str = ""
    """In words: why it cannot run at all; empty where it can."""


class PromptRequest(NamedTuple):
    """Samples of one problem that start from a prompt and perhaps from a part of an answer."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    num: int
    given_ids: tuple[int, ...] = ()
    """Tokens of the answer that the model is given; it goes on from them."""
    given_text: str = ""
    """Their text, which the verifier reads before what was generated."""
    first: int = 0
    """Number of the first sample: samples of one condition and problem are numbered on from call to call."""


@dataclass(kw_only=True)
class ProbeContext:
    """What a probe works with: the behavior, what is known of it so far, and engines to draw from."""

    probe: str
    behavior: Behavior
    split: Split
    problems: tuple[Problem, ...]
    engine: Engine
    grade: GradeTexts
    sampling: SamplingMeasurement
    """Counts of the samples so far, in the order of `problems`."""
    known: LabelPosterior
    """What they say."""
    rollouts: RolloutTable
    """The samples themselves."""
    paths: PathLikelihoodMeasurement | None
    """Likelihood of the references, where there are any."""
    thresholds: Thresholds
    seed: str
    directory: RunDirectory
    reporter: Reporter
    budget: int
    """Tokens that the probe may generate at most."""
    teacher: Engine | None = None
    earlier: Engine | None = None
    before: Mapping[str, Any] | None = None
    """The behavior's entry in the diagnosis.json of an earlier run, and under `rollouts` its RolloutTable."""
    data: tuple[DataRow, ...] | None = None
    """Rows of a data set that might be trained on."""
    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    _calls: int = 0

    @property
    def left(self) -> int:
        """Tokens that may still be generated."""
        return self.budget - self.generated_tokens

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """A problem's prompt as the policy reads it."""
        return self.engine.codec.encode_prompt(problem.prompt, self.behavior.prompt).token_ids

    def draw(
        self,
        prompt_requests: Sequence[PromptRequest],
        *,
        condition: str,
        sampling: Sampling | None = None,
        engine: Engine | None = None,
    ) -> list[list[Rollout]]:
        """Sample, grade and store; what is stored already is read back instead.

        Args:
            prompt_requests: What to sample; calls must come in the same order whenever the probe runs on the same counts.
            condition: Names what differs from plain sampling, `prefix 0.50` say; part of the generators' key.
            sampling: Settings, the behavior's own where None.
            engine: What samples, the policy where None.

        Returns:
            One list per entry of `prompt_requests`, its samples in order. Their text starts with `given_text`; `token_ids` are the generated ones.
        """
        engine, sampling = engine or self.engine, sampling or self.behavior.sampling
        name = f"{self.behavior.name}.{self.split}-{self.probe}.{self._calls:05d}"
        self._calls += 1
        path = self.directory.shard(FOLDER, name)
        if not path.exists():
            start = time.monotonic()
            with self.reporter.task(
                f"{self.probe}: {self.behavior.name}, {condition}", sum(a.num for a in prompt_requests)
            ) as task:
                rollouts = self._sample(prompt_requests, condition, sampling, engine, task.tokens)
                task.advance(len(rollouts))
            tokens = sum(len(rollout.token_ids) for rollout in rollouts)
            cost = Cost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(rollouts))
            self.directory.write_rollouts_in(FOLDER, name, rollouts, cost)
        table = pq.ParquetFile(path).read()
        record = json.loads(table.schema.metadata[METADATA_KEY])
        self.samples += record["samples"]
        self.generated_tokens += record["generated_tokens"]
        found = iter(to_rollouts(table))
        return [[next(found) for _ in range(one.num)] for one in prompt_requests]

    def _sample(
        self, prompt_requests: Sequence[PromptRequest], condition: str, sampling: Sampling, engine: Engine, on_tokens: Any
    ) -> list[Rollout]:
        requests = [
            SampleRequest(
                key=f"{self.behavior.name}/{one.problem.id}/{self.probe}: {condition}",
                prompt_ids=(*one.prompt_ids, *one.given_ids),
                num_samples=one.num,
                first_sample=one.first,
            )
            for one in prompt_requests
        ]
        rollouts = []
        for one, completions in zip(
            prompt_requests, engine.sample(requests, sampling, seed=self.seed, on_tokens=on_tokens), strict=True
        ):
            texts = [one.given_text + completion.text for completion in completions]
            grades = self.grade(one.problem, texts)
            for index, (completion, text, grade) in enumerate(zip(completions, texts, grades, strict=True), start=one.first):
                rollouts.append(
                    Rollout(
                        behavior=self.behavior.name,
                        problem_id=one.problem.id,
                        split=one.problem.split,
                        sample_index=index,
                        decoding=condition,
                        token_ids=completion.token_ids,
                        policy_logprobs=completion.policy_logprobs,
                        sampler_logprobs=completion.sampler_logprobs,
                        stop=completion.stop,
                        text=text,
                        grade=grade,
                        engine=engine.info.fingerprint,
                    )
                )
        return rollouts

    def score(
        self, requests: Sequence[ScoreRequest], *, engine: Engine | None = None, what: str = "scoring"
    ) -> list[TokenScores]:
        """Log-probabilities of paths, by the policy where no engine is given; nothing is stored, so score what is cheap to score again."""
        with self.reporter.task(f"{self.probe}: {self.behavior.name}, {what}", None) as task:
            scores = (engine or self.engine).score(requests, on_tokens=task.tokens)
        tokens = sum(len(request.path_ids) for request in requests)
        if engine is not None and engine is self.teacher:
            self.teacher_tokens += tokens
        else:
            self.scored_tokens += tokens
        return scores

    def count(self, rollouts: Sequence[Rollout]) -> tuple[int, int]:
        """How many have a known outcome, and how many of them are right."""
        known = [r for r in rollouts if r.succeeded(self.behavior.measure.success) is not None]
        return len(known), sum(bool(r.succeeded(self.behavior.measure.success)) for r in known)


class Probe(Protocol):
    """A question about why a behavior is as it is."""

    name: str
    question: str
    """For people, one line that ends with a question mark."""

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """What it would take at most, or why it cannot run; before anything is drawn."""
        ...

    def worth(self, context: ProbeContext) -> str:
        """Why it is not worth its cost, after the samples are drawn; empty where it is."""
        ...

    def run(self, context: ProbeContext) -> Finding:
        """Draw and answer. The same counts and seed give the same finding."""
        ...


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    return asdict(finding)


def finding_from_json(data: Mapping[str, Any]) -> Finding:
    """What `finding_to_json` wrote; null is NaN again."""
    fields = dict(data)
    told = fields.pop("arguments", ())  # the name of `evidence` in files of earlier versions
    return Finding(
        **{
            **fields,
            "numbers": {name: _estimate(value) for name, value in data["numbers"].items()},
            "rows": tuple(data["rows"]),
            "evidence": tuple(
                LabelEvidence(
                    label=Bottleneck(one["label"]),
                    instead_of=tuple(Bottleneck(label) for label in one["instead_of"]),
                    confidence=one["confidence"],
                    because=one["because"],
                )
                for one in data.get("evidence", told)
            ),
            "notes": tuple(data["notes"]),
        }
    )


def _estimate(value: Mapping[str, Any]) -> Estimate:
    parts = {key: np.nan if value[key] is None else float(value[key]) for key in ("estimate", "low", "high")}
    return Estimate(**parts, method=value["method"])
