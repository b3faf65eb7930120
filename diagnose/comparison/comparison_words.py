"""Words of a comparison for people, made from its codes."""

from __future__ import annotations

from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote, RoleVerdict
from posttrain.diagnose.comparison.transition import BehaviorTransition, ComparisonNote

_BESIDE = {
    RoleNote.PROBLEMS_LOST: "with attrition",
    RoleNote.LOSSES_INSIDE_SUPPORT: "with losses inside support",
    RoleNote.LOSSES_PLACE_OPEN: "with losses, place open",
}
"""What a loss beside a gain adds to a role."""
ROLE_MEANINGS: dict[ObservedRole, str] = {
    ObservedRole.NOT_DISTINGUISHABLE: "no more changed than sampling one model twice would show",
    ObservedRole.SUPPORT_EXPANSION: "problems that were out of support before are solved now",
    ObservedRole.POLICY_RESHAPING: "success rates changed on problems that were in support already",
    ObservedRole.ATTRITION: "problems that were in support before are not any more",
    ObservedRole.GAIN_PLACE_OPEN: "success rose, but it is open whether on problems that were in support or out of it before",
    ObservedRole.LOSS_PLACE_OPEN: "success fell, but it is open whether problems left support or are only solved less often",
}
"""What each role means, in one clause."""


def role_words(verdict: RoleVerdict) -> str:
    """Return a role in a few words, with a loss beside a gain."""
    match verdict.role:
        case ObservedRole.NOT_DISTINGUISHABLE:
            return "not distinguishable"
        case ObservedRole.SUPPORT_EXPANSION:
            words = "expansion"
        case ObservedRole.ATTRITION:
            words = "attrition"
        case ObservedRole.POLICY_RESHAPING:
            words = "policy reshaping" if verdict.gain else "policy reshaping, for the worse"
        case ObservedRole.GAIN_PLACE_OPEN:
            words = "gain, place open"
        case ObservedRole.LOSS_PLACE_OPEN:
            words = "loss, place open"
    for note, beside in _BESIDE.items():
        if note in verdict.notes:
            return f"{words}, {beside}"
    if RoleNote.LOWER_PASS_AT_K in verdict.notes:
        return f"{words}, lower pass@{min(verdict.falls)}"
    return words


def role_note_words(note: RoleNote, verdict: RoleVerdict, epsilon: float) -> str:
    """Return a note beside a role as a sentence."""
    match note:
        case RoleNote.GAIN_AT_LARGER_K:
            return f"The gain shows at pass@{min(verdict.rises)}, not at pass@1."
        case RoleNote.LOWER_PASS_AT_K:
            return f"pass@{min(verdict.falls)} fell: a loss beside the gain."
        case RoleNote.PROBLEMS_LOST:
            return "Problems left support beside the gain."
        case RoleNote.LOSSES_INSIDE_SUPPORT:
            return "Beside the gain there are losses inside support: right answers are still sampled, less often."
        case RoleNote.LOSSES_PLACE_OPEN:
            return (
                "More problems lost their last success than new samples of one model would show; whether they left support the samples do "
                "not tell."
            )
        case RoleNote.PROBLEMS_GAINED:
            return "More problems show a first success than new samples of one model would show, while no pass@k rises."
        case RoleNote.LOSS_INSIDE_SUPPORT:
            return "The loss lies inside support: right answers are still sampled, less often."
        case RoleNote.UNCERTAIN_PLACE:
            change = "gain" if verdict.gain else "loss"
            if verdict.leans_outside:
                place = "problems that were out of support before" if verdict.gain else "problems that are out of support after"
            else:
                place = "problems inside the support"
            open_ = f"The samples do not tell whether the {change} lies inside or outside the support (a rate of {epsilon:.2g})"
            if verdict.samples_that_tell is None:
                return f"{open_}, and further ones at temperature 0 would be the same: sample both models at temperature 1."
            return f"{open_}. It leans to {place}; about {verdict.samples_that_tell:,} samples per problem are expected to tell."


def note_words(note: ComparisonNote, behavior: BehaviorTransition) -> str:
    """Return a note on a comparison as a sentence."""
    match note:
        case ComparisonNote.DEPLOYED_POLICY:
            return "Sampled with a temperature or a truncation of its own: support here is that of the deployed policy."
        case ComparisonNote.ONE_SEED:
            return "One checkpoint is not a stage: the intervals leave out the spread between training seeds."
        case ComparisonNote.ADAPTIVE_SAMPLING:
            return (
                "Problems of a run have different numbers of samples, which may depend on outcomes (adaptive sampling, samples left out). "
                "Pass@k, its changes, the role and the changes of problems are estimated by likelihood from all samples; support "
                f"dynamics and the gain where no success was seen before use the first {behavior.num_samples} samples of every problem."
            )
        case ComparisonNote.MISSING_SAMPLES:
            before, after = behavior.num_missing
            return (
                f"{before:,} samples before and {after:,} after have no outcome (errors and timeouts of the verifier). Intervals of pass@k and "
                "of its changes hold whether they are failures or successes, and a role is named only where it holds too."
            )
        case ComparisonNote.PARTLY_SHARED:
            return f"The two runs share {behavior.num_problems:,} problems; those that only one of them has are left out."
        case ComparisonNote.OTHER_PROMPTS:
            return "Problems were asked with other prompts in the two runs: a change may be that of the prompt."
        case ComparisonNote.SAMPLING_UNKNOWN:
            return (
                "How the samples were taken (temperature, truncation) is not known of both runs: a change may be that of the sampler, and support here "
                "is that of whatever policy was sampled."
            )
