"""How long training rows may be, and what becomes of longer ones, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow


class TooLong(StrEnum):
    """What becomes of rows that are too long."""

    REFUSE = "refuse"
    """Nothing is trained."""
    DROP = "drop"
    """They are left out; of a pair both answers."""
    CUT = "cut"
    """The end of their answer is left out. Prompts are never cut, and neither are answers that were graded whole; such rows are dropped."""


@dataclass(kw_only=True, slots=True)
class LengthLimit:
    """The longest row that is trained on, and how many were longer."""

    limit: int | None = None
    """Tokens of prompt and answer together; None: any number."""
    reason: str = ""
    """Where the limit comes from, for messages."""
    too_long: TooLong = TooLong.REFUSE
    num_dropped: int = 0
    """Rows that were left out."""
    num_cut: int = 0
    """Rows whose answer was cut."""
    num_problems_dropped: int = 0
    """Problems that are not sampled."""

    def fit(self, rows: Sequence[TrainingRow], *, generated: bool = False) -> list[TrainingRow]:
        """Return the rows that fit, cut where that is asked for, in their order.

        Args:
            rows: Both rows of a pair have one group.
            generated: Whether a model wrote them for this run; then a row that is too long is the fault of no one, and dropped.

        Raises:
            BehaviorError: Rows are too long and to be refused, or none is left.
        """
        long = [row for row in rows if self._is_too_long(row)]
        if not long:
            return list(rows)
        if self.too_long is TooLong.REFUSE and not generated:
            longest = max(long, key=_length)
            raise BehaviorError(
                f"{len(long)} of {len(rows)} rows are longer than {self.limit} tokens, {self.reason}; the longest, {longest.behavior}/"
                f"{longest.problem_id}, has {_length(longest)}; shorten them, or set too_long=drop or too_long=cut",
                code="row_too_long",
            )
        fitting = [self._cut(row) if self.too_long is TooLong.CUT and self._is_too_long(row) else row for row in rows]
        kept = _whole_pairs([row for row in fitting if row is not None and not self._is_too_long(row)], rows)
        if not kept and not generated:
            raise BehaviorError(
                f"all {len(rows)} rows are longer than {self.limit} tokens, {self.reason}; give shorter ones, or a model that reads more",
                code="no_row_left",
            )
        self.num_dropped += len(rows) - len(kept)
        given = set(map(id, rows))
        self.num_cut += sum(id(row) not in given for row in kept)
        return kept

    def within(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """Return the rows that fit, of those that are put together while training; the others are left out and not counted."""
        return [row for row in rows if not self._is_too_long(row)]

    def without_room(self, engine: Engine, items: Sequence[TrainingProblem]) -> frozenset[str]:
        """Return the names of the problems whose prompt leaves too little room for a sample of `max_tokens`.

        Raises:
            SettingsError: There are some, and they are to be refused; or all are such.
        """
        if self.limit is None:
            return frozenset()
        lengths = {
            item.name: len(engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt).token_ids) for item in items
        }
        found = [item for item in items if lengths[item.name] + item.behavior.sampling.max_tokens > self.limit]
        if found and (self.too_long is TooLong.REFUSE or len(found) == len(items)):
            longest = max(found, key=lambda item: lengths[item.name])
            num, most = lengths[longest.name], longest.behavior.sampling.max_tokens
            instead = f"lower sampling.max_tokens to {self.limit - num}" if num < self.limit else "shorten the prompt"
            raise SettingsError(
                f"{len(found)} of {len(items)} prompts leave no room for {most} sampled tokens within {self.limit}, {self.reason}; the longest, "
                f"{longest.name}, has {num}; {instead}, or set too_long=drop",
                code="max_tokens_too_large" if num < self.limit else "prompt_too_long",
            )
        self.num_problems_dropped += len(found)
        return frozenset(item.name for item in found)

    def notes(self) -> list[str]:
        """Return lines for people on how many rows and problems were too long; none where everything was short enough."""
        counts = {
            "rows dropped": self.num_dropped,
            "answers cut": self.num_cut,
            "problems not sampled": self.num_problems_dropped,
        }
        return [f"{number} {what}: longer than {self.limit} tokens, {self.reason}" for what, number in counts.items() if number]

    def metrics(self) -> dict[str, float]:
        """Return the counts that are worth logging; empty where everything was short enough."""
        counts = {
            "rows_dropped": self.num_dropped,
            "rows_cut": self.num_cut,
            "problems_dropped": self.num_problems_dropped,
        }
        return {name: float(number) for name, number in counts.items() if number}

    def _is_too_long(self, row: TrainingRow) -> bool:
        return self.limit is not None and _length(row) > self.limit

    def _cut(self, row: TrainingRow) -> TrainingRow | None:
        """Return the row with a shorter answer; None where nothing of it would be learned."""
        assert self.limit is not None
        room = self.limit - max(len(row.prompt_ids), len(row.teacher_prompt_ids or ()))
        if room < 1 or (row.role in (RowRole.SAMPLE, RowRole.RETAINED) and not row.step_ends):
            return None
        steps = [(end, score) for end, score in zip(row.step_ends, row.step_scores, strict=True) if end < room]
        if row.step_ends and not steps:
            return None
        weights = None if row.token_weights is None else row.token_weights[:room]
        if weights is not None and not (weights > 0).any():
            return None
        return replace(
            row,
            completion_ids=row.completion_ids[:room],
            sampler_logprobs=None if row.sampler_logprobs is None else row.sampler_logprobs[:room],
            token_weights=weights,
            step_ends=tuple(end for end, _ in steps),
            step_scores=tuple(score for _, score in steps),
            truncated=True,
        )


def _length(row: TrainingRow) -> int:
    """Return the tokens of a row with the longer of its prompts."""
    return max(len(row.prompt_ids), len(row.teacher_prompt_ids or ())) + len(row.completion_ids)


def _whole_pairs(kept: Sequence[TrainingRow], rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Leave out answers whose partner is gone, and pairs of which the cut left the same answer twice."""

    def sides(of: Sequence[TrainingRow]) -> dict[str, dict[RowRole, tuple[int, ...]]]:
        found: dict[str, dict[RowRole, tuple[int, ...]]] = {}
        for row in of:
            if row.role in (RowRole.CHOSEN, RowRole.REJECTED):
                found.setdefault(row.group_id, {})[row.role] = row.completion_ids
        return found

    before, after = sides(rows), sides(kept)
    broken = {
        group
        for group, answers in after.items()
        if len(answers) < len(before[group]) or len(set(answers.values())) < len(set(before[group].values()))
    }
    return [row for row in kept if row.group_id not in broken]
