"""Draw what behaviors lack: samples round by round, scores of reference paths, probes.

Behaviors come one after the other, but for those that share a budget of tokens: these take turns, round by round, and the next round
belongs to the behavior that is likely to be settled with the fewest tokens (`rounds.turn_of`). So a label that hangs by a hair does not
spend what would have settled three others. What is not about a label, probes among it, waits until the near ones are settled.

Whose turn it is depends on counts and on what probes took, so that a run that was stopped takes the same turns again. Of what is finished only
these are read.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.measure import reference_likelihood, validity_checks
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.runner import ProbeInputs, ProbeRun, run_probes, tokens_of_probes
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import shards, stopping
from posttrain.diagnose.storage.diagnosis_json import validity_to_json
from posttrain.diagnose.storage.rollout_table import SAMPLED, RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory, write_json
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Cost, PathScore, Problem, Split
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest

Turns = Generator[float, None, None]
"""Yields whenever another behavior may go first: the lowest number is next."""


class Purse:
    """The tokens that the behaviors of a run may generate, if they are limited.

    Args:
        total: Tokens of all behaviors; None for no limit.
        behaviors: Their names.
    """

    def __init__(self, total: int | None, behaviors: Sequence[str]) -> None:
        self._total = total
        self._spent = dict.fromkeys(behaviors, 0)
        self._unseen = set(behaviors)

    @property
    def shared(self) -> bool:
        """Whether what one behavior spends another lacks."""
        return self._total is not None and len(self._spent) > 1

    def left(self) -> int | None:
        """Tokens that may still be generated; None where nothing limits them."""
        return None if self._total is None else self._total - sum(self._spent.values())

    def spend(self, behavior: str, tokens: int, *, seen: bool = True) -> None:
        """Book all that a behavior has generated so far; `seen`: it has had its first samples."""
        self._spent[behavior] = tokens
        if seen:
            self._unseen.discard(behavior)

    def goal_of(self, behavior: str, goal: stopping.Goal) -> stopping.Goal:
        """The goal of one behavior: all that is left, or before its first samples an equal share with those that have none either."""
        left = self.left()
        if left is None:
            return goal
        share = left // len(self._unseen) if behavior in self._unseen else left
        return replace(goal, max_tokens=self._spent[behavior] + max(0, share))


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What it takes to draw for the behaviors of a run."""

    directory: RunDirectory
    engine: Engine
    helpers: ProbeInputs
    probes: Sequence[str]
    goal: stopping.Goal
    split: Split
    seed: str
    thresholds: Thresholds
    reporter: Reporter

    def draw(self, behaviors: Sequence[Behavior]) -> None:
        """Draw and store what is not there yet."""
        purse = Purse(self.goal.max_tokens, [behavior.name for behavior in behaviors])
        if all(self.directory.validity(behavior.name).exists() for behavior in behaviors):
            return
        arrival = count()
        with ExitStack() as opened:
            waiting: list[tuple[float, int, Turns]] = []
            for behavior in behaviors:
                turns = self._behavior(behavior, purse)
                opened.callback(turns.close)
                waiting.append((0.0, next(arrival), turns))
            while waiting:
                _, _, turns = heapq.heappop(waiting)
                turn = next(turns, None)
                if turn is not None:
                    heapq.heappush(waiting, (turn, next(arrival), turns))

    def _behavior(self, behavior: Behavior, purse: Purse) -> Turns:
        directory, engine, thresholds = self.directory, self.engine, self.thresholds
        target = directory.validity(behavior.name)
        if target.exists():  # written last: everything else is there
            yield from self._turns_taken(behavior, purse)
            return
        problems = behavior.split(self.split)
        rollouts = RolloutTable.read(())
        agreement: list[PathScore] = []
        with Grader(behavior) as grader:
            selftest = verifier_selftest(behavior, grader, problems)
            if selftest.failures:
                purse.spend(behavior.name, 0)
            else:
                rollouts = yield from self._rollouts(behavior, grader, purse)
                self._scores(behavior, problems, rollouts)
                agreement = list(directory.read_paths(behavior.name, kind="agreement"))
            counts = shards.measure(behavior, problems, rollouts)
            measured = validity_checks.measure(behavior, engine, thresholds, selftest, counts, rollouts, agreement)
            if not measured.failures:
                paths = reference_likelihood.measure(behavior, tuple(directory.read_paths(behavior.name)))
                run = ProbeRun(
                    names=self.probes,
                    directory=directory,
                    policy=engine,
                    inputs=self.helpers,
                    thresholds=thresholds,
                    seed=self.seed,
                    reporter=self.reporter,
                )
                measured_behavior = MeasuredBehavior(
                    behavior=behavior,
                    split=self.split,
                    counts=counts,
                    posterior=posterior_of(counts, epsilon=behavior.measure.epsilon, thresholds=thresholds),
                    rollouts=rollouts,
                    paths=paths,
                )
                run_probes(run, measured_behavior, grader.grade, tokens_left=purse.left())
                purse.spend(behavior.name, int(rollouts.num_tokens.sum()) + tokens_of_probes(directory, behavior))
        write_json(target, validity_to_json(measured))

    def _turns_taken(self, behavior: Behavior, purse: Purse) -> Turns:
        """Take the turns of a finished behavior again, and book what it spent."""
        if purse.shared and self.directory.rounds(behavior.name).exists():
            for number, one in enumerate(json.loads(self.directory.rounds(behavior.name).read_text())):
                purse.spend(behavior.name, one["tokens"], seen=number > 0)
                yield one["turn"]
            purse.spend(behavior.name, one["tokens"] + tokens_of_probes(self.directory, behavior))
        else:
            purse.spend(behavior.name, 0)

    def _rollouts(self, behavior: Behavior, grader: Grader, purse: Purse) -> Generator[float, None, RolloutTable]:
        """Draw the greedy samples, then round after round until the goal is reached, and return all of them."""
        problems = behavior.split(self.split)
        planned_shards = shards.plan_greedy(behavior, self.split)
        known: list[shards.Shard] = []
        words: list[dict[str, Any]] = []

        def plan() -> stopping.Round:
            return stopping.next_round(
                counts,
                purse.goal_of(behavior.name, self.goal),
                epsilon=behavior.measure.epsilon,
                primary_k=behavior.measure.primary_k,
                max_tokens=behavior.sampling.max_tokens,
                thresholds=self.thresholds,
                seed=0,
                known=posterior,
            )

        while True:
            why = f"sampling {behavior.name}"
            self._samples(
                behavior, grader, planned_shards, why if self.goal.samples or not words else f"{why}: {words[-1]['why']}"
            )
            known += planned_shards
            table = RolloutTable.read(self.directory.shard("rollouts", shard.name) for shard in known)
            measured = shards.measure(behavior, problems, table)
            counts = stopping.Counts(
                num_samples=measured.num_samples,
                num_correct=measured.num_correct,
                num_sampled=measured.num_samples + measured.num_missing,
                generated_tokens=int(table.num_tokens.sum()),
                groups=measured.groups,
            )
            purse.spend(behavior.name, counts.generated_tokens, seen=bool(counts.num_sampled.any()))
            posterior = None
            if self.goal.samples is None and counts.num_sampled.any():
                posterior = stopping.known_of(counts, epsilon=behavior.measure.epsilon, thresholds=self.thresholds, seed=0)
            planned = plan()
            turn = stopping.later(counts.generated_tokens) if planned.last else planned.turn
            if purse.shared:
                yield turn
                planned = planned if planned.last else plan()  # others may have spent since
            words.append(
                {"samples": int(planned.extra.sum()), "why": planned.why, "tokens": counts.generated_tokens, "turn": turn}
            )
            if planned.last:
                break
            number = sum(shard.decoding == SAMPLED for shard in known)
            planned_shards = shards.plan_round(behavior, self.split, counts.num_sampled, planned.extra, number)
        purse.spend(behavior.name, counts.generated_tokens)
        if self.goal.samples is None:
            write_json(self.directory.rounds(behavior.name), words)
        return table

    def _samples(self, behavior: Behavior, grader: Grader, planned: Sequence[shards.Shard], why: str) -> None:
        todo = [shard for shard in planned if not self.directory.shard("rollouts", shard.name).exists()]
        if not todo:
            return
        with self.reporter.task(why, sum(shard.num_samples for shard in todo)) as task:
            start = time.monotonic()
            for shard, rollouts in shards.draw(self.engine, grader.grade, behavior, todo, seed=self.seed, on_tokens=task.tokens):
                tokens = sum(len(rollout.token_ids) for rollout in rollouts)
                cost = Cost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(rollouts))
                self.directory.write_rollouts(shard.name, rollouts, cost)
                task.advance(len(rollouts))
                start = time.monotonic()

    def _scores(self, behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable) -> None:
        directory, engine = self.directory, self.engine
        if not engine.info.can_score:
            return
        name = f"{behavior.name}.{self.split}.00000"
        num_paths = sum(len(problem.references) for problem in problems)
        if num_paths and not directory.shard("paths", name).exists():
            with self.reporter.task(f"scoring {behavior.name}", num_paths) as task:
                start = time.monotonic()

                def on_path(num_tokens: int) -> None:
                    task.advance()
                    task.tokens(num_tokens)

                paths = reference_likelihood.draw(engine, behavior, problems, on_tokens=on_path)
                cost = Cost(seconds=time.monotonic() - start, scored_tokens=sum(len(p.token_ids) for p in paths))
                directory.write_paths(name, paths, cost)
        if not directory.shard("agreement", name).exists():
            with self.reporter.task(f"checking {behavior.name}", None) as task:
                start = time.monotonic()
                scored = validity_checks.draw_agreement(engine, behavior, problems, rollouts, on_tokens=task.tokens)
                cost = Cost(seconds=time.monotonic() - start, scored_tokens=sum(len(p.token_ids) for p in scored))
                directory.write_paths(name, scored, cost, kind="agreement")
