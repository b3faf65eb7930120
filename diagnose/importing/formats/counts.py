"""Counts: one JSON object per problem, `{"id": "p1", "c": 5, "n": 128}`, successes c in n samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posttrain.diagnose.errors import BehaviorError, SourceError
from posttrain.diagnose.importing.file_names import behavior_of_file, files_in, refuse_options
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, SampleSource, Untold
from posttrain.diagnose.storage.count_files import ProblemCount, read_counts

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_UNTOLD = frozenset(
    {Untold.TEXTS, Untold.PROMPTS, Untold.ANSWERS, Untold.LOGPROBS, Untold.STOP_REASONS, Untold.TOKEN_COUNTS, Untold.SAMPLING}
)


def read(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Read files of counts, one behavior each.

    The order of samples is not known, so that one is made up: the same for the same counts, and unrelated for others.

    Args:
        paths: Files, or folders that hold them.
        options: `behavior` names the behavior where there is one file.

    Raises:
        SourceError: A file holds no counts, or two files are of one name.
    """
    refuse_options("counts", options, "columns", "score", "filter")
    files = files_in(paths, _SUFFIXES, "a JSONL file of counts")
    samples: list[ImportedSample] = []
    for file in files:
        try:
            counts = read_counts(file)
        except BehaviorError as error:
            raise SourceError(str(error), code=error.code) from error
        name = options.behavior if options.behavior and len(files) == 1 else behavior_of_file(file)
        samples += _spread(name, counts)
    return ImportedSamples(source=SampleSource(format="counts", untold=_UNTOLD), samples=samples)


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
