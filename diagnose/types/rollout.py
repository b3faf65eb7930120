"""What a policy produced: a sample with its grade, and the likelihood of a reference path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.types.behavior import Split

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


SCORE_TOLERANCE = 1e-9
"""How far below a threshold a score counts as it: parts that make up a score, such as .7 + .2 + .1, need not add up to 1 exactly."""


@overload
def reaches(score: float, threshold: float) -> bool: ...
@overload
def reaches(score: npt.NDArray[np.floating[Any]], threshold: float) -> npt.NDArray[np.bool_]: ...
def reaches(score: float | npt.NDArray[np.floating[Any]], threshold: float) -> bool | npt.NDArray[np.bool_]:
    """Return whether a score, or each of several, is at least a threshold, to rounding; NaN is not."""
    return score >= threshold - SCORE_TOLERANCE


class StopReason(StrEnum):
    """Why a sample ended."""

    EOS = "eos"
    """The model ended its turn."""
    STOP = "stop"
    """A stop text appeared."""
    LENGTH = "length"
    """It ran into `max_tokens`: the sample is truncated."""
    ERROR = "error"
    """The engine failed; the sample is missing."""
    UNKNOWN = "unknown"
    """The sample was imported, and its source does not tell."""


class GradeStatus(StrEnum):
    """What a grade is. Unparsed and unfinished are failures, counted apart; only ERROR and TIMEOUT are missing."""

    SCORED = "scored"
    UNPARSED = "unparsed"
    UNFINISHED_THOUGHT = "unfinished_thought"
    """A thought was opened and never closed, so that there is no answer: a failure, counted apart too."""
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """A verifier's word on one text."""

    status: GradeStatus
    score: float | None
    """In [0, 1] when scored, 0 when unparsed or unfinished, None when missing."""
    extracted: str | None = None
    """The answer that was read out of the text."""
    lenient_score: float | None = None
    """Score under a more forgiving reading of the same text; above `score` it points at format, not ability."""
    detail: str = ""
    """For people: why it was unparsed or failed."""
    answer_start: int = 0
    """Index in the text at which the answer begins; a thought stands before it, which no verifier read."""

    @property
    def missing(self) -> bool:
        """Return whether nothing is known about success."""
        return self.status in (GradeStatus.ERROR, GradeStatus.TIMEOUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sample of a problem, graded."""

    behavior: str
    problem_id: str
    split: Split
    sample_index: int
    decoding: str
    """`sampled` or `greedy`."""
    token_ids: tuple[int, ...]
    """What was generated, the end token included where one was sampled."""
    policy_logprobs: Floats
    """[T] natural log-probability of each token under the untruncated policy at temperature 1."""
    sampler_logprobs: Floats
    """[T] the same under the distribution it was sampled from."""
    stop: StopReason
    text: str
    grade: Grade
    engine: str
    """Fingerprint of engine, weights and precision."""
    num_thought_tokens: int | None = 0
    """How many of the tokens are the thought, its markers included; None where that is not known."""
    num_turns: int = 1
    """Turns that the model took; more than one in samples of an environment, which were imported."""

    @property
    def truncated(self) -> bool:
        """Return whether the sample ran into the token limit."""
        return self.stop is StopReason.LENGTH

    def succeeded(self, success: float) -> bool | None:
        """Return whether the sample is a success at this score; None when missing. Truncated samples are failures."""
        if self.grade.missing or self.stop is StopReason.ERROR:
            return None
        assert self.grade.score is not None
        return reaches(self.grade.score, success) and not self.truncated


@dataclass(frozen=True, kw_only=True, slots=True)
class PathScore:
    """How likely a reference path is under a policy, token by token, the end token last."""

    behavior: str
    problem_id: str
    split: Split
    reference_index: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    token_steps: Ints
    """[T] index of the step that each token belongs to."""
    policy_logprobs: Floats
    """[T]"""
    ranks: Ints
    """[T] 0 is the most likely token."""
    engine: str
