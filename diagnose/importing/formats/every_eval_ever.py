"""Records of Every Eval Ever: `*_samples.jsonl`, one line per sample, with the results of the run in the `.json` file of the same name.

Source: `schemas/instance_level_eval.schema.json`, `schemas/eval.schema.json` and the converters of every_eval_ever 0.3.0. Two of them change what they
convert: that of Inspect keeps, as output, the answer that a scorer extracted, and as score the mean over all epochs of a problem; that of lm-eval
keeps what a filter left of a response.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.row_contents import as_text
from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import ASSISTANT, read_messages, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, Told, chosen_score, finish, refuse_unused
from posttrain.diagnose.importing.formats.inspect_samples import STOPS
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.shared_scores import spread_share
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.types import Note, Sampling, StopReason

_WANTED = "*_samples.jsonl of Every Eval Ever, or the folder that holds it"
_SCORE, _IS_CORRECT = "score", "is_correct"
_INSPECT = "inspect"
_ID_LENGTH = 12
"""Of the digest of a document of lm-eval, as its own logs are read."""


def read_every_eval_ever(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of records, as `Reader` says it; `score` may be `is_correct`, `filter` one of those of lm-eval."""
    refuse_unused(options, "every-eval-ever", "score", "filter")
    rows, repeated = RowReader(), RepeatedRows()
    reader = RecordReader(options=options)
    samplings: set[Sampling | None] = set()
    versions: list[str] = []
    for path in find_files(paths, _WANTED, "**/*_samples.jsonl", "**/*_samples.jsonl.gz"):
        run = _read_run(path)
        library = run.get("eval_library")
        library = library if isinstance(library, Mapping) else {}
        versions += [f"{library.get('name')} {library.get('version')}"] if library.get("name") else []
        new = (row for row in rows.json_lines(path) if not repeated.is_again(row, *_of_sample(row)))
        found = [reader.read(row, path, str(library.get("name") or "")) for row in new]
        reader.add(found)
        samplings.add(_sampling(run))
    told = Told(
        format="every-eval-ever",
        version=next(iter(versions), ""),
        sampling=samplings.pop() if len(samplings) == 1 else None,
        untold=reader.ids.untold,
        notes=[*rows.notes, *repeated.notes, *reader.notes(), *reader.ids.notes],
    )
    return finish(reader.samples(), told, options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A sample with what its record says beside it."""

    sample: ImportedSample
    filter: str
    epoch: int
    is_of_inspect: bool


@dataclass(kw_only=True, slots=True)
class RecordReader:
    """Reads records, and counts what a reader of the report must know."""

    options: ReadOptions
    ids: ProblemIds = field(default_factory=ProblemIds)
    _records: list[Record] = field(default_factory=list)
    _of_epochs: int = 0
    """Problems whose records all hold the mean over epochs."""
    _unknown_epochs: int = 0
    _graded_together: int = 0

    def add(self, records: Sequence[Record]) -> None:
        """Keep the records of one file; those of Inspect get the scores of their epochs back, as far as the mean tells them."""
        by_problem: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            by_problem.setdefault((record.sample.behavior, record.sample.problem), []).append(record)
        for several in by_problem.values():
            if len(several) > 1 and all(one.is_of_inspect for one in several):
                self._records += self._of_mean(sorted(several, key=lambda one: one.epoch))
            else:
                self._records += several

    def _of_mean(self, several: list[Record]) -> list[Record]:
        """Return the records of a problem, each with a score of its own; samples that failed are not in the mean."""
        graded = [one for one in several if one.sample.score is not None]
        scores = {one.sample.score for one in graded}
        spread = spread_share([None] * len(graded), scores.pop() if len(scores) == 1 else None)
        self._of_epochs += spread is not None
        self._unknown_epochs += spread is None
        values = iter([None] * len(graded) if spread is None else [score for _, score in spread])
        return [
            one if one.sample.score is None else replace(one, sample=replace(one.sample, score=next(values))) for one in several
        ]

    def samples(self) -> list[ImportedSample]:
        """Return the samples of the filter that counts.

        Raises:
            SourceError: There is no such filter (`unknown_filter`).
        """
        filters = self._filters()
        if self.options.filter is not None and self.options.filter not in filters:
            raise SourceError(f"--filter: {unknown('filter', self.options.filter, filters)}", code="unknown_filter")
        first: dict[str, str] = {}
        for record in self._records:
            first.setdefault(record.sample.behavior, record.filter)
        return [one.sample for one in self._records if one.filter == (self.options.filter or first[one.sample.behavior])]

    def _filters(self) -> list[str]:
        return list(dict.fromkeys(record.filter for record in self._records))

    def read(self, row: SourceRow, path: Path, library: str) -> Record:
        """Return one record.

        Args:
            row: The line.
            path: Its file.
            library: What evaluated, where the run says it.

        Raises:
            SourceError: It is no such record.
        """
        row.require("evaluation_id", "sample_id", "evaluation", "input", wanted=_WANTED)
        metadata, asked = row.mapping("metadata"), row.mapping("input")
        filter_ = str(metadata.get("filter") or "none")
        is_of_inspect = _INSPECT in library if library else "epoch" in metadata
        behavior = str(row.get("evaluation_name") or "evaluation").removesuffix(f"/{filter_}")
        answers = tuple(text for one in _several(row.inside("input"), "reference") if (text := as_text(one)))
        answer = answers[0] if answers else ""
        chat = read_messages(row.get("messages") or [], f"{row.where}: messages")
        start = next((i for i, message in enumerate(chat) if message.role == ASSISTANT), len(chat))
        prompt = chat[:start] if chat else asked.get("formatted") or asked.get("raw")
        digest = metadata.get("doc_hash")
        problem = (
            str(digest)[:_ID_LENGTH] if digest else self.ids.name(row.get("sample_id"), behavior, asked.get("raw"), answer, path)
        )
        texts = ["" if one is None else str(one) for one in _several(row.inside("output"), "raw")]
        score, failed = self._score(row), bool(row.get("error"))
        if len(texts) > 1:  # one score for all of them
            self._graded_together += 1
            score = None
        choices = asked.get("choices")
        sample = ImportedSample(
            behavior=behavior,
            problem=problem,
            score=None if failed else score,
            text=said_last(chat[start:]) if chat else None if is_of_inspect or not texts else texts[0],
            prompt=prompt if isinstance(prompt, str | tuple) and prompt else None,
            answer=answer,
            answers=answers[1:],
            stop=StopReason.ERROR
            if failed
            else STOPS.get(str(metadata.get("stop_reason")).rpartition(".")[2], StopReason.UNKNOWN),
            num_tokens=row.inside("token_usage").count("output_tokens"),
            turns=several_turns(chat[start:]),
            policy=str(row.get("model_id") or ""),
            metadata={**metadata, **({"choices": choices} if choices else {})},
        )
        return Record(
            sample=sample, filter=filter_, epoch=row.inside("metadata").count("epoch") or 1, is_of_inspect=is_of_inspect
        )

    def _score(self, row: SourceRow) -> float | None:
        given = row.mapping("evaluation")
        scores = {name: given[name] for name in (_SCORE, _IS_CORRECT) if name in given}
        return chosen_score(scores, self.options.score, _SCORE, row.where)

    def notes(self) -> Iterator[Note]:
        """Yield what a reader of the report must know."""
        filters = self._filters()
        if len(filters) > 1 and self.options.filter is None:
            text = f"Samples are graded under the filters {', '.join(filters)}; the first of each task is taken. Choose another with --filter NAME."
            yield Note("several_filters", text)
        if any(one.filter != "none" for one in self._records):
            yield Note("texts_filtered", "Texts are what a filter of lm-eval left of the responses; the responses are not kept.")
        if any(one.is_of_inspect for one in self._records):
            text = "Texts of samples of one turn are left out: the records hold the answer that a scorer extracted, not what the model wrote."
            yield Note("texts_extracted", text)
        if self._of_epochs:
            text = (
                f"Problems with several epochs: {self._of_epochs}. Each of their records holds the mean over all, from which successes are counted; "
                "which ones they are is not told."
            )
            yield Note("mean_over_epochs", text)
        if self._unknown_epochs:
            text = (
                f"Problems with several epochs whose mean is of no whole number of successes: {self._unknown_epochs}; they count as missing. "
                "`posttrain import inspect` reads the log itself."
            )
            yield Note("epochs_not_told", text)
        if self._graded_together:
            yield Note(
                "graded_together",
                f"Records with one score for several responses: {self._graded_together}; they count as missing.",
            )


def _read_run(samples: Path) -> Mapping[str, Any]:
    """Return the results of the run, which lie beside its samples; nothing where they do not."""
    path = samples.parent / f"{samples.name.partition('_samples.jsonl')[0]}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # samples say enough without it
        return {}
    return found if isinstance(found, dict) else {}


def _of_sample(row: SourceRow) -> tuple[Any, ...]:
    """Return what tells a sample from others of its document: its epoch, and of lm-eval, which has one record of each, the document."""
    metadata = row.mapping("metadata")
    return (row.get("evaluation_id"), row.get("sample_id"), metadata.get("epoch", metadata.get("doc_hash")))


def _sampling(run: Mapping[str, Any]) -> Sampling | None:
    results = run.get("evaluation_results")
    arguments = [
        config.get("generation_args")
        for one in (results if isinstance(results, list) else [])
        if isinstance(one, Mapping) and isinstance(config := one.get("generation_config"), Mapping)
    ]
    found = {read_sampling(one) for one in arguments}
    return found.pop() if len(found) == 1 else None


def _several(row: SourceRow, key: str) -> list[Any]:
    """Return a list, of one where a record of an earlier version has a text there."""
    value = row.get(key)
    return [value] if isinstance(value, str | int | float) else row.items(key)


EVERY_EVAL_EVER = Format(
    name="every-eval-ever",
    title="Every Eval Ever",
    files="*_samples.jsonl, or the folder that holds it",
    read=read_every_eval_ever,
)
