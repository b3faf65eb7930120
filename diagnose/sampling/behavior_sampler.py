"""Sampling one behavior, round by round.

What a sampler knows is read from the shards on disk, so that a run that was stopped goes on where it was: a round of which a shard is
missing counts as not sampled, is planned again from the same counts, and only what is missing is sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import shards
from posttrain.diagnose.sampling.plan import Goal, Round, RoundReason, SampleCounts, comes_in_two_rounds, next_round
from posttrain.diagnose.sampling.token_budget import TokenBudget, too_small
from posttrain.diagnose.sampling.token_limit import limit_record, next_limit, with_limit
from posttrain.diagnose.storage.rollout_table import GREEDY, SAMPLED, RolloutTable
from posttrain.diagnose.storage.run_check import ASIDE, PLANS, check_samples, move_aside
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.shard_file import complete_rounds, refuse_damage, round_of
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Cost, LimitSource, Problem, Rollout, SamplingMeasurement, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """What the samples of all behaviors of a run have in common."""

    directory: RunDirectory
    engine: Engine
    goal: Goal
    split: Split
    seed: int
    thresholds: Thresholds
    reporter: Reporter
    rows_per_shard: int = shards.ROWS_PER_SHARD

    @property
    def sampling_seed(self) -> str:
        """The random seed for sampling. The model is part of it, so that two models never share samples."""
        return f"{self.seed}:{self.engine.info.model_fingerprint}"


class BehaviorSampler:
    """Sample a behavior until its goal is reached.

    Args:
        behavior: What to sample.
        grade: Grades texts of one problem.
        settings: Of the run.
        budget: The tokens of all behaviors; it is kept up to date.
    """

    def __init__(self, behavior: Behavior, grade: GradeTexts, settings: SamplingSettings, budget: TokenBudget) -> None:
        self.behavior = behavior
        self._grade, self._settings, self._budget = grade, settings, budget
        self._problems: Sequence[Problem] = behavior.split(settings.split)
        self._planned: tuple[Goal, Round] | None = None
        self._read()

    @property
    def priority(self) -> float:
        """When this behavior is served, of those that share a budget: the lowest is next, and greedy samples come first of all."""
        return -1.0 if self._greedy_is_next else self._next().priority

    @property
    def done(self) -> bool:
        """Whether nothing more is to be sampled."""
        return not self.to_come

    @property
    def to_come(self) -> str:
        """What is still to be sampled, in words; empty where nothing is."""
        kinds = ("" if self._has_greedy else "greedy samples", "" if self._next().last else "further samples")
        return " and ".join(filter(None, kinds))

    @property
    def _greedy_is_next(self) -> bool:
        """Whether the greedy samples come before the next round: always, unless a pilot shows that the samples of both would take long."""
        return not self._has_greedy and (self.num_rounds > 0 or not comes_in_two_rounds(self._settings.goal, self._greedy_tokens))

    @property
    def end(self) -> Round:
        """The last round, which says why sampling is done."""
        assert self.done
        return self._next()

    def sample_round(self) -> None:
        """Sample the greedy completions, or after them the next round; then read the counts again."""
        name, settings = self.behavior.name, self._settings
        if self._greedy_is_next:
            planned, words = (
                shards.plan_greedy(self.behavior, settings.split, settings.rows_per_shard),
                "one greedy sample of every problem",
            )
        else:
            next_ = self._next()
            planned = shards.plan_round(
                self.behavior, settings.split, self.counts.num_sampled, next_.extra, self.num_rounds, settings.rows_per_shard
            )
            words = next_.words
            self._keep_plan(next_)
        self._set_aside_others([shard.name for shard in planned])
        self._sample(planned, f"sampling {name}: {words}")
        self._read()

    def sample_pilot(self) -> list[Rollout]:
        """Sample the first greedy completions, one of each of eight problems, and return them."""
        planned = shards.plan_greedy(self.behavior, self._settings.split, self._settings.rows_per_shard)
        if not self._has_greedy:
            if not self._settings.directory.shard("rollouts", planned[0].name).exists():
                self._check_room_for(planned[0].num_samples, 0)
            self._set_aside_others([shard.name for shard in planned])
            self._sample(planned[:1], f"trying {self.behavior.name}")
            self._read()
        table = self._settings.directory.rollout_table(self.behavior.name)
        pilot = {portion.problem.id for portion in planned[0].portions}
        rows = [int(row) for row in np.flatnonzero(table.greedy) if table.problem_ids[table.problem[row]] in pilot]
        return table.rows(rows)

    def find_limit(self, room: int, needs_longer: Callable[[Behavior, Sequence[Rollout]], bool]) -> None:
        """Double the limit of the first greedy completions until no more of them would come to their end; then record the limit and store them.

        Only those that ran into the limit before are sampled again.

        Args:
            room: Tokens that a sample may have at most.
            needs_longer: Says whether samples need a higher limit than the behavior has.
        """
        settings = self._settings
        shard = shards.plan_greedy(self.behavior, settings.split, settings.rows_per_shard)[0]
        found: dict[str, Rollout] = {}
        start = time.monotonic()
        with settings.reporter.task(f"finding max_tokens of {self.behavior.name}", None) as task:
            tokens = self._try_limit(shard, found, 0, task.tokens)
            while needs_longer(self.behavior, list(found.values())) and self._raise_limit(found, room):
                tokens = self._try_limit(shard, found, tokens, task.tokens)
            if self.behavior.limit_source is LimitSource.AUTO and self.behavior.has_references:
                self.behavior = with_limit(self.behavior, self.behavior.sampling.max_tokens, LimitSource.REFERENCES)
            else:
                # Samples at temperature 1 are longer than greedy ones, so what these needed is doubled, as references are.
                self.behavior = with_limit(self.behavior, self.behavior.sampling.max_tokens, LimitSource.PILOT)
                most_ended = 2 * sum(one.truncated for one in found.values()) <= len(found)
                if most_ended and self._raise_limit(found, room):
                    tokens = self._try_limit(shard, found, tokens, task.tokens)
        settings.directory.record_limits(limit_record([self.behavior]))
        self._set_aside_others([shard.name])
        cost = Cost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(found))
        settings.directory.write_rollouts(shard.name, [found[portion.problem.id] for portion in shard.portions], cost)
        self._read()

    def _raise_limit(self, found: Mapping[str, Rollout], room: int) -> bool:
        """Give the behavior the limit that is tried next, and return whether it is a higher one."""
        tried = self.behavior.sampling.max_tokens
        if (limit := next_limit(tried, list(found.values()), room)) == tried:
            return False
        self.behavior = with_limit(self.behavior, limit, LimitSource.PILOT)
        return True

    def _try_limit(self, shard: shards.Shard, found: dict[str, Rollout], used: int, on_tokens: Callable[[int], None]) -> int:
        """Sample what is not in `found`, or ran into a lower limit there, and return the tokens used so far."""
        settings = self._settings
        waiting = tuple(one for one in shard.portions if one.problem.id not in found or found[one.problem.id].truncated)
        self._check_room_for(len(waiting), used)
        if waiting:
            for _, rollouts in shards.sample_shards(
                settings.engine, self._grade, self.behavior, [replace(shard, portions=waiting)],
                seed=settings.sampling_seed, on_tokens=on_tokens,
            ):  # fmt: skip
                found |= {one.problem_id: one for one in rollouts}
                used += sum(len(one.token_ids) for one in rollouts)
        return used

    def _check_room_for(self, num_samples: int, used: int) -> None:
        """Refuse first samples that may take more tokens than are left.

        Raises:
            SettingsError: Code `budget_too_small`.
        """
        needed, left = used + num_samples * self.behavior.sampling.max_tokens, self._budget.left()
        if left is not None and needed > left:
            raise too_small(f"{left:,} tokens for {self.behavior.name}, and its first samples may take {needed:,}", needed)

    def greedy_tokens(self, pilot: Sequence[Rollout]) -> int:
        """Return the tokens that all greedy samples and one sample more are likely to take; 0 where the greedy ones are taken.

        Args:
            pilot: The first greedy samples.
        """
        if self._has_greedy or not pilot:
            return 0
        mean = sum(len(one.token_ids) for one in pilot) / len(pilot)
        return round(mean * (len(self._problems) + 1))

    def _sample(self, planned: Sequence[shards.Shard], words: str) -> None:
        """Sample and store those shards that are not stored yet."""
        settings = self._settings
        missing = [shard for shard in planned if not settings.directory.shard("rollouts", shard.name).exists()]
        with settings.reporter.task(words, sum(shard.num_samples for shard in missing)) as task:
            start = time.monotonic()
            for shard, rollouts in shards.sample_shards(
                settings.engine, self._grade, self.behavior, missing, seed=settings.sampling_seed, on_tokens=task.tokens
            ):
                settings.directory.write_rollouts(shard.name, rollouts, shards.sampling_cost(rollouts, time.monotonic() - start))
                task.advance(len(rollouts))
                start = time.monotonic()

    def _keep_plan(self, round_: Round) -> None:
        """Store an adaptive round before it is sampled: planned again later, with less left of a shared budget, it could be another."""
        directory, number = self._settings.directory, self.num_rounds
        if not self._settings.goal.adaptive or directory.part(PLANS, self._plan_name(number)).exists():
            return
        for path in directory.shards("rollouts", self.behavior.name):  # of later rounds, planned from what is no longer there
            if (place := round_of(path.stem)) and place[0] == SAMPLED and place[1] > number:
                self._move_aside(path)
                directory.part(PLANS, self._plan_name(place[1])).unlink(missing_ok=True)
        extra = dict(zip((problem.id for problem in self._problems), round_.extra.tolist(), strict=True))
        content = {"extra": extra, "reason": round_.reason, "words": round_.words, "priority": round_.priority}
        directory.write_part(PLANS, self._plan_name(number), content)

    def _kept_plan(self) -> Round | None:
        """Return the next round where it was planned before."""
        directory, name = self._settings.directory, self._plan_name(self.num_rounds)
        if not directory.part(PLANS, name).exists():
            return None
        kept = directory.read_part(PLANS, name)
        with refuse_damage(directory.part(PLANS, name)):
            extra = np.array([kept["extra"][problem.id] for problem in self._problems], dtype=np.int64)
            return Round(extra=extra, reason=RoundReason(kept["reason"]), words=kept["words"], priority=float(kept["priority"]))

    def _plan_name(self, number: int) -> str:
        return f"{self.behavior.name}.{self._settings.split}.{number:04d}"

    def _set_aside_others(self, planned: Sequence[str]) -> None:
        """Move shards of this round aside that are planned otherwise, such as those of an earlier version."""
        directory = self._settings.directory
        for path in directory.shards("rollouts", self.behavior.name):
            if round_of(path.stem) == round_of(planned[0]) and path.stem not in planned:
                self._move_aside(path)

    def _move_aside(self, path: Path) -> None:
        move_aside(self._settings.directory, path)
        self._settings.reporter.say(
            f"{path}: was planned otherwise; moved to {self._settings.directory.path / ASIDE}, and sampled again"
        )

    def _read(self) -> None:
        """Read the samples of all rounds that are complete."""
        directory, behavior = self._settings.directory, self.behavior
        names = [path.stem for path in directory.shards("rollouts", behavior.name)]
        greedy, rounds = complete_rounds(names, GREEDY), complete_rounds(names, SAMPLED)
        self._has_greedy, self.num_rounds = bool(greedy), len(rounds)
        paths = [directory.shard("rollouts", name) for round_ in greedy + rounds for name in round_]
        self.rollouts = RolloutTable.read(paths, directory.identity)
        check_samples(directory.path, behavior.name, self.rollouts)
        self._greedy_tokens = self._count_greedy_tokens()
        self.counts: SamplingMeasurement = count_successes(behavior, self._problems, self.rollouts)
        self._planned = None
        self._budget.record(behavior.name, int(self.rollouts.num_tokens.sum()), sampled=self.num_rounds > 0)

    def _count_greedy_tokens(self) -> int:
        """Return the tokens of the greedy samples, or those that they are likely to take by the pilot's; 0 where there is none."""
        directory, tokens = self._settings.directory, self.rollouts.num_tokens[self.rollouts.greedy]
        if not self._has_greedy:
            pilot = shards.plan_greedy(self.behavior, self._settings.split, self._settings.rows_per_shard)[0].name
            if not (path := directory.shard("rollouts", pilot)).exists():
                return 0
            tokens = RolloutTable.read([path], directory.identity).num_tokens
        return round(float(tokens.mean()) * len(self._problems)) if tokens.size else 0

    def _next(self) -> Round:
        """Plan the next round, with what the others have left of the budget."""
        goal = self._budget.goal_of(self.behavior.name, self._settings.goal)
        if self._planned is None or self._planned[0] != goal:
            if (kept := self._kept_plan()) is not None:
                self._planned = goal, kept
                return kept
            counts = SampleCounts(
                num_samples=self.counts.num_samples,
                num_correct=self.counts.num_correct,
                num_sampled=self.counts.num_sampled,
                generated_tokens=int(self.rollouts.num_tokens.sum()),
                greedy_tokens=self._greedy_tokens,
                groups=self.counts.groups,
            )
            planned = next_round(
                counts,
                goal,
                epsilon=self.behavior.measure.epsilon,
                primary_k=self.behavior.measure.primary_k,
                max_tokens=self.behavior.sampling.max_tokens,
                thresholds=self._settings.thresholds,
                seed=self._settings.seed,
            )
            self._planned = goal, planned
        return self._planned[1]
