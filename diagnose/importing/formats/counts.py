"""Counts: one JSON object per problem, `{"id": "p1", "c": 5, "n": 128}`, successes c in n samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posttrain.diagnose.errors import BehaviorError, SourceError
from posttrain.diagnose.importing.finish_import import Told, finish, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions
from posttrain.diagnose.importing.source_rows import behavior_of_file, find_files, refuse_same_names
from posttrain.diagnose.storage.count_files import ProblemCount, read_counts

_MOST_SAMPLES = 20_000_000
"""Of a file; each becomes a row."""
_PATTERNS = tuple(f"**/*.{kind}{end}" for kind in ("jsonl", "ndjson", "json") for end in ("", ".gz"))


def read(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Read files of counts, one behavior each.

    The order of samples is not known, so that one is made up: the same for the same counts, and unrelated for others.

    Args:
        paths: Files, or folders that hold them.
        options: `behavior` names the only behavior, or the file that is taken of several.

    Raises:
        SourceError: A file holds no counts.
    """
    refuse_unused(options, "counts")
    files = find_files(paths, "a JSONL file of counts", *_PATTERNS)
    refuse_same_names(files, options.behavior)
    samples: list[ImportedSample] = []
    for file in files:
        try:
            counts = read_counts(file)
        except BehaviorError as error:
            raise SourceError(str(error), code=error.code) from error
        if (total := sum(one.num_samples for one in counts)) > _MOST_SAMPLES:
            raise SourceError(
                f"{file}: got {total} samples of {len(counts)} problems; at most {_MOST_SAMPLES} can be read: divide c and n of each problem by one number",
                code="too_many_samples",
            )
        samples += _spread(behavior_of_file(file), counts)
    return finish(samples, Told(format="counts"), options)


def _spread(behavior: str, counts: Sequence[ProblemCount]) -> list[ImportedSample]:
    """Return the samples that were counted, in an order that a digest of all counts decides."""
    content = repr([(one.id, one.num_correct, one.num_samples) for one in counts])
    rng = np.random.default_rng(list(hashlib.sha256(content.encode()).digest()))
    samples: list[ImportedSample] = []
    for one in counts:
        wrong, right = (ImportedSample(behavior=behavior, problem=one.id, score=score) for score in (0.0, 1.0))
        is_right = rng.permutation(one.num_samples) < one.num_correct
        samples += [right if found else wrong for found in is_right.tolist()]
    return samples


COUNTS = Format(
    name="counts",
    title='counts, {"id", "c", "n"} per problem',
    files="a .jsonl file (also .gz) with one object per problem",
    read=read,
)
