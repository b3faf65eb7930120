"""Records of OpenAI evals: one line with the specification, one per event, one with the final report.

Source: `evals/record.py` of openai/evals 4bfc1f5. Events name their problem; those of one problem stand in the order in which they happened. Where a
model grades (`modelgraded`), what it said is an event `sampling` too, the last one, and its verdict the `choice` of `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.row_contents import as_text
from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import Prompt, find_prompt
from posttrain.diagnose.importing.finish_import import Told, chosen_score, finish, numbers_of, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.types import Note, StopReason

_WANTED = "a record of OpenAI evals (.jsonl, which oaieval writes with --record_path), or a folder of them"
_CORRECT, _CHOICE = "correct", "choice"
_MATCH, _SAMPLING, _METRICS, _ERROR = "match", "sampling", "metrics", "error"


def read_openai_evals(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the samples of records, as `Reader` says it; `score` names a number of an event `metrics` or `match`."""
    refuse_unused(options, "openai-evals", "score")
    rows, repeated, samples, unfinished = RowReader(), RepeatedRows(), list[ImportedSample](), list[str]()
    for path in find_files(paths, _WANTED, "**/*.jsonl", "**/*.jsonl.gz"):
        record = EvalsRecord(path=path, wanted=options.score)
        for row in rows.json_lines(path):
            if not repeated.is_again(row, row.get("run_id"), row.get("event_id")):
                record.add(row)
        samples += record.samples()
        if not record.is_finished:
            unfinished.append(path.name)
    notes = [*rows.notes, *repeated.notes]
    if unfinished:
        text = f"Runs without a final report: {', '.join(unfinished)}; they were stopped, and problems that take long may be missing more often than others."
        notes.append(Note("unfinished_log", text))
    told = Told(format="openai-evals", untold=frozenset({Untold.COMPLETENESS} if unfinished else ()), notes=notes)
    return finish(samples, told, options)


@dataclass(slots=True)
class ProblemEvents:
    """The events of one problem."""

    prompts: list[Prompt | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """What was sampled, each with its prompt."""
    graded: list[tuple[float | None, Mapping[str, Any]]] = field(default_factory=list)
    """Score and data of each grade."""
    failed: bool = False

    @property
    def by_model(self) -> bool:
        """Return whether a model graded, whose words stand among the texts."""
        return any(_CHOICE in data for _, data in self.graded)

    @property
    def prompt(self) -> Prompt | None:
        """Return what was asked first; None where it may have been asked of a model that graded."""
        first = next((one for one in self.prompts if one), None)
        return None if self.by_model and len(self.texts) < 2 * len(self.graded) else first

    def text(self, i: int) -> str | None:
        """Return what the model wrote for the i-th grade; None where that is not told."""
        size = max(len(self.graded), 1)
        if self.by_model:  # the model, then its grader
            return self.texts[2 * i] if len(self.texts) == 2 * size else None
        return self.texts[-size:][i] if len(self.texts) >= size else None


@dataclass(kw_only=True, slots=True)
class EvalsRecord:
    """Collects the events of one run."""

    path: Path
    wanted: str | None
    is_finished: bool = False
    _spec: Mapping[str, Any] = field(default_factory=dict)
    _problems: dict[str, ProblemEvents] = field(default_factory=dict)

    def add(self, row: SourceRow) -> None:
        """Take in one line.

        Raises:
            SourceError: It is no line of a record.
        """
        if "spec" in row.values:
            self._spec = row.mapping("spec")
            return
        if "final_report" in row.values:
            self.is_finished = True
            return
        row.require("run_id", "event_id", "type", "data", wanted=_WANTED)
        if row.get("sample_id") is None:
            return
        events = self._problems.setdefault(str(row.get("sample_id")), ProblemEvents())
        data = row.mapping("data")
        kind = row.get("type")
        if kind == _SAMPLING:
            sampled = data.get("sampled")
            several = [_text(one) for one in sampled] if isinstance(sampled, list) else [_text(sampled)]
            events.texts += several
            events.prompts += [find_prompt(data.get("prompt"), f"{row.where}: prompt")] * len(several)
        elif kind in (_MATCH, _METRICS):
            self._grade(events, str(kind), data, row.where)
        elif kind == _ERROR:
            events.failed = True

    def _grade(self, events: ProblemEvents, kind: str, data: Mapping[str, Any], where: str) -> None:
        scores = numbers_of(SourceRow(where, data), ())
        if self.wanted is not None and self.wanted not in scores:
            return
        if kind == _METRICS and self.wanted is None and any(_CORRECT in given for _, given in events.graded):
            return
        default = _CORRECT if kind == _MATCH else next((name for name in ("score", "accuracy") if name in scores), None)
        if scores:
            events.graded.append((chosen_score(scores, self.wanted, default, where), data))

    def samples(self) -> Iterator[ImportedSample]:
        """Yield the samples of the run.

        Raises:
            SourceError: No event has the score that is asked for.
        """
        if self._problems and not any(one.graded or one.failed for one in self._problems.values()):
            wanted = f"score {self.wanted!r}" if self.wanted else "grade (an event match, or metrics with a number)"
            raise SourceError(f"{self.path}: no event has a {wanted}; choose one with --score NAME", code="unknown_score")
        models = self._spec.get("completion_fns")
        for name, events in self._problems.items():
            size = max(len(events.graded), 1)
            for i in range(size):
                score, data = events.graded[i] if events.graded else (None, {})
                expected = data.get("expected")
                several = expected if isinstance(expected, list) else [expected]
                answers = tuple(text for one in several if (text := as_text(one)))
                sampled = data.get("sampled")
                failed = events.failed and not events.graded
                yield ImportedSample(
                    behavior=str(self._spec.get("eval_name") or self._spec.get("base_eval") or self.path.stem),
                    problem=name,
                    score=score,
                    text=sampled if isinstance(sampled, str) else events.text(i),
                    prompt=events.prompt,
                    answer=answers[0] if answers else "",
                    answers=answers[1:],
                    stop=StopReason.ERROR if failed else StopReason.UNKNOWN,
                    policy=str(models[0]) if isinstance(models, list) and models else "",
                )


def _text(sampled: Any) -> str:
    return "" if sampled is None else str(sampled)


OPENAI_EVALS = Format(
    name="openai-evals",
    title="OpenAI evals",
    files="a .jsonl record of oaieval, or a folder of them",
    read=read_openai_evals,
)
