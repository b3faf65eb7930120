"""The words of a forecast: how many groups carry no signal, and what to do about it."""

from __future__ import annotations

import math
from typing import Any

from posttrain.analysis.number_format import format_number
from posttrain.analysis.plots.tables import markdown_table
from posttrain.analysis.stats import NoSignal
from posttrain.diagnose.storage.group_signal_json import GroupSignalEntry, ShareEntry, SignalAdvice

CAUSES: dict[NoSignal, tuple[str, str]] = {
    NoSignal.MISSING_GRADE: ("without grades", "the verifier failed on samples that would have told the group apart"),
    NoSignal.FORMAT: ("format", "no success, but a sample that is right under the lenient reading"),
    NoSignal.TRUNCATED: ("truncated", "no success, samples ran into the token limit"),
    NoSignal.UNREAD: ("unread", "no success, no answer could be read"),
    NoSignal.TOO_HARD: ("too hard", "no success, the answers were read and are wrong"),
    NoSignal.TOO_EASY: ("too easy", "every sample is a success"),
}
"""Label and meaning of each cause."""
NOT_POLICY = "The samples are not known to be those of the policy itself (temperature 1, nothing truncated), as a trainer samples it: the forecast is for their setting."
NOT_TOLD = (
    "The grades were imported: which of the wrong samples could not be read is not known, and they count as too hard. `posttrain regrade` reads the texts with a "
    "verifier of ours."
)
_SMALLEST = 0.005
"""Shares below it are left out of a sentence."""


def percent(share: float) -> str:
    """Return a share as a whole percentage; with a decimal near 0 and 100, so that it reads as certain only where it nearly is."""
    near_an_end = 0.0 < share < 2 * _SMALLEST or 1.0 - 2 * _SMALLEST < share < 1.0
    return format_number(100 * share, 1 if near_an_end else 0)


def write_share(share: ShareEntry) -> str:
    """Return `71 % [66, 76]`, or `between 40 and 76 %` where the samples give bounds alone."""
    if math.isnan(share.estimate):
        return f"between {percent(share.low)} and {percent(share.high)} %"
    return f"{percent(share.estimate)} % [{percent(share.low)}, {percent(share.high)}]"


def forecast_sentence(entry: GroupSignalEntry) -> str:
    """Return the forecast in a few words, without the name of the behavior."""
    here = entry.at(entry.group_size)
    causes = sorted(here.causes.items(), key=lambda one: -_middle(one[1]))
    parts = ", ".join(f"{_short(share)} {CAUSES[cause][0]}" for cause, share in causes if _middle(share) >= _SMALLEST)
    groups = [entry.prompts_per_step * (1 - end) for end in (here.total.high, here.total.low)]
    successes, steps = entry.successes_per_step, entry.steps_without_signal
    return (
        f"GRPO at G={entry.group_size}: {write_share(here.total)} of groups carry no signal{': ' + parts if parts else ''}. "
        f"A step of {entry.prompts_per_step} prompts holds {_range(*groups)} groups with signal and {_range(successes.low, successes.high)} successes; "
        f"{write_share(steps)} of steps hold no signal at all."
    )


def advice_words(entry: GroupSignalEntry, advice: SignalAdvice) -> str:
    """Return a piece of advice with its numbers."""
    here, last, chosen = entry.at(entry.group_size), entry.shares[-1], entry.selection
    causes = {cause: _short(share) for cause, share in here.causes.items()}
    match advice:
        case SignalAdvice.FIX_GRADING:
            return f"Fix the grading first: {causes[NoSignal.MISSING_GRADE]} of groups would carry a signal if all their samples had a grade."
        case SignalAdvice.FIX_FORMAT:
            return (
                f"Fix the format first: {causes[NoSignal.FORMAT]} of groups hold a right answer that is not written as the verifier reads it. Say in the "
                "prompt how to write it, read it more leniently, or teach the form on a few references."
            )
        case SignalAdvice.RAISE_TOKEN_LIMIT:
            return f"Raise max_tokens first: samples that ran into the limit stand behind {causes[NoSignal.TRUNCATED]} of groups."
        case SignalAdvice.FIX_READING:
            return (
                f"Read the answers first: behind {causes[NoSignal.UNREAD]} of groups are samples in which no answer could be read. `posttrain regrade` "
                "tries another verifier on the stored texts."
            )
        case SignalAdvice.LARGER_GROUP:
            assert entry.larger_group is not None
            factor = format_number(entry.larger_group / entry.group_size, 1).removesuffix(".0")
            return (
                f"Larger groups: at G={entry.larger_group}, {write_share(entry.at(entry.larger_group).total)} carry no signal, for {factor} times the "
                "samples per prompt."
            )
        case SignalAdvice.EXTEND_SUPPORT:
            return (
                f"Larger groups alone do not help: at G={last.group_size}, {write_share(last.causes[NoSignal.TOO_HARD])} are still too hard. Train on "
                "references of these problems first (sft, guided_grpo), start with easier ones, or leave them out."
            )
        case SignalAdvice.HARDER_PROBLEMS:
            return f"Take harder problems: {causes[NoSignal.TOO_EASY]} of groups hold no failure."
        case SignalAdvice.DROP_PROBLEMS:
            return (
                f"Leave problems out: of the {len(chosen.kept)} of {entry.num_problems} that are expected to carry a signal in {percent(chosen.least_signal)} % of "
                f"their groups, {percent(chosen.without_signal)} % of groups carry none ({chosen.num_too_hard} too hard and {chosen.num_too_easy} too easy "
                f"ones are left out); with problems sampled in proportion to their expected signal {percent(chosen.by_signal)} %. Measure train problems for "
                "that, with --split train."
            )
        case SignalAdvice.SAMPLE_MORE:
            return f"Sample more before deciding: {entry.num_problems} problems with these samples do not tell the share of groups without signal."
        case SignalAdvice.START:
            return "Most groups carry a signal already: groups of this size can be trained on."


def shown_causes(entry: GroupSignalEntry) -> list[NoSignal]:
    """Return the causes that some group size has, in the order of `CAUSES`."""
    return [cause for cause in CAUSES if any(_middle(share.causes[cause]) >= _SMALLEST for share in entry.shares)]


def signal_view(entry: GroupSignalEntry | None) -> dict[str, Any] | None:
    """Return what a page says of a forecast; None without one."""
    if entry is None:
        return None
    header, rows = share_rows(entry)
    known = ((entry.failures_told, NOT_TOLD), (entry.policy_sampled, NOT_POLICY))
    return {
        "sentence": forecast_sentence(entry),
        "advice": [*(advice_words(entry, one) for one in entry.advice), *(words for is_known, words in known if not is_known)],
        "header": header,
        "rows": rows,
    }


def share_rows(entry: GroupSignalEntry) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the shares by group size, percent of groups."""
    causes = shown_causes(entry)
    header = ["G", "no signal, % of groups", *(CAUSES[cause][0] for cause in causes)]
    rows = [
        [
            f"{share.group_size}{' (extrapolated)' if share.extrapolated else ''}",
            *(write_share(part).replace(" %", "") for part in (share.total, *(share.causes[cause] for cause in causes))),
        ]
        for share in entry.shares
    ]
    return header, rows


def forecast_table(entry: GroupSignalEntry) -> str:
    """Return the shares by group size as a table in Markdown."""
    return markdown_table(*share_rows(entry))


def _middle(share: ShareEntry) -> float:
    return (share.low + share.high) / 2 if math.isnan(share.estimate) else share.estimate


def _short(share: ShareEntry) -> str:
    """Return the estimate as a percentage, or the bounds."""
    if math.isnan(share.estimate):
        return f"{percent(share.low)} to {percent(share.high)} %"
    return f"{percent(share.estimate)} %"


def _range(low: float, high: float) -> str:
    """Return two numbers as a range; one where they read the same."""
    shown = [format_number(end, 0 if high >= 10 else 1) for end in (low, high)]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"
