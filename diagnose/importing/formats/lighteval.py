"""Details of lighteval: `details/{model}/{date}/details_{task}_{date}.parquet`, one row per document with all its samples.

Source: `src/lighteval/logging/evaluation_tracker.py` and `info_loggers.py` of lighteval 3fd1526; columns `doc`, `model_response` and `metric`, or
`__doc__`, `__model_response__` and `__metric__` in versions before 0.13 and in data sets on the hub; before 0.10 a column for each field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.row_contents import as_metadata
from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import find_prompt
from posttrain.diagnose.importing.finish_import import ProblemIds, Told, finish, refuse_unused
from posttrain.diagnose.importing.formats import lighteval_flat_rows
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.shared_scores import spread_share
from posttrain.diagnose.importing.source_rows import RowReader, SourceRow, find_files, read_number
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.types import Note, Sampling

_WANTED = "details_*.parquet, which lighteval writes with --save-details, or the folder that holds them"
_NAME = re.compile(r"details_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[.\d]*)\.parquet")
_SHARES = re.compile(r"(?:.*(?:\b|_))?(?:avg@(?:n|k|\d+)|pass@(?:k:k=1|1))\b.*")
"""Metrics that are the share of successes among samples of a document: avg@n:n=4, pass@k:k=1&n=4, math_pass@1:4_samples."""
_SIZES = re.compile(r"\bn=(\d+)|:(\d+)(?:_samples)?$|avg@(\d+)")
"""How many samples a metric is of, where its name says it."""


def read_lighteval(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of documents, as `Reader` says it; of a folder the newest file of each model and task is taken."""
    refuse_unused(options, "lighteval", "score")
    notes: list[Note] = []
    ids = ProblemIds()
    samples: list[ImportedSample] = []
    samplings: set[Sampling | None] = set()
    for path in _newest(paths, notes):
        reader = DetailsReader(path=path, score=options.score, ids=ids)
        samples += reader.read()
        notes += reader.notes()
        samplings.add(_read_run(path))
    told = Told(
        format="lighteval",
        sampling=samplings.pop() if len(samplings) == 1 else None,
        untold=ids.untold,
        notes=[*notes, *ids.notes],
    )
    return finish(samples, told, options)


@dataclass(kw_only=True, slots=True)
class DetailsReader:
    """Reads one file, and counts what a reader of the report must know."""

    path: Path
    score: str | None
    """The one that the user chose, then the one that is taken."""
    ids: ProblemIds
    _metrics: dict[str, None] = field(default_factory=dict)
    _together: int = 0
    _of_options: int = 0
    _most_samples: int = 1

    def read(self) -> list[ImportedSample]:
        """Return the samples of the file.

        Raises:
            SourceError: It is no such file, or has no such metric.
        """
        samples = [sample for row in RowReader().parquet(self.path) for sample in self._samples(row)]
        if self.score is not None and self.score not in self._metrics:
            raise SourceError(f"{self.path}: --score: {unknown('metric', self.score, self._metrics)}", code="unknown_score")
        return samples

    @property
    def task(self) -> str:
        """Return the task that the file is of."""
        found = _NAME.fullmatch(self.path.name)
        return found["task"] if found else self.path.stem

    def _samples(self, row: SourceRow) -> Iterator[ImportedSample]:
        is_flat = lighteval_flat_rows.is_flat(row)
        if is_flat:
            row = lighteval_flat_rows.nested(row)
        document, response, metrics = (_part(row, name) for name in ("doc", "model_response", "metric"))
        scores = {name: value for name, value in metrics.items() if isinstance(value, bool | int | float)}
        self._metrics |= dict.fromkeys(scores)
        said = SourceRow(f"{row.where}: model_response", response)
        texts = ["" if one is None else str(one) for one in said.items("text")]
        answers, behavior = _golds(document), str(document.get("task_name") or self.task)
        prompt = find_prompt(response.get("input"), f"{row.where}: input") or find_prompt(
            document.get("query"), f"{row.where}: query"
        )
        answer = answers[0] if answers else ""
        problem = self.ids.name(document.get("id"), behavior, document.get("query"), answer, self.path)
        score = self._score(scores, len(texts), row.where)
        if is_flat and metrics and self.score not in metrics:  # the row of the document for metrics of another kind
            return
        tokens = _list(response, "output_tokens")
        for i, (text, value) in enumerate(self._graded(texts, score, document, response)):
            yield ImportedSample(
                behavior=behavior,
                problem=problem,
                score=value,
                text=text,
                prompt=prompt,
                answer=answer,
                answers=answers[1:],
                num_tokens=len(tokens[i]) if texts and i < len(tokens) and isinstance(tokens[i], list) else None,
                policy=_model_of(self.path),
                metadata=_metadata(document),
            )

    def _score(self, scores: Mapping[str, Any], num_texts: int, where: str) -> float | None:
        if self.score is None:
            of_all = [name for name in scores if _is_share(name, num_texts)] if num_texts > 1 else []
            self.score = next(iter([*of_all, *scores]), None)
        if self.score is None:
            return None
        return read_number(scores.get(self.score), f"{where}: metric: {self.score}")

    def _graded(
        self, texts: list[str], score: float | None, document: Mapping[str, Any], response: Mapping[str, Any]
    ) -> list[tuple[str | None, float | None]]:
        """Return text and score of each sample; the metric is of all samples of a document together."""
        if not texts:
            self._of_options += 1
            return [(_most_likely(document, response), score)]
        if len(texts) == 1:
            return [(texts[0], score)]
        self._most_samples = max(self._most_samples, len(texts))
        spread = spread_share(texts, score) if self.score is not None and _is_share(self.score, len(texts)) else None
        if spread is not None:
            return [(text, value) for text, value in spread]
        self._together += 1
        return [(text, None) for text in texts]

    def notes(self) -> Iterator[Note]:
        """Yield what a reader of the report must know of this file."""
        if len(self._metrics) > 1:
            text = f"{self.task}: has the metrics {', '.join(self._metrics)}; {self.score} is taken. Choose another with --score NAME."
            yield Note("several_metrics", text)
        if self._together and self.score is None:
            text = f"{self.task}: no metric is a number, so that no sample has a grade: `posttrain regrade RUN --verifier KIND` gives them some."
            yield Note("not_graded", text)
        elif self._together:
            text = (
                f"{self.task}: {self.score} is of up to {self._most_samples} samples together, and says of none whether it is right. They are kept, and count as "
                "missing until they are graded: `posttrain regrade RUN --verifier KIND` grades every one."
            )
            yield Note("graded_together", text)
        elif self._most_samples > 1:
            text = f"{self.task}: {self.score} tells how many samples of a document are right; texts are kept where all are, or none."
            yield Note("shares_of_successes", text)
        if self._of_options:
            text = f"{self.task}: nothing was written. The option with the highest likelihood counts as the answer, one for each document."
            yield Note("answers_by_likelihood", text)


def _is_share(metric: str, num_texts: int) -> bool:
    """Return whether a metric is the share of successes among all samples of a document; some are of the first ones alone."""
    size = _SIZES.search(metric)
    return _SHARES.fullmatch(metric) is not None and (size is None or int(next(filter(None, size.groups()))) == num_texts)


def _part(row: SourceRow, name: str) -> dict[str, Any]:
    """Return one of the three objects of a row, which some versions store as JSON text."""
    key = name if name in row.values else f"__{name}__"
    row.require(key, wanted=_WANTED)
    value = row.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise SourceError(f"{row.where}: {key}: not JSON; give {_WANTED}", code="not_this_format") from None
    if value is not None and not isinstance(value, dict):
        raise SourceError(f"{row.where}: {key}: got no object; give {_WANTED}", code="not_this_format")
    return value or {}


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found if isinstance(found, list) else []


def _golds(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the choices that are right."""
    choices, gold = _list(document, "choices"), document.get("gold_index")
    places = gold if isinstance(gold, list) else [gold]
    found = [choices[i] for i in places if isinstance(i, int) and 0 <= i < len(choices)]
    flat = [str(inner) for one in found for inner in (one if isinstance(one, list) else [one])]
    return tuple(one for one in flat if one)


def _most_likely(document: Mapping[str, Any], response: Mapping[str, Any]) -> str | None:
    choices, likelihoods = _list(document, "choices"), _list(response, "logprobs")
    known = all(isinstance(one, int | float) and one == one for one in likelihoods)
    if not choices or len(choices) != len(likelihoods) or not known:
        return None
    return str(choices[max(range(len(choices)), key=likelihoods.__getitem__)])


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    specific, choices = document.get("specific"), _list(document, "choices")
    found = {key: value for key, value in specific.items() if value is not None} if isinstance(specific, dict) else {}
    return as_metadata({**found, **({"choices": list(choices)} if len(choices) > 1 else {})})


def _model_of(path: Path) -> str:
    """Return the model that the folders name: `details/{organisation}/{name}/{date}/`."""
    parts = path.absolute().parent.parts
    if "details" not in parts:
        return ""
    inner = parts[len(parts) - 1 - parts[::-1].index("details") + 1 :]
    return "/".join(inner[:-1] if len(inner) > 1 else inner)


def _read_run(path: Path) -> Sampling | None:
    """Return the settings of the sampler that the results of the run tell: `results/{model}/results_{date}.json`."""
    found, parents = _NAME.fullmatch(path.name), path.absolute().parents
    root = next((parent.parent for parent in parents if parent.name == "details"), None)
    if root is None or found is None:
        return None
    for results in (root / "results" / _model_of(path)).glob(f"results_{found['date']}.json"):
        try:
            config = json.loads(results.read_text(encoding="utf-8"))["config_general"]["model_config"]
            return read_sampling(config.get("generation_parameters"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # details say enough without it
            continue
    return None


def _newest(paths: Sequence[Path], notes: list[Note]) -> list[Path]:
    """Return the files that are meant, and note those of a folder that a newer one replaces."""
    newest: dict[tuple[str, str], tuple[str, Path]] = {}
    named: list[Path] = []
    older = 0
    for path in find_files(paths, _WANTED, "**/details_*.parquet"):
        found = _NAME.fullmatch(path.name)
        if path in paths or found is None:
            named.append(path)
            continue
        place = (_model_of(path), found["task"])
        older += place in newest
        newest[place] = max(newest.get(place, ("", path)), (found["date"], path))
    if older:
        text = f"{older} older files of the same tasks and models were passed over; name files one by one to take them as further samples."
        notes.append(Note("older_files", text))
    return named + [path for _, path in newest.values()]


LIGHTEVAL = Format(
    name="lighteval",
    title="lighteval",
    files="details_*.parquet, or the folder that holds them",
    read=read_lighteval,
)
