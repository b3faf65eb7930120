"""The vocabulary, as frozen data without torch: `behavior` → `rollout` → `measurement` → `diagnosis`.

Where a thing has more than two states it is an enum, never a bool: why a sample ended, what a grade is, what a check says.
"""

from posttrain.diagnose.types.behavior import LEAST_TEMPERATURE as LEAST_TEMPERATURE
from posttrain.diagnose.types.behavior import MOST_TEMPERATURE as MOST_TEMPERATURE
from posttrain.diagnose.types.behavior import Behavior as Behavior
from posttrain.diagnose.types.behavior import LimitSource as LimitSource
from posttrain.diagnose.types.behavior import MeasureSettings as MeasureSettings
from posttrain.diagnose.types.behavior import Message as Message
from posttrain.diagnose.types.behavior import Problem as Problem
from posttrain.diagnose.types.behavior import PromptFormat as PromptFormat
from posttrain.diagnose.types.behavior import Purpose as Purpose
from posttrain.diagnose.types.behavior import Reference as Reference
from posttrain.diagnose.types.behavior import Sampling as Sampling
from posttrain.diagnose.types.behavior import Split as Split
from posttrain.diagnose.types.behavior import Thinking as Thinking
from posttrain.diagnose.types.behavior import VerifierOrigin as VerifierOrigin
from posttrain.diagnose.types.behavior import VerifierSpec as VerifierSpec
from posttrain.diagnose.types.behavior import check_temperature as check_temperature
from posttrain.diagnose.types.behavior import default_epsilon as default_epsilon
from posttrain.diagnose.types.bottleneck import Bottleneck as Bottleneck
from posttrain.diagnose.types.diagnosis import Cost as Cost
from posttrain.diagnose.types.diagnosis import Diagnosis as Diagnosis
from posttrain.diagnose.types.diagnosis import PassAtK as PassAtK
from posttrain.diagnose.types.diagnosis import PlannedPart as PlannedPart
from posttrain.diagnose.types.diagnosis import ProblemChange as ProblemChange
from posttrain.diagnose.types.diagnosis import ProblemDiagnosis as ProblemDiagnosis
from posttrain.diagnose.types.diagnosis import Role as Role
from posttrain.diagnose.types.diagnosis import SettlesWith as SettlesWith
from posttrain.diagnose.types.diagnosis import StageAdvice as StageAdvice
from posttrain.diagnose.types.finding import Contribution as Contribution
from posttrain.diagnose.types.finding import ContributionKind as ContributionKind
from posttrain.diagnose.types.finding import Finding as Finding
from posttrain.diagnose.types.finding import LabelEvidence as LabelEvidence
from posttrain.diagnose.types.finding import Note as Note
from posttrain.diagnose.types.finding import ProbeResult as ProbeResult
from posttrain.diagnose.types.finding import SkipReason as SkipReason
from posttrain.diagnose.types.measurement import Check as Check
from posttrain.diagnose.types.measurement import Estimate as Estimate
from posttrain.diagnose.types.measurement import Outcome as Outcome
from posttrain.diagnose.types.measurement import PathLikelihoodMeasurement as PathLikelihoodMeasurement
from posttrain.diagnose.types.measurement import SamplingMeasurement as SamplingMeasurement
from posttrain.diagnose.types.measurement import check_estimate as check_estimate
from posttrain.diagnose.types.measurement import decide as decide
from posttrain.diagnose.types.rollout import SCORE_TOLERANCE as SCORE_TOLERANCE
from posttrain.diagnose.types.rollout import Floats as Floats
from posttrain.diagnose.types.rollout import Grade as Grade
from posttrain.diagnose.types.rollout import GradeStatus as GradeStatus
from posttrain.diagnose.types.rollout import Ints as Ints
from posttrain.diagnose.types.rollout import PathScore as PathScore
from posttrain.diagnose.types.rollout import Rollout as Rollout
from posttrain.diagnose.types.rollout import StopReason as StopReason
from posttrain.diagnose.types.rollout import reaches as reaches
from posttrain.diagnose.types.validity import UnreadText as UnreadText
from posttrain.diagnose.types.validity import ValidityCode as ValidityCode
from posttrain.diagnose.types.validity import ValidityMeasurement as ValidityMeasurement
