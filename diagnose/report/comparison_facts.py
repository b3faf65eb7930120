"""Findings of a comparison that need a sentence rather than a table."""

from __future__ import annotations

import math

from posttrain.analysis.stats import CurveCrossing, Equivalence, NeverSolved, detectable_rise
from posttrain.diagnose.comparison.change_role import FALSE_DISCOVERY_RATE


def comparison_facts(
    never: NeverSolved, crossing: CurveCrossing, equivalence: Equivalence | None, n: int, num_problems: int
) -> tuple[tuple[str, str], ...]:
    """What is worth a line beside the tables.

    Args:
        never: The gain on problems that the model before was not seen to solve.
        crossing: Where the curve after falls below the curve before.
        equivalence: Whether the change of pass@1 is too small to matter; None where that is not the question.
        n: Fewest samples of a problem.
        num_problems: How many problems were tested.

    Returns:
        Name and words of each.
    """
    facts: list[tuple[str, str]] = []
    if never.num_problems >= 1.0:
        gain = never.gain
        words = (
            f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] against fresh samples of the model before; it would look like "
            f"{never.naive:+.3f} against the samples that selected them ({never.num_problems:.1f} problems)"
        )
        facts.append(("gain where no success was seen before", words))
    if not math.isnan(crossing.k.estimate):
        k = crossing.k
        words = (
            f"from k = {k.estimate:.1f} [{k.low:.1f}, {k.high:.1f}] on, the model before passes more often "
            f"(in {crossing.probability:.0%} of resamplings of the problems)"
        )
        facts.append(("the curves cross", words))
    if equivalence is not None:
        verdict = {
            "equivalent": f"no change of pass@1 larger than {equivalence.margin:g}",
            "different": f"pass@1 changed by more than {equivalence.margin:g}",
            "undecided": f"a change of pass@1 larger than {equivalence.margin:g} is neither shown nor ruled out",
        }[equivalence.verdict]
        interval = equivalence.interval
        facts.append(("retention", f"{verdict} (90 % interval [{interval.low:+.3f}, {interval.high:+.3f}])"))
    rate = detectable_rise(n, n, alpha=FALSE_DISCOVERY_RATE / (2 * num_problems))
    if math.isnan(rate):
        words = f"with {n} samples each, no problem could be seen to rise alone"
    else:
        words = f"with {n} samples each, a problem that alone rises from 0 is found in 80 % of cases from a rate of {rate:.2f} on"
    facts.append(("what could be seen", words))
    return tuple(facts)
