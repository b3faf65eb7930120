"""The data probe: whether training on a data set would bring in what the policy lacks, or move what it has.

Training on demonstrations expands or reshapes; which of them hangs on what they add to the policy's support (arXiv 2604.07941). So every
answer is scored under the policy, and support is spoken of token by token, as the survey speaks of actions: an answer is out of support
where some token is less likely than ε given what stands before it. Text that a model writes itself holds such tokens too, where it has
much to choose from. So the limit is lowered to what 19 in 20 of the policy's own answers keep to: an answer is out of support only if its
least likely token is stranger than those.

What carries the training is counted in two ways: the loss (−log p, summed over tokens), and the gradient, of which a token's part is
1 − p (half the L1 norm of the gradient with respect to its logits). The gradient knows no outliers: where most of it comes from
tokens out of support the data expands. Where neither does, nor most of the loss lies in rows out of support, it reshapes. Between the two
lie long rows with a few strange tokens, and policies that are sure of nothing, to which every token gives a gradient of about 1.

Of pairs it asks further whether the chosen answer is in support, whether the policy prefers it already (log π(chosen) − log π(rejected), summed as
DPO sums it and per token as SimPO does, arXiv 2305.18290 and 2405.14734), and what length alone would say: a sum prefers the shorter one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import mean_interval, t_interval
from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, ScoreRequest
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.probes import QUESTIONS
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Note, ProbeContext, ProbeCost
from posttrain.diagnose.thresholds import DataThresholds
from posttrain.diagnose.types import Behavior, Estimate, Message, PromptFormat, Reference, SkipReason, Split

_LISTED = 8
"""Rows named in the note on what carries the loss; all of them stand in the table."""
_SHOWN_OWN = 128
"""Own answers kept for the picture."""
_DRAWS = 1000
"""Bootstrap draws of rows for the interval of a ratio."""

COMPLETION, CHOSEN, REJECTED, BAD, OWN = "completion", "chosen", "rejected", "bad", "own"
"""What an answer in the table is: to be imitated, the two sides of a pair, labelled bad, the policy's own."""

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """One answer under the policy."""

    row: int | None
    """Index of the data row; None for the policy's own."""
    group: str
    side: str
    nats: Floats64
    """[T] −log p of each token."""
    cut: bool = False
    """Whether only its first tokens were scored."""

    @property
    def total(self) -> float:
        """Nats of the whole answer."""
        return float(self.nats.sum())

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return float(self.nats.mean())

    @property
    def worst(self) -> float:
        """Nats of the least likely token."""
        return float(self.nats.max())


class DataOutcome(StrEnum):
    """What training on a data set would do."""

    EXPANDS = "expands"
    RESHAPES = "reshapes"
    BOTH = "both"
    UNKNOWN = "unknown"
    """No answer to be imitated was scored, or none of them gives a gradient."""


class Data:
    """Scores a data set under the policy."""

    name = "data"
    question = QUESTIONS[name]

    def __init__(self, *, num_rows: int = 256, num_own: int = 256, longest: int = 1024):
        """Take sizes.

        Args:
            num_rows: Rows to score, chosen at random by the seed; 256 give a share to ± .06.
            num_own: Own answers that they are held against.
            longest: Tokens of an answer to score; the rest is left out.
        """
        self.num_rows, self.num_own, self.longest = num_rows, num_own, longest

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """Two answers of a row at most, each of the greatest length; nothing is generated."""
        if not available.data:
            return ProbeCost(impossible=SkipReason.NO_DATA)
        return ProbeCost(scored_tokens=2 * self.num_rows * self.longest, when="whenever a data set is given")

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`: whoever gives a data set wants to know."""
        return None if context.data else SkipReason.NO_DATA

    def run(self, context: ProbeContext) -> Finding:
        """Score rows and own answers, hold them against each other."""
        rows = context.data or ()
        digest = hashlib.sha256(f"{context.seed}\x00data".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        chosen = sorted(rng.permutation(len(rows))[: self.num_rows].tolist())
        encoded: list[_Encoded] = []
        refused = ""
        for index in chosen:
            try:
                encoded += _encode(context.policy, context.measured.behavior.prompt, rows[index], self.longest)
            except BehaviorError as error:
                refused = refused or f"row {rows[index].index}: {error}"
        if not encoded:
            raise SettingsError(f"the model cannot read the data: {refused}", code="data_unreadable")
        scores = context.sampler.score([one.request for one in encoded], what="rows of the data set")
        answers = [
            _Answer(row=one.row, group=str(one.row), side=one.side, nats=-score.logprobs.astype(np.float64), cut=one.cut)
            for one, score in zip(encoded, scores, strict=True)
        ]
        notes = _notes_on_rows(context, rows, len(chosen), encoded, refused)
        return _finding(context, answers, _own(context, self.num_own, rng), notes)


# ------------------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, kw_only=True, slots=True)
class _Encoded:
    row: int
    side: str
    request: ScoreRequest
    cut: bool


def _encode(engine: Engine, prompt_format: PromptFormat, row: DataRow, longest: int) -> list[_Encoded]:
    """The answers of a row as tokens. A text without a prompt is scored from its second word on, a model being unable to begin with nothing.

    Raises:
        BehaviorError: The model cannot read the prompt, a text has a single word, or the row holds a prompt alone.
    """
    if row.kind is RowKind.PROMPT:
        raise BehaviorError("its rows hold prompts alone, and there is no answer to score")
    if row.kind is RowKind.TEXT:
        assert row.completion is not None
        first, *rest = row.completion.split(maxsplit=1)
        if not rest:
            raise BehaviorError(f"got a text of one word, {first!r}; there is nothing to score after it")
        head = row.completion[: row.completion.index(first) + len(first)]
        prompt = engine.codec.encode_prompt(head, PromptFormat(format="completion"))
        sides = {COMPLETION: row.completion[len(head) :]}
    else:
        assert row.prompt is not None
        prompt = _encode_prompt(engine, prompt_format, row.prompt)
        texts = {COMPLETION if row.label is not False else BAD: row.completion, CHOSEN: row.chosen, REJECTED: row.rejected}
        sides = {side: text for side, text in texts.items() if text is not None}
    encoded = []
    for side, text in sides.items():
        ids = engine.codec.encode_path(prompt, Reference(steps=(text,))).token_ids
        request = ScoreRequest(prompt_ids=prompt.token_ids, path_ids=ids[:longest])
        encoded.append(_Encoded(row=row.index, side=side, request=request, cut=len(ids) > longest))
    return encoded


def _encode_prompt(engine: Engine, prompt_format: PromptFormat, prompt: str | tuple[Message, ...]) -> EncodedPrompt:
    """A prompt as the behavior writes its own; one that stands in the behavior's template already is not put into it again."""
    if isinstance(prompt, str):
        before, _, after = prompt_format.template.partition("{question}")
        if before + after and prompt.startswith(before) and prompt.endswith(after):
            prompt = prompt[len(before) : len(prompt) - len(after)]
    return engine.codec.encode_prompt(prompt, prompt_format)


def _own(context: ProbeContext, most: int, rng: np.random.Generator) -> list[_Answer]:
    """Some of the policy's own answers, chosen at random; what it said of their tokens was kept."""
    table = context.measured.rollouts
    places = table.places([problem.id for problem in context.measured.problems])
    rows = np.flatnonzero((places >= 0) & ~table.greedy & (table.num_tokens > 0))
    rows = np.sort(rng.permutation(rows)[:most])
    return [
        _Answer(row=None, group=rollout.problem_id, side=OWN, nats=-rollout.policy_logprobs.astype(np.float64))
        for rollout in table.rows(rows)
    ]


# ------------------------------------------------------------------------------------------------------------------- numbers


def limit_of_support(worst_of_own: Sequence[float], epsilon: float, thresholds: DataThresholds) -> float:
    """Nats of the least likely token from which on an answer is out of support.

    Args:
        worst_of_own: −log p of the least likely token of each of the policy's own answers.
        epsilon: Probability under which a token is out of support, unless the policy's own answers hold less likely ones.
        thresholds: Which share of the own answers the limit admits, and how many there must be.

    Returns:
        −log ε, or more: the value that 95 % of the own answers do not exceed, where there are enough of them.
    """
    limit = -float(np.log(epsilon))
    if len(worst_of_own) < thresholds.fewest_own:
        return limit
    return max(limit, float(np.quantile(np.asarray(worst_of_own), thresholds.own_within, method="higher")))


def _ratio(parts: npt.ArrayLike, wholes: npt.ArrayLike, level: float, method: str) -> Estimate:
    """A ratio of two sums over rows, with a bootstrap over rows; NaN where the whole is nothing."""
    values = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)])
    if not values[1].sum() > 0:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method)
    picks = np.random.default_rng(0).integers(values.shape[1], size=(_DRAWS, values.shape[1]))
    drawn = values[:, picks].sum(axis=2)
    ratios = drawn[0][drawn[1] > 0] / drawn[1][drawn[1] > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(estimate=float(values[0].sum() / values[1].sum()), low=float(low), high=float(high), method=method)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """Pairs of which both sides were scored whole (arrays of length N)."""

    rows: tuple[int, ...]
    margin: Floats64
    """log π(chosen) − log π(rejected), nats."""
    per_token: Floats64
    """The same of means over tokens."""
    longer: Floats64
    """Tokens by which the chosen answer is longer."""


def _pairs(answers: Sequence[_Answer]) -> _Pairs:
    sides = {(answer.row, answer.side): answer for answer in answers if not answer.cut}
    both = [
        (row, answer, sides[row, REJECTED])
        for (row, side), answer in sides.items()
        if side == CHOSEN and row is not None and (row, REJECTED) in sides
    ]
    return _Pairs(
        rows=tuple(row for row, _, _ in both),
        margin=np.array([bad.total - good.total for _, good, bad in both]),
        per_token=np.array([bad.per_token - good.per_token for _, good, bad in both]),
        longer=np.array([float(good.nats.size - bad.nats.size) for _, good, bad in both]),
    )


def _wins(values: Floats64) -> Floats64:
    """[N] 1 where above zero, ½ at zero, 0 below."""
    return (np.sign(values) + 1) / 2


def _numbers(
    context: ProbeContext,
    learned: Sequence[_Answer],
    avoided: Sequence[_Answer],
    own: Sequence[_Answer],
    pairs: _Pairs,
    limit: float,
) -> dict[str, Estimate]:
    level, epsilon = context.thresholds.level, context.measured.behavior.measure.epsilon

    def share(values: npt.ArrayLike, method: str = "t over rows") -> Estimate:
        found = Estimate.of(mean_interval(np.asarray(values, dtype=np.float64), level=level))
        return Estimate(estimate=found.estimate, low=found.low, high=found.high, method=method)

    def mean(values: Sequence[float] | Floats64, method: str) -> Estimate:
        return Estimate.of(t_interval(values, level=level, method=f"t over {method}"))

    numbers: dict[str, Estimate] = {}
    if learned:
        outside = np.array([answer.worst > limit for answer in learned])
        loss = np.array([answer.total for answer in learned])
        gradient = [-np.expm1(-answer.nats) for answer in learned]
        strange = [part[answer.nats > limit].sum() for part, answer in zip(gradient, learned, strict=True)]
        numbers["share within support"] = share(~outside)
        numbers["share of the loss in rows out of support"] = _ratio(outside * loss, loss, level, "bootstrap over rows")
        numbers["share of the gradient from tokens out of support"] = _ratio(
            strange, [part.sum() for part in gradient], level, "bootstrap over rows"
        )
        numbers["share as likely as epsilon on the whole"] = share(loss <= -np.log(epsilon))
        numbers["nats per token"] = mean([answer.per_token for answer in learned], "rows")
    if own:
        per_token = [answer.per_token for answer in own]
        numbers["nats per token, own samples"] = Estimate.of(t_interval(per_token, [answer.group for answer in own], level=level))
    if avoided:
        numbers["share of rejected answers within support"] = share([answer.worst <= limit for answer in avoided])
    if pairs.rows:
        numbers["share of pairs ranked right"] = share(_wins(pairs.margin))
        numbers["share of pairs ranked right per token"] = share(_wins(pairs.per_token))
        numbers["share of pairs that length alone ranks right"] = share(_wins(-pairs.longer))
        numbers["margin"] = mean(pairs.margin, "pairs")
        numbers["margin per token"] = mean(pairs.per_token, "pairs")
        numbers["tokens by which the chosen is longer"] = mean(pairs.longer, "pairs")
    return numbers


# ------------------------------------------------------------------------------------------------------------------- finding


def _finding(context: ProbeContext, answers: Sequence[_Answer], own: Sequence[_Answer], notes: Sequence[Note]) -> Finding:
    epsilon = context.measured.behavior.measure.epsilon
    limit = limit_of_support([answer.worst for answer in own], epsilon, context.thresholds.data)
    learned = [answer for answer in answers if answer.side in (COMPLETION, CHOSEN)]
    avoided = [answer for answer in answers if answer.side in (REJECTED, BAD)]
    pairs = _pairs(answers)
    numbers = _numbers(context, learned, avoided, own, pairs, limit)
    margins = {row: (float(m), float(t)) for row, m, t in zip(pairs.rows, pairs.margin, pairs.per_token, strict=True)}
    usual = numbers["nats per token, own samples"].estimate if own else 0.0
    outcome = _outcome(numbers, context.thresholds.data.majority)
    return Finding(
        probe=context.sampler.probe,
        behavior=context.measured.behavior.name,
        outcome=outcome,
        summary=_summary(numbers, learned, avoided, pairs, limit, outcome),
        numbers=numbers,
        rows=tuple(_row(answer, limit, margins) for answer in [*answers, *own[:_SHOWN_OWN]]),
        notes=(*notes, *_notes_on_numbers(numbers, learned, own, limit, epsilon, usual, context.thresholds.data)),
    )


def _row(answer: _Answer, limit: float, margins: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
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


def _outcome(numbers: Mapping[str, Estimate], majority: float) -> DataOutcome:
    """Say what training would do: where most of the gradient, or of the loss, comes from."""
    gradient = numbers.get("share of the gradient from tokens out of support")
    if gradient is None or np.isnan(gradient.estimate):
        return DataOutcome.UNKNOWN
    if gradient.low > majority:
        return DataOutcome.EXPANDS
    loss = numbers["share of the loss in rows out of support"]
    return DataOutcome.RESHAPES if max(gradient.high, loss.high) < majority else DataOutcome.BOTH


def _summary(
    numbers: Mapping[str, Estimate],
    learned: Sequence[_Answer],
    avoided: Sequence[_Answer],
    pairs: _Pairs,
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
        strange = numbers["share of the gradient from tokens out of support"]
        if not np.isnan(strange.estimate):
            said.append(
                f"On the whole it would {_ROLE_WORDS[outcome]}: tokens out of support give {strange.estimate:.0%} of the gradient."
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


def _notes_on_rows(
    context: ProbeContext, rows: Sequence[DataRow], num_chosen: int, encoded: Sequence[_Encoded], refused: str
) -> list[Note]:
    notes = []
    scored = len({one.row for one in encoded})
    if num_chosen < len(rows):
        notes.append(Note(code="rows_sampled", text=f"{num_chosen} of {len(rows)} rows were taken, at random by the seed."))
    if refused:
        notes.append(Note(code="rows_not_scored", text=f"{num_chosen - scored} rows could not be scored; {refused}"))
    cut = sum(one.cut for one in encoded)
    if cut:
        notes.append(
            Note(
                code="answers_cut",
                text=f"{cut} answers were longer than what is scored; they count with their beginning, and not in margins.",
            )
        )
    measured = {
        context.sampler.prompt_ids(problem) for problem in context.measured.behavior.problems if problem.split is not Split.TRAIN
    }
    shared = sorted({one.row for one in encoded if one.request.prompt_ids in measured})
    if shared:
        notes.append(
            Note(
                code="measured_prompts_in_data",
                text=(
                    f"{len(shared)} of {scored} rows have the prompt of a problem that is measured (row {_listed(shared)}): "
                    "trained on them, a model is no longer measured by it."
                ),
            )
        )
    return notes


def _notes_on_numbers(
    numbers: Mapping[str, Estimate],
    learned: Sequence[_Answer],
    own: Sequence[_Answer],
    limit: float,
    epsilon: float,
    usual: float,
    thresholds: DataThresholds,
) -> list[Note]:
    notes = []
    if learned and own:
        # What a row costs beyond what as many tokens of the policy's own cost.
        excess = {answer.row: answer.total - usual * answer.nats.size for answer in learned}
        first = [row for row in sorted(excess, key=lambda row: -excess[row]) if excess[row] > 0]
        if first:
            named = ", ".join(f"{row} ({excess[row]:.0f} nats)" for row in first[:_LISTED])
            notes.append(
                Note(
                    code="costliest_rows",
                    text=f"Rows that cost most beyond what the policy's own answers of their length do (from 0): {named}.",
                )
            )
    if len(own) < thresholds.fewest_own:
        notes.append(
            Note(
                code="few_own_answers",
                text=f"Only {len(own)} own answers: too few to say how unlikely the tokens are that the policy draws itself.",
            )
        )
    elif limit > -np.log(epsilon):
        strict = float(np.mean([answer.worst > -np.log(epsilon) for answer in own]))
        notes.append(
            Note(
                code="limit_of_support_raised",
                text=(
                    f"{strict:.0%} of the policy's own answers hold a token less likely than epsilon = {epsilon:.2g}, so the limit of support is "
                    f"{np.exp(-limit):.2g}, which {thresholds.own_within:.0%} of them keep to."
                ),
            )
        )
    if "margin" in numbers:
        longer = numbers["tokens by which the chosen is longer"].estimate
        alone = numbers["share of pairs that length alone ranks right"].estimate
        notes.append(
            Note(
                code="length_of_chosen",
                text=(
                    f"Chosen answers are {'longer' if longer > 0 else 'shorter'} by {abs(longer):.3g} tokens on average; a summed margin prefers the shorter "
                    f"answer, which alone would rank {alone:.0%} of the pairs right. Trust what the sum and the mean agree on."
                ),
            )
        )
    notes.append(
        Note(
            code="read_the_rows",
            text="The mean hides one bad token, the sum punishes length, and style alone makes a right answer improbable: read the rows before ruling on them.",
        )
    )
    return notes


def _listed(rows: Sequence[int]) -> str:
    """The first of many, and how many more there are."""
    rest = len(rows) - _LISTED
    return ", ".join(str(row) for row in rows[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
