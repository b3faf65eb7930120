"""What a comparison finds, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from posttrain.analysis.stats import CurveCrossing, Equivalence, NeverSolved
from posttrain.diagnose.comparison.change_role import RoleVerdict
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Estimate, PassAtK, ProblemChange


class ComparisonNote(StrEnum):
    """Limitation of a comparison."""

    DEPLOYED_POLICY = "deployed_policy"
    """Sampled with a temperature or truncation of its own: support is that of the deployed policy."""
    ONE_SEED = "one_seed"
    """Intervals leave out the spread between training seeds."""
    ADAPTIVE_SAMPLING = "adaptive_sampling"
    """A run was sampled adaptively: changes of pass@k are estimated by likelihood."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemChangeRow:
    """One problem before and after."""

    id: str
    before: float
    """Success rate."""
    after: float
    state: ProblemChange
    q_value: float | None = None
    """Adjusted over all problems (Benjamini–Hochberg): of a change into or out of support where a side shows a rate below epsilon, else
    of any change; None where nothing was tested."""
    num_samples: int | None = None
    """Samples behind each of the two rates; None where they are not counts."""
    group: str | None = None
    """Name of its group, where problems are related."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportRow:
    """One number of support dynamics beside its null: the same model sampled twice, at the same number of samples."""

    name: str
    """`SRR`, `NDR`, `SDS` or `NSCR`."""
    value: Estimate
    null: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """A number that explains a difference without being the goal: length, truncation, drift."""

    name: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviorTransition:
    """What changed on one behavior, paired by problem."""

    name: str
    trained: bool
    """Whether a stage was trained on it; otherwise it shows what else changed."""
    stage: str | None
    """The stage between the two runs, None where nothing was trained."""
    num_problems: int
    """Problems measured in both runs."""
    num_samples: int
    """Fewest samples of a problem, the same on both sides."""
    pass_at_1_before: Estimate
    pass_at_1_after: Estimate
    delta: Estimate
    """Paired difference of pass@1."""
    pass_at_k_delta: tuple[PassAtK, ...]
    """Paired difference of pass@k, per k."""
    pass_at_k_before: tuple[PassAtK, ...]
    pass_at_k_after: tuple[PassAtK, ...]
    changes: tuple[ProblemChangeRow, ...]
    support: tuple[SupportRow, ...]
    side_by_side: tuple[SideBySide, ...]
    detectable_rise: float
    """Rate from which a single problem that rises from 0 is detected with a power of 0.8; NaN where none is."""
    notes: tuple[ComparisonNote, ...]
    role: RoleVerdict
    never_solved: NeverSolved
    """The gain on problems without a success before."""
    crossing: CurveCrossing
    """Where the pass@k curve after falls below the one before."""
    equivalence: Equivalence
    """Whether the change of pass@1 is shown to be too small to matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """The comparison of two runs."""

    before: DiagnosedRun
    after: DiagnosedRun
    behaviors: tuple[BehaviorTransition, ...]
    null: str
    """What support dynamics are compared with: `predictive`, `halves`, or the folder of a second run of the model before."""

    def __getitem__(self, name: str) -> BehaviorTransition:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]
