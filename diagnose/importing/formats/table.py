"""Any table with one row per sample: JSONL, JSON, CSV or parquet, with a map of its columns.

    {"qid": 17, "question": "2+2?", "output": "It is 4.", "is_right": true}

What a column is called is guessed from usual names, and said. Rows of one problem may hold lists: several samples of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.column_names import GRADES, SAMPLED
from posttrain.diagnose.behaviors.row_files import PARQUET, ROW_FILES, read_objects, row_suffix
from posttrain.diagnose.errors import BehaviorError, SourceError
from posttrain.diagnose.importing.finish_import import Told, as_answers, finish, refuse_unused
from posttrain.diagnose.importing.imported import (
    Format,
    ImportedSample,
    ImportedSamples,
    ReadOptions,
    Untold,
    problem_of_text,
)
from posttrain.diagnose.importing.outcomes import read_chat, read_id, read_list, read_score, read_stop, read_text
from posttrain.diagnose.importing.source_rows import (
    RowReader,
    as_float,
    behavior_of_file,
    find_files,
    read_count,
    refuse_same_names,
)
from posttrain.diagnose.strict_settings import closest, shorten
from posttrain.diagnose.types import Note

ALIASES: dict[str, tuple[str, ...]] = {
    "problem": ("problem_id", "problem", "id", "qid", "question_id", "prompt_id", "example_id", "doc_id", "task_id", "sample_id", "item_id", "uid"),
    "correct": tuple(GRADES),
    "text": ("text", *SAMPLED),
    "prompt": ("prompt", "question", "input", "query", "instruction"),
    "answer": ("answer", "target", "gold", "ground_truth", "expected", "reference_answer", "solution", "gts"),
    "group": ("group", "subject", "category", "topic"),
    "behavior": ("behavior", "task", "dataset", "data_source", "benchmark", "env"),
    "policy": ("policy", "step", "global_step", "checkpoint"),
    "model": ("model", "model_name", "model_id"),
    "sample": ("sample", "sample_index", "epoch", "repeat", "rollout_index"),
    "stop": ("stop", "stop_reason", "finish_reason"),
    "truncated": ("truncated", "is_truncated"),
    "num_tokens": ("num_tokens", "output_tokens", "completion_tokens", "generated_tokens", "response_length"),
}  # fmt: skip
"""Our name → usual names of columns, the first that there is counts."""
_SUFFIXES = (
    *(f".{kind}{end}" for kind in ("jsonl", "ndjson", "json", "csv", "tsv") for end in ("", ".gz")),
    ".jsonl.zst",
    PARQUET,
)
_ZSTANDARD = ".zst"
_OF_A_SAMPLE = ("correct", "text", "stop", "truncated", "num_tokens")
"""Our names of columns that may hold a list, with an element for each sample."""
_OF_SEVERAL = {"correct": ("scores",), "text": ("texts", "outputs", "responses", "completions", "generations")}
"""Our name → usual names of columns that hold a list, with an element for each sample."""
_WANTED = f"a {ROW_FILES} file with one row per sample"
_EXAMPLE = "--columns problem=qid correct=is_right text=output"

Row = tuple[str, Mapping[str, Any]]
"""Place and content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumns:
    """Which column says what."""

    named: Mapping[str, str]
    """Our name → column."""
    guessed: frozenset[str] = frozenset()
    """Our names whose columns were guessed."""
    unused: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Say how the columns were taken, in one line."""
        parts = [
            f"{ours} = {column}" + (" (guessed)" if ours in self.guessed and ours != column else "")
            for ours, column in self.named.items()
        ]
        return "columns: " + ", ".join(parts) + (f"; passed over: {', '.join(self.unused)}" if self.unused else "")


@dataclass(frozen=True, slots=True)
class TableSamples:
    """The samples of one table, each with the policy that it names."""

    samples: list[ImportedSample]
    columns: TableColumns
    num_empty: int = 0
    """Rows whose list of outcomes is empty."""


@dataclass(slots=True)
class _Order:
    """Numbers of samples, so that they come in their order and none twice."""

    numbers: list[float] = field(default_factory=list)
    seen: set[tuple[str, str, str, float]] = field(default_factory=set)

    def add(self, sample: ImportedSample, value: Any, where: str) -> None:
        """Take the number of a sample."""
        number = read_score(value, where)
        if number is None:
            raise SourceError(
                f"{where}: got no number of the sample; give each row one, or leave the column out", code="no_number"
            )
        key = (sample.behavior, sample.policy, sample.problem, number)
        if key in self.seen:
            raise SourceError(
                f"{where}: sample {value} of problem {sample.problem} was there before; give each sample once, or leave the column out",
                code="duplicate_sample",
            )
        self.seen.add(key)
        self.numbers.append(number)


def read(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Read tables with one row per sample; a file is a behavior of its name unless a column says otherwise.

    Args:
        paths: Files, or folders that hold them.
        options: `columns` says which column is what, `score` which says what is right, `behavior` how the behavior is called, or which of the
            column's is taken.

    Raises:
        SourceError: A file cannot be read, a column is missing, or a cell says nothing that can be read.
    """
    refuse_unused(options, "table", "columns", "score")
    files = find_files(paths, _WANTED, *(f"**/*{suffix}" for suffix in _SUFFIXES))
    refuse_same_names(files, options.behavior)
    reader = RowReader()
    tables = [
        read_rows(list(_rows(file, reader)), str(file), options.behavior or behavior_of_file(file), options) for file in files
    ]
    return collect(tables, options, reader.notes)


def collect(tables: Sequence[TableSamples], options: ReadOptions, notes: Sequence[Note] = ()) -> ImportedSamples:
    """Return the samples of several tables with what is known of them, as `finish` does."""
    untold = {Untold.PROBLEM_IDS} if any("problem" not in table.columns.named for table in tables) else set()
    said = [Note("columns", words) for words in dict.fromkeys(table.columns.words for table in tables)]
    if num_empty := sum(table.num_empty for table in tables):
        said.append(
            Note(
                "no_outcomes",
                f"{num_empty} rows have an empty list of outcomes: their problems have no samples, and do not count.",
            )
        )
    told = Told(format="table", untold=frozenset(untold), notes=(*said, *notes))
    return finish([sample for table in tables for sample in table.samples], told, options)


def read_rows(rows: Sequence[Row], named: str, behavior: str, options: ReadOptions) -> TableSamples:
    """Read rows of one table.

    Args:
        rows: Place and content of each.
        named: What messages call the table.
        behavior: Of all samples, where no column says it.
        options: As for `read`.

    Raises:
        SourceError: As for `read`.
    """
    if not rows:
        raise SourceError(f"{named}: holds no rows; give {_WANTED}", code="no_samples")
    columns = choose_columns(list(dict.fromkeys(key for _, row in rows for key in row)), rows[0][1], named, options)
    order = _Order() if "sample" in columns.named else None
    samples: list[ImportedSample] = []
    num_empty = 0
    for where, row in rows:
        before = len(samples)
        for sample, number in _read_row(row, where, behavior, columns.named):
            if order is not None:
                order.add(sample, number, where)
            samples.append(sample)
        num_empty += len(samples) == before
    _refuse_numbers_of_rows(samples, columns, named)
    if order is not None:
        samples = [samples[i] for i in sorted(range(len(samples)), key=order.numbers.__getitem__)]
    return TableSamples(samples, columns, num_empty)


def _refuse_numbers_of_rows(samples: Sequence[ImportedSample], columns: TableColumns, named: str) -> None:
    """Refuse ids that were guessed where each stands in one row alone and prompts repeat: they number rows, and not problems.

    Raises:
        SourceError: Code `ids_number_rows`.
    """
    if not {"problem", "prompt"} <= columns.named.keys() or "problem" not in columns.guessed:
        return
    ids, asked = {one.problem for one in samples}, {(one.prompt, one.answer) for one in samples}
    if len(ids) == len(samples) and 1 < len(asked) <= len(samples) / 2:
        raise SourceError(
            f"{named}: {columns.named['problem']} is another one in each of {len(ids)} rows, and there are {len(asked)} different prompts; write "
            f"--columns problem= to tell problems by their prompts, or problem={columns.named['problem']} where each row is a problem",
            code="ids_number_rows",
        )


def choose_columns(there: Sequence[str], first: Mapping[str, Any], named: str, options: ReadOptions) -> TableColumns:
    """Return which column says what: as the user says, else by usual names.

    Args:
        there: The columns that there are.
        first: The first row.
        named: What messages call the table.
        options: What the user says; a name without a column is left out.

    Raises:
        SourceError: A name or a column is unknown (`unknown_name`, `unknown_column`), or none says what is right (`no_correct_column`) or which
            problem a sample is of (`no_problem_column`).
    """
    found = dict(options.columns) | ({"correct": options.score} if options.score else {})
    left_out = [ours for ours, column in found.items() if not column]
    for ours, column in found.items():
        if ours not in ALIASES:
            raise SourceError(
                f"--columns: got {ours}={column}; allowed before the = are {', '.join(ALIASES)}{closest(ours, ALIASES)}",
                code="unknown_name",
            )
        if column and column not in there:
            raise SourceError(
                f"--columns: got {ours}={column}, {named} has the columns {', '.join(there)}{closest(column, there)}; give one of these",
                code="unknown_column",
            )
    of_lower = {column.lower(): column for column in reversed(there)}
    guessed = set()
    for ours, usual in ALIASES.items():
        free = [of_lower[name] for name in usual if name in of_lower and of_lower[name] not in found.values()]
        if ours not in found and free:
            found[ours] = free[0]
            guessed.add(ours)
    for ours, usual in _OF_SEVERAL.items():
        lists = [of_lower[name] for name in usual if name in of_lower and _is_list(first.get(of_lower[name]))]
        if ours not in found and lists and (ours == "correct" or _is_list(first.get(found.get("correct", "")))):
            found[ours] = lists[0]
            guessed.add(ours)
    for ours in left_out:
        found.pop(ours)
    if "sample" in guessed and as_float(first.get(found["sample"])) is None:  # what was sampled, and not its number
        guessed.add("text")
        found.setdefault("text", found.pop("sample"))
    if "problem" in guessed and isinstance(value := first.get(found["problem"]), str) and " " in value.strip():
        text = found.pop("problem")  # the question itself
        found.setdefault("prompt", text)
        guessed.add("prompt")
    if "correct" not in found:
        raise SourceError(
            f"{named}: got the columns {', '.join(there)}, none of which is known to say whether a sample is right; say which, as in {_EXAMPLE}",
            code="no_correct_column",
        )
    if "problem" not in found and "prompt" not in found:
        raise SourceError(
            f"{named}: got the columns {', '.join(there)}, none of which is known to say which problem a sample is of; say which, as in {_EXAMPLE}",
            code="no_problem_column",
        )
    ordered = {ours: found[ours] for ours in ALIASES if ours in found}
    used = set(ordered.values())
    return TableColumns(named=ordered, guessed=frozenset(guessed), unused=tuple(one for one in there if one not in used))


def _rows(path: Path, reader: RowReader) -> Iterator[Row]:
    suffix = row_suffix(path.with_suffix("") if path.suffix.lower() == _ZSTANDARD else path)
    if path.suffix.lower() == _ZSTANDARD and suffix not in (".jsonl", ".ndjson"):
        suffix = ""
    if not suffix:
        raise SourceError(f"{path}: got a {path.suffix or 'nameless'} file; give {_WANTED}", code="unsupported_file")
    if suffix in (".jsonl", ".ndjson", PARQUET):
        for one in reader.parquet(path) if suffix == PARQUET else reader.json_lines(path):
            yield one.where, one.values
        return
    try:
        for _, where, row in read_objects(path, _WANTED, "with one column per key"):
            yield where, row
    except BehaviorError as error:
        raise SourceError(str(error), code=error.code) from error


def _read_row(
    row: Mapping[str, Any], where: str, behavior: str, columns: Mapping[str, str]
) -> Iterable[tuple[ImportedSample, Any]]:
    """Return the samples of a row, one unless its outcomes are a list, each with its number."""
    cell: dict[str, Any] = {
        ours: _decoded(value) if isinstance(value := row.get(column), bytes) else value for ours, column in columns.items()
    }
    prompt, answers = cell.get("prompt"), _answers(cell.get("answer"))
    asked = read_chat(prompt, where) or read_id(prompt)
    problem = read_id(cell.get("problem")) if "problem" in columns else problem_of_text(asked or "", "\x1d".join(answers))
    if problem is None:
        raise SourceError(
            f"{where}: got {shorten(cell['problem'])} as {columns['problem']}; every row needs the id of its problem, or write --columns problem= to tell "
            "problems by their prompts",
            code="no_problem",
        )
    group = read_id(cell.get("group"))
    policy = " ".join(part for name in ("model", "policy") if name in cell and (part := read_id(cell[name])))
    is_list = _is_list(cell["correct"])
    for place, one in enumerate(_samples_of(cell, columns, where)):
        sample = ImportedSample(
            behavior=read_id(cell.get("behavior")) or behavior,
            problem=problem,
            score=read_score(one["correct"], where),
            text=read_text(one.get("text"), where),
            prompt=asked,
            answer=answers[0] if answers else "",
            answers=answers[1:],
            stop=read_stop(one.get("stop"), one.get("truncated"), where),
            num_tokens=read_count(one["num_tokens"], where) if "num_tokens" in one else None,
            group=group,
            policy=policy,
        )
        yield sample, place if is_list else cell.get("sample")


def _samples_of(cell: Mapping[str, Any], columns: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    """Return what a row says of each of its samples: one, or as many as its outcomes are.

    Raises:
        SourceError: Its lists have other lengths, or it has several texts and one outcome, or the reverse (`uneven_lists`).
    """
    outcomes = read_list(cell["correct"])
    own = {ours: cell[ours] for ours in _OF_A_SAMPLE if ours in cell}
    if outcomes is None:
        texts = cell.get("text")
        if isinstance(texts, list | tuple) and len(texts) == 1 and isinstance(texts[0], str):
            return [own | {"text": texts[0]}]
        if isinstance(texts, list | tuple) and read_chat(texts, where) is None:
            raise SourceError(
                f"{where}: got {len(texts)} texts under {columns['text']} and one outcome under {columns['correct']}; give a list of outcomes, or one row per sample",
                code="uneven_lists",
            )
        return [own]
    several = [dict[str, Any](correct=outcome) for outcome in outcomes]
    for ours, value in own.items():
        if ours == "correct" or (found := read_list(value)) is None:
            if ours == "text" and value is not None and len(outcomes) > 1:
                raise SourceError(
                    f"{where}: got {len(outcomes)} outcomes under {columns['correct']} and one text under {columns['text']}; give a list of texts, or write "
                    "--columns text= to leave it out",
                    code="uneven_lists",
                )
            values = [value] * len(outcomes)
        elif len(found) != len(outcomes):
            raise SourceError(
                f"{where}: got {len(outcomes)} outcomes and {len(found)} under {columns[ours]}; give as many of both, or one row per sample",
                code="uneven_lists",
            )
        else:
            values = found
        for sample, one in zip(several, values, strict=True):
            sample.setdefault(ours, one)
    return several


def _decoded(value: bytes) -> str | bytes:
    """Return a text that a table holds as bytes; other bytes as they are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _is_list(value: Any) -> bool:
    return read_list(value) is not None


def _answers(value: Any) -> tuple[str, ...]:
    """Return every answer of a cell: a text is one, whatever it looks like."""
    if not isinstance(value, str) and isinstance(value, list | tuple | Mapping):
        return as_answers(value)
    return (text,) if (text := read_id(value)) else ()


TABLE = Format(
    name="table", title="any table with one row per sample", files=f"{ROW_FILES}; --columns says which is what", read=read
)
