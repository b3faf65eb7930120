"""compare.json, version 1: what lies between two runs, as the JSON that pages, figures, gates and others read.

Additions keep the version, as in diagnosis.json. Words for people stand in `label`, `words` and `notes`, never in keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from posttrain.analysis.stats import EquivalenceVerdict
from posttrain.diagnose.comparison.change_role import ObservedRole
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, LabelledEstimate, PassAtKEntry, RunEntry, VerdictEntry
from posttrain.diagnose.storage.json_model import FileModel, Number
from posttrain.diagnose.types import ProblemChange, Purpose, Split


class SideEntry(FileModel):
    """One of the two runs."""

    run: str
    model: dict[str, Any] = Field(default_factory=dict)


class BeforeAfterEntry(FileModel):
    """A number that explains a difference without being the goal: length, truncation, likelihood."""

    label: str = ""
    before: EstimateEntry
    after: EstimateEntry


class PassAtOneEntry(FileModel):
    """pass@1 of both runs and the paired difference."""

    before: EstimateEntry
    after: EstimateEntry
    delta: EstimateEntry


class CurvesEntry(FileModel):
    """pass@k of both runs, at the same number of samples."""

    before: Sequence[PassAtKEntry] = ()
    after: Sequence[PassAtKEntry] = ()


class CrossingEntry(FileModel):
    """From which k on the run before passes more often; NaN where it is not probable that the curves cross."""

    k: EstimateEntry
    probability: Number
    """Probability that they cross."""


class FirstLossEntry(FileModel):
    """95 % confidence set for the first k at which the run after passes less often: `low` to `high`."""

    low: int | None = None
    """Null where the run after passes more often at every k."""
    high: int | None = None
    """Null where it need not pass less often at any k."""
    largest_k: int
    """No k above it was examined."""


class EquivalenceEntry(EstimateEntry):
    """Whether the change of pass@1 is too small to matter."""

    margin: Number
    verdict: EquivalenceVerdict


class NeverSolvedEntry(FileModel):
    """The gain on problems that the model before was not seen to solve."""

    num_problems: Number
    naive_gain: Number
    """Against the samples that selected them."""
    gain: EstimateEntry
    """Against fresh samples of the model before."""


class PowerEntry(FileModel):
    """What could have been seen: the rate from which on a problem that alone rises from 0 is found with this power."""

    num_samples: int
    rate: Number
    power: Number = 0.8


class SupportEntry(EstimateEntry):
    """One number of support dynamics, beside what the same model, sampled twice, gives at the same number of samples."""

    null: EstimateEntry


class RoleTestEntry(FileModel):
    """One statistic of the permutation test."""

    name: str
    observed: Number
    expected: Number
    adjusted_p: Number


class SupportChangeEntry(FileModel):
    """Change of mean pass@k by where it lies; null where its place is open."""

    entered: Number
    moved: Number
    left: Number


class RoleEntry(FileModel):
    """What the stage did, and what that rests on."""

    words: str = ""
    probability: Number = math.nan
    """Null: kept for programs that read it. A place is named in `words` where it is certain, and else is open."""
    k: int | None = None
    leans_outside: bool | None = None
    """Of a change of open place: whether more of it seems to lie outside the support."""
    samples_that_tell: int | None = None
    """Of a change of open place: samples per problem that are expected to tell."""
    change: SupportChangeEntry | None = None
    tests: Sequence[RoleTestEntry] = ()
    notes: Sequence[str] = ()


class ProblemChangeEntry(FileModel):
    """One problem before and after."""

    id: str
    group: str | None = None
    num_samples: int | None = None
    """Behind each of the two rates, where it is the same number."""
    before: Number
    after: Number
    n_before: int | None = None
    """Samples with a known outcome before."""
    c_before: int | None = None
    """Successes among them."""
    missing_before: int = 0
    """Samples without an outcome."""
    n_after: int | None = None
    c_after: int | None = None
    missing_after: int = 0
    state: ProblemChange
    q_value: Number | None = None
    """Adjusted over all problems (Benjamini–Hochberg): of a change into or out of support where a side shows a rate below epsilon, else
    of any change; after adaptive sampling one minus the posterior probability of a change into or out of support; null where nothing was
    tested."""


class VerdictsEntry(FileModel):
    """The diagnoses of the two runs, without what they rest on."""

    before: VerdictEntry | None = None
    after: VerdictEntry | None = None


class BehaviorChangeEntry(FileModel):
    """One behavior before and after, paired by problem."""

    name: str
    purpose: Purpose = Purpose.TARGET
    measure: dict[str, Any] = Field(default_factory=dict)
    trained: bool = False
    """Whether the stage in between was trained on it."""
    stage: str | None = None
    role_observed: ObservedRole = ObservedRole.NOT_DISTINGUISHABLE
    role: RoleEntry = RoleEntry()
    num_problems: int
    num_missing: tuple[int, int] = (0, 0)
    """Samples without an outcome before and after."""
    pass_at_1: PassAtOneEntry
    pass_at_k: CurvesEntry = CurvesEntry()
    pass_at_k_delta: Sequence[PassAtKEntry] = ()
    crossing: CrossingEntry | None = None
    first_loss: FirstLossEntry | None = None
    equivalence: EquivalenceEntry | None = None
    never_solved: NeverSolvedEntry | None = None
    detectable_rise: PowerEntry | None = None
    support: dict[str, SupportEntry] = Field(default_factory=dict)
    """Under `SRR`, `NDR`, `SDS` and `NSCR`."""
    drift: dict[str, BeforeAfterEntry | LabelledEstimate] = Field(default_factory=dict)
    beside: dict[str, BeforeAfterEntry] = Field(default_factory=dict)
    problems: Sequence[ProblemChangeEntry] = ()
    notes: Sequence[str] = ()
    note_codes: Sequence[str] = ()
    """The notes as codes."""
    verdicts: VerdictsEntry = VerdictsEntry()


class CompareFile(FileModel):
    """The whole file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: RunEntry = RunEntry()
    split: Split = Split.EVAL
    settings: dict[str, Any] = Field(default_factory=dict)
    before: SideEntry
    after: SideEntry
    null: str = ""
    """What support dynamics are compared with: `dealt` (each problem's successes dealt anew between the two sides), or the folder of a second
    run of the model before."""
    behaviors: Sequence[BehaviorChangeEntry]

    def __getitem__(self, name: str) -> BehaviorChangeEntry:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]
