"""Measuring the behaviors of a run: sample, score, check, probe. Everything is stored; nothing is decided here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from posttrain.diagnose.measure.format_check import can_try_formats, score_formats
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.measure.reference_likelihood import score_references, summarize_references
from posttrain.diagnose.measure.sample_checks import SampledBehavior
from posttrain.diagnose.measure.setup_checks import SetupChecks, check_setup
from posttrain.diagnose.measure.validity_checks import check_validity, rescore_samples
from posttrain.diagnose.pipeline.assemble import Unfinished
from posttrain.diagnose.pipeline.pilot import GO_ON, PILOT_STOPPED, SETUP_FAILED, Pilot, judge_pilot, needs_longer, reopen_stopped
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.runner import NONE, ProbeRun, run_probes, tokens_of_probes
from posttrain.diagnose.report.words import describe_limit
from posttrain.diagnose.sampling.behavior_sampler import BehaviorSampler, SamplingSettings
from posttrain.diagnose.sampling.token_budget import TokenBudget
from posttrain.diagnose.sampling.token_limit import limit_record, limit_without_pilot
from posttrain.diagnose.storage.diagnosis_json import SamplingEntry, ValidityEntry
from posttrain.diagnose.storage.run_check import ASIDE, set_aside
from posttrain.diagnose.types import Behavior, Cost, LimitSource, PathScore, Rollout, SamplingMeasurement, ValidityCode
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import SelfTest, verifier_selftest


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVerifier:
    """A verifier that can grade, with what its self-test said."""

    grader: Grader
    selftest: SelfTest


LONG = 120.0
"""Seconds of sampling from which a first report is written after the first round, and before the probes, which may take as long again."""
VerifierOf = Callable[[Behavior], OpenVerifier]


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyChecks:
    """What was found before a behavior is sampled beyond its pilot."""

    setup: SetupChecks
    pilot: Pilot = field(default_factory=Pilot)

    @property
    def ended_code(self) -> str:
        """Return why the behavior is not sampled further; empty where it is."""
        return SETUP_FAILED if self.setup.failures else PILOT_STOPPED if self.pilot.checked else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementRun:
    """Measure the behaviors of a run; what lies in the run directory is kept."""

    settings: SamplingSettings
    probe_run: ProbeRun
    pilot: bool = True
    """Whether a behavior is left where its pilot shows that its settings do not fit; else one that was left there is sampled on."""
    rooms: Mapping[str, int] = field(default_factory=dict)
    """Name of a behavior whose `max_tokens` is to be found → tokens that a sample may have at most."""
    report_first: Callable[[Behavior, Unfinished], None] | None = None
    """Called with a behavior that takes long, and with how far it has come."""

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
                    selftest = verifier_selftest(behavior, grader, behavior.split(self.settings.split), self.settings.thresholds)
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
        setups = {behavior.name: self._check_setup(behavior, verifier_of(behavior)) for behavior in unfinished}
        unfinished = [self._find_limit(behavior, setups[behavior.name], verifier_of, budget) for behavior in unfinished]
        for behavior in unfinished:
            if behavior.limit_source not in (LimitSource.GIVEN, LimitSource.AUTO):
                limit = describe_limit(behavior.sampling.max_tokens, behavior.limit_source)
                self.settings.reporter.say(f"{behavior.name}: a sample may have {limit}")
        early = self._sample_pilots(unfinished, setups, verifier_of, budget)
        for group in [unfinished] if budget.shared else [[behavior] for behavior in unfinished]:
            self._measure_together(group, verifier_of, budget, early)

    def _check_setup(self, behavior: Behavior, opened: OpenVerifier) -> SetupChecks:
        """Return what is found before a behavior is sampled."""
        settings, problems = self.settings, behavior.split(self.settings.split)
        setup = check_setup(behavior, settings.engine, settings.thresholds, opened.selftest, problems)
        if setup.failures:
            settings.reporter.say(f"{behavior.name}: not sampled: {'; '.join(one.words for one in setup.failures)}")
        return setup

    def _find_limit(self, behavior: Behavior, setup: SetupChecks, verifier_of: VerifierOf, budget: TokenBudget) -> Behavior:
        """Return a behavior whose `max_tokens` is known, and record it; where nothing is going to be sampled it stays unknown."""
        if behavior.limit_source is not LimitSource.AUTO or setup.failures:
            return behavior
        settings, room = self.settings, self.rooms[behavior.name]
        if self.pilot:
            most = settings.thresholds.max_pilot_limit
            grader = verifier_of(behavior).grader
            sampler = BehaviorSampler(behavior, grader.grade, settings, budget)
            sampler.find_limit(room, lambda one, rollouts: needs_longer(one, settings.engine, rollouts, most))
            grader.rest()
            behavior = sampler.behavior
        else:
            behavior = limit_without_pilot(settings.engine, behavior, room)
            settings.directory.record_limits(limit_record([behavior]))
        return behavior

    def _sample_pilots(
        self, behaviors: Sequence[Behavior], setups: Mapping[str, SetupChecks], verifier_of: VerifierOf, budget: TokenBudget
    ) -> dict[str, EarlyChecks]:
        """Return what setup checks and pilots showed, those of all behaviors before anything else is sampled.

        Where tokens are limited, the first greedy samples are taken in any case: they tell what all of them take.

        Raises:
            SettingsError: The limit does not hold the greedy samples (`budget_too_small`).
        """
        settings, found = self.settings, dict[str, EarlyChecks]()
        greedy_tokens: dict[str, int] = {}
        for behavior in behaviors:
            early = EarlyChecks(setup=setups[behavior.name])
            if not early.ended_code and (self.pilot or budget.limited):
                grader = verifier_of(behavior).grader
                sampler = BehaviorSampler(behavior, grader.grade, settings, budget)
                rollouts = sampler.sample_pilot()
                if self.pilot:
                    early = replace(early, pilot=self._judge_pilot(behavior, rollouts))
                if not early.ended_code:
                    greedy_tokens[behavior.name] = sampler.greedy_tokens(rollouts)
                grader.rest()
            found[behavior.name] = early
        budget.check_greedy(greedy_tokens)
        return found

    def _judge_pilot(self, behavior: Behavior, rollouts: Sequence[Rollout]) -> Pilot:
        settings = self.settings
        pilot = judge_pilot(behavior, settings.engine, rollouts, settings.thresholds, lambda: self._score_formats(behavior))
        if pilot.checked:
            settings.reporter.say(f"{behavior.name}: stopped after the pilot: {'; '.join(pilot.entry.failures)}; or {GO_ON}")
        return pilot

    def _measure_together(
        self, behaviors: Sequence[Behavior], verifier_of: VerifierOf, budget: TokenBudget, early: Mapping[str, EarlyChecks]
    ) -> None:
        """Serve the behavior with the lowest priority until all are finished."""
        waiting = []
        for behavior in behaviors:
            grader = verifier_of(behavior).grader
            waiting.append((BehaviorSampler(behavior, grader.grade, self.settings, budget), grader))
        while waiting:
            sampler, grader = served = min(waiting, key=lambda one: one[0].priority)
            found = early[sampler.behavior.name]
            if found.ended_code or sampler.done:
                self._finish(sampler, grader, found, budget)
                grader.close()
                waiting.remove(served)
            else:
                had_samples = sampler.num_rounds > 0
                sampler.sample_round()
                if sampler.num_rounds and not had_samples and not sampler.done and self._is_long(sampler):
                    self._check_samples(sampler, found)
                    self._report_first(sampler, SamplingEntry(pilot=found.pilot.entry), sampler.to_come)

    def _is_long(self, sampler: BehaviorSampler) -> bool:
        """Return whether a behavior takes so long that it is reported before it is finished."""
        return self.settings.directory.cost(sampler.behavior.name, sampler.rollouts).seconds > LONG

    def _report_first(self, sampler: BehaviorSampler, plan: SamplingEntry, to_come: str) -> None:
        if self.report_first:
            self.report_first(sampler.behavior, Unfinished(plan=plan, to_come=to_come))

    def _finish(self, sampler: BehaviorSampler, grader: Grader, early: EarlyChecks, budget: TokenBudget) -> None:
        """Score, check and probe a behavior that is sampled to the end, and mark it as done."""
        settings, behavior, directory = self.settings, sampler.behavior, self.settings.directory
        plan = _describe_sampling(sampler, early, adaptive=settings.goal.adaptive)
        if (samples := self._check_samples(sampler, early)) is not None:
            if NONE not in self.probe_run.names and self._is_long(sampler):
                self._report_first(sampler, plan, "further probes")
            measured = MeasuredBehavior(
                behavior=behavior,
                split=settings.split,
                counts=sampler.counts,
                posterior=posterior_of(
                    sampler.counts, epsilon=behavior.measure.epsilon, thresholds=settings.thresholds, seed=settings.seed
                ),
                rollouts=sampler.rollouts,
                paths=summarize_references(behavior, tuple(samples.paths)),
            )
            run_probes(self.probe_run, measured, grader.grade, tokens_left=budget.left())
        self._record(budget, behavior, int(directory.rollout_table(behavior.name).num_tokens.sum()))
        directory.write_done(behavior.name, plan.to_json())

    def _check_samples(self, sampler: BehaviorSampler, early: EarlyChecks) -> SampledBehavior | None:
        """Score and check what is sampled of a behavior, store whether it can be believed, and return it where probes can ask about it."""
        settings, behavior = self.settings, sampler.behavior
        samples = None if early.ended_code else self._score_samples(sampler)
        validity = check_validity(behavior, settings.engine, settings.thresholds, early.setup, samples)
        if early.pilot.checked:
            pilot = early.pilot
            validity = replace(
                validity,
                checks=(*validity.checks, *(check for check, _ in pilot.checked)),
                failures=tuple(pilot.entry.failures),
                failure_codes=tuple(pilot.entry.codes),
                unread=pilot.unread.texts,
                share_stated=pilot.unread.share_stated,
            )
        settings.directory.write_part("validity", behavior.name, ValidityEntry.model_validate(validity).to_json())
        if samples is None or not set(validity.failure_codes) <= {ValidityCode.UNREAD} or not sampler.counts.num_samples.any():
            return None
        return samples

    def _score_samples(self, sampler: BehaviorSampler) -> SampledBehavior:
        """Return the samples of a behavior with what is scored beside them."""
        settings, behavior, counts = self.settings, sampler.behavior, sampler.counts
        rescored: Sequence[PathScore] = ()
        if settings.engine.info.can_score:
            self._score_references(behavior)
            rescored = self._rescore_samples(sampler)
        return SampledBehavior(
            problems=behavior.split(settings.split),
            counts=counts,
            rollouts=sampler.rollouts,
            paths=tuple(settings.directory.read_paths(behavior.name)),
            rescored=rescored,
            formats=self._score_formats(behavior) if _mostly_fails(counts) else (),
        )

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

    def _score_formats(self, behavior: Behavior) -> Sequence[PathScore]:
        directory, engine = self.settings.directory, self.settings.engine
        if not can_try_formats(behavior, engine):
            return ()
        name = f"{behavior.name}.{self.settings.split}.00000"
        if not directory.shard("formats", name).exists():
            with self.settings.reporter.task(f"checking the prompt of {behavior.name}", None) as task:
                start = time.monotonic()
                scored = score_formats(engine, behavior, behavior.split(self.settings.split), on_tokens=task.tokens)
                directory.write_paths(name, scored, _scoring_cost(scored, start), kind="formats")
        return list(directory.read_paths(behavior.name, kind="formats"))

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


def _describe_sampling(sampler: BehaviorSampler, early: EarlyChecks, *, adaptive: bool) -> SamplingEntry:
    """Return how the sampling of a behavior went, and why it ended."""
    pilot = early.pilot.entry
    if early.ended_code:
        words = {SETUP_FAILED: "a setup check failed", PILOT_STOPPED: "the pilot showed that the settings do not fit"}
        return SamplingEntry(pilot=pilot, ended_because=words[early.ended_code], ended_code=early.ended_code)
    if not adaptive:
        return SamplingEntry(pilot=pilot)
    end = sampler.end
    return SamplingEntry(num_rounds=sampler.num_rounds, ended_because=end.words, ended_code=end.reason, pilot=pilot)


def _scoring_cost(paths: Sequence[PathScore], start: float) -> Cost:
    return Cost(seconds=time.monotonic() - start, scored_tokens=sum(len(path.token_ids) for path in paths))


def _mostly_fails(counts: SamplingMeasurement) -> bool:
    return 2 * int(counts.num_correct.sum()) < int(counts.num_samples.sum())
