"""Which tool wrote a file: told by the keys of its first row, or by its name where the name says it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.source_rows import PACKED, open_lines

AUTO = "auto"
_SIGNATURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lm-eval", ("doc_id", "arguments", "resps")),
    ("every-eval-ever", ("evaluation_id", "sample_id", "evaluation")),
    ("openai-evals", ("spec",)),
    ("openai-evals", ("run_id", "event_id", "type", "data")),
    ("inspect", ("version", "eval", "status")),
    ("lighteval", ("doc", "model_response", "metric")),
    ("lighteval", ("__doc__", "__model_response__", "__metric__")),
    ("lighteval", ("full_prompt", "predictions", "metrics")),
    ("verifiers", ("task", "traces")),
    ("verifiers", ("example_id", "prompt", "completion")),
    ("nemo-gym", ("responses_create_params", "response")),
    ("nemo-rl", ("content", "rewards")),
    ("open-instruct", ("prompt_tokens", "response_tokens", "reward")),
    ("tinker", ("group_idx", "traj_idx")),
    ("areal", ("head_version", "completion", "reward")),
    ("trl", ("step", "prompt", "completion", "advantage")),
    ("trl", ("step", "prompt", "completion", "reward")),
    ("verl", ("input", "output", "score", "step")),
    ("counts", ("id", "c", "n")),
)
"""Format → keys that its rows have, the first one that fits is taken."""
_OF_STEPS = ("prime-rl", "step_")
"""Rows of verifiers in a folder of this prefix are those of prime-rl."""
_ROWS_OF = {_OF_STEPS[0]: "verifiers"}
"""Format → another one that has the same rows."""
_TABLE = "table"
_ROWS = (".jsonl", ".ndjson", ".json", ".parquet", ".eval", ".csv", ".tsv")
_MOST_READ = 8
"""Files of a folder that are looked at."""
_LONGEST_LINE = 1 << 26
"""Bytes."""


def detect_format(paths: Sequence[Path]) -> str:
    """Return the name of the format that files are of; `table` for files of rows that no other tool is known to write.

    Args:
        paths: Files, or folders that hold them.

    Raises:
        SourceError: No file is of a known format (`unknown_format`), or files are of several (`several_formats`).
    """
    found = {name: file for file in _files(paths) if (name := format_of_file(file)) is not None}
    told = [name for name in found if name != _TABLE] or list(found)
    if not told:
        given = ", ".join(str(path) for path in paths)
        if missing := [str(path) for path in paths if not path.exists()]:
            raise SourceError(f"{', '.join(missing)}: no such file or folder; give files that a tool wrote", code="no_such_file")
        raise SourceError(
            f"{given}: got nothing of a format that is known (posttrain import --list shows all); give files that hold rows, or name "
            "the format, as in posttrain import table",
            code="unknown_format",
        )
    if len(told) > 1:
        listed = ", ".join(f"{found[name].name} of {name}" for name in told)
        raise SourceError(
            f"got files of several formats ({listed}); give those of one, or name the format", code="several_formats"
        )
    return told[0]


def format_of_file(path: Path) -> str | None:
    """Return the name of the format that a file seems to be of; None where it holds no rows."""
    kind = _kind(path)
    if kind == ".eval":
        return "inspect"
    if kind in (".csv", ".tsv"):
        return _TABLE
    keys = _keys(path, kind)
    if not keys:
        return None
    name = next((name for name, wanted in _SIGNATURES if all(key in keys for key in wanted)), _TABLE)
    of_steps = name == "verifiers" and any(part.startswith(_OF_STEPS[1]) for part in path.absolute().parts)
    return _OF_STEPS[0] if of_steps else name


def looks_like(paths: Sequence[Path], given: str) -> str:
    """Return what to say where files are not of the format that was given: which one they seem to be of, as a further half of a sentence.

    Returns:
        The empty string where that is not known, or is the one that was given.
    """
    try:
        found = detect_format(paths)
    except (SourceError, OSError):
        return ""
    if found == given:
        return ""
    if found == _TABLE:
        return "; files of any tool with a row per sample are read by posttrain import table"
    return f"; this looks like {found}: use posttrain import {found}"


def refuse_other_format(paths: Sequence[Path], given: str) -> None:
    """Refuse files whose columns are those of another tool, and lack what the rows of this one have.

    Args:
        paths: As the user gave them; what is taken from a folder is told by names.
        given: Name of the format.

    Raises:
        SourceError: Code `not_this_format`.
    """
    own = [frozenset(keys) for name, keys in _SIGNATURES if name == (_ROWS_OF.get(given, given))]
    for path in paths if own else ():
        if not path.is_file() or (kind := _kind(path)) not in (".jsonl", ".ndjson", ".parquet"):
            continue
        keys = _keys(path, kind)
        other, columns = next(((name, wanted) for name, wanted in _SIGNATURES if keys.issuperset(wanted)), (given, ()))
        if _ROWS_OF.get(other, other) != _ROWS_OF.get(given, given) and not any(one <= keys for one in own):
            raise SourceError(
                f"{path}: got rows with the columns of {other} ({', '.join(columns)}), not of {given}; use posttrain import {other}",
                code="not_this_format",
            )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in _ROWS)
            yield from (file for _, file in zip(range(_MOST_READ), inside, strict=False))
        else:
            yield path


def _kind(path: Path) -> str:
    name = Path(path.name.lower())
    return Path(name.stem if name.suffix in PACKED else name).suffix


def _keys(path: Path, kind: str) -> frozenset[str]:
    """Return the keys of the first row, or the columns of a table."""
    try:
        if kind == ".parquet":
            return frozenset(pq.read_schema(path).names)
        with open_lines(path) as file:
            line = next((line for line in iter(lambda: file.readline(_LONGEST_LINE), b"") if line.strip()), b"")
            text = line.decode("utf-8-sig", errors="replace").strip()
            if kind == ".json" and text in ("{", "["):
                text += (file.read(_LONGEST_LINE)).decode("utf-8", errors="replace")
        row = json.loads(text)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error, pa.ArrowException):
        return frozenset()
    first = row[0] if isinstance(row, list) and row else row
    return frozenset(first) if isinstance(first, dict) else frozenset()
