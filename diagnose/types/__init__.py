"""The vocabulary, as frozen data without torch: `behavior` → `rollout` → `measurement` → `diagnosis`.

Where a thing has more than two states it is an enum, never a bool: why a sample ended, what a grade is, what a check says.
"""

from posttrain.diagnose.types.behavior import (
    Behavior,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Purpose,
    Reference,
    Sampling,
    Split,
    VerifierSpec,
    default_epsilon,
)
from posttrain.diagnose.types.bottleneck import Bottleneck
from posttrain.diagnose.types.diagnosis import (
    Cost,
    Diagnosis,
    PassAtK,
    ProblemChange,
    ProblemDiagnosis,
    Role,
    SettlesWith,
    StageAdvice,
)
from posttrain.diagnose.types.finding import Contribution, ContributionKind, Finding, LabelEvidence, Note, ProbeResult, SkipReason
from posttrain.diagnose.types.measurement import (
    Check,
    Estimate,
    Outcome,
    PathLikelihoodMeasurement,
    SamplingMeasurement,
    ValidityMeasurement,
    decide,
)
from posttrain.diagnose.types.rollout import Floats, Grade, GradeStatus, Ints, PathScore, Rollout, StopReason

__all__ = [
    "Behavior",
    "Bottleneck",
    "Check",
    "Contribution",
    "ContributionKind",
    "Cost",
    "Diagnosis",
    "Estimate",
    "Finding",
    "Floats",
    "Grade",
    "GradeStatus",
    "Ints",
    "LabelEvidence",
    "MeasureSettings",
    "Message",
    "Note",
    "Outcome",
    "PassAtK",
    "PathLikelihoodMeasurement",
    "PathScore",
    "ProbeResult",
    "Problem",
    "ProblemChange",
    "ProblemDiagnosis",
    "PromptFormat",
    "Purpose",
    "Reference",
    "Role",
    "Rollout",
    "Sampling",
    "SamplingMeasurement",
    "SettlesWith",
    "SkipReason",
    "Split",
    "StageAdvice",
    "StopReason",
    "ValidityMeasurement",
    "VerifierSpec",
    "decide",
    "default_epsilon",
]
