"""The end of every reader: which behavior is taken, which model the samples are of, and what the source does not tell."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.row_contents import as_text
from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import (
    ImportedSample,
    ImportedSamples,
    ReadOptions,
    SampleSource,
    Untold,
    problem_of_text,
)
from posttrain.diagnose.importing.source_rows import SourceRow, read_number
from posttrain.diagnose.strict_settings import shorten, unknown
from posttrain.diagnose.types import Message, Note, Sampling, StopReason

NOT_AT_TEMPERATURE_0 = (
    "The source tells temperature 0, and the samples of most problems differ from each other: they were sampled at another one, which is not known "
    "(--sampling temperature=... says it)."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a reader knows of its source beside the samples."""

    format: str
    model: str = "unknown"
    version: str = ""
    sampling: Sampling | None = None
    untold: frozenset[Untold] = frozenset()
    """What samples do not show: problem ids, completeness, policy. Texts, prompts, answers, stop reasons and numbers of tokens are looked up in them."""
    notes: Sequence[Note] = ()


_NO_SCORE = "got a row without a score; give rows that have one, null where a sample was not graded"
_ANSWER_KEYS = frozenset({"target", "answer", "answers", "ground_truth"})
"""Keys under which an object holds nothing but what is right."""


def finish(samples: Sequence[ImportedSample], told: Told, options: ReadOptions) -> ImportedSamples:
    """Return samples with what is known of their source.

    A policy that all samples share is none: it becomes part of the model's name.

    Raises:
        SourceError: There are no samples (`no_samples`), or none of the behavior that is asked for (`unknown_behavior`).
    """
    kept = _of_behavior(samples, options.behavior)
    model = told.model
    policies = {sample.policy for sample in kept} - {""}  # a sample that failed may name none
    if len(policies) == 1:
        policy = policies.pop()
        if policy != model:
            model = policy if model == "unknown" and not policy.isdecimal() else f"{model}, step {policy}"
        kept = [replace(sample, policy="") if sample.policy else sample for sample in kept]
    elif policies:
        kept = [sample if sample.policy else replace(sample, policy="unknown") for sample in kept]
    sampling, notes = told.sampling, list(told.notes)
    if sampling is not None and sampling.greedy and _mostly_differ(kept):
        sampling = None
        notes.append(Note("not_at_temperature_0", NOT_AT_TEMPERATURE_0))
    return ImportedSamples(
        source=SampleSource(
            format=told.format,
            model=model,
            version=told.version,
            sampling=sampling,
            untold=told.untold
            | _untold_by(kept)
            | ({Untold.SAMPLING} if sampling is None else set())
            | ({Untold.POLICY} if model == "unknown" and not policies else set()),
            notes=tuple(dict.fromkeys(notes)),
        ),
        samples=kept,
    )


def refuse_unused(options: ReadOptions, format: str, *used: str) -> None:
    """Refuse options that a format has no use for.

    Args:
        options: What the user said.
        format: Name of the format.
        used: Fields of `ReadOptions` that it reads, beside `behavior` and `accept_biased`, which every format takes.

    Raises:
        SourceError: Another one is given (`unused_option`).
    """
    for name in ("columns", "score", "filter", "tokenizer"):
        if name not in used and getattr(options, name):
            allowed = ", ".join(f"--{one}" for one in (*used, "behavior")) or "none"
            raise SourceError(f"--{name}: {format} has no use for it; allowed: {allowed}", code="unused_option")


def refuse_biased(path: Path | str, why: str, instead: str, options: ReadOptions) -> None:
    """Refuse a source whose success rates are shifted by what was left out, unless the user accepts it.

    Raises:
        SourceError: It is not accepted (`biased_source`).
    """
    if not options.accept_biased:
        raise SourceError(f"{path}: {why}; {instead}, or give --accept-biased, and the report says so", code="biased_source")


def chosen_score(scores: Mapping[str, Any], wanted: str | None, default: str | None, where: str) -> float | None:
    """Return the score that counts, the only one that is read.

    Args:
        scores: What the source has, by name; a reward that is there and null is None.
        wanted: Which one the user chose.
        default: Which one counts where the user chose none; None where there is no such.
        where: The file and the row, for messages.

    Raises:
        SourceError: There is no such score (`unknown_score`), there are several and none is chosen, or none at all
            (`several_scores`), or the one that counts is no finite number (`invalid_number`).
    """
    if wanted is not None and wanted not in scores:
        raise SourceError(f"{where}: --score: {unknown('score', wanted, scores)}", code="unknown_score")
    if wanted is None and default not in scores and len(scores) != 1:
        said = f"got the scores {', '.join(scores)}; choose one with --score NAME" if scores else _NO_SCORE
        raise SourceError(f"{where}: {said}", code="several_scores")
    name = wanted if wanted is not None else default if default is not None and default in scores else next(iter(scores))
    return read_number(scores[name], f"{where}: {name}")


def numbers_of(row: SourceRow, left_out: Collection[str], *named: str | None) -> dict[str, Any]:
    """Return what may be a score of a row: its numbers and nulls, and what is named, whatever it holds.

    Args:
        row: The row.
        left_out: Keys that are no scores.
        named: Keys that are scores; None is passed over.
    """
    return {
        key: value
        for key, value in row.values.items()
        if key in named or (key not in left_out and (value is None or isinstance(value, (int, float))))
    }


def as_answer(value: Any) -> str:
    """Return what is right as a text: a list or an object as JSON, nothing as an empty text."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def as_answers(value: Any) -> tuple[str, ...]:
    """Return every answer that is right, as texts: a list of texts is several, an object with one of the usual keys is what stands there.

    Whatever else is neither a text nor a number is one answer, written as JSON.
    """
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, Mapping) and len(value) == 1 and (inner := next(iter(value.items())))[0] in _ANSWER_KEYS:
        return as_answers(inner[1])
    several = value if isinstance(value, list | tuple) else [value]
    if len(several) == 1 or all(isinstance(one, str) for one in several):
        found = [text for one in several if (text := one if isinstance(one, str) else as_text(one)) is not None]
        if len(found) == len(several):
            return tuple(dict.fromkeys(one for one in found if one))
    return (as_answer(value),) if value is not None and not isinstance(value, float) else ()


class ProblemIds:
    """Names problems, and counts what their ids do not tell."""

    def __init__(self, *, varying_prompts: bool = False) -> None:
        """Start with no problem.

        Args:
            varying_prompts: Whether an environment may write another prompt for each sample of a problem, as a simulated user does. Prompts of one id in one
                file are then one problem, and an id that has other prompts in another file is refused. Otherwise another prompt is another problem.
        """
        self._varying_prompts = varying_prompts
        self._seen: dict[tuple[str, str], tuple[Path, str]] = {}
        self._several: set[tuple[str, str]] = set()
        self._without_id = 0

    def name(self, given: Any, behavior: str, prompt: Any, answer: str, path: Path) -> str:
        """Return what to call a problem.

        Args:
            given: Its id in the source; None where it has none, and prompt and answer tell it from others.
            behavior: What it is of.
            prompt: What was asked.
            answer: What is right.
            path: The file.

        Raises:
            SourceError: Two files have different problems of one id, and may be of different data sets (`problem_clash`).
        """
        is_prompt = isinstance(prompt, str) or (isinstance(prompt, tuple) and all(isinstance(turn, Message) for turn in prompt))
        digest = problem_of_text(prompt if is_prompt else as_answer(prompt), answer)
        if given is None or given == "" or given != given:  # NaN, as tables write what is missing
            self._without_id += 1
            return digest
        problem = str(given)
        first, known = self._seen.setdefault((behavior, problem), (path, digest))
        if known == digest:
            return problem
        if self._varying_prompts and first != path:
            raise SourceError(
                f"{path}: problem {shorten(problem)} of {behavior} has another prompt or answer than in {first}; import the files as runs of their own",
                code="problem_clash",
            )
        self._several.add((behavior, problem))
        return problem if self._varying_prompts else f"{problem}#{digest[:6]}"

    @property
    def untold(self) -> frozenset[Untold]:
        """Return whether ids of problems are untold."""
        return frozenset({Untold.PROBLEM_IDS}) if self._without_id else frozenset()

    @property
    def notes(self) -> list[Note]:
        """Return what a reader of the report must know of the ids."""
        if self._varying_prompts or not self._several:  # what varies within a problem is said where samples become problems
            return []
        said = "stand for problems with different prompts or answers, which count as problems of their own"
        return [Note("ids_not_unique", f"{len(self._several)} ids {said}")]


def _of_behavior(samples: Sequence[ImportedSample], wanted: str | None) -> list[ImportedSample]:
    if not samples:
        raise SourceError("the files hold no samples; give files of at least one", code="no_samples")
    names = dict.fromkeys(sample.behavior for sample in samples)
    if wanted is None:
        return list(samples)
    if wanted in names:
        return [sample for sample in samples if sample.behavior == wanted]
    if len(names) == 1:
        return [replace(sample, behavior=wanted) for sample in samples]
    raise SourceError(f"--behavior: {unknown('behavior', wanted, names)}", code="unknown_behavior")


def _mostly_differ(samples: Iterable[ImportedSample]) -> bool:
    """Return whether most problems with several texts have different ones; at temperature 0 rounding changes a text now and then."""
    texts: dict[tuple[str, str, str], list[str]] = {}
    for sample in samples:
        if sample.text is not None:
            texts.setdefault((sample.behavior, sample.problem, sample.policy), []).append(sample.text)
    several = [len(set(found)) > 1 for found in texts.values() if len(found) > 1]
    return 2 * sum(several) > len(several)


def _untold_by(samples: Iterable[ImportedSample]) -> set[Untold]:
    found = {Untold.LOGPROBS}
    for sample in samples:
        if sample.text is None and sample.stop is not StopReason.ERROR:
            found.add(Untold.TEXTS)
        if sample.prompt is None:
            found.add(Untold.PROMPTS)
        if not sample.answer:
            found.add(Untold.ANSWERS)
        if sample.stop is StopReason.UNKNOWN:
            found.add(Untold.STOP_REASONS)
        if sample.num_tokens is None and sample.stop is not StopReason.ERROR:
            found.add(Untold.TOKEN_COUNTS)
    return found
