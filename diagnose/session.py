"""One diagnosis from start to end: draw what is missing, store it, read it all back, decide, write the report.

Drawing and deciding are kept apart. Whatever was drawn lies in the run directory, shard by shard; the verdict and the report are made
from what lies there, so a run that was stopped and resumed ends like one that was not.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.diagnose.behaviors import load_behavior, load_behaviors
from posttrain.diagnose.design import Sight, sight
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.labels import Thresholds
from posttrain.diagnose.probes import path_likelihood, plumbing, rounds, sampling
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.report.content import BehaviorReport, Example
from posttrain.diagnose.results import diagnosis_to_json, plumbing_from_json, plumbing_to_json
from posttrain.diagnose.rollout_table import SAMPLED, RolloutTable
from posttrain.diagnose.stages import available
from posttrain.diagnose.store import RunDirectory, ShardCost, write_json
from posttrain.diagnose.types import Behavior, Diagnosis, GradeStatus, PathScore, Problem, Rollout, Split
from posttrain.diagnose.verdict import diagnose_behavior
from posttrain.diagnose.verifiers.sandbox import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest

DEFAULT_SAMPLES = 16
_EXAMPLES = 6


@dataclass(frozen=True, kw_only=True)
class MeasuredBehavior:
    """One behavior of a finished run: what was decided, and all that it rests on."""

    behavior: Behavior
    diagnosis: Diagnosis
    report: BehaviorReport
    table: RolloutTable
    """The rollouts as columns, for counting."""
    paths: tuple[PathScore, ...]

    @cached_property
    def rollouts(self) -> tuple[Rollout, ...]:
        """The rollouts themselves, in the order of the table; read from the run directory when first asked for."""
        return tuple(self.table.all_rows())


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedRun:
    """A finished run."""

    path: Path
    model: dict[str, Any]
    settings: dict[str, Any]
    behaviors: tuple[MeasuredBehavior, ...]

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """The diagnosis of each behavior."""
        return tuple(measured.diagnosis for measured in self.behaviors)

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html"

    def __getitem__(self, name: str) -> MeasuredBehavior:
        """The behavior of that name."""
        for measured in self.behaviors:
            if measured.behavior.name == name:
                return measured
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run would take, before a token is spent."""

    samples: int
    max_tokens: int
    """Upper bound of generated tokens: every sample at its limit."""
    reference_paths: int
    lines: tuple[str, ...]


def resolve_behaviors(behaviors: Sequence[str | Path | Behavior]) -> tuple[Behavior, ...]:
    """Load what is named, keep what is loaded, refuse duplicates."""
    names = [b for b in behaviors if not isinstance(b, Behavior)]
    if len(names) == len(behaviors):
        return load_behaviors([str(n) for n in names])
    loaded = tuple(b if isinstance(b, Behavior) else load_behavior(b) for b in behaviors)
    seen = [b.name for b in loaded]
    if len(set(seen)) < len(seen):
        raise SettingsError(f"behaviors: got the names {', '.join(seen)}; each may be given once")
    return loaded


def sampling_goal(samples: int | None, precision: float | None = None, max_tokens_total: int | None = None) -> rounds.Goal:
    """What to draw samples for; refuses what measures nothing.

    Raises:
        SettingsError: a number out of range, or a fixed number of samples and rounds at once.
    """
    if samples is not None and (precision is not None or max_tokens_total is not None):
        raise SettingsError(
            "--samples draws a fixed number, --precision and --max-tokens-total draw in rounds; give one or the other"
        )
    if samples is not None and samples < 1:
        raise SettingsError(f"--samples: got {samples}, at least 1 is needed; 16 is the default")
    if precision is not None and not 0.0 < precision < 0.5:
        raise SettingsError(f"--precision: got {precision:g}, a half-width between 0 and .5 is needed, such as .05")
    if max_tokens_total is not None and max_tokens_total < 1:
        raise SettingsError(f"--max-tokens-total: got {max_tokens_total}, at least 1 is needed, such as 100000")
    if samples is None and precision is None and max_tokens_total is None:
        samples = DEFAULT_SAMPLES
    return rounds.Goal(samples=samples, precision=precision, max_tokens=max_tokens_total)


def plan_run(
    behaviors: Sequence[str | Path | Behavior],
    *,
    samples: int | None = None,
    precision: float | None = None,
    max_tokens_total: int | None = None,
    split: Split = Split.EVAL,
) -> Plan:
    """What `run` with these arguments would draw, and what could be seen with it."""
    goal = sampling_goal(samples, precision, max_tokens_total)
    loaded = resolve_behaviors(behaviors)
    lines, total, bound, paths = [], 0, 0, 0
    for behavior in loaded:
        problems = behavior.split(split)
        most = goal.samples or rounds.MOST
        n = len(problems) * (most + 1)
        tokens = n * behavior.sampling.max_tokens
        if goal.max_tokens is not None:
            tokens = min(tokens, goal.max_tokens // len(loaded))
        references = sum(len(p.references) for p in problems)
        how = (
            f"{most} samples"
            if goal.samples
            else f"{rounds.FIRST} samples at first, then rounds until the label is settled, {most} on average at most,"
        )
        lines.append(
            f"{behavior.name}: {len(problems)} {split} problems × ({how} + 1 greedy) = {'' if goal.samples else 'at most '}{n} samples, "
            f"at most {tokens:,} tokens; {references} reference paths to score"
        )
        if problems:
            lines.append(
                "  " + _sight_in_words(sight(len(problems), most, behavior.measure.epsilon), most, behavior.measure.epsilon)
            )
        total, bound, paths = total + n, bound + tokens, paths + references
    return Plan(samples=total, max_tokens=bound, reference_paths=paths, lines=tuple(lines))


def _sight_in_words(seen: Sight, most: int, epsilon: float) -> str:
    rise = f"a single problem that rises from 0 to {seen.rise:.2f}" if not np.isnan(seen.rise) else "no rise of a single problem"
    return (
        f"with {most} samples of each, were success rates spread evenly: pass@1 to ± {seen.half_width:.3f}; against a second such run a change of "
        f"pass@1 of {seen.delta:.3f}, {rise} (80 % power); 0 of {most} rules out rates above {seen.resolves:.3f} "
        f"(epsilon = {epsilon:.2g} takes {seen.needed_for_epsilon})"
    )


def run(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    engine: str | Engine = "transformers",
    samples: int | None = None,
    precision: float | None = None,
    max_tokens_total: int | None = None,
    seed: int = 0,
    split: Split = Split.EVAL,
    thresholds: Thresholds | None = None,
    command: str = "",
    reporter: Reporter | None = None,
) -> DiagnosedRun:
    """Measure behaviors of a model, decide what binds each of them, and write `out`.

    Run again with the same arguments it resumes; what is finished is kept.

    Args:
        model: A Hugging Face directory or id, a GGUF file, `demo`, or what the engine reads.
        behaviors: Names of bundled behaviors, YAML or JSONL files, or loaded ones.
        out: The run directory.
        engine: Name of an engine, or an open one.
        samples: Samples per problem at the behavior's sampling settings; one greedy sample is drawn beside them. 16 where neither
            precision nor a budget is given.
        precision: In place of a number: draw in rounds, where it changes the verdict most, until the label is settled and the 95 % interval
            of pass@k at the primary k is this wide to either side.
        max_tokens_total: Draw in rounds until the label is settled, or this many tokens are generated, over all behaviors.
        seed: Names the draw. The model is part of the generators' key, so two models never share draws.
        split: Which problems to measure: eval, or final once at the end.
        thresholds: Every number the verdict hangs on.
        command: What to print under "how to reproduce".
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
    """
    goal = sampling_goal(samples, precision, max_tokens_total)
    reporter, thresholds, directory = reporter or Reporter(quiet=True), thresholds or Thresholds(), RunDirectory(Path(out))
    loaded = resolve_behaviors(behaviors)
    settings: dict[str, Any] = {
        "behaviors": {b.name: b.fingerprint for b in loaded},
        "samples": goal.samples,
        "precision": goal.precision,
        "max_tokens_total": goal.max_tokens,
        "seed": seed,
        "split": split.value,
        "thresholds": asdict(thresholds),
    }
    for behavior in loaded:
        if not behavior.split(split):
            raise SettingsError(
                f"behavior {behavior.name}: its {split} split is empty; give it problems, or measure another split"
            )
        if behavior.measure.epsilon >= thresholds.mastered:
            raise SettingsError(
                f"behavior {behavior.name}: measure.epsilon is {behavior.measure.epsilon:g}; it must lie below {thresholds.mastered:g}, "
                "the rate from which a problem counts as mastered"
            )
    directory.check("diagnose", settings)
    if isinstance(engine, str):
        with reporter.task(f"opening {model}", None):
            engine = open_engine(engine, str(model), loaded)
    info = engine.info
    settings |= {
        "engine": {"name": info.name, "sample_dtype": info.sample_dtype, "score_dtype": info.score_dtype},
        "model_fingerprint": info.model_fingerprint,
    }
    details = {
        "model": {"source": str(model), "fingerprint": info.model_fingerprint, "device": info.device},
        "versions": {"posttrain": version("posttrain"), "python": platform.python_version(), **info.versions},
        "sources": {b.name: str(Path(b.source).resolve()) if Path(b.source).is_file() else b.source for b in loaded},
        "command": command,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    _check_prompts(engine, loaded, split)
    directory.open("diagnose", settings, details)
    for index, behavior in enumerate(loaded):
        share = _share_of_tokens(directory, loaded, index, goal)
        _draw_behavior(directory, engine, behavior, share, split, f"{seed}:{info.model_fingerprint}", thresholds, reporter)
    return assemble(directory.path, behaviors=loaded)


def _share_of_tokens(directory: RunDirectory, behaviors: Sequence[Behavior], index: int, goal: rounds.Goal) -> rounds.Goal:
    """The goal of one behavior: of the tokens that those before have left, an equal share with those to come."""
    if goal.max_tokens is None:
        return goal
    spent = sum(int(directory.rollout_table(b.name).num_tokens.sum()) for b in behaviors[:index])
    return replace(goal, max_tokens=max(0, goal.max_tokens - spent) // (len(behaviors) - index))


def _check_prompts(engine: Engine, behaviors: Sequence[Behavior], split: Split) -> None:
    """Write every prompt once, so that one that cannot be written is refused before anything is drawn."""
    for behavior in behaviors:
        for problem in behavior.split(split):
            engine.encode_prompt(problem.prompt, behavior.prompt)


def _draw_behavior(
    directory: RunDirectory,
    engine: Engine,
    behavior: Behavior,
    goal: rounds.Goal,
    split: Split,
    seed: str,
    thresholds: Thresholds,
    reporter: Reporter,
) -> None:
    """Draw and store what is not there yet."""
    problems = behavior.split(split)
    plumbing_file = directory.path / "plumbing" / f"{behavior.name}.json"
    if plumbing_file.exists():  # written last: everything else is there
        return
    rollouts = RolloutTable.read(())
    agreement: list[PathScore] = []
    with Grader(behavior) as grader:
        selftest = verifier_selftest(behavior, grader, problems)
        if not selftest.failures:
            rollouts = _draw_rollouts(directory, engine, grader, behavior, goal, split, seed, thresholds, reporter)
            _draw_scores(directory, engine, behavior, problems, rollouts, split, reporter)
            agreement = list(directory.read_paths(behavior.name, kind="agreement"))
    counts = sampling.measure(behavior, problems, rollouts)
    measured = plumbing.measure(behavior, engine, thresholds, selftest, counts, rollouts, agreement)
    write_json(plumbing_file, plumbing_to_json(measured))


def _draw_rollouts(
    directory: RunDirectory,
    engine: Engine,
    grader: Grader,
    behavior: Behavior,
    goal: rounds.Goal,
    split: Split,
    seed: str,
    thresholds: Thresholds,
    reporter: Reporter,
) -> RolloutTable:
    """Draw the greedy samples, then round after round until the goal is reached, and return all of them; each round is planned from those before."""
    problems = behavior.split(split)
    shards = sampling.plan_greedy(behavior, split)
    known: list[sampling.Shard] = []
    words: list[dict[str, Any]] = []
    while True:
        todo = [shard for shard in shards if not directory.shard("rollouts", shard.name).exists()]
        if todo:
            why = f"sampling {behavior.name}" if goal.samples or not words else f"sampling {behavior.name}: {words[-1]['why']}"
            with reporter.task(why, sum(shard.num_samples for shard in todo)) as task:
                for shard in todo:
                    start = time.monotonic()
                    rollouts = sampling.draw(engine, grader.grade, behavior, shard, seed=seed, on_tokens=task.tokens)
                    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
                    cost = ShardCost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(rollouts))
                    directory.write_rollouts(shard.name, rollouts, cost)
                    task.advance(len(rollouts))
        known += shards
        table = RolloutTable.read(directory.shard("rollouts", shard.name) for shard in known)
        counts = sampling.measure(behavior, problems, table)
        drawn = counts.num_samples + counts.num_missing
        plan = rounds.next_round(
            rounds.Counts(
                num_samples=counts.num_samples,
                num_correct=counts.num_correct,
                num_drawn=drawn,
                generated_tokens=int(table.num_tokens.sum()),
                groups=counts.groups,
            ),
            goal,
            epsilon=behavior.measure.epsilon,
            primary_k=behavior.measure.primary_k,
            max_tokens=behavior.sampling.max_tokens,
            thresholds=thresholds,
            seed=0,
        )
        words.append({"samples": int(plan.extra.sum()), "why": plan.why})
        if plan.last:
            break
        shards = sampling.plan_round(behavior, split, drawn, plan.extra, sum(shard.decoding == SAMPLED for shard in known))
    if goal.samples is None:
        write_json(directory.path / "rounds" / f"{behavior.name}.json", words)
    return table


def _draw_scores(
    directory: RunDirectory,
    engine: Engine,
    behavior: Behavior,
    problems: Sequence[Problem],
    rollouts: RolloutTable,
    split: Split,
    reporter: Reporter,
) -> None:
    name = f"{behavior.name}.{split}.00000"
    num_paths = sum(len(problem.references) for problem in problems)
    if num_paths and not directory.shard("paths", name).exists():
        with reporter.task(f"scoring {behavior.name}", num_paths) as task:
            start = time.monotonic()

            def on_path(num_tokens: int) -> None:
                task.advance()
                task.tokens(num_tokens)

            paths = path_likelihood.draw(engine, behavior, problems, on_tokens=on_path)
            cost = ShardCost(seconds=time.monotonic() - start, scored_tokens=sum(len(p.token_ids) for p in paths))
            directory.write_paths(name, paths, cost)
    if not directory.shard("agreement", name).exists():
        with reporter.task(f"checking {behavior.name}", None) as task:
            start = time.monotonic()
            scored = plumbing.draw_agreement(engine, behavior, problems, rollouts, on_tokens=task.tokens)
            cost = ShardCost(seconds=time.monotonic() - start, scored_tokens=sum(len(p.token_ids) for p in scored))
            directory.write_paths(name, scored, cost, kind="agreement")


# ------------------------------------------------------------------------------------------------------------------ deciding


def assemble(path: str | Path, *, behaviors: Sequence[Behavior] | None = None, page: bool = True) -> DiagnosedRun:
    """Decide and report from what a run directory holds; no model is needed.

    Args:
        path: The run directory.
        behaviors: Its behaviors where they are loaded already; else they are read from where the run found them.
        page: Whether to write the report again where there is one; drawing its figures takes longer than all the rest.

    Raises:
        RunError: there is no finished draw, or a behavior has changed since.
    """
    directory = RunDirectory(Path(path))
    record = directory.read_json()
    if record["kind"] != "diagnose":
        raise RunError(f"run {path}: holds a {record['kind']} run; give the folder of a `posttrain diagnose`")
    settings = record["settings"]
    loaded = tuple(behaviors) if behaviors is not None else _reload(directory, settings, record["sources"])
    thresholds, split = Thresholds(**settings["thresholds"]), Split(settings["split"])
    measured = tuple(_measure_behavior(directory, behavior, split, thresholds, settings["seed"]) for behavior in loaded)
    result = DiagnosedRun(path=directory.path, model=record["model"], settings=settings, behaviors=measured)
    write_json(
        directory.diagnosis_json,
        {
            "schema": 1,
            "model": record["model"],
            "settings": settings,
            "behaviors": [diagnosis_to_json(m.diagnosis, m.behavior) for m in measured],
        },
    )
    if page or not result.report_html.exists():
        _write_report(directory, record, result)
    directory.finish()
    return result


def _reload(directory: RunDirectory, settings: dict[str, Any], sources: dict[str, str]) -> tuple[Behavior, ...]:
    loaded = []
    for name, fingerprint in settings["behaviors"].items():
        source = sources[name]
        behavior = load_behavior(source)
        if behavior.fingerprint != fingerprint:
            raise RunError(
                f"run {directory.path}: the behavior {name} ({source}) has changed since; bring back the file, or measure again into a new folder"
            )
        loaded.append(behavior)
    return tuple(loaded)


def _measure_behavior(
    directory: RunDirectory, behavior: Behavior, split: Split, thresholds: Thresholds, seed: int
) -> MeasuredBehavior:
    plumbing_file = directory.path / "plumbing" / f"{behavior.name}.json"
    if not plumbing_file.exists():
        raise RunError(
            f"run {directory.path}: {behavior.name} is not measured to the end; run the same `posttrain diagnose` again to resume it"
        )
    problems = behavior.split(split)
    rollouts, paths = directory.rollout_table(behavior.name), tuple(directory.read_paths(behavior.name))
    counts = sampling.measure(behavior, problems, rollouts)
    likelihood = path_likelihood.measure(behavior, paths)
    pipes = plumbing_from_json(behavior.name, json.loads(plumbing_file.read_text()))
    rounds_file = directory.path / "rounds" / f"{behavior.name}.json"
    if rounds_file.exists():
        told = json.loads(rounds_file.read_text())
        pipes = replace(
            pipes, notes=(*pipes.notes, f"Samples were drawn in {len(told) - 1} rounds, which ended because {told[-1]['why']}.")
        )
    diagnosis = diagnose_behavior(
        behavior,
        problems,
        counts,
        pipes,
        likelihood,
        thresholds=thresholds,
        at_hand=available(behavior),
        seed=seed,
        cost=directory.cost(behavior.name, rollouts),
    )
    right, wrong = _examples(behavior, problems, rollouts)
    report = BehaviorReport(
        diagnosis=diagnosis,
        plumbing=pipes,
        path=likelihood,
        sampling=counts if len(rollouts) else None,
        examples_right=right,
        examples_wrong=wrong,
        epsilon=behavior.measure.epsilon,
        mastered_threshold=thresholds.mastered,
        primary_k=behavior.measure.primary_k,
        source=behavior.source,
    )
    return MeasuredBehavior(behavior=behavior, diagnosis=diagnosis, report=report, table=rollouts, paths=paths)


def _examples(
    behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The first right and the first wrong sample of different problems."""
    known = {problem.id: problem for problem in problems}
    succeeded = rollouts.succeeded(behavior.measure.success)
    found = []
    for wanted in (succeeded, ~succeeded & ~rollouts.missing):
        candidates = np.flatnonzero(wanted & ~rollouts.greedy)
        firsts = candidates[np.sort(np.unique(rollouts.problem[candidates], return_index=True)[1])[:_EXAMPLES]]
        found.append(tuple(_example(known[r.problem_id], r, behavior.measure.success) for r in rollouts.rows(firsts)))
    return found[0], found[1]


def _example(problem: Problem, rollout: Rollout, success: float) -> Example:
    if rollout.grade.status is GradeStatus.UNPARSED:
        word = f"unparsed: {rollout.grade.detail}" if rollout.grade.detail else "unparsed"
    else:
        word = "right" if rollout.succeeded(success) else "truncated" if rollout.truncated else "wrong"
    return Example(
        problem_id=problem.id,
        prompt=problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content,
        text=rollout.text,
        grade=word,
        extracted=rollout.grade.extracted,
        stop=rollout.stop.value,
        answer=problem.answer,
    )


def _write_report(directory: RunDirectory, record: dict[str, Any], result: DiagnosedRun) -> None:
    from posttrain.diagnose.report import write_report
    from posttrain.diagnose.report.content import ReportContent

    settings = {key: value for key, value in record["settings"].items() if key not in ("behaviors",)}
    write_report(
        directory.path,
        ReportContent(
            title="What holds it back",
            model=record["model"]["source"],
            date=record["created"],
            command=record["command"] or "see run.json",
            settings=settings
            | {
                f"behavior {name}": f"fingerprint {fingerprint[:12]}"
                for name, fingerprint in record["settings"]["behaviors"].items()
            },
            versions=record["versions"],
            behaviors=tuple(m.report for m in result.behaviors),
        ),
    )
