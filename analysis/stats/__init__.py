"""Statistics of success counts: arrays in, arrays out. Knows no models.

- `estimators`: per problem: pass@k, Cover@τ, answer entropy
- `intervals`: means over problems and paired changes, with intervals
- `mixture`: the mixing distribution of success rates over problems and the posterior of every problem (`success_rate_grid`, `squarem`);
  `profile_likelihood`: intervals for the population; `posterior_deltas`: changes of pass@k under adaptive sampling
- `change_tests`: which problems changed between two runs, and whether any did
- `support`: problems with a success before and after, beside a null
- `deltas`: changes of whole pass@k curves, their crossing, equivalence
- `sample_size`: required samples and problems, minimum detectable effects
- `sample_allocation`, `noisy_bisection`: adaptive sampling of problems and of ladder rungs
"""

from posttrain.analysis.stats.arrays import FloatArray, IntArray
from posttrain.analysis.stats.change_tests import PermutationTest, permutation_test, problem_change_tests
from posttrain.analysis.stats.deltas import (
    CurveCrossing,
    Equivalence,
    EquivalenceVerdict,
    curve_crossing,
    equivalence_test,
    max_t_deltas,
)
from posttrain.analysis.stats.estimators import (
    answer_entropy,
    cover_at_tau,
    k_grid,
    pass_at_k,
)
from posttrain.analysis.stats.intervals import (
    Interval,
    mean_interval,
    paired_delta_interval,
    t_interval,
    wilson_interval,
)
from posttrain.analysis.stats.mixture import MixturePosterior, fit_mixture
from posttrain.analysis.stats.posterior_deltas import posterior_delta_interval
from posttrain.analysis.stats.sample_allocation import neyman_allocation, still_uncertain
from posttrain.analysis.stats.sample_size import (
    detectable_delta,
    detectable_rise,
    problems_for_half_width,
    samples_for_half_width,
    samples_to_resolve,
    variance_components,
)
from posttrain.analysis.stats.support import (
    NeverSolved,
    never_solved_gain,
    support_dynamics,
    support_dynamics_halves,
    support_dynamics_null,
    thin,
)

__all__ = [
    "CurveCrossing",
    "Equivalence",
    "EquivalenceVerdict",
    "FloatArray",
    "IntArray",
    "Interval",
    "MixturePosterior",
    "NeverSolved",
    "PermutationTest",
    "answer_entropy",
    "cover_at_tau",
    "curve_crossing",
    "detectable_delta",
    "detectable_rise",
    "equivalence_test",
    "fit_mixture",
    "k_grid",
    "max_t_deltas",
    "mean_interval",
    "never_solved_gain",
    "neyman_allocation",
    "paired_delta_interval",
    "pass_at_k",
    "permutation_test",
    "posterior_delta_interval",
    "problem_change_tests",
    "problems_for_half_width",
    "samples_for_half_width",
    "samples_to_resolve",
    "still_uncertain",
    "support_dynamics",
    "support_dynamics_halves",
    "support_dynamics_null",
    "t_interval",
    "thin",
    "variance_components",
    "wilson_interval",
]
