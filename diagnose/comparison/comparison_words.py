"""Words of a comparison for people, made from its codes."""

from __future__ import annotations

from posttrain.analysis.stats import samples_to_resolve
from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote, RoleVerdict
from posttrain.diagnose.comparison.transition import ComparisonNote


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
    if RoleNote.PROBLEMS_LOST in verdict.notes:
        return f"{words}, with attrition"
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
            return "More problems lost their last success than new samples of one model would show."
        case RoleNote.PROBLEMS_GAINED:
            return "More problems show a first success than new samples of one model would show, while no pass@k rises."
        case RoleNote.LOSS_INSIDE_SUPPORT:
            return "The loss lies inside support: right answers are still sampled, less often."
        case RoleNote.UNCERTAIN_PLACE:
            change = "gain" if verdict.gain else "loss"
            place = "inside" if verdict.role is ObservedRole.POLICY_RESHAPING else "outside"
            return (
                f"The posterior probability that the {change} lies {place} the support is {verdict.probability:.2f}; "
                f"{samples_to_resolve(epsilon)} samples per problem distinguish a rate of {epsilon:.2g} from zero."
            )


def note_words(note: ComparisonNote, num_samples: int) -> str:
    """Return a note on a comparison as a sentence.

    Args:
        note: The note.
        num_samples: Samples of each problem that tests and curves use.
    """
    match note:
        case ComparisonNote.DEPLOYED_POLICY:
            return "Sampled with a temperature or a truncation of its own: support here is that of the deployed policy."
        case ComparisonNote.ONE_SEED:
            return "One checkpoint is not a stage: the intervals leave out the spread between training seeds."
        case ComparisonNote.ADAPTIVE_SAMPLING:
            return (
                "A run was sampled adaptively: its number of samples of a problem depends on their outcomes. Changes of pass@k are estimated by "
                f"likelihood from all samples; tests, problem changes, curves and support dynamics use the first {num_samples} samples of every "
                "problem."
            )
