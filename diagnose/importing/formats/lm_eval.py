"""Samples of lm-evaluation-harness: `samples_{task}_{date}.jsonl`, written with `--log_samples`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.finish_import import Told, finish, refuse_unused
from posttrain.diagnose.importing.formats.lm_eval_results import TaskResults, read_results
from posttrain.diagnose.importing.formats.lm_eval_rows import BYPASS, WANTED, DocumentRow, Grading, describe
from posttrain.diagnose.importing.imported import UNKNOWN_MODEL, Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RowReader, find_files
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.types import Note, Sampling

_NAME = re.compile(r"(?:samples_)?(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:[.\d]*)))?\.jsonl(?:\.gz|\.zst)?")
_PATTERN = "**/samples_*.jsonl"


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of samples, with what its name and the results beside it say."""

    path: Path
    task: str
    date: str
    results: TaskResults

    @property
    def model(self) -> str:
        """Return the model: as the results name it, else as the folder does, in which lm-eval writes `__` for a slash."""
        folder = self.path.absolute().parent.name
        return self.results.model or (folder.replace("__", "/") if "__" in folder else "")


def read_lm_eval(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the responses to the documents of tasks, as `Reader` says it.

    Of a folder the newest file of each model and task is taken; files that are named are taken all, so that those of one task and model
    are further samples of its problems. `behavior` may name a group of tasks, such as `mmlu`, which then are one behavior.
    """
    refuse_unused(options, "lm-eval", "score", "filter")
    metric, filter_ = _metric_and_filter(options)
    notes: list[Note] = []
    files = _choose_files(paths, notes)
    behavior = options.behavior
    if behavior is not None and behavior not in {file.task for file in files}:
        tasks = frozenset[str]().union(*(file.results.subtasks(behavior) for file in files))
        files = [file for file in files if file.task in tasks] or files
    samples: list[ImportedSample] = []
    samplings: set[Sampling | None] = set()
    readers: list[TaskReader] = []
    models = {file.model for file in files}
    for file in files:
        group = behavior if behavior in file.results.groups else None
        reader = TaskReader(
            file=file,
            behavior=group or file.task,
            group=file.task if group else None,
            policy=file.model if len(models) > 1 else "",
            metric=metric,
            filter=filter_,
        )
        samples += reader.read(notes)
        samplings |= reader.samplings
        readers.append(reader)
    notes += _notes_of_all(readers, samplings)
    told = Told(
        format="lm-eval",
        model=(models.pop() if len(models) == 1 else "") or UNKNOWN_MODEL,
        version=next((file.results.version for file in files if file.results.version), ""),
        sampling=samplings.pop() if len(samplings) == 1 else None,
        untold=frozenset({Untold.PROBLEM_IDS} if any(reader.without_ids for reader in readers) else ()),
        notes=notes,
    )
    return finish(samples, told, options)


@dataclass(kw_only=True, slots=True)
class TaskReader:
    """Reads one file, and counts what a reader of the report must know."""

    file: SampleFile
    behavior: str
    group: str | None
    policy: str
    """The model where files are of several."""
    metric: str | None
    """The one that the user chose, then the one that is taken."""
    filter: str | None
    """The same of filters."""
    samplings: set[Sampling | None] = field(default_factory=set)
    gradings: Counter[Grading] = field(default_factory=Counter)
    """Documents by what their metric is of."""
    without_ids: bool = False
    _is_vote: bool = False
    """Whether the filter that counts makes one response of several."""
    _settings: tuple[bool, Mapping[str, Any]] | None = None
    """Of the sampler for the last row: whether options were compared, and what its request says."""
    _filters: dict[str, None] = field(default_factory=dict)
    _metrics: dict[str, None] = field(default_factory=dict)
    _responses: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """What each row of a document has as responses, by number and problem of the document."""
    _problems: set[str] = field(default_factory=set)
    _same: int = 0
    """Documents that repeat another one of the file."""
    _again: int = 0
    """Rows of a document that was there before, with other responses."""
    _repeated: int = 0
    _most_responses: int = 1
    _of_options: bool = False

    def read(self, notes: list[Note]) -> list[ImportedSample]:
        """Return the samples of the file.

        Args:
            notes: Those of this file are added.

        Raises:
            SourceError: The file is no such file, or has no such metric or filter.
        """
        samples = [sample for row in self._chosen_rows(notes) for sample in self._samples(row)]
        if not samples and self.filter is not None:
            raise SourceError(
                f"{self.file.path}: --filter: {unknown('filter', self.filter, self._filters)}", code="unknown_filter"
            )
        if samples and self.metric not in self._metrics:
            raise SourceError(
                f"{self.file.path}: --score: {unknown('metric', str(self.metric), self._metrics)}", code="unknown_score"
            )
        notes += self._notes()
        return samples

    def _chosen_rows(self, notes: list[Note]) -> Iterator[DocumentRow]:
        """Yield the rows of the filter that counts: the one that is chosen, else the first that is no vote, else the first."""
        if self.filter is None:
            first: dict[str, None] = {}
            for row in RowReader().json_lines(self.file.path):
                first[DocumentRow(row).filter] = None
                if not self.file.results.is_vote(DocumentRow(row).filter):
                    break
            self.filter = next((name for name in first if not self.file.results.is_vote(name)), next(iter(first), None))
        self._is_vote = self.filter is not None and self.file.results.is_vote(self.filter)
        for row in RowReader(notes).json_lines(self.file.path):
            found = DocumentRow(row)
            self._filters[found.filter] = None
            if found.filter == self.filter:
                yield found

    def _samples(self, row: DocumentRow) -> Iterator[ImportedSample]:
        self._metrics |= dict.fromkeys(row.metrics)
        if self.metric is None:
            self.metric = self._first_metric(row)
        problem, said = row.problem, row.row.get("resps")
        before = self._responses.setdefault((repr(row.row.get("doc_id")), problem), [])
        if before and repr(said) in map(repr, before):  # written twice, as processes that share a task may
            self._repeated += 1
            return
        is_new = problem not in self._problems
        self._again += bool(before)
        self._same += not is_new and not before
        before.append(said)
        self._problems.add(problem)
        self.without_ids |= not row.document and not row.row.get("doc_hash")
        graded_by = None if self.metric == BYPASS else self.metric
        responses, grading = row.responses(graded_by, self._is_vote)
        self.gradings[grading] += 1
        if self._settings != (settings := (row.is_likelihood, row.settings)):  # those of most rows are the same
            self.samplings.add(row.sampling(self.file.results.engine))
            self._settings = settings
        self._most_responses = max(self._most_responses, len(responses))
        self._of_options |= row.is_likelihood
        answers, prompt = row.answers, row.prompt
        metadata = describe(row) if is_new else {}
        for response in responses:
            yield ImportedSample(
                behavior=self.behavior,
                problem=problem,
                score=response.score,
                text=response.text,
                prompt=prompt,
                answer=answers[0] if answers else "",
                answers=answers[1:],
                group=self.group,
                policy=self.policy,
                metadata=metadata,
            )

    def _first_metric(self, row: DocumentRow) -> str:
        """Return the first metric that is a number and says more the higher it is.

        Raises:
            SourceError: There is none (`no_score`).
        """
        for one in chain([row], self._further_rows()):
            for name in one.metrics:
                if one.has_score(name) and not self.file.results.is_better_when_lower(name):
                    return name
        raise SourceError(
            f"{row.row.where}: got the metrics {', '.join(row.metrics) or 'none'}, none of which says how right a response is; give a task with one, "
            "such as exact_match or acc",
            code="no_score",
        )

    def _further_rows(self) -> Iterator[DocumentRow]:
        rows = map(DocumentRow, RowReader().json_lines(self.file.path))
        return (row for row in rows if row.filter == self.filter)

    def _notes(self) -> Iterator[Note]:
        """Yield what a reader of the report must know of this file."""
        task, repeats = self.file.task, self._most_responses
        regrade = "`posttrain regrade RUN --verifier KIND` grades every one"
        if self.gradings[Grading.FIRST]:
            text = (
                f"{task}: lm-eval graded the first of {repeats} responses to each document alone. The others are kept, and count as missing until "
                f"they are graded: {regrade}."
            )
            yield Note("repeats_not_graded", text)
        if self.gradings[Grading.TOGETHER]:
            text = f"{task}: {self.metric} under {self.filter} is of {repeats} responses together, and says of none whether it is right; {regrade}."
            yield Note("graded_together", text)
        if self.gradings[Grading.NONE]:
            yield Note("not_graded", f"{task}: the log has no grades (--predict_only); {regrade}.")
        if len(self._filters) > 1:
            text = f"{task}: graded under the filters {', '.join(self._filters)}; {self.filter} is taken. Choose another with --filter NAME."
            yield Note("several_filters", text)
        if len(self._metrics) > 1:
            text = (
                f"{task}: has the metrics {', '.join(self._metrics)}; {self.metric} is taken. Choose another with --score NAME."
            )
            yield Note("several_metrics", text)
        if self._same:
            text = (
                f"{task}: documents that repeat another word by word: {self._same}; they are further samples of the same problem."
            )
            yield Note("same_documents", text)
        if self._again:
            text = f"{task}: rows of a document that was there before, with other responses: {self._again}; they are further samples of it."
            yield Note("further_responses", text)
        if self._repeated:
            yield Note("repeated_rows", f"{task}: {self._repeated} rows that stand in the file twice are taken once.")
        if self._of_options:
            text = f"{task}: nothing was written. The option with the highest likelihood counts as the answer, one for each document."
            yield Note("answers_by_likelihood", text)
        sizes = self.file.results.num_documents
        if sizes and sizes[0] < sizes[1]:
            yield Note("limited", f"{task}: {sizes[0]} of the {sizes[1]} documents of the data set were evaluated.")
        if self.file.results.num_examples:
            yield Note("few_shot", f"{task}: {self.file.results.num_examples} worked examples stand before each question.")
        if self.file.results.cuts_thoughts:
            yield Note("thoughts_cut", f"{task}: lm-eval removed thoughts from the responses before it stored them.")


def _metric_and_filter(options: ReadOptions) -> tuple[str | None, str | None]:
    """Return the metric and the filter that are chosen, which may stand together as `exact_match,strict-match`, as results name them."""
    metric, comma, filter_ = (options.score or "").partition(",")
    return metric or None, options.filter or (filter_ if comma else None) or None


def _choose_files(paths: Sequence[Path], notes: list[Note]) -> list[SampleFile]:
    """Return the files that are meant, and note those of a folder that a newer one replaces."""
    newest: dict[tuple[Path, str], SampleFile] = {}
    named: list[SampleFile] = []
    older = 0
    for path in find_files(paths, WANTED, _PATTERN):
        found = _NAME.fullmatch(path.name)
        task, date = (found["task"], found["date"] or "") if found else (path.stem, "")
        file = SampleFile(path, task, date, read_results(path.parent, task, date))
        if path in paths:
            named.append(file)
            continue
        known = newest.get((path.parent, task))
        older += known is not None
        newest[path.parent, task] = max(file, known or file, key=lambda one: one.date)
    if older:
        text = f"{older} older files of the same tasks and models were passed over; name files one by one to take them as further samples."
        notes.append(Note("older_files", text))
    return named + list(newest.values())


def _notes_of_all(readers: Sequence[TaskReader], samplings: set[Sampling | None]) -> Iterator[Note]:
    if len(samplings) > 1:
        yield Note("sampling_differs", "Documents were sampled under different settings, so that none can be named.")
    elif None in samplings and any(reader.file.results.engine.startswith("hf") for reader in readers):
        text = "Sampling truncates as the model's generation settings say (transformers uses top_k 50 without them), which the log does not tell."
        yield Note("truncation_untold", text)
    groups = Counter(group for reader in readers for group in reader.file.results.groups[:1] if reader.group is None)
    for group, number in groups.items():
        if number > 1:
            yield Note("tasks_of_group", f"{number} tasks belong to {group}: --behavior {group} makes them one behavior.")


LM_EVAL = Format(
    name="lm-eval",
    title="lm-evaluation-harness",
    files="samples_*.jsonl (also .gz) of --log_samples, or the folder that holds them",
    read=read_lm_eval,
)
