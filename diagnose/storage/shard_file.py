"""One shard of a run: a parquet file that says which part of which run it is, and what it took."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import StoredParquet, read_parquet

COSTS = ("seconds", "generated_tokens", "scored_tokens", "samples")
"""What a shard records of its cost."""
AGAIN = "run the same `posttrain diagnose` again, which samples again what is damaged"
_NAME = re.compile(r"-(?P<decoding>[a-z]+)\.(?P<round>\d+)-\d+-of-(?P<num_shards>\d+)$")
Row = TypeVar("Row")


def part_of(path: Path) -> str:
    """Return which part of a run a file is, by its place: `rollouts/NAME`, `done/NAME`."""
    return f"{path.parent.name}/{path.stem}"


def read_shard(path: Path, run: str = "") -> StoredParquet:
    """Read a shard.

    Args:
        path: Its file.
        run: The run that it must belong to (`RunDirectory.identity`); any where empty.

    Raises:
        RunError: It is damaged, or is another part or belongs to another run than its place says (`damaged_shard`).
    """
    with refuse_damage(path):
        shard = read_parquet(path)
        record = shard.record
        if (part := record.get("part", part_of(path))) != part_of(path):
            raise ValueError(f"it is a copy of {part}")
        if run and record.get("run", run) != run:
            raise ValueError("it belongs to another run")
        if not all(isinstance(record.get(name), int | float) for name in COSTS):
            raise ValueError("it does not say what it took")
        return shard


@contextmanager
def refuse_damage(path: Path) -> Iterator[None]:
    """Refuse a file in one line where it cannot be read.

    Raises:
        RunError: It cannot be read (`damaged_shard`).
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        if isinstance(error, RunError):
            raise
        reason = f"no {error.args[0]!r}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise RunError(f"{path}: damaged ({reason}); {AGAIN}", code="damaged_shard") from error


def rows_of(path: Path, table: pa.Table, convert: Callable[[pa.Table], Iterator[Row]]) -> list[Row]:
    """Return the rows of a part of a shard's table as objects.

    Raises:
        RunError: A value is none that the objects may have (`damaged_shard`).
    """
    with refuse_damage(path):
        return list(convert(table))


def round_of(name: str) -> tuple[str, int] | None:
    """Return decoding and number of the round that a shard of rollouts belongs to; None where its name says none."""
    match = _NAME.search(name)
    return (match["decoding"], int(match["round"])) if match else None


def complete_rounds(names: Sequence[str], decoding: str) -> list[list[str]]:
    """Return the shard names of the rounds before the first one of which a shard is missing, in order.

    Args:
        names: Names of the shards of one behavior and split that are stored.
        decoding: Of the rounds that are asked for.
    """
    rounds = _rounds(names, decoding)
    found: list[list[str]] = []
    while len(found) in rounds and not rounds[len(found)][1]:
        found.append(rounds[len(found)][0])
    return found


def incomplete_rounds(names: Sequence[str], decoding: str) -> list[int]:
    """Return the numbers of the rounds of which a shard is missing."""
    rounds = _rounds(names, decoding)
    return [number for number in range(max(rounds, default=-1) + 1) if number not in rounds or rounds[number][1]]


def _rounds(names: Sequence[str], decoding: str) -> dict[int, tuple[list[str], int]]:
    """Return round → the names of its shards, and how many are missing."""
    found: dict[int, tuple[list[str], int]] = {}
    for name in sorted(names):
        match = _NAME.search(name)
        if match and match["decoding"] == decoding:
            before, missing = found.get(int(match["round"]), ([], int(match["num_shards"])))
            found[int(match["round"])] = ([*before, name], missing - 1)
    return found
