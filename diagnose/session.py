"""One diagnosis from start to end: draw what is missing, store it, read it all back, decide, write the report.

Drawing and deciding are kept apart. Whatever was drawn lies in the run directory, shard by shard; the verdict and the report are made
from what lies there, so a run that was stopped and resumed ends like one that was not.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors import load_behavior, load_behaviors
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.probes import path_likelihood, plumbing, sampling
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.report.content import BehaviorReport, Example
from posttrain.diagnose.results import diagnosis_to_json, plumbing_from_json, plumbing_to_json
from posttrain.diagnose.stages import available
from posttrain.diagnose.store import RunDirectory, ShardCost, write_json
from posttrain.diagnose.types import Behavior, Diagnosis, GradeStatus, PathScore, Problem, Rollout, Split
from posttrain.diagnose.verdict import Thresholds, diagnose_behavior
from posttrain.diagnose.verifiers.sandbox import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest

DEFAULT_SAMPLES = 16
_EXAMPLES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBehavior:
    """One behavior of a finished run: what was decided, and all that it rests on."""

    behavior: Behavior
    diagnosis: Diagnosis
    report: BehaviorReport
    rollouts: tuple[Rollout, ...]
    paths: tuple[PathScore, ...]


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


def check_samples(samples: int) -> None:
    """Refuse a number of samples that measures nothing."""
    if samples < 1:
        raise SettingsError(f"--samples: got {samples}, at least 1 is needed; 16 is the default")


def plan_run(behaviors: Sequence[str | Path | Behavior], *, samples: int = DEFAULT_SAMPLES, split: Split = Split.EVAL) -> Plan:
    """What `run` with these arguments would draw."""
    check_samples(samples)
    loaded = resolve_behaviors(behaviors)
    lines, total, bound, paths = [], 0, 0, 0
    for behavior in loaded:
        problems = behavior.split(split)
        n = len(problems) * (samples + 1)
        references = sum(len(p.references) for p in problems)
        lines.append(
            f"{behavior.name}: {len(problems)} {split} problems × ({samples} samples + 1 greedy) = {n} samples, "
            f"at most {n * behavior.sampling.max_tokens:,} tokens; {references} reference paths to score"
        )
        total, bound, paths = total + n, bound + n * behavior.sampling.max_tokens, paths + references
    return Plan(samples=total, max_tokens=bound, reference_paths=paths, lines=tuple(lines))


def run(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    engine: str | Engine = "transformers",
    samples: int = DEFAULT_SAMPLES,
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
        samples: Samples per problem at the behavior's sampling settings; one greedy sample is drawn beside them.
        seed: Names the draw. The model is part of the generators' key, so two models never share draws.
        split: Which problems to measure: eval, or final once at the end.
        thresholds: Every number the verdict hangs on.
        command: What to print under "how to reproduce".
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
    """
    check_samples(samples)
    reporter, thresholds, directory = reporter or Reporter(quiet=True), thresholds or Thresholds(), RunDirectory(Path(out))
    loaded = resolve_behaviors(behaviors)
    settings: dict[str, Any] = {
        "behaviors": {b.name: b.fingerprint for b in loaded},
        "samples": samples,
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
    for behavior in loaded:
        _draw_behavior(directory, engine, behavior, samples, split, f"{seed}:{info.model_fingerprint}", thresholds, reporter)
    return assemble(directory.path, behaviors=loaded)


def _check_prompts(engine: Engine, behaviors: Sequence[Behavior], split: Split) -> None:
    """Write every prompt once, so that one that cannot be written is refused before anything is drawn."""
    for behavior in behaviors:
        for problem in behavior.split(split):
            engine.encode_prompt(problem.prompt, behavior.prompt)


def _draw_behavior(
    directory: RunDirectory,
    engine: Engine,
    behavior: Behavior,
    samples: int,
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
    rollouts: list[Rollout] = []
    agreement: list[PathScore] = []
    with Grader(behavior) as grader:
        selftest = verifier_selftest(behavior, grader, problems)
        if not selftest.failures:
            _draw_rollouts(directory, engine, grader, behavior, samples, split, seed, reporter)
            rollouts = list(directory.read_rollouts(behavior.name))
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
    samples: int,
    split: Split,
    seed: str,
    reporter: Reporter,
) -> None:
    shards = sampling.plan(behavior, split, samples)
    todo = [shard for shard in shards if not directory.shard("rollouts", shard.name).exists()]
    if not todo:
        return
    with reporter.task(f"sampling {behavior.name}", sum(len(s.problems) * s.num_samples for s in todo)) as task:
        for shard in todo:
            start = time.monotonic()
            rollouts = sampling.draw(engine, grader.grade, behavior, shard, seed=seed, on_tokens=task.tokens)
            cost = ShardCost(
                seconds=time.monotonic() - start, generated_tokens=sum(len(r.token_ids) for r in rollouts), samples=len(rollouts)
            )
            directory.write_rollouts(shard.name, rollouts, cost)
            task.advance(len(rollouts))


def _draw_scores(
    directory: RunDirectory,
    engine: Engine,
    behavior: Behavior,
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
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


def assemble(path: str | Path, *, behaviors: Sequence[Behavior] | None = None) -> DiagnosedRun:
    """Decide and report from what a run directory holds; no model is needed.

    Args:
        path: The run directory.
        behaviors: Its behaviors where they are loaded already; else they are read from where the run found them.

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
            "behaviors": [diagnosis_to_json(m.diagnosis) for m in measured],
        },
    )
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
    rollouts, paths = tuple(directory.read_rollouts(behavior.name)), tuple(directory.read_paths(behavior.name))
    counts = sampling.measure(behavior, problems, rollouts)
    likelihood = path_likelihood.measure(behavior, paths)
    pipes = plumbing_from_json(behavior.name, json.loads(plumbing_file.read_text()))
    diagnosis = diagnose_behavior(
        behavior,
        problems,
        counts,
        pipes,
        likelihood,
        thresholds=thresholds,
        at_hand=available(behavior),
        seed=seed,
        cost=directory.cost(behavior.name),
    )
    right, wrong = _examples(behavior, problems, rollouts)
    report = BehaviorReport(
        diagnosis=diagnosis,
        plumbing=pipes,
        path=likelihood,
        sampling=counts if rollouts else None,
        examples_right=right,
        examples_wrong=wrong,
        epsilon=behavior.measure.epsilon,
        mastered_threshold=thresholds.mastered,
        primary_k=behavior.measure.primary_k,
        source=behavior.source,
    )
    return MeasuredBehavior(behavior=behavior, diagnosis=diagnosis, report=report, rollouts=rollouts, paths=paths)


def _examples(
    behavior: Behavior, problems: Sequence[Problem], rollouts: Sequence[Rollout]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The first right and the first wrong sample of different problems."""
    known = {problem.id: problem for problem in problems}
    found: dict[bool, dict[str, Example]] = {True: {}, False: {}}
    for rollout in rollouts:
        success = rollout.succeeded(behavior.measure.success)
        if (
            rollout.decoding != sampling.SAMPLED
            or success is None
            or rollout.problem_id in found[success]
            or len(found[success]) >= _EXAMPLES
        ):
            continue
        problem = known[rollout.problem_id]
        word = "right" if success else "truncated" if rollout.truncated else "wrong"
        if rollout.grade.status is GradeStatus.UNPARSED:
            word = f"unparsed: {rollout.grade.detail}" if rollout.grade.detail else "unparsed"
        question = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content
        found[success][problem.id] = Example(
            problem_id=problem.id,
            prompt=question,
            text=rollout.text,
            grade=word,
            extracted=rollout.grade.extracted,
            stop=rollout.stop.value,
            answer=problem.answer,
        )
    return tuple(found[True].values()), tuple(found[False].values())


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
