"""From imported samples to the problems and the columns of rollouts that a run directory holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from posttrain.diagnose.behaviors.problem_rows import ROLES
from posttrain.diagnose.importing.imported import ImportedSample
from posttrain.diagnose.importing.sample_notes import sample_notes
from posttrain.diagnose.importing.scores import ReadScores, read_scores
from posttrain.diagnose.storage.rollout_table import SAMPLED, SCHEMA
from posttrain.diagnose.types import Cost, GradeStatus, Message, Note, Split

ENGINE = "imported"
"""What stands in the place of an engine."""
ROWS_PER_SHARD = 20_000
_MOST_SHARDS = 512
_FURTHER = (("turns", pa.string()), ("source_score", pa.float64()))
"""Columns that only imported rollouts have: the turns behind the prompt as a JSON list, and the source's own score."""
_HALVES = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviorSamples:
    """The samples of one behavior, in the order of their problems."""

    name: str
    """As a run calls it."""
    source_name: str
    """As the source calls it."""
    problems: tuple[dict[str, Any], ...]
    """Rows of a problem file, without their split."""
    samples: tuple[ImportedSample, ...]
    """[N] in the order of problems; those of one problem in their own order."""
    places: npt.NDArray[np.int64]
    """[N] index of the problem."""
    read: ReadScores
    """[N]"""
    notes: tuple[Note, ...] = ()

    @property
    def digest(self) -> str:
        """Return what tells these samples from others: a digest of problems, scores and texts."""
        found = hashlib.sha256()
        for problem in self.problems:
            found.update(encode_basestring_ascii(problem["id"]).encode())
        found.update(self.places.tobytes() + self.read.scores.tobytes())
        for sample in self.samples:
            if sample.text:
                found.update(_clean(sample.text).encode() + b"\x00")
        return found.hexdigest()[:16]

    @property
    def num_samples(self) -> int:
        """Return N."""
        return len(self.samples)

    def shards(self, split: Split) -> Iterator[tuple[str, pa.Table, Cost]]:
        """Yield name, rows and cost of each shard of rollouts."""
        rows = max(ROWS_PER_SHARD, -(-self.num_samples // _MOST_SHARDS))
        index = np.arange(self.num_samples) - np.searchsorted(self.places, self.places)
        starts = range(0, self.num_samples, rows)
        for number, start in enumerate(starts):
            part = slice(start, min(start + rows, self.num_samples))
            name = f"{self.name}.{split}-{SAMPLED}.0000-{number:05d}-of-{len(starts):05d}"
            table = self._columns(part, index[part], split)
            tokens = sum(sample.num_tokens or 0 for sample in self.samples[part])
            yield name, table, Cost(samples=table.num_rows, generated_tokens=tokens)

    def _columns(self, part: slice, index: npt.NDArray[np.int64], split: Split) -> pa.Table:
        samples, scores = self.samples[part], self.read.scores[part]
        size, missing = len(samples), np.isnan(scores)
        ids = pa.array([problem["id"] for problem in self.problems], pa.string())
        empty = pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, dtype=np.int32)), pa.array([], pa.int32()))
        own = [np.nan if sample.score is None else sample.score for sample in samples]
        values: dict[str, Any] = {
            "behavior": pa.repeat(self.name, size),
            "problem_id": ids.take(pa.array(self.places[part])),
            "split": pa.repeat(split.value, size),
            "sample_index": index,
            "decoding": pa.repeat(SAMPLED, size),
            "token_ids": empty,
            "policy_logprobs": empty,
            "sampler_logprobs": empty,
            "stop": [sample.stop for sample in samples],
            "text": [_clean(sample.text) if sample.text else "" for sample in samples],
            "status": np.where(missing, GradeStatus.ERROR.value, GradeStatus.SCORED.value),
            "score": pa.array(scores, mask=missing),
            "extracted": pa.nulls(size),
            "lenient_score": pa.nulls(size),
            "detail": [
                "the source has no grade" if gone else "" if self.read.kept else f"score {score:g} in the source"
                for gone, score in zip(missing.tolist(), own, strict=True)
            ],
            "engine": pa.repeat(ENGINE, size),
            "num_tokens": [sample.num_tokens or 0 for sample in samples],
            "policy_logprob_sum": np.full(size, np.nan),
            "answer_start": np.zeros(size, dtype=np.int32),
            "num_thought_tokens": pa.nulls(size),
            "turns": [_turns(sample.turns) if sample.turns else None for sample in samples],
            "num_turns": [sample.num_turns for sample in samples],
            "source_score": pa.array(np.array(own), mask=np.isnan(own)),
        }
        fields = [*SCHEMA, *(pa.field(name, kind) for name, kind in _FURTHER)]
        arrays = [_as_array(values[field.name], field.type) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def group_by_behavior(samples: Sequence[ImportedSample], success: float | None) -> list[BehaviorSamples]:
    """Return the samples of each behavior, with its problems.

    Args:
        samples: Of one policy.
        success: As for `read_scores`.

    Raises:
        SourceError: The scores are none of ours, and `success` does not say what they mean.
    """
    of_behavior: dict[str, list[ImportedSample]] = {}
    for sample in samples:
        of_behavior.setdefault(sample.behavior, []).append(sample)
    names = _file_names(of_behavior)
    return [_read_behavior(names[name], name, found, success) for name, found in of_behavior.items()]


def _read_behavior(name: str, source_name: str, samples: Sequence[ImportedSample], success: float | None) -> BehaviorSamples:
    place: dict[str, int] = {}
    found = [place.setdefault(sample.problem, len(place)) for sample in samples]
    order = np.argsort(np.array(found, dtype=np.int64), kind="stable")
    ordered = tuple(samples[i] for i in order.tolist())
    places = np.array(found, dtype=np.int64)[order]
    own = np.array([np.nan if sample.score is None else sample.score for sample in ordered], dtype=np.float64)
    read = read_scores(source_name, own, success)
    starts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
    problems = tuple(_problem_row(ordered[start]) for start in starts)
    return BehaviorSamples(
        name=name,
        source_name=source_name,
        problems=problems,
        samples=ordered,
        places=places,
        read=read,
        notes=(*read.notes, *_unlike(ordered, places, starts), *sample_notes(ordered, places, read.scores, read.success)),
    )


def _problem_row(sample: ImportedSample) -> dict[str, Any]:
    """Return the row of a problem; what it was asked is its id where the source does not tell."""
    prompt = _prompt(sample.prompt)
    return {
        "id": _clean(sample.problem),
        "prompt": prompt if prompt is not None else _clean(sample.problem),
        **({"answer": _clean(sample.answer)} if sample.answer.strip() else {}),
        **({"answers": [_clean(one) for one in sample.answers]} if sample.answers else {}),
        **({"group": _clean(sample.group)} if sample.group and sample.group.strip() else {}),
        **({"metadata": sample.metadata} if sample.metadata else {}),
    }


def _prompt(prompt: str | tuple[Message, ...] | None) -> str | list[dict[str, str]] | None:
    """Return a prompt as a problem file holds it; a chat of other turns than such a file can hold as one text."""
    if prompt is None or isinstance(prompt, str):
        return _clean(prompt) if prompt and prompt.strip() else None
    fits = all(turn.role in ROLES and not turn.extra for turn in prompt)
    if prompt and fits and prompt[-1].role == "user" and prompt[-1].content.strip():
        return [{"role": turn.role, "content": _clean(turn.content)} for turn in prompt]
    text = "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
    return _clean(text) if text.strip() else None


def _unlike(samples: Sequence[ImportedSample], places: npt.NDArray[np.int64], starts: Sequence[int]) -> tuple[Note, ...]:
    """Say how many problems have samples that were asked otherwise, or have another answer, than their first one."""
    firsts = [samples[start] for start in starts]
    unlike = {
        place
        for sample, place in zip(samples, places.tolist(), strict=True)
        if sample is not (first := firsts[place]) and (sample.prompt != first.prompt or sample.answer != first.answer)
    }
    if not unlike:
        return ()
    text = (
        f"{len(unlike)} of {len(starts)} problems have samples with another prompt or answer than their first one (such as "
        f"{firsts[min(unlike)].problem}): either their ids are not unique, or the prompt varies; the first is kept."
    )
    return (Note("problem_texts_differ", text),)


def _turns(turns: Sequence[Message]) -> str:
    return _clean(json.dumps([turn.as_turn() for turn in turns], ensure_ascii=False, default=str))


def _clean(text: str) -> str:
    """Return a text without halves of surrogate pairs, which no file holds: � stands for each."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _as_array(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _file_names(of_behavior: Mapping[str, object]) -> dict[str, str]:
    """Return a name that a behavior file may have for each name of a source, none twice, whether or not capitals count."""
    names: dict[str, str] = {}
    for name in of_behavior:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80] or "behavior"
        taken, number, found = {one.lower() for one in names.values()}, 1, base
        while found.lower() in taken:
            number += 1
            found = f"{base}-{number}"
        names[name] = found
    return names
