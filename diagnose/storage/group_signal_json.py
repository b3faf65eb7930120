"""How many groups of samples carry no learning signal, and what would change that: an entry of diagnosis.json, and what `posttrain forecast` prints."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field

from posttrain.analysis.stats import NoSignal
from posttrain.diagnose.storage.json_model import FileModel, Number


class SignalAdvice(StrEnum):
    """What to do before, or instead of, comparing samples of a group."""

    FIX_GRADING = "fix_grading"
    FIX_FORMAT = "fix_format"
    RAISE_TOKEN_LIMIT = "raise_token_limit"
    FIX_READING = "fix_reading"
    LARGER_GROUP = "larger_group"
    EXTEND_SUPPORT = "extend_support"
    HARDER_PROBLEMS = "harder_problems"
    DROP_PROBLEMS = "drop_problems"
    SAMPLE_MORE = "sample_more"
    """The samples do not tell."""
    START = "start"
    """Most groups carry a signal."""


class ShareEntry(FileModel):
    """A share of groups; the estimate is null where the samples give bounds alone."""

    estimate: Number
    low: Number
    high: Number
    method: str = ""


class SignalShareEntry(FileModel):
    """Groups of one size."""

    group_size: int
    total: ShareEntry
    """Groups without signal."""
    causes: dict[NoSignal, ShareEntry] = Field(default_factory=dict)
    """What they lack; the parts sum to the total."""
    extrapolated: bool = False
    """Whether some problem has fewer samples than a group."""


class SelectionEntry(FileModel):
    """A choice of problems to train on."""

    least_signal: Number
    """A problem is kept where at least this share of its groups is expected to carry a signal."""
    kept: Sequence[str] = ()
    num_too_hard: int = 0
    """Problems that are left out."""
    num_too_easy: int = 0
    without_signal: Number
    """Expected share of the groups of the kept problems; null where none is kept."""
    by_signal: Number
    """The same if all problems are sampled in proportion to the signal that is expected of them."""


class GroupSignalEntry(FileModel):
    """The forecast for one behavior."""

    group_size: int
    """G, samples of one prompt that are compared with each other."""
    prompts_per_step: int
    """B."""
    num_problems: int
    """Problems with a graded sample."""
    shares: Sequence[SignalShareEntry]
    """By group size, rising; `group_size` is among them."""
    successes_per_step: ShareEntry
    """Expected successes among the B × G samples of a step."""
    steps_without_signal: ShareEntry
    """Share of steps in which no group carries a signal."""
    selection: SelectionEntry
    advice: Sequence[SignalAdvice]
    """The first is to be done first."""
    larger_group: int | None = None
    """The group size that `larger_group` names."""
    policy_sampled: bool = True
    """Whether the samples come from the policy itself, at temperature 1 and untruncated, as those of a trainer."""
    failures_told: bool = True
    """False where the grades were imported, so that why a sample failed is not known; such samples count as too hard."""
    problem_shares: dict[str, float | None] = Field(default_factory=dict)
    """Problem → share of its groups without signal that is expected."""

    def at(self, size: int) -> SignalShareEntry:
        """Return the shares at a group size."""
        return {share.group_size: share for share in self.shares}[size]


class ForecastEntry(FileModel):
    """The forecast for a behavior, under its name."""

    name: str
    sentence: str
    """For people."""
    advice: Sequence[str]
    """What to do, for people, in the order of `group_signal.advice`; then what to know."""
    group_signal: GroupSignalEntry


class ForecastFile(FileModel):
    """What `posttrain forecast --json` prints."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: str
    behaviors: Sequence[ForecastEntry]
