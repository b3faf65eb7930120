"""Whether the numbers of a behavior can be believed: the reasons why not, as codes, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from posttrain.diagnose.types.measurement import Check


class ValidityCode(StrEnum):
    """What is wrong with a measurement. Every failure has one, and its words end with the repair."""

    REFUSES_ANSWERS = "refuses_answers"
    """The verifier refuses right answers."""
    REFUSES_REFERENCES = "refuses_references"
    """The verifier refuses reference paths."""
    ACCEPTS_ANYTHING = "accepts_anything"
    """The verifier accepts a text without an answer."""
    ACCEPTS_WRONG_ANSWERS = "accepts_wrong_answers"
    ACCEPTS_CANDIDATES = "accepts_candidates"
    """The verifier accepts a list of candidates, and samples are such lists."""
    NO_GENERATION_PROMPT = "no_generation_prompt"
    """The chat template does not open the turn in which the model is to answer."""
    WRONG_TEMPLATE = "wrong_template"
    """The prompt is written otherwise than the model knows it."""
    NO_TEMPLATE = "no_template"
    """The prompt lacks the model's chat template."""
    DOUBLED_BEGIN = "doubled_begin"
    """The prompt begins with two begin-of-text tokens."""
    STOP_IN_REFERENCE = "stop_in_reference"
    """A stop text ends samples where a right path goes on."""
    REFERENCE_TOO_LONG = "reference_too_long"
    """A right path does not fit into `max_tokens`."""
    ANSWER_IN_PROMPT = "answer_in_prompt"
    TRUNCATED = "truncated"
    """Samples run into `max_tokens`."""
    NO_END = "no_end"
    """Samples run into `max_tokens` because nothing ends an answer."""
    UNFINISHED_THOUGHT = "unfinished_thought"
    """Samples open a thought and end before they close it."""
    UNREAD = "unread"
    """No answer can be read in most samples."""
    MISSING_GRADES = "missing_grades"
    """The verifier failed on samples."""
    SAMPLER_SCORER_GAP = "sampler_scorer_gap"
    """Sampler and scorer give the same tokens other probabilities than their precision explains."""
    CONTRADICTION = "contradiction"
    """Reference paths are likely, and samples hold fewer successes than that allows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadText:
    """A sample in which no answer could be read, beside what it should say."""

    problem_id: str
    text: str
    wanted: str
    """The reference path, or the answer where there is none."""
    states_answer: bool
    """Whether it states the answer once blanks and punctuation are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidityMeasurement:
    """Whether the measurement of a behavior is valid."""

    behavior: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Findings that do not stop a verdict, in words."""
    failures: tuple[str, ...]
    """What broke, in words: one line each, with an example and the repair."""
    prompt_example: str
    """One prompt exactly as the model reads it."""
    failure_codes: tuple[ValidityCode, ...] = ()
    """The code of each failure; a run of an earlier version has none."""
    unread: tuple[UnreadText, ...] = ()
    """Some of the samples in which no answer could be read."""
    share_stated: float | None = None
    """Share of them that state the answer once blanks and punctuation are left out; None where all could be read."""
