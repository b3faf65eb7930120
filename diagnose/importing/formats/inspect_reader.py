"""Logs of Inspect: samples of a task, one for each epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.finish_import import ProblemIds, Told, as_answer, finish, refuse_unused
from posttrain.diagnose.importing.formats.inspect_log import EVAL, JSON, WANTED, InspectLog, open_log, part
from posttrain.diagnose.importing.formats.inspect_samples import InspectSample
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.source_rows import RepeatedRows, find_files
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.types import Note, Sampling

_FINISHED = "success"
_MOST_UNREAD = 0.1
"""Share of the values of a scorer that may be neither numbers nor words for right or wrong: samples without a score. Beyond it they are grades of another kind."""
_TRUNCATING = frozenset({"google", "hf", "llama-cpp-python", "ollama", "sglang", "vllm"})
"""Providers that truncate where nothing is said: by their own defaults, or as the model's generation settings say."""


def read_inspect(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of logs, as `Reader` says it.

    Of a folder the newest log of each task and model is taken; logs that are named are taken all, so that those of one task and model are
    further samples of its problems.
    """
    refuse_unused(options, "inspect", "score")
    notes: list[Note] = []
    samples: list[ImportedSample] = []
    samplings: set[Sampling | None] = set()
    logs, ids, repeated = _choose_logs(paths, notes), ProblemIds(), RepeatedRows()
    for log in logs:
        reader = LogReader(log=log, score=options.score, ids=ids, repeated=repeated)
        samples += reader.read()
        notes += reader.notes()
        samplings.add(_sampling(log))
    if any(_truncates(log) and _temperature(log) for log in logs):
        text = "The server that sampled truncates by default (top_p, top_k), and the log does not tell how."
        notes.append(Note("truncation_untold", text))
    if len(samplings) > 1:
        notes.append(Note("sampling_differs", "Logs were sampled under different settings, so that none can be named."))
    notes += [*ids.notes, *repeated.notes]
    told = Told(
        format="inspect",
        version=next((version for log in logs if (version := str(part(log.spec, "packages").get("inspect_ai") or ""))), ""),
        sampling=samplings.pop() if len(samplings) == 1 else None,
        untold=ids.untold | (set() if all(_is_finished(log) for log in logs) else {Untold.COMPLETENESS}),
        notes=notes,
    )
    return finish(samples, told, options)


@dataclass(kw_only=True, slots=True)
class LogReader:
    """Reads one log, and counts what a reader of the report must know."""

    log: InspectLog
    score: str | None
    """The one that the user chose, then the one that is taken."""
    ids: ProblemIds
    """Of all logs."""
    repeated: RepeatedRows
    """The same: a log of a run that was tried again holds the samples that had succeeded before."""
    _scores: dict[str, None] = field(default_factory=dict)
    _no_scores: dict[str, None] = field(default_factory=dict)
    """Names of scorers whose values are mostly, or too often, no scores."""
    _limits: Counter[str] = field(default_factory=Counter)
    """Samples that a limit ended, by its kind."""
    _failed: int = 0
    _unscored: int = 0

    def read(self) -> list[ImportedSample]:
        """Return the samples of the log, in the order of problems and epochs.

        Raises:
            SourceError: The log cannot be read, or has no such score.
        """
        found = [InspectSample(row) for row in self.log.samples() if not self.repeated.is_again(row, row.get("uuid"))]
        ids = part(self.log.spec, "dataset").get("sample_ids")
        order = {str(one): i for i, one in enumerate(ids if isinstance(ids, list) else [])}
        found.sort(key=lambda one: (order.get(one.problem, len(order)), one.epoch))
        scores = [one.scores for one in found]
        graded = Counter(name for each in scores for name in each)
        others = Counter(name for sample in found for name in sorted(sample.no_scores))
        self._no_scores = {name: None for name, number in others.items() if number > _MOST_UNREAD * (number + graded[name])}
        self._scores = {name: None for name in graded if name not in self._no_scores}
        self.score = self._choose_score()
        return [self._sample(one, each) for one, each in zip(found, scores, strict=True)]

    def _choose_score(self) -> str | None:
        """Return which score counts: the one that is chosen, else the first of the log's results, else the first of its samples.

        Raises:
            SourceError: There is none of the name that is chosen (`unknown_score`), or what the scorers said is no score (`no_score`).
        """
        if self._no_scores and not self._scores:
            raise SourceError(
                f"{self.log.path}: {', '.join(self._no_scores)}: got values that are neither numbers nor words for right or wrong (such as a list, or grades "
                "from A to F); score the log again with a scorer whose values are (inspect score)",
                code="no_score",
            )
        if self.score is not None:
            if self.score not in self._scores:
                raise SourceError(f"{self.log.path}: --score: {unknown('score', self.score, self._scores)}", code="unknown_score")
            return self.score
        results = part(self.log.header, "results").get("scores")
        named = [str(one.get("name")) for one in results if isinstance(one, dict)] if isinstance(results, list) else []
        return next((name for name in [*named, *self._scores] if name in self._scores), None)

    def _sample(self, sample: InspectSample, scores: dict[str, float | None]) -> ImportedSample:
        failed = sample.failed
        score = None if failed or self.score is None else scores.get(self.score)
        if kind := part(sample.row.values, "limit").get("type"):
            self._limits[str(kind)] += 1
        self._failed += failed
        self._unscored += score is None and not failed
        answers, choices, metadata = sample.answers, sample.row.get("choices"), sample.row.get("metadata")
        given = sample.row.get("input")
        return ImportedSample(
            behavior=self.log.task,
            problem=self.ids.name(
                sample.problem, self.log.task, given if isinstance(given, str) else as_answer(given), "", self.log.path
            ),
            score=score,
            text=sample.text,
            prompt=sample.prompt,
            answer=answers[0] if answers else "",
            answers=answers[1:],
            stop=sample.stop,
            num_tokens=sample.num_tokens(self.log.model),
            turns=sample.turns,
            policy=self.log.model,
            metadata={**(metadata if isinstance(metadata, dict) else {}), **({"choices": choices} if choices else {})},
        )

    def notes(self) -> Iterator[Note]:
        """Yield what a reader of the report must know of this log."""
        task = self.log.task
        if len(self._scores) > 1:
            text = f"{task}: has the scores {', '.join(self._scores)}; {self.score} is taken. Choose another with --score NAME."
            yield Note("several_scores", text)
        if self._no_scores:
            text = f"{task}: what {', '.join(self._no_scores)} said is often neither a number nor a word for right or wrong, and was passed over."
            yield Note("values_no_scores", text)
        if self._failed:
            text = f"{task}: samples that failed, were stopped by a person or were declared invalid: {self._failed}; they count as missing."
            yield Note("failed_samples", text)
        if self._unscored:
            text = f"{task}: samples without a score (NaN, or never scored): {self._unscored}; they count as missing."
            yield Note("unscored_samples", text)
        if self._limits:
            limits = ", ".join(f"{kind}: {number}" for kind, number in sorted(self._limits.items()))
            yield Note("limits_reached", f"{task}: samples that a limit ended ({limits}); they count as truncated.")
        if not _is_finished(self.log):
            text = (
                f"{task}: the run did not finish (status {self.log.header.get('status', 'unknown')}). Samples that take long may be missing more often "
                "than others, which may shift success rates either way."
            )
            yield Note("unfinished_log", text)
        ids, size = (part(self.log.spec, "dataset").get(key) for key in ("sample_ids", "samples"))
        if isinstance(ids, list) and isinstance(size, int) and len(ids) < size:
            yield Note("limited", f"{task}: {len(ids)} of the {size} problems of the data set were evaluated.")


def _is_finished(log: InspectLog) -> bool:
    return log.header.get("status") == _FINISHED


def _settings(log: InspectLog) -> dict[str, Any]:
    """Return the settings of the sampler by name: those of the model, of the plan and of its steps, the last one that names a setting."""
    settings: dict[str, Any] = {}
    steps = part(log.header, "plan").get("steps")
    named = [part(one, "params") for one in steps if isinstance(one, dict)] if isinstance(steps, list) else []
    for given in (part(log.spec, "model_generate_config"), part(log.header, "plan", "config"), *named):
        settings |= {key: value for key, value in given.items() if value is not None}
    return settings


def _truncates(log: InspectLog) -> bool:
    """Return whether what sampled truncates by its own defaults, or by those of the model, and the log names no others."""
    return log.model.partition("/")[0] in _TRUNCATING and any(name not in _settings(log) for name in ("top_p", "top_k"))


def _temperature(log: InspectLog) -> Any:
    return _settings(log).get("temperature")


def _sampling(log: InspectLog) -> Sampling | None:
    return None if _truncates(log) and _temperature(log) else read_sampling(_settings(log))


def _choose_logs(paths: Sequence[Path], notes: list[Note]) -> list[InspectLog]:
    """Return the logs that are meant, and note those of a folder that a newer one replaces."""
    newest: dict[tuple[str, str], InspectLog] = {}
    named: list[InspectLog] = []
    older = 0
    for path in find_files(paths, WANTED, f"**/*{EVAL}", f"**/*{JSON}"):
        if path not in paths and path.suffix == JSON and not _may_be_log(path):
            continue
        try:
            log = open_log(path)
        except SourceError as error:
            if (
                path not in paths and path.suffix == JSON and error.code == "not_this_format"
            ):  # such as the list of a folder's logs
                continue
            raise
        if path in paths:
            named.append(log)
            continue
        known = newest.get((log.task, log.model))
        older += known is not None
        newest[log.task, log.model] = max(log, known or log, key=lambda one: _moment(one.created))
    if older:
        text = f"{older} older logs of the same tasks and models were passed over; name logs one by one to take them as further samples."
        notes.append(Note("older_files", text))
    return named + list(newest.values())


def _may_be_log(path: Path) -> bool:
    """Return whether a JSON file of a folder begins like a log."""
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(400)
    return all(f'"{key}"' in start for key in ("version", "status", "eval"))


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


INSPECT = Format(
    name="inspect",
    title="Inspect",
    files="logs (.eval or .json), or the folder that holds them",
    read=read_inspect,
)
