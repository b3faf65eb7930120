"""What imported samples show of themselves: repeats, empty texts, grades that never vary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.importing.imported import ImportedSample
from posttrain.diagnose.importing.scores import Scores
from posttrain.diagnose.types import Note, StopReason, reaches

_ALIKE = 0.9
"""Share of problems whose samples are all the same from which samples count as repeats."""
_REPEATED = 0.2
"""Share of samples that repeat an earlier one from which it is said."""
_LONG_TEXT = 40
"""Characters from which on two samples seldom say the same by chance."""
_FEWEST_PROBLEMS = 10
_FEWEST_SAMPLES = 4
_EMPTY = 0.01
_NOT_INDEPENDENT = (
    "temperature 0 or duplicates: samples are not independent. A problem then counts as one sample, and nothing follows about pass@k beyond k = 1 "
    "or about support"
)
REPEATS = frozenset({"identical_samples", "constant_outcomes"})
"""Codes of notes that say that the samples of a problem are one sample."""


def sample_notes(
    samples: Sequence[ImportedSample], places: npt.NDArray[np.int64], scores: Scores, success: float
) -> tuple[Note, ...]:
    """Return what a reader of the verdict must know of the samples of one behavior.

    Args:
        samples: [N] in the order of their problems.
        places: [N] index of the problem of each.
        scores: [N] as they are stored; NaN where missing.
        success: The score from which on a sample is a success.
    """
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    ends = [*starts[1:].tolist(), len(samples)]
    groups = [samples[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]
    right = np.where(np.isnan(scores), np.nan, reaches(scores, success))
    return (*_repeats(groups, right, places), *_texts(samples, groups), *_answers(groups), *_grades(samples, right))


def _repeats(groups: Sequence[Sequence[ImportedSample]], right: Scores, places: npt.NDArray[np.int64]) -> Iterator[Note]:
    """Say where samples of a problem are one and the same."""
    several = [[one.text for one in group] for group in groups if len(group) > 1 and all(one.text for one in group)]
    alike = sum(len(set(texts)) == 1 for texts in several)
    if several and alike >= _ALIKE * len(several):
        short = max(len(texts[0] or "") for texts in several) < _LONG_TEXT
        doubt = " (or the texts are so short that they repeat)" if short else ""
        text = f"All samples of a problem have one text in {alike} of {len(several)} problems with several: {_NOT_INDEPENDENT}{doubt}."
        yield Note("repeated_short_texts" if short else "identical_samples", text)
        return
    long_ones = [texts for texts in several if min(len(text or "") for text in texts) >= _LONG_TEXT]
    again, total = sum(len(texts) - len(set(texts)) for texts in long_ones), sum(map(len, long_ones))
    if total and again >= _REPEATED * total:
        text = f"{again} of {total} samples repeat another one of their problem word for word: rows may be stored twice, and intervals are too narrow then."
        yield Note("repeated_samples", text)
    if several:
        return
    known = ~np.isnan(right)
    num, num_right = np.bincount(places[known]), np.bincount(places[known], weights=right[known])
    enough = num >= _FEWEST_SAMPLES
    if enough.sum() >= _FEWEST_PROBLEMS and set((num_right[enough] / num[enough]).tolist()) == {0.0, 1.0}:
        text = f"Every one of {enough.sum()} problems has one outcome in all of its samples, as it is with {_NOT_INDEPENDENT}."
        yield Note("constant_outcomes", text)


def _texts(samples: Sequence[ImportedSample], groups: Sequence[Sequence[ImportedSample]]) -> Iterator[Note]:
    """Say where texts or prompts are not what they should be."""
    texts = [one.text for one in samples if one.text is not None and one.stop is not StopReason.ERROR]
    empty = sum(not text.strip() for text in texts)
    if texts and empty >= _EMPTY * len(texts) and empty < len(texts):
        text = f"{empty} of {len(texts)} texts are empty: failed requests, or answers that were not kept, may count as failures of the model."
        yield Note("empty_texts", text)
    prompts = {str(group[0].prompt) for group in groups if group[0].prompt}
    if len(groups) > 1 and len(prompts) == 1 and all(group[0].prompt for group in groups):
        yield Note(
            "one_prompt", f"All {len(groups)} problems have the same prompt: the column or key of the prompt may be another one."
        )


def _answers(groups: Sequence[Sequence[ImportedSample]]) -> Iterator[Note]:
    """Say where there are several answers: a source may mean that all of them are asked for."""
    if several := sum(bool(group[0].answers) for group in groups):
        text = f"{several} of {len(groups)} problems have a list of answers: a response that matches any of them is right when it is graded again."
        yield Note("several_answers", text)


def _grades(samples: Sequence[ImportedSample], right: Scores) -> Iterator[Note]:
    """Say where grades are not what they should be."""
    known = right[~np.isnan(right)]
    if len(known) >= _FEWEST_PROBLEMS and not known.any():
        text = f"None of {len(known)} samples is right by the source's grade; a wrong --score, or a grader that reads no answer, looks like this."
        yield Note("no_success", text)
    cut = sum(bool(found == 1.0) for found, one in zip(right.tolist(), samples, strict=True) if one.stop is StopReason.LENGTH)
    if cut:
        text = f"{cut} samples that ran into the token limit are right by the source's grade; a truncated sample counts as a failure here."
        yield Note("truncated_successes", text)
