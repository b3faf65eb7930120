"""Files of counts: one JSON object per problem, `{"id": "p1", "c": 5, "n": 128}`, successes c in n samples, as other tools write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.diagnose.behaviors.row_files import RowError, read_objects
from posttrain.diagnose.storage.files import write_text
from posttrain.diagnose.strict_settings import shorten

_FORM = 'like {"id": "p1", "c": 5, "n": 128}'
_WANTED = f"a JSONL file with one object per problem, {_FORM}"


@dataclass(frozen=True, slots=True)
class ProblemCount:
    """Samples and successes of one problem."""

    id: str
    num_samples: int
    num_correct: int


class HasCounts(Protocol):
    """A problem with its counts: a `ProblemCount`, or a problem of diagnosis.json."""

    @property
    def id(self) -> str:
        """Return its name."""

    @property
    def num_samples(self) -> int:
        """Return its samples with a known outcome."""

    @property
    def num_correct(self) -> int:
        """Return the successes among them."""


def read_counts(path: str | os.PathLike[str]) -> list[ProblemCount]:
    """Read a file of counts; keys other than `id`, `c` and `n` are passed over.

    Args:
        path: One object per line; `id` is a text or a whole number.

    Raises:
        BehaviorError: The file is missing, is no text, or a line is no JSON object.
        RowError: A line holds no counts (code `invalid_counts`), a problem comes twice (`duplicate_id`), or there are none (`no_counts`).
    """
    found: dict[str, ProblemCount] = {}
    for _, where, row in read_objects(Path(path), _WANTED, _FORM):
        count = _read_row(row, where)
        if count.id in found:
            raise RowError(f"{where}: id {shorten(count.id)} comes twice; give every problem one line", code="duplicate_id")
        found[count.id] = count
    if not found:
        raise RowError(f"{path}: got no line with counts; give {_WANTED}", code="no_counts")
    return list(found.values())


def write_counts(path: str | os.PathLike[str], problems: Iterable[HasCounts]) -> None:
    """Write a file of counts that appears whole or not at all.

    Args:
        path: The file.
        problems: Problems with their counts, such as those of a behavior in diagnosis.json.
    """
    rows = ({"id": one.id, "c": int(one.num_correct), "n": int(one.num_samples)} for one in problems)
    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _read_row(row: Mapping[str, Any], where: str) -> ProblemCount:
    name, correct, samples = (row.get(key) for key in ("id", "c", "n"))
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise RowError(
            f"{where}: got id {shorten(name)}; it is a text or a whole number, in a line {_FORM}", code="invalid_counts"
        )
    if type(correct) is not int or type(samples) is not int or not 0 <= correct <= samples:
        raise RowError(
            f"{where}: got c = {shorten(correct)} and n = {shorten(samples)}; they are whole numbers with 0 <= c <= n, in a line {_FORM}",
            code="invalid_counts",
        )
    return ProblemCount(str(name), samples, correct)
