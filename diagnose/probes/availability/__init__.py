"""The availability probe: is a right path not reached, or not taken once it is reached?

The survey asks for both apart (arXiv 2604.07941 §2.3): whether the policy reaches a prefix, and whether the next step has enough
probability there. Along every right path that is known, reference paths and verified own samples, each step has a log-probability of
being reached and one of being taken. Tokens that common sampling truncations would remove are told too: a step that they remove is
not available to a deployed model, however often it is tried.

Likelihood misleads where many right paths exist, and where it rewards style. So paths are held against the problem's own success rate,
against the model's own right samples, and against the same path given a wrong answer.
"""

from posttrain.diagnose.probes.availability.probe import Availability as Availability
from posttrain.diagnose.probes.availability.steps import AvailabilityOutcome as AvailabilityOutcome
