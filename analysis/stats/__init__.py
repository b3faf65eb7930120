"""Statistics of success counts: arrays in, arrays out. Knows no models.

`estimators` speaks of single problems, `intervals` of means over problems, `mixture` of the spread of success rates over
problems, `compare` of before and after problem by problem, `deltas` of whole curves, `design` of how much to sample.
"""

from posttrain.analysis.stats.arrays import FloatArray, IntArray
from posttrain.analysis.stats.compare import (
    ProblemChangeTests,
    SupportDynamics,
    SupportDynamicsNull,
    problem_change_tests,
    support_dynamics,
    support_dynamics_null,
)
from posttrain.analysis.stats.deltas import (
    CurveCrossing,
    CurveDeltas,
    Equivalence,
    curve_crossing,
    equivalence_test,
    holm,
    max_t_deltas,
)
from posttrain.analysis.stats.design import (
    detectable_delta,
    detectable_rise,
    problems_for_half_width,
    samples_for_half_width,
    samples_to_resolve,
    variance_components,
)
from posttrain.analysis.stats.estimators import (
    answer_entropy,
    cover_at_tau,
    coverage_profile,
    effective_answers,
    g_pass_at_k,
    guessing_baseline,
    k_grid,
    missing_bounds,
    pass_at_k,
    pass_hat_k,
)
from posttrain.analysis.stats.intervals import (
    Interval,
    jeffreys_interval,
    mean_interval,
    paired_delta_interval,
    wilson_interval,
)
from posttrain.analysis.stats.mixture import MixturePosterior, fit_mixture
from posttrain.analysis.stats.mixture_ml import MixtureML, fit_mixture_ml

__all__ = [
    "CurveCrossing",
    "CurveDeltas",
    "Equivalence",
    "FloatArray",
    "IntArray",
    "Interval",
    "MixtureML",
    "MixturePosterior",
    "ProblemChangeTests",
    "SupportDynamics",
    "SupportDynamicsNull",
    "answer_entropy",
    "cover_at_tau",
    "coverage_profile",
    "curve_crossing",
    "detectable_delta",
    "detectable_rise",
    "effective_answers",
    "equivalence_test",
    "fit_mixture",
    "fit_mixture_ml",
    "g_pass_at_k",
    "guessing_baseline",
    "holm",
    "jeffreys_interval",
    "k_grid",
    "max_t_deltas",
    "mean_interval",
    "missing_bounds",
    "paired_delta_interval",
    "pass_at_k",
    "pass_hat_k",
    "problem_change_tests",
    "problems_for_half_width",
    "samples_for_half_width",
    "samples_to_resolve",
    "support_dynamics",
    "support_dynamics_null",
    "variance_components",
    "wilson_interval",
]
