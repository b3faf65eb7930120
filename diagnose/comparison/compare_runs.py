"""Two finished runs compared, paired by problem, beside what sampling the *same* model twice would show.

"No success in n samples" depends on n, and some problems without a success show one when the same model is sampled again. So support
dynamics (arXiv 2507.14843) use the same number of samples on both sides and stand beside their null, a problem is called expanded or
attrited only when its own test says so under a false-discovery rate over all problems and both directions, and problems that some samples
selected ("never solved before") are evaluated on others.
"""

from __future__ import annotations

from posttrain.diagnose.comparison.comparable_runs import check_comparable, check_null
from posttrain.diagnose.comparison.compare_behavior import ComparisonOptions, compare_behavior
from posttrain.diagnose.comparison.nulls import DEALT
from posttrain.diagnose.comparison.paired_samples import pair_counts
from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun


def check_margin(margin: float) -> None:
    """Refuse a margin that is no change of pass@1.

    Raises:
        SettingsError: Code `margin_out_of_range`.
    """
    if not 0.0 < margin < 1.0:
        raise SettingsError(
            f"--margin: got {margin}, it is a change of pass@1; give a number between 0 and 1, such as 0.05",
            code="margin_out_of_range",
        )


def compare_runs(
    before: DiagnosedRun, after: DiagnosedRun, options: ComparisonOptions, *, null: DiagnosedRun | None = None
) -> Transition:
    """Compare two runs on the behaviors that both measured.

    Args:
        before: The run before.
        after: The run after, with the same behaviors and split.
        options: What is known about the two runs.
        null: A second run of the model before, or None.

    Raises:
        RunError: The runs share no behavior, or measured it differently, or the null repeats the samples of `before`.
        SettingsError: The margin is out of range (code `margin_out_of_range`).
    """
    check_margin(options.margin)
    check_comparable(before, after)
    common = [measured.behavior.name for measured in before.behaviors if measured.behavior.name in after.settings["behaviors"]]
    # A behavior that was not sampled, because its verifier failed the self-test, has nothing to compare.
    shared = [name for name in common if pair_counts(before[name], after[name]).known.any()]
    if not shared:
        raise RunError(
            f"compare: {', '.join(common)} has no problem with samples in both {before.path} and {after.path}; "
            "see the validity checks in their reports",
            code="no_shared_samples",
        )
    if null is not None:
        check_null(before, null, shared)
    behaviors = [compare_behavior(before[name], after[name], null[name] if null else None, options) for name in shared]
    return Transition(before=before, after=after, behaviors=tuple(behaviors), null=str(null.path) if null else DEALT)
