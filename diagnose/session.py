"""One diagnosis from start to end: draw what is missing, store it, and hand over to `finished_runs`, which reads it back and decides.

Drawing and deciding are kept apart. Whatever was drawn lies in the run directory, shard by shard; the verdict and the report are made
from what lies there, so a run that was stopped and resumed ends like one that was not.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.cluster import open_pool
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.finished_runs import DiagnosedRun, assemble
from posttrain.diagnose.labels import Thresholds
from posttrain.diagnose.planning import resolve_behaviors, sampling_goal
from posttrain.diagnose.probes import path_likelihood, plumbing, rounds, sampling
from posttrain.diagnose.probing import AUTO, Helpers, choose_probes, run_probes
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.results import plumbing_to_json
from posttrain.diagnose.rollout_table import SAMPLED, RolloutTable
from posttrain.diagnose.store import RunDirectory, ShardCost, write_json
from posttrain.diagnose.training_rows import read_training_rows
from posttrain.diagnose.types import Behavior, PathScore, Problem, Split
from posttrain.diagnose.verifiers.sandbox import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest


def run(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    engine: str | Engine = "transformers",
    workers: int = 1,
    samples: int | None = None,
    precision: float | None = None,
    max_tokens_total: int | None = None,
    states: float | None = None,
    probes: Sequence[str] = (AUTO,),
    teacher: str | Engine | None = None,
    earlier: str | Engine | None = None,
    before: str | Path | None = None,
    data: str | Path | None = None,
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
        workers: Engines to open, each in a process of its own, on this machine or on a Ray cluster.
        samples: Samples per problem at the behavior's sampling settings; one greedy sample is drawn beside them. 16 where neither
            precision nor a budget is given.
        precision: In place of a number: draw in rounds, where it changes the verdict most, until the label is settled and the 95 % interval
            of pass@k at the primary k is this wide to either side.
        max_tokens_total: Draw in rounds until the label is settled, or this many tokens are generated, over all behaviors.
        states: Draw in rounds until this share of the problems has a state of its own too.
        probes: Further probes: `auto` for those whose answer could change the advice, `none`, or names.
        teacher: A stronger MODEL, or an open engine, that could be distilled.
        earlier: An earlier checkpoint of the same model, or an open engine of it.
        before: An earlier run on the same behaviors.
        data: A file of rows that might be trained on (see `training_rows`).
        seed: Names the draw. The model is part of the generators' key, so two models never share draws.
        split: Which problems to measure: eval, or final once at the end.
        thresholds: Every number the verdict hangs on.
        command: What to print under "how to reproduce".
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
    """
    goal = sampling_goal(samples, precision, max_tokens_total, states)
    reporter, thresholds, directory = reporter or Reporter(quiet=True), thresholds or Thresholds(), RunDirectory(Path(out))
    loaded = resolve_behaviors(behaviors)
    choose_probes(probes)
    rows = read_training_rows(Path(data)) if data is not None else None
    settings: dict[str, Any] = {
        "behaviors": {b.name: b.fingerprint for b in loaded},
        "samples": goal.samples,
        "precision": goal.precision,
        "max_tokens_total": goal.max_tokens,
        "states": goal.problems,
        "probes": list(probes),
        "teacher": _name_of(teacher),
        "earlier": _name_of(earlier),
        "before": None if before is None else str(before),
        "data": None if data is None else hashlib.sha256(Path(data).read_bytes()).hexdigest()[:16],
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
    with ExitStack() as opened:
        kind = engine if isinstance(engine, str) else "transformers"
        engine = _open(opened, model if isinstance(engine, str) else engine, kind, loaded, reporter, workers)
        helpers = Helpers(
            teacher=None if teacher is None else _open(opened, teacher, kind, loaded, reporter),
            earlier=None if earlier is None else _open(opened, earlier, kind, loaded, reporter),
            before=None if before is None else Path(before),
            data=rows,
        )
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
            names = f"{seed}:{info.model_fingerprint}"
            _draw_behavior(directory, engine, behavior, share, split, names, thresholds, reporter, probes, helpers)
    return assemble(directory.path, behaviors=loaded)


def _open(
    opened: ExitStack, model: str | Path | Engine, kind: str, behaviors: Sequence[Behavior], reporter: Reporter, workers: int = 1
) -> Engine:
    """An engine, closed with `opened` where it is one to be closed and was not given open."""
    if not isinstance(model, str | Path):
        return model
    with reporter.task(f"opening {model}", None):
        engine = (
            open_engine(kind, str(model), behaviors) if workers == 1 else open_pool(kind, str(model), behaviors, workers=workers)
        )
    if (close := getattr(engine, "close", None)) is not None:
        opened.callback(close)
    return engine


def _name_of(model: str | Engine | None) -> str | None:
    return model if model is None or isinstance(model, str) else model.info.model_fingerprint


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
    probes: Sequence[str],
    helpers: Helpers,
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
            if not measured.failures:
                paths = path_likelihood.measure(behavior, tuple(directory.read_paths(behavior.name)))
                left = None if goal.max_tokens is None else goal.max_tokens - int(rollouts.num_tokens.sum())
                run_probes(
                    probes, directory, engine, helpers, grader.grade, behavior, split, counts, rollouts, paths,
                    thresholds=thresholds, seed=seed, tokens_left=left, reporter=reporter,
                )  # fmt: skip
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
                start = time.monotonic()
                for shard, rollouts in sampling.draw(engine, grader.grade, behavior, todo, seed=seed, on_tokens=task.tokens):
                    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
                    cost = ShardCost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(rollouts))
                    directory.write_rollouts(shard.name, rollouts, cost)
                    task.advance(len(rollouts))
                    start = time.monotonic()
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
    if not engine.info.can_score:
        return
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
