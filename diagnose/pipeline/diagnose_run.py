"""One diagnosis from start to end: draw what is missing, store it, and hand over to `finished_runs`, which reads it back and decides.

Drawing and deciding are kept apart. Whatever was drawn lies in the run directory, shard by shard; the verdict and the report are made
from what lies there, so a run that was stopped and resumed ends like one that was not.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.data_sets import read_training_rows
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.ray.open_cluster import open_pool
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.diagnosed_run import DiagnosedRun
from posttrain.diagnose.pipeline.run_plan import resolve_behaviors, sampling_goal
from posttrain.diagnose.probes.runner import AUTO, ProbeInputs, choose_probes
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import Drawing
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Split


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
        max_tokens_total: Draw in rounds until the label is settled, or this many tokens are generated, over all behaviors; those that
            are nearest to a label come first.
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
        helpers = ProbeInputs(
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
        Drawing(
            directory=directory,
            engine=engine,
            helpers=helpers,
            probes=probes,
            goal=goal,
            split=split,
            seed=f"{seed}:{info.model_fingerprint}",
            thresholds=thresholds,
            reporter=reporter,
        ).draw(loaded)
    from posttrain.diagnose.pipeline.run_files import write_run

    finished = assemble(directory.path, behaviors=loaded)
    write_run(finished)
    return finished


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
    opened.callback(engine.close)
    return engine


def _name_of(model: str | Engine | None) -> str | None:
    return model if model is None or isinstance(model, str) else model.info.model_fingerprint


def _check_prompts(engine: Engine, behaviors: Sequence[Behavior], split: Split) -> None:
    """Write every prompt once, so that one that cannot be written is refused before anything is drawn."""
    for behavior in behaviors:
        for problem in behavior.split(split):
            engine.codec.encode_prompt(problem.prompt, behavior.prompt)
