"""Measuring the behaviors of a run: sample, score, check, probe. Everything is stored; nothing is decided here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from posttrain.diagnose.measure.reference_likelihood import score_references, summarize_references
from posttrain.diagnose.measure.validity_checks import check_validity, rescore_samples
from posttrain.diagnose.pipeline.pilot import (
    GO_ON,
    PILOT_STOPPED,
    check_setup,
    judge_pilot,
    needs_longer,
    pilot_check,
    reopen_stopped,
)
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.runner import ProbeRun, run_probes, tokens_of_probes
from posttrain.diagnose.report.words import describe_limit
from posttrain.diagnose.sampling.behavior_sampler import BehaviorSampler, SamplingSettings
from posttrain.diagnose.sampling.token_budget import TokenBudget
from posttrain.diagnose.sampling.token_limit import limit_record, limit_without_pilot
from posttrain.diagnose.storage.diagnosis_json import PilotEntry, SamplingEntry, ValidityEntry
from posttrain.diagnose.storage.run_check import ASIDE, set_aside
from posttrain.diagnose.types import Behavior, Cost, LimitSource, PathScore
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import SelfTest, verifier_selftest


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVerifier:
    """A verifier that can grade, with what its self-test said."""

    grader: Grader
    selftest: SelfTest


VerifierOf = Callable[[Behavior], OpenVerifier]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementRun:
    """Measure the behaviors of a run; what lies in the run directory is kept."""

    settings: SamplingSettings
    probe_run: ProbeRun
    pilot: bool = True
    """Whether a behavior is left where its pilot shows that its settings do not fit; else one that was left there is sampled on."""
    rooms: Mapping[str, int] = field(default_factory=dict)
    """Name of a behavior whose `max_tokens` is to be found → tokens that a sample may have at most."""

    @contextmanager
    def open_verifiers(self, behaviors: Sequence[Behavior]) -> Iterator[VerifierOf]:
        """Open and test the verifiers of all behaviors that are not measured to the end, before anything is sampled.

        Yields:
            What gives the verifier of a behavior, and opens one that is not open yet.

        Raises:
            UserError: A verifier needs something that is missing.
            VerifierError: The process of a verifier cannot be started.
        """
        with ExitStack() as opened:
            known: dict[str, OpenVerifier] = {}

            def verifier_of(behavior: Behavior) -> OpenVerifier:
                if behavior.name not in known:
                    grader = opened.enter_context(Grader(behavior))
                    grader.check_ready()
                    selftest = verifier_selftest(behavior, grader, behavior.split(self.settings.split))
                    grader.rest()
                    known[behavior.name] = OpenVerifier(grader=grader, selftest=selftest)
                return known[behavior.name]

            for behavior in behaviors:
                if not self.pilot:
                    reopen_stopped(self.settings.directory, behavior.name)
                if not self.settings.directory.is_done(behavior.name):
                    verifier_of(behavior)
            yield verifier_of

    def measure(self, behaviors: Sequence[Behavior], verifier_of: VerifierOf | None = None) -> None:
        """Measure what is not measured to the end, with the verifiers that `open_verifiers` gave, or else with some of its own.

        Behaviors come one after the other, but for those that share a budget: of these the one that is likely to be decided with the fewest
        tokens is sampled next, round by round, so that a borderline label does not use what would have decided three others. What is not
        about a label, probes among it, waits until the near ones are decided.
        """
        if verifier_of is None:
            with self.open_verifiers(behaviors) as own:
                self.measure(behaviors, own)
            return
        directory = self.settings.directory
        for behavior in behaviors:
            if found := set_aside(directory, behavior.name):
                self.settings.reporter.say(
                    f"{behavior.name}: {', '.join(found[:3])}{' and others' if len(found) > 3 else ''} damaged or missing; made again "
                    f"(what is damaged is kept in {directory.path / ASIDE})"
                )
        budget = TokenBudget(self.settings.goal.max_tokens, [behavior.name for behavior in behaviors])
        unfinished = [behavior for behavior in behaviors if not directory.is_done(behavior.name)]
        for behavior in behaviors if unfinished and budget.limited else ():
            if behavior not in unfinished:
                self._record(budget, behavior, int(directory.rollout_table(behavior.name).num_tokens.sum()))
        unfinished = [self._find_limit(behavior, verifier_of, budget) for behavior in unfinished]
        for behavior in unfinished:
            if behavior.limit_source not in (LimitSource.GIVEN, LimitSource.AUTO):
                limit = describe_limit(behavior.sampling.max_tokens, behavior.limit_source)
                self.settings.reporter.say(f"{behavior.name}: a sample may have {limit}")
        pilots = self._sample_pilots(unfinished, verifier_of, budget)
        for group in [unfinished] if budget.shared else [[behavior] for behavior in unfinished]:
            self._measure_together(group, verifier_of, budget, pilots)

    def _find_limit(self, behavior: Behavior, verifier_of: VerifierOf, budget: TokenBudget) -> Behavior:
        """Return a behavior whose `max_tokens` is known, and record it; where nothing is going to be sampled it stays unknown."""
        if behavior.limit_source is not LimitSource.AUTO:
            return behavior
        opened, settings, room = verifier_of(behavior), self.settings, self.rooms[behavior.name]
        if opened.selftest.failures or (self.pilot and check_setup(behavior, settings.engine).codes):
            return behavior
        if self.pilot:
            has_references = any(problem.references for problem in behavior.problems)
            most = settings.thresholds.max_pilot if has_references else settings.thresholds.max_pilot_limit
            sampler = BehaviorSampler(behavior, opened.grader.grade, settings, budget)
            sampler.find_limit(room, lambda one, rollouts: needs_longer(one, settings.engine, rollouts, most))
            opened.grader.rest()
            behavior = sampler.behavior
        else:
            behavior = limit_without_pilot(settings.engine, behavior, room)
            settings.directory.record_limits(limit_record([behavior]))
        return behavior

    def _sample_pilots(
        self, behaviors: Sequence[Behavior], verifier_of: VerifierOf, budget: TokenBudget
    ) -> dict[str, PilotEntry]:
        """Return what the pilot of each behavior showed, those of all behaviors before anything else is sampled.

        Where tokens are limited, the first greedy samples are taken in any case: they tell what all of them take.

        Raises:
            SettingsError: The limit does not hold the greedy samples (`budget_too_small`).
        """
        found: dict[str, PilotEntry] = {}
        greedy_tokens: dict[str, int] = {}
        for behavior in behaviors:
            opened, engine = verifier_of(behavior), self.settings.engine
            if opened.selftest.failures or not (self.pilot or budget.limited):
                found[behavior.name] = PilotEntry()
                continue
            entry = check_setup(behavior, engine) if self.pilot else PilotEntry()
            if not entry.codes:
                sampler = BehaviorSampler(behavior, opened.grader.grade, self.settings, budget)
                rollouts = sampler.sample_pilot()
                if self.pilot:
                    entry = judge_pilot(behavior, engine, rollouts, self.settings.thresholds)
                if not entry.codes:
                    greedy_tokens[behavior.name] = sampler.greedy_tokens(rollouts)
                opened.grader.rest()
            found[behavior.name] = entry
            if entry.codes:
                self.settings.reporter.say(f"{behavior.name}: stopped after the pilot: {'; '.join(entry.failures)}; or {GO_ON}")
        budget.check_greedy(greedy_tokens)
        return found

    def _measure_together(
        self, behaviors: Sequence[Behavior], verifier_of: VerifierOf, budget: TokenBudget, pilots: Mapping[str, PilotEntry]
    ) -> None:
        """Serve the behavior with the lowest priority until all are finished."""
        waiting = []
        for behavior in behaviors:
            verifier = verifier_of(behavior)
            waiting.append((BehaviorSampler(behavior, verifier.grader.grade, self.settings, budget), verifier))
        while waiting:
            sampler, verifier = served = min(waiting, key=lambda one: one[0].priority)
            pilot = pilots[sampler.behavior.name]
            if verifier.selftest.failures or pilot.codes or sampler.done:
                self._finish(sampler, verifier, pilot, budget)
                verifier.grader.close()
                waiting.remove(served)
            else:
                sampler.sample_round()

    def _finish(self, sampler: BehaviorSampler, verifier: OpenVerifier, pilot: PilotEntry, budget: TokenBudget) -> None:
        """Score, check and probe a behavior that is sampled to the end, and mark it as done."""
        settings, behavior, selftest = self.settings, sampler.behavior, verifier.selftest
        directory, engine = settings.directory, settings.engine
        is_sampled = not selftest.failures and not pilot.codes
        plan = SamplingEntry(pilot=pilot)
        if pilot.codes:
            plan = SamplingEntry(
                pilot=pilot, ended_because="the pilot showed that the settings do not fit", ended_code=PILOT_STOPPED
            )
        elif settings.goal.adaptive and is_sampled:
            end = sampler.end
            plan = SamplingEntry(num_rounds=sampler.num_rounds, ended_because=end.words, ended_code=end.reason, pilot=pilot)
        rescored: Sequence[PathScore] = ()
        if is_sampled and engine.info.can_score:
            self._score_references(behavior)
            rescored = self._rescore_samples(sampler)
        validity = check_validity(behavior, engine, settings.thresholds, selftest, sampler.counts, sampler.rollouts, rescored)
        if pilot.codes:
            validity = replace(validity, checks=(*validity.checks, pilot_check(pilot)), failures=tuple(pilot.failures))
        directory.write_part("validity", behavior.name, ValidityEntry.model_validate(validity).to_json())
        if not validity.failures and sampler.counts.num_samples.any():
            measured = MeasuredBehavior(
                behavior=behavior,
                split=settings.split,
                counts=sampler.counts,
                posterior=sampler.posterior,
                rollouts=sampler.rollouts,
                paths=summarize_references(behavior, tuple(directory.read_paths(behavior.name))),
            )
            run_probes(self.probe_run, measured, verifier.grader.grade, tokens_left=budget.left())
        self._record(budget, behavior, int(directory.rollout_table(behavior.name).num_tokens.sum()))
        directory.write_done(behavior.name, plan.to_json())

    def _record(self, budget: TokenBudget, behavior: Behavior, sample_tokens: int) -> None:
        """Record what a finished behavior has generated, its probes included."""
        budget.record(behavior.name, sample_tokens + tokens_of_probes(self.settings.directory, behavior))

    def _score_references(self, behavior: Behavior) -> None:
        directory, problems = self.settings.directory, behavior.split(self.settings.split)
        name = f"{behavior.name}.{self.settings.split}.00000"
        num_paths = sum(len(problem.references) for problem in problems)
        if not num_paths or directory.shard("paths", name).exists():
            return
        with self.settings.reporter.task(f"scoring {behavior.name}", num_paths) as task:
            start = time.monotonic()

            def on_path(num_tokens: int) -> None:
                task.advance()
                task.tokens(num_tokens)

            paths = score_references(self.settings.engine, behavior, problems, on_tokens=on_path)
            directory.write_paths(name, paths, _scoring_cost(paths, start))

    def _rescore_samples(self, sampler: BehaviorSampler) -> Sequence[PathScore]:
        directory, behavior = self.settings.directory, sampler.behavior
        name = f"{behavior.name}.{self.settings.split}.00000"
        if not directory.shard("agreement", name).exists():
            with self.settings.reporter.task(f"checking {behavior.name}", None) as task:
                start = time.monotonic()
                problems = behavior.split(self.settings.split)
                scored = rescore_samples(self.settings.engine, behavior, problems, sampler.rollouts, on_tokens=task.tokens)
                directory.write_paths(name, scored, _scoring_cost(scored, start), kind="agreement")
        return list(directory.read_paths(behavior.name, kind="agreement"))


def _scoring_cost(paths: Sequence[PathScore], start: float) -> Cost:
    return Cost(seconds=time.monotonic() - start, scored_tokens=sum(len(path.token_ids) for path in paths))
