"""Check a data set that a model is to be trained on: what is learned of it, token by token, without loading the model's weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Literal, cast

from pydantic import Field

from posttrain.diagnose.behaviors.data_sets import RowKind, read_training_rows
from posttrain.diagnose.behaviors.row_sources import RowSource
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.limits import end_ids
from posttrain.diagnose.engines.tokenizer_only import TokenizerOnly, open_tokenizer
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.storage.json_model import FileModel, Text
from posttrain.diagnose.types import Behavior, MeasureSettings, PromptFormat, VerifierSpec, default_epsilon
from posttrain.trainers.data.data_set import DataSet, read_data
from posttrain.trainers.training_types import RowRole, TrainingRow


class RowWarning(StrEnum):
    """What may be wrong with a data set to train on."""

    END_NOT_LEARNED = "end_not_learned"
    """The token that ends a turn is not learned: the model would not learn to stop."""
    END_NOT_KNOWN = "end_not_known"
    """The token that ends a turn is learned, and the model's generation settings do not name it: other programs sample on behind it."""
    TOO_LONG = "too_long"
    """Rows are longer than the model reads, or than the limit that was given."""
    NOTHING_LEFT = "nothing_left"
    """Of rows that are too long, the prompt alone fills the limit: cut, nothing of them is learned."""
    DUPLICATE_ROWS = "duplicate_rows"
    LITTLE_LEARNED = "little_learned"
    """Few of the tokens are learned."""
    NOTHING_LEARNED = "nothing_learned"
    """Rows are prompts alone: a model answers them."""
    TEMPLATE_PASSES_OVER = "template_passes_over"
    """The chat template does not read columns that are meant for it."""
    COLUMNS_PASSED_OVER = "columns_passed_over"


class RowWarningEntry(FileModel):
    """One kind of thing that may be wrong."""

    code: RowWarning
    num: int
    """Rows, tokens or columns."""
    of: int
    examples: Sequence[str] = ()
    """Rows, by their place from 0, or columns."""


class LearnedToken(FileModel):
    """A token of a row."""

    id: int
    text: Text
    learned: bool


class ShownRow(FileModel):
    """A row as the model reads it."""

    row: int
    """Its place in the file, from 0."""
    role: RowRole
    tokens: Sequence[LearnedToken]


class EndOfTurn(FileModel):
    """What ends an answer."""

    token: str
    """That with which most rows end."""
    num_learned: int
    """Rows whose last token ends a turn and is learned."""
    known: Sequence[str]
    """The tokens that end a sample by the model's own settings."""


class RowLengths(FileModel):
    """Tokens of prompt and answer together."""

    median: float
    max: int
    limit: int | None
    """The longest row that can be trained on; None where nothing limits it."""


class RowCheckFile(FileModel):
    """What `posttrain check --train DATA --json` prints."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["training_rows"] = "training_rows"
    source: str
    model: str
    fingerprint: str
    row_kind: RowKind
    num_rows: int
    num_without_weight: int
    """Rows of weight 0, which are left out."""
    num_texts: int
    """What is trained on: two of a pair, and one for each turn that a template writes by itself."""
    num_tokens: int
    num_learned: int
    lengths: RowLengths
    end: EndOfTurn | None
    """None where nothing is learned."""
    shown: Sequence[ShownRow]
    warnings: Sequence[RowWarningEntry]


_LITTLE = 0.02
_NUM_EXAMPLES = 5


class _CodecAlone:
    """The part of an engine that writes rows."""

    def __init__(self, tokenizer: TokenizerOnly) -> None:
        self.codec = tokenizer.codec


def check_rows(
    data: RowSource, model: str | Path, *, row: int = 0, max_length: int | None = None, prompt_format: str = "auto"
) -> RowCheckFile:
    """Check a data set that a model is to be trained on.

    Args:
        data: A file or a data set, as `posttrain train --data` takes it.
        model: Its tokenizer and chat template write the rows.
        row: Which row to show, from 0.
        max_length: Tokens of a row at most; what the model reads without it.
        prompt_format: `chat`, `completion` or `auto`, as `prompt.format` of a behavior.

    Raises:
        BehaviorError: It cannot be read, or the model's template cannot write it.
        ModelError: The model cannot be found.
        SettingsError: There is no such row (`no_such_row`), or the limit is out of range (`max_length`).
    """
    found = read_training_rows(data)
    if not 0 <= row < len(found):
        raise SettingsError(f"--row: got {row}; allowed: 0 to {len(found) - 1}, the rows of {data}", code="no_such_row")
    if max_length is not None and max_length < 2:
        raise SettingsError(f"--max-length: got {max_length}; allowed: a whole number from 2 on", code="max_length")
    tokenizer = open_tokenizer(model)
    written = read_data(data, cast(Engine, _CodecAlone(tokenizer)), [_asked_as(prompt_format)])
    limit = max_length if max_length is not None else tokenizer.context
    lengths = [len(one.prompt_ids) + len(one.completion_ids) for one in written.rows]
    shown = [one for one in written.rows if one.problem_id == f"row{row}"]
    return RowCheckFile(
        source=str(data),
        model=str(model),
        fingerprint=written.fingerprint,
        row_kind=found[0].kind,
        num_rows=len(found),
        num_without_weight=written.num_without_weight,
        num_texts=len(written.rows),
        num_tokens=sum(lengths),
        num_learned=sum(sum(_learned(one)) for one in written.rows),
        lengths=RowLengths(median=median(lengths or [0]), max=max(lengths, default=0), limit=limit),
        end=_end(written.rows, tokenizer) if written.rows else None,
        shown=[_show(one, tokenizer) for one in shown],
        warnings=list(_warnings(written, tokenizer, limit)),
    )


def _asked_as(prompt_format: str) -> Behavior:
    """Return a behavior without problems, whose prompt format the rows take."""
    return Behavior(
        name="data",
        problems=(),
        verifier=VerifierSpec(kind="exact"),
        prompt=PromptFormat(format=prompt_format),
        measure=MeasureSettings(epsilon=default_epsilon(8)),
    )


def _learned(row: TrainingRow) -> list[bool]:
    """Return for each token of an answer whether it is learned."""
    if row.token_weights is None:
        return [True] * len(row.completion_ids)
    return [bool(weight > 0) for weight in row.token_weights]


def _ends_learned(row: TrainingRow, ends: frozenset[int]) -> bool:
    return bool(row.completion_ids) and row.completion_ids[-1] in ends and _learned(row)[-1]


def _end(rows: Sequence[TrainingRow], tokenizer: TokenizerOnly) -> EndOfTurn:
    codec = tokenizer.codec
    last = Counter(row.completion_ids[-1] for row in rows if row.completion_ids)
    return EndOfTurn(
        token=_text(tokenizer, last.most_common(1)[0][0]) if last else "",
        num_learned=sum(_ends_learned(row, codec.eos_ids) for row in rows),
        known=sorted(_text(tokenizer, one) for one in _known_ends(tokenizer)),
    )


def _known_ends(tokenizer: TokenizerOnly) -> frozenset[int]:
    hf = tokenizer.codec.tokenizer
    return end_ids(hf.name_or_path, hf)


def _text(tokenizer: TokenizerOnly, token: int) -> str:
    return str(tokenizer.codec.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _show(row: TrainingRow, tokenizer: TokenizerOnly) -> ShownRow:
    learned = [*[False] * len(row.prompt_ids), *_learned(row)]
    tokens = [
        LearnedToken(id=token, text=_text(tokenizer, token), learned=is_learned)
        for token, is_learned in zip((*row.prompt_ids, *row.completion_ids), learned, strict=True)
    ]
    return ShownRow(row=_place(row), role=row.role, tokens=tokens)


def _place(row: TrainingRow) -> int:
    return int(row.problem_id.removeprefix("row"))


def _warnings(data: DataSet, tokenizer: TokenizerOnly, limit: int | None) -> Iterator[RowWarningEntry]:
    """Yield what may be wrong."""
    rows, ends = data.rows, tokenizer.codec.eos_ids
    total = len(rows)
    if data.prompts:
        yield RowWarningEntry(code=RowWarning.NOTHING_LEARNED, num=len(data.prompts), of=len(data.prompts))
    unended = [row for row in rows if not _ends_learned(row, ends)]
    known = _known_ends(tokenizer)
    unknown = [row for row in rows if _ends_learned(row, ends) and row.completion_ids[-1] not in known]
    long = [row for row in rows if limit is not None and len(row.prompt_ids) + len(row.completion_ids) > limit]
    empty = [row for row in long if limit is not None and len(row.prompt_ids) >= limit]
    places: dict[tuple[object, ...], TrainingRow] = {}
    doubled = [row for row in rows if places.setdefault((row.prompt_ids, row.completion_ids, row.role), row) is not row]
    cases: Mapping[RowWarning, Sequence[TrainingRow]] = {
        RowWarning.END_NOT_LEARNED: unended,
        RowWarning.END_NOT_KNOWN: unknown,
        RowWarning.TOO_LONG: long,
        RowWarning.NOTHING_LEFT: empty,
        RowWarning.DUPLICATE_ROWS: doubled,
    }
    for code, found in cases.items():
        if found:
            yield RowWarningEntry(
                code=code, num=len(found), of=total, examples=[str(_place(row)) for row in found[:_NUM_EXAMPLES]]
            )
    num_tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    num_learned = sum(sum(_learned(row)) for row in rows)
    if rows and num_learned < _LITTLE * num_tokens:
        yield RowWarningEntry(code=RowWarning.LITTLE_LEARNED, num=num_learned, of=num_tokens)
    for code, columns in ((RowWarning.TEMPLATE_PASSES_OVER, data.unread), (RowWarning.COLUMNS_PASSED_OVER, data.passed_over)):
        if columns:
            yield RowWarningEntry(code=code, num=len(columns), of=len(columns), examples=sorted(columns))
