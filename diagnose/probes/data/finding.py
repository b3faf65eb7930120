"""What scored answers say: rows and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.probes.base import Finding, Note, ProbeContext
from posttrain.diagnose.probes.data.answers import BAD, CHOSEN, COMPLETION, REJECTED, EncodedAnswer, ScoredAnswer
from posttrain.diagnose.probes.data.numbers import (
    DataOutcome,
    ScoredPairs,
    _outcome,
    limit_of_support,
    pair_answers,
    summarize_answers,
)
from posttrain.diagnose.types import Estimate, Split

_LISTED = 8
"""Rows named in the note on what carries the loss; all of them stand in the table."""
_SHOWN_OWN = 128
"""Own answers kept for the picture."""


def make_finding(
    context: ProbeContext, answers: Sequence[ScoredAnswer], own: Sequence[ScoredAnswer], notes: Mapping[str, str]
) -> Finding:
    """Return what scored answers say.

    Args:
        context: Of the probe.
        answers: Of the data set.
        own: Of the policy.
        notes: On the rows.
    """
    epsilon = context.behavior.measure.epsilon
    limit = limit_of_support([answer.worst for answer in own], epsilon, context.thresholds.data)
    learned = [answer for answer in answers if answer.side in (COMPLETION, CHOSEN)]
    avoided = [answer for answer in answers if answer.side in (REJECTED, BAD)]
    pairs = pair_answers(answers)
    numbers = summarize_answers(context, learned, avoided, own, pairs, limit)
    margins = {row: (float(m), float(t)) for row, m, t in zip(pairs.rows, pairs.margin, pairs.per_token, strict=True)}
    outcome = _outcome(numbers, context.thresholds.data.majority)
    return Finding(
        outcome=outcome,
        summary=_summary(numbers, learned, avoided, pairs, limit, outcome),
        numbers=numbers,
        rows=tuple(_row(answer, limit, margins) for answer in [*answers, *own[:_SHOWN_OWN]]),
        notes=Note.all({**notes, **_notes_on_numbers(context, numbers, learned, own, limit)}),
    )


def _row(answer: ScoredAnswer, limit: float, margins: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    margin = margins.get(answer.row) if answer.row is not None and answer.side == CHOSEN else None
    return {
        "index": answer.row,
        "side": answer.side,
        "tokens": int(answer.nats.size),
        "nats": answer.total,
        "nats_per_token": answer.per_token,
        "worst": answer.worst,
        "inside": answer.worst <= limit,
        "limit": limit,
        "margin": margin[0] if margin else None,
        "margin_per_token": margin[1] if margin else None,
    }


_ROLE_WORDS = {
    DataOutcome.EXPANDS: "expand",
    DataOutcome.RESHAPES: "reshape",
    DataOutcome.BOTH: "do both",
    DataOutcome.UNKNOWN: "do neither",
}


def _summary(
    numbers: Mapping[str, Estimate],
    learned: Sequence[ScoredAnswer],
    avoided: Sequence[ScoredAnswer],
    pairs: ScoredPairs,
    limit: float,
    outcome: DataOutcome,
) -> str:
    said = []
    if learned:
        inside, total = sum(answer.worst <= limit for answer in learned), len(learned)
        what = "rows" if learned[0].side == COMPLETION else "chosen answers"
        text = f"{inside} of {total} {what} are within support (no token less likely than {np.exp(-limit):.2g})"
        text += ": training on them reshapes" if inside else ""
        if inside < total:
            loss = numbers["share of the loss in rows out of support"].estimate
            text += f"; {total - inside} are out of support and would expand; they carry {loss:.0%} of the loss"
        said.append(f"{text}.")
        gradient = numbers["share of the gradient from tokens out of support"]
        if not np.isnan(gradient.estimate):
            said.append(
                f"On the whole it would {_ROLE_WORDS[outcome]}: tokens out of support give {gradient.estimate:.0%} of the gradient."
            )
    if pairs.rows:
        right, token = (numbers[f"share of pairs ranked right{per}"].estimate for per in ("", " per token"))
        reached = numbers["share of rejected answers within support"].estimate
        said.append(
            f"The policy prefers the chosen answer in {right:.0%} of {len(pairs.rows)} pairs ({token:.0%} per token); "
            f"{reached:.0%} of the rejected answers are within support."
        )
    elif avoided:
        reached = numbers["share of rejected answers within support"].estimate
        said.append(f"{reached:.0%} of {len(avoided)} answers labelled bad are within support; the others it would hardly give.")
    return " ".join(said) or "No row of the data set could be scored."


def write_row_notes(
    context: ProbeContext, rows: Sequence[DataRow], num_chosen: int, encoded: Sequence[EncodedAnswer], refused: str
) -> dict[str, str]:
    """Return the caveats on the rows.

    Args:
        context: Of the probe.
        rows: All rows of the data set.
        num_chosen: How many were taken.
        encoded: Their answers as tokens.
        refused: Why the first row that could not be read was not.
    """
    notes: dict[str, str] = {}
    scored = len({one.row for one in encoded})
    if num_chosen < len(rows):
        notes["rows_sampled"] = f"{num_chosen} of {len(rows)} rows were taken, at random by the seed."
    if refused:
        notes["rows_not_scored"] = f"{num_chosen - scored} rows could not be scored; {refused}"
    cut = sum(one.cut for one in encoded)
    if cut:
        notes["answers_cut"] = (
            f"{cut} answers were longer than what is scored; they count with their beginning, and not in margins."
        )
    measured = {
        context.sampler.prompt(problem).token_ids for problem in context.behavior.problems if problem.split is not Split.TRAIN
    }
    shared = sorted({one.row for one in encoded if one.request.prompt_ids in measured})
    if shared:
        notes["measured_prompts_in_data"] = (
            f"{len(shared)} of {scored} rows have the prompt of a problem that is measured (row {_listed(shared)}): "
            "trained on them, a model is no longer measured by it."
        )
    return notes


def _notes_on_numbers(
    context: ProbeContext,
    numbers: Mapping[str, Estimate],
    learned: Sequence[ScoredAnswer],
    own: Sequence[ScoredAnswer],
    limit: float,
) -> dict[str, str]:
    epsilon, thresholds = context.behavior.measure.epsilon, context.thresholds.data
    notes: dict[str, str] = {}
    if learned and own:
        usual = numbers["nats per token, own samples"].estimate
        # What a row costs beyond what as many tokens of the policy's own cost.
        excess = {answer.row: answer.total - usual * answer.nats.size for answer in learned}
        first = [row for row in sorted(excess, key=lambda row: -excess[row]) if excess[row] > 0]
        if first:
            named = ", ".join(f"{row} ({excess[row]:.0f} nats)" for row in first[:_LISTED])
            notes["costliest_rows"] = (
                f"Rows that cost most beyond what the policy's own answers of their length do (from 0): {named}."
            )
    if len(own) < thresholds.fewest_own:
        notes["few_own_answers"] = (
            f"Only {len(own)} own answers: too few to say how unlikely the tokens are that the policy draws itself."
        )
    elif limit > -np.log(epsilon):
        strict = float(np.mean([answer.worst > -np.log(epsilon) for answer in own]))
        notes["limit_of_support_raised"] = (
            f"{strict:.0%} of the policy's own answers hold a token less likely than epsilon = {epsilon:.2g}, so the limit of support is "
            f"{np.exp(-limit):.2g}, which {thresholds.own_within:.0%} of them keep to."
        )
    if "margin" in numbers:
        longer = numbers["tokens by which the chosen is longer"].estimate
        alone = numbers["share of pairs that length alone ranks right"].estimate
        notes["length_of_chosen"] = (
            f"Chosen answers are {'longer' if longer > 0 else 'shorter'} by {abs(longer):.3g} tokens on average; a summed margin prefers the shorter "
            f"answer, which alone would rank {alone:.0%} of the pairs right. Trust what the sum and the mean agree on."
        )
    notes["read_the_rows"] = (
        "The mean hides one bad token, the sum punishes length, and style alone makes a right answer improbable: read the rows before ruling on them."
    )
    return notes


def _listed(rows: Sequence[int]) -> str:
    """Write the first of many, and how many more there are."""
    rest = len(rows) - _LISTED
    return ", ".join(str(row) for row in rows[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
