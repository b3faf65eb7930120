"""pass@k of a run and its mean change between two: the estimates that pages, gates and loops share."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.analysis.stats import Interval, mean_interval, paired_delta_interval, pass_at_k, posterior_changes
from posttrain.diagnose.comparison.paired_samples import PairedCounts, bounded, pair_counts
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.types import Estimate


def pass_at_k_changes(counts: PairedCounts, ks: Sequence[int], *, level: float = 0.95) -> list[Interval]:
    """Estimate the mean change of pass@k, paired by problem, each alone at this level.

    From unbiased estimates where every problem was sampled equally often; by likelihood from all samples where their number depends on
    outcomes. Missing samples count as failures on one side and as successes on the other at either end.

    Args:
        counts: Samples and successes of both runs.
        ks: Attempts; without adaptive sampling none above the fewest samples.
        level: Confidence.
    """

    def estimate(counts: PairedCounts) -> list[Interval]:
        if counts.adaptive:
            return posterior_changes(*counts.fits, ks, groups=counts.units).intervals(level)
        n0, c0, n1, c1 = counts.counts
        return [paired_delta_interval(pass_at_k(n0, c0, k), pass_at_k(n1, c1, k), counts.units, level=level) for k in ks]

    return bounded(counts, estimate, counts.bounds_of_change)


def pass_at_k_curve(counts: PairedCounts, ks: Sequence[int], *, after: bool, level: float = 0.95) -> list[Interval]:
    """Estimate pass@k of one of two runs on their common problems, each k alone at this level.

    Args:
        counts: Samples and successes of both runs.
        ks: Attempts; without adaptive sampling none above the fewest samples.
        after: Of the run after, rather than of the one before.
        level: Confidence.
    """

    def estimate(counts: PairedCounts) -> list[Interval]:
        if counts.adaptive:
            return counts.fits[after].pass_at_ks(ks, level=level)
        n, c = counts.counts[2:] if after else counts.counts[:2]
        return [mean_interval(pass_at_k(n, c, k), counts.units, level=level) for k in ks]

    return bounded(counts, estimate, lambda: (counts.impute(before=False, after=False), counts.impute(before=True, after=True)))


def change_of_pass_at_1(before: DiagnosedBehavior, after: DiagnosedBehavior) -> Estimate | None:
    """Return the paired difference of pass@1 with its 95 % interval; None where no problem has samples in both runs."""
    counts = pair_counts(before, after)
    return Estimate.of(pass_at_k_changes(counts, [1])[0]) if counts.known.any() else None
