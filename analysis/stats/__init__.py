"""Statistics of success counts: arrays in, arrays out. Knows no models.

- `estimators`: per problem: pass@k, Cover@τ, answer entropy
- `intervals`: means over problems and paired changes, with intervals
- `mixture`: the posterior of success rates, of every problem and of these problems together; `profile_likelihood`: intervals for the
  population that problems come from; `posterior_deltas`: changes of pass@k under adaptive sampling
- `group_signal`: groups of samples whose rewards do not differ, by cause
- `change_tests`: which problems changed between two runs, and whether any did
- `support`: problems with a success before and after, beside a null
- `best_of_several`: which of several policies may be the best, and how good the observed best is
- `deltas`: changes of whole pass@k curves, where they cross, equivalence
- `paired_profile`: where a change lies, by the joint distribution of rates before and after
- `sample_size`: required samples and problems, minimum detectable effects
- `noisy_bisection`: adaptive sampling of ladder rungs
"""

from posttrain.analysis.stats.arrays import FloatArray as FloatArray
from posttrain.analysis.stats.arrays import IntArray as IntArray
from posttrain.analysis.stats.best_of_several import PolicyScores as PolicyScores
from posttrain.analysis.stats.best_of_several import PolicyValues as PolicyValues
from posttrain.analysis.stats.best_of_several import may_be_best as may_be_best
from posttrain.analysis.stats.best_of_several import shrunken_score as shrunken_score
from posttrain.analysis.stats.change_tests import PermutationTest as PermutationTest
from posttrain.analysis.stats.change_tests import permutation_test as permutation_test
from posttrain.analysis.stats.change_tests import problem_change_tests as problem_change_tests
from posttrain.analysis.stats.deltas import CurveCrossing as CurveCrossing
from posttrain.analysis.stats.deltas import Equivalence as Equivalence
from posttrain.analysis.stats.deltas import EquivalenceVerdict as EquivalenceVerdict
from posttrain.analysis.stats.deltas import FirstLoss as FirstLoss
from posttrain.analysis.stats.deltas import curve_crossing as curve_crossing
from posttrain.analysis.stats.deltas import dense_ks as dense_ks
from posttrain.analysis.stats.deltas import equivalence_test as equivalence_test
from posttrain.analysis.stats.deltas import first_loss as first_loss
from posttrain.analysis.stats.deltas import max_t_deltas as max_t_deltas
from posttrain.analysis.stats.deltas import simultaneous_level as simultaneous_level
from posttrain.analysis.stats.estimators import answer_entropy as answer_entropy
from posttrain.analysis.stats.estimators import cover_at_tau as cover_at_tau
from posttrain.analysis.stats.estimators import k_grid as k_grid
from posttrain.analysis.stats.estimators import pass_at_k as pass_at_k
from posttrain.analysis.stats.group_signal import GROUP_SIZES as GROUP_SIZES
from posttrain.analysis.stats.group_signal import GroupOutcomes as GroupOutcomes
from posttrain.analysis.stats.group_signal import GroupSignal as GroupSignal
from posttrain.analysis.stats.group_signal import NoSignal as NoSignal
from posttrain.analysis.stats.group_signal import ScoreTies as ScoreTies
from posttrain.analysis.stats.group_signal import SignalShare as SignalShare
from posttrain.analysis.stats.group_signal import signal_curve as signal_curve
from posttrain.analysis.stats.intervals import Interval as Interval
from posttrain.analysis.stats.intervals import jeffreys_intervals as jeffreys_intervals
from posttrain.analysis.stats.intervals import mean_interval as mean_interval
from posttrain.analysis.stats.intervals import paired_delta_interval as paired_delta_interval
from posttrain.analysis.stats.intervals import t_interval as t_interval
from posttrain.analysis.stats.intervals import wilson_interval as wilson_interval
from posttrain.analysis.stats.mixture import MixturePosterior as MixturePosterior
from posttrain.analysis.stats.mixture import fit_mixture as fit_mixture
from posttrain.analysis.stats.paired_profile import paired_population_intervals as paired_population_intervals
from posttrain.analysis.stats.posterior_deltas import PosteriorDeltas as PosteriorDeltas
from posttrain.analysis.stats.posterior_deltas import pass_at_k_moments as pass_at_k_moments
from posttrain.analysis.stats.posterior_deltas import posterior_changes as posterior_changes
from posttrain.analysis.stats.sample_size import detectable_delta as detectable_delta
from posttrain.analysis.stats.sample_size import detectable_rise as detectable_rise
from posttrain.analysis.stats.sample_size import samples_to_resolve as samples_to_resolve
from posttrain.analysis.stats.support import NeverSolved as NeverSolved
from posttrain.analysis.stats.support import SupportRatios as SupportRatios
from posttrain.analysis.stats.support import never_solved_gain as never_solved_gain
from posttrain.analysis.stats.support import support_dynamics as support_dynamics
from posttrain.analysis.stats.support import support_dynamics_null as support_dynamics_null
from posttrain.analysis.stats.support import thin as thin
