"""Words of a loop for people, made from its codes."""

from __future__ import annotations

from posttrain.diagnose.comparison.loop_json import LoopEnd, LoopFile, RoundVerdict, StageOrigin

VERDICTS: dict[RoundVerdict, str] = {
    RoundVerdict.HELPED: "helped",
    RoundVerdict.BROUGHT_NOTHING: "brought nothing",
    RoundVerdict.HARDLY_MOVED: "hardly moved the model",
    RoundVerdict.COST_MORE: "cost more than it gave",
}

REASONS: dict[StageOrigin, str] = {
    StageOrigin.NAMED: "named",
    StageOrigin.ALTERNATIVE: "next alternative",
    StageOrigin.CONSOLIDATION: "consolidation",
    StageOrigin.GIVEN: "given with --stages",
}


def end_words(end: LoopEnd, *, num_rounds: int, spent: int, budget: int | None) -> str:
    """Return why a loop ended, as one sentence.

    Args:
        end: The reason.
        num_rounds: Rounds that were run.
        spent: Generated and trained tokens.
        budget: The most of them.
    """
    match end:
        case LoopEnd.MASTERED:
            return "Every target behavior is mastered."
        case LoopEnd.NO_GAIN:
            return "Two rounds in a row brought no gain."
        case LoopEnd.BUDGET_SPENT:
            return (
                f"{spent:,} of {budget or 0:,} tokens are spent, and a further round is expected to take more than what is left."
            )
        case LoopEnd.NOTHING_TO_TRAIN:
            return "No diagnosis names a stage that trains."
        case LoopEnd.STAGES_EXHAUSTED:
            return "Every stage that is named and can run here was tried without a gain."
        case LoopEnd.ROUNDS_DONE:
            return f"{'The round' if num_rounds == 1 else f'All {num_rounds} rounds'} asked for {'is' if num_rounds == 1 else 'are'} done."


def keep_words(file: LoopFile) -> str:
    """Return which checkpoint to keep, and why, as one sentence; empty where nothing was trained."""
    if file.keep is None or not file.rounds:
        return ""
    if file.keep.round == 0:
        return "Keep the model that the loop started with: no checkpoint gained more on the targets than it lost on retention."
    last = file.rounds[-1].number
    which = "the last one" if file.keep.round == last else f"not the last one, which is that of round {last}"
    return (
        f"Keep {file.keep.checkpoint}, the checkpoint of round {file.keep.round} ({which}): it has the highest gain on the targets less loss on "
        "retention."
    )
