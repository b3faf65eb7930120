"""The rollouts of one behavior: their parquet columns, and a table of those columns that numbers are made from.

A million rollouts as Python objects fill gigabytes and take a minute to read; the few columns that are counted fill some fifty megabytes.
So numbers come from a `RolloutTable`, and rows are read where samples are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from posttrain.diagnose.storage.shard_file import COSTS, read_shard, refuse_damage, rows_of
from posttrain.diagnose.types import Grade, GradeStatus, Rollout, Split, StopReason, reaches

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

SAMPLED, GREEDY = "sampled", "greedy"

_FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("behavior", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("sample_index", pa.int32()),
        ("decoding", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("policy_logprobs", _FLOATS),
        ("sampler_logprobs", _FLOATS),
        ("stop", pa.string()),
        ("text", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("extracted", pa.string()),
        ("lenient_score", pa.float64()),
        ("detail", pa.string()),
        ("engine", pa.string()),
        # Sums over the lists above, so that counting tokens need not read them.
        ("num_tokens", pa.int32()),
        ("policy_logprob_sum", pa.float64()),
        # Of a later version.
        ("answer_start", pa.int32()),
        ("num_thought_tokens", pa.int32()),
        ("num_turns", pa.int32()),
    ]
)
_OF_GRADE = ("status", "score", "extracted", "lenient_score", "detail", "answer_start")
_SUMS = ("num_tokens", "policy_logprob_sum")
_PLAIN = tuple(name for name in SCHEMA.names if name not in (*_OF_GRADE, *_SUMS))
"""Columns that are fields of a `Rollout`; those before are fields of its grade."""
_NAMES = ("problem_id", "decoding", "stop", "status")
_NUMBERS = ("sample_index", "score", "lenient_score", "num_tokens", "policy_logprob_sum", "num_thought_tokens", "num_turns")
_COUNTED = pa.schema(
    [*((name, pa.dictionary(pa.int32(), pa.string())) for name in _NAMES), *(SCHEMA.field(name) for name in _NUMBERS)]
)
"""What is read of a shard."""
_LATER = ("answer_start", "num_thought_tokens", "num_turns")
"""Columns that files of an earlier version lack; they are read as if nothing had been thought, and the model had spoken once."""
_DEFAULTS = {"num_thought_tokens": 0, "num_turns": 1}
"""What stands for a number that a row does not have."""
_READERS = 2
"""Threads that read shards; opening thousands of small files is Python's work for half of the time, so more do not help."""
_VALUES = {"stop": frozenset(StopReason), "status": frozenset(GradeStatus)}
"""What may stand in a column of names."""
_ALWAYS = (*_NAMES, "sample_index", "num_tokens", "policy_logprob_sum")
"""Columns that have a value in every row."""


def to_arrow(rollouts: Sequence[Rollout]) -> pa.Table:
    """Return rollouts as the columns of a shard, one row each."""
    rows: dict[str, list[Any]] = {name: [getattr(r, name) for r in rollouts] for name in _PLAIN}
    rows |= {name: [getattr(r.grade, name) for r in rollouts] for name in _OF_GRADE}
    rows["num_tokens"] = [len(r.token_ids) for r in rollouts]
    rows["policy_logprob_sum"] = [float(r.policy_logprobs.sum(dtype=np.float64)) for r in rollouts]
    return pa.Table.from_pydict(rows, schema=SCHEMA)


def to_rollouts(table: pa.Table) -> Iterator[Rollout]:
    """Yield the rows of a shard, or of a part of it, as rollouts."""
    for row in table.to_pylist():
        grade = {name: row[name] for name in _OF_GRADE if name in row}
        values = {
            "split": Split(row["split"]),
            "token_ids": tuple(row["token_ids"]),
            "policy_logprobs": np.array(row["policy_logprobs"], dtype=np.float32),
            "sampler_logprobs": np.array(row["sampler_logprobs"], dtype=np.float32),
            "stop": StopReason(row["stop"]),
            "grade": Grade(**{**grade, "status": GradeStatus(row["status"])}),
        }
        yield Rollout(**{**{name: row[name] for name in _PLAIN if name in row}, **values})


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutTable:
    """The rollouts of one behavior, in the order of their shards (arrays of length R)."""

    run: str
    """The run that the files belong to; any where empty."""
    shards: tuple[Path, ...]
    """The files it was read from."""
    costs: tuple[dict[str, Any], ...]
    """What each shard says it took."""
    with_checksum: tuple[bool, ...]
    """Whether each shard has a checksum; those of an earlier version have none."""
    starts: Indices
    """[shards + 1] row at which each shard begins; the last entry is R."""
    problem_ids: tuple[str, ...]
    """[N] the problems that were sampled, each once."""
    problem: npt.NDArray[np.int32]
    """Index into `problem_ids`."""
    sample_index: npt.NDArray[np.int32]
    greedy: Bools
    """Decoded greedily; all others were sampled."""
    missing: Bools
    """The verifier or the engine failed, so that nothing is known about success."""
    unparsed: Bools
    truncated: Bools
    end_unknown: Bools
    """Imported from a source that does not tell why it ended, so that it may be truncated."""
    unfinished_thought: Bools
    score: npt.NDArray[np.float64]
    """NaN where missing."""
    lenient_score: npt.NDArray[np.float64]
    """NaN where there is none."""
    num_tokens: npt.NDArray[np.int32]
    num_thought_tokens: npt.NDArray[np.int32]
    """0 where it is not known."""
    num_turns: npt.NDArray[np.int32]
    """Turns that the model took; 1 but for samples of environments, which were imported."""
    policy_logprob_sum: npt.NDArray[np.float64]
    """Natural log-probability of the whole sample under the untruncated policy at temperature 1."""

    @classmethod
    def read(cls, shards: Iterable[Path], run: str = "") -> Self:
        """Read what is counted, and nothing else, from these files.

        Args:
            shards: The files.
            run: The run that they must belong to; any where empty.

        Raises:
            RunError: A file is damaged, or stands in the wrong place.
        """
        paths = tuple(shards)
        with ThreadPoolExecutor(_READERS) as pool:
            parts = list(pool.map(partial(_read_counts, run=run), paths))
        table = (
            pa.concat_tables([shard.table for shard in parts] or [_COUNTED.empty_table()]).unify_dictionaries().combine_chunks()
        )
        names = {name: table.column(name).combine_chunks() for name in _NAMES}
        numbers = {name: table.column(name).to_numpy() for name in _NUMBERS}
        numbers |= {name: table.column(name).fill_null(default).to_numpy() for name, default in _DEFAULTS.items()}
        return cls(
            run=run,
            shards=paths,
            costs=tuple(shard.cost for shard in parts),
            with_checksum=tuple(shard.has_checksum for shard in parts),
            starts=np.cumsum([0, *(shard.table.num_rows for shard in parts)], dtype=np.int64),
            problem_ids=tuple(names["problem_id"].dictionary.to_pylist()),
            problem=names["problem_id"].indices.to_numpy(),
            greedy=_is(names["decoding"], GREEDY),
            missing=_is(names["status"], GradeStatus.ERROR, GradeStatus.TIMEOUT) | _is(names["stop"], StopReason.ERROR),
            unparsed=_is(names["status"], GradeStatus.UNPARSED),
            truncated=_is(names["stop"], StopReason.LENGTH),
            end_unknown=_is(names["stop"], StopReason.UNKNOWN),
            unfinished_thought=_is(names["status"], GradeStatus.UNFINISHED_THOUGHT),
            **numbers,
        )

    def __len__(self) -> int:
        """Return R, the number of rollouts."""
        return len(self.problem)

    def succeeded(self, success: float) -> Bools:
        """Return [R] whether each rollout is a success at this score, as `Rollout.succeeded` says it; False where missing."""
        return ~self.missing & ~self.truncated & reaches(self.score, success)

    def known_outcomes(self, problem_ids: Sequence[str], success: float) -> tuple[npt.NDArray[np.int64], Bools]:
        """Return problem (its place in `problem_ids`) and success of each sample with a known outcome; greedy ones are left out.

        The samples of a problem stand together, in their order.
        """
        places = self.places(problem_ids)
        kept = np.flatnonzero((places >= 0) & ~self.greedy & ~self.missing)
        kept = kept[np.argsort(places[kept], kind="stable")]
        return places[kept], self.succeeded(success)[kept]

    @property
    def mean_policy_logprob(self) -> npt.NDArray[np.float64]:
        """[R] mean natural log-probability of a rollout's tokens; NaN where it has none."""
        means: npt.NDArray[np.float64] = self.policy_logprob_sum / np.where(self.num_tokens, self.num_tokens, np.nan)
        return means

    def places(self, problem_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the [R] index of each rollout's problem among these ids, −1 where it is none of them."""
        if tuple(problem_ids) == self.problem_ids:
            return self.problem.astype(np.int64)
        place = {problem_id: i for i, problem_id in enumerate(problem_ids)}
        return np.array([place.get(problem_id, -1) for problem_id in self.problem_ids], dtype=np.int64)[self.problem]

    def rows(self, indices: Iterable[int]) -> list[Rollout]:
        """Return the rollouts at these rows, in this order; only their shards are read."""
        wanted = [int(index) for index in indices]
        owners = [int(owner) for owner in np.searchsorted(self.starts, wanted, side="right") - 1]
        tables = {owner: read_shard(self.shards[owner], self.run).table() for owner in set(owners)}
        places = [index - int(self.starts[owner]) for index, owner in zip(wanted, owners, strict=True)]
        return [
            row
            for owner, place in zip(owners, places, strict=True)
            for row in rows_of(self.shards[owner], tables[owner].slice(place, 1), to_rollouts)
        ]

    def all_rows(self) -> Iterator[Rollout]:
        """Yield every rollout, shard by shard: slow, and large if kept."""
        for path in self.shards:
            yield from rows_of(path, read_shard(path, self.run).table(), to_rollouts)


class _Counts(NamedTuple):
    """What is counted of one file, and what it says of itself."""

    table: pa.Table
    cost: dict[str, Any]
    has_checksum: bool


def _read_counts(path: Path, run: str) -> _Counts:
    """Return the counted columns of one file, and what it took."""
    shard = read_shard(path, run)
    with refuse_damage(path):
        lacking = set(_LATER) - set(shard.footer.schema.names)
        table = shard.table([name for name in _COUNTED.names if name not in lacking], read_dictionary=_NAMES)
        for name in lacking & set(_COUNTED.names):
            table = table.append_column(name, pa.nulls(table.num_rows, pa.int32()))
        table = table.select(_COUNTED.names).cast(_COUNTED)
        if empty := [name for name in _ALWAYS if table.column(name).null_count]:
            raise ValueError(f"a row without {empty[0]}")
        for name, allowed in _VALUES.items():
            for chunk in table.column(name).chunks:
                if unknown := set(chunk.dictionary.to_pylist()) - allowed:
                    raise ValueError(f"{name} is {min(map(str, unknown))!r}")
        return _Counts(table, {name: shard.record[name] for name in COSTS}, shard.has_checksum)


def _is(names: pa.DictionaryArray, *wanted: str) -> Bools:
    """Return [R] whether a name is one of these."""
    found = np.array([name in wanted for name in names.dictionary.to_pylist()], dtype=np.bool_)
    rows: Bools = found[names.indices.to_numpy()]
    return rows
