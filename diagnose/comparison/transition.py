"""What a comparison finds, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from posttrain.analysis.stats import CurveCrossing, Equivalence, FirstLoss, NeverSolved
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
    MISSING_SAMPLES = "missing_samples"
    """Samples have no outcome: intervals hold whatever it is."""
    PARTLY_SHARED = "partly_shared"
    """Only one of two imported runs has some of the problems: they are left out."""
    OTHER_PROMPTS = "other_prompts"
    """Problems of one id were asked otherwise in the two imported runs."""
    SAMPLING_UNKNOWN = "sampling_unknown"
    """The source does not tell how the samples were taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemChangeRow:
    """One problem before and after."""

    id: str
    before: float
    """Success rate; NaN where no outcome is known."""
    after: float
    state: ProblemChange
    q_value: float
    """Adjusted over all problems (Benjamini–Hochberg): of a change into or out of support where a side shows a rate below epsilon, else
    of any change. After adaptive sampling one minus the posterior probability that it entered, or left, support."""
    n_before: int
    """Samples with a known outcome."""
    c_before: int
    """Successes among them."""
    missing_before: int
    """Samples without an outcome."""
    n_after: int
    c_after: int
    missing_after: int
    group: str
    """Name of its group; its own id where it is unrelated to others."""


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
    """Fewest samples of a problem that support dynamics use, the same on both sides."""
    num_missing: tuple[int, int]
    """Samples without an outcome before and after."""
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
    detectable_rise_samples: int
    """Samples of this problem on each side."""
    notes: tuple[ComparisonNote, ...]
    role: RoleVerdict
    never_solved: NeverSolved
    """The gain on problems without a success before."""
    crossing: CurveCrossing | None
    """Where the pass@k curve after falls below the one before; None after adaptive sampling."""
    first_loss: FirstLoss | None
    """Confidence set for the first k at which the curve after is lower; None after adaptive sampling."""
    equivalence: Equivalence
    """Whether the change of pass@1 is shown to be too small to matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """The comparison of two runs."""

    before: DiagnosedRun
    after: DiagnosedRun
    behaviors: tuple[BehaviorTransition, ...]
    null: str
    """What support dynamics are compared with: `dealt`, or the folder of a second run of the model before."""

    def __getitem__(self, name: str) -> BehaviorTransition:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]
