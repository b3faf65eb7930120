"""One diagnosis from request to files: open the engines, measure the behaviors, read back and decide, write.

Measuring and deciding are kept apart. Whatever was sampled and scored lies in the run directory, shard by shard; the verdict and the report
are made from what lies there, so that a run that was stopped and resumed ends like one that was not.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack

from posttrain.diagnose.behaviors.data_sets import read_training_rows
from posttrain.diagnose.behaviors.row_sources import RowSource
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.codec import end_texts, template_date
from posttrain.diagnose.engines.ray.open_cluster import open_pool
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.measure.reference_spacing import write_as_the_model
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.checks_before_sampling import check_folders, check_with_models, check_without_models
from posttrain.diagnose.pipeline.environment_run import EnvironmentRun, measure_environment, read_request
from posttrain.diagnose.pipeline.first_reports import FirstReports
from posttrain.diagnose.pipeline.measure_behaviors import MeasurementRun
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.probes.runner import ProbeInputs, ProbeRun
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import SamplingSettings
from posttrain.diagnose.sampling.token_limit import limit_record, recorded_limit, room_for_samples, start_limit
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Diagnosis, LimitSource, Split
from posttrain.diagnose.verifiers.thinking import follow_template


class DiagnoseOptions(TypedDict, total=False):
    """The optional fields of `DiagnoseRequest`, which says what they mean."""

    engine: str | Engine
    workers: int
    samples: int | None
    precision: float | None
    max_tokens_total: int | None
    probes: Sequence[str]
    teacher: str | Engine | None
    earlier: str | Engine | None
    before: str | Path | None
    data: RowSource | None
    pilot: bool
    seed: int
    split: Split
    thresholds: Thresholds
    command: str


def run(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    reporter: Reporter | None = None,
    **options: Unpack[DiagnoseOptions],
) -> DiagnosedRun:
    """Measure behaviors of a model, decide what their bottlenecks are, and write `out`.

    Run again with the same arguments it resumes; what is finished is kept.

    Args:
        model: A Hugging Face directory or id, a GGUF file, `demo`, or what the engine reads.
        behaviors: Names of bundled behaviors, YAML or JSONL files, or loaded ones.
        out: The run directory.
        reporter: Where progress goes.
        options: The words of the command line: `samples`, `precision`, `max_tokens_total`, `probes`, `teacher`, `earlier`, `before`, `data`, `pilot`,
            `engine`, `workers`, `seed`, `split`, `thresholds`, `command`; see `DiagnoseRequest`.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
    """
    return run_request(read_request(model, behaviors, out=out, **options), reporter)


def run_request(request: DiagnoseRequest | EnvironmentRun, reporter: Reporter | None = None) -> DiagnosedRun:
    """Make a diagnosis, from the request to the files of the run directory.

    Raises:
        UserError: the run directory holds something else, a model cannot be opened, a prompt cannot be written, or as for `measure_environment`.
    """
    reporter = reporter or Reporter(quiet=True)
    if isinstance(request, EnvironmentRun):
        finished = measure_environment(request, reporter)
    else:
        finished = _measure_request(request, reporter)
    for diagnosis in finished.diagnoses:
        reporter.record(tracked_numbers(diagnosis))
    return finished


def _measure_request(request: DiagnoseRequest, reporter: Reporter) -> DiagnosedRun:
    directory = RunDirectory(Path(request.out))
    for behavior in request.loaded:
        for note in behavior.notes:
            reporter.say(f"{behavior.name}: {note}")
    check_folders(request)
    data = read_training_rows(request.data) if request.data is not None else None
    check_without_models(request)
    with ExitStack() as opened:
        opened.enter_context(locked_folder(directory.path))
        directory.check("diagnose", request.settings())  # another process may have ended just now
        policy, teacher, earlier = _open_engines(request, opened, reporter)
        settings = {**request.settings(), **_engine_settings(policy)}
        directory.check("diagnose", settings)
        engines = [one for one in (policy, teacher, earlier) if one is not None]
        before = None if request.before is None else Path(request.before)
        request, rooms = _fit_to_models(request, engines, [directory.path, *([before] if before else [])])
        check_with_models(request, policy, (("--teacher", teacher), ("--earlier", earlier)), data)
        inputs = ProbeInputs(teacher=teacher, earlier=earlier, before=before, data=data)
        measurement = replace(
            _measurement(request, policy, inputs, directory, reporter),
            rooms=rooms,
            report_first=FirstReports(directory, request.loaded, reporter),
        )
        verifier_of = opened.enter_context(measurement.open_verifiers(request.loaded))
        is_new = not directory.run_json.exists()
        directory.open("diagnose", settings, _details(request, policy))
        try:
            directory.record_limits(limit_record(request.loaded))
            written = [write_as_the_model(policy, behavior) for behavior in request.loaded]
            measurement.measure(written, verifier_of)
        except UserError:
            if is_new:  # what was wrong must not be what a corrected command has to agree with
                directory.discard_if_empty()
            raise
        from posttrain.diagnose.pipeline.run_files import write_run  # drawing figures needs matplotlib: not before it is used

        finished = assemble(directory.path, behaviors=request.loaded)
        write_run(finished)
    return finished


def tracked_numbers(diagnosis: Diagnosis) -> dict[str, float]:
    """Return the numbers of a diagnosis that a tracker gets: pass@k with its interval, confidence of the label and shares of labels."""
    name = f"diagnose/{diagnosis.name}"
    values = {f"{name}/confidence": diagnosis.confidence}
    for point in diagnosis.pass_at_k:
        for part in ("estimate", "low", "high"):
            values[f"{name}/pass@{point.k}{'' if part == 'estimate' else f'_{part}'}"] = getattr(point.value, part)
    return values | {f"{name}/share_{label}": share for label, share in diagnosis.shares.items()}


def _fit_to_models(
    request: DiagnoseRequest, engines: Sequence[Engine], runs: Sequence[Path]
) -> tuple[DiagnoseRequest, dict[str, int]]:
    """Return the request with what depends on the models: markers of thoughts, and limits of `max_tokens`; and how large limits may become.

    A limit is what a run knows, or else the one that is tried first.

    Args:
        request: Names the behaviors.
        engines: Of the model, and of those that read the same prompts.
        runs: This run and earlier ones, the one that counts most first.
    """
    records = [RunDirectory(path).read_json() for path in runs if RunDirectory(path).run_json.exists()]
    found, rooms = [], {}
    for behavior in request.loaded:
        for record in records:
            behavior = recorded_limit(behavior, record)
        if behavior.limit_source is LimitSource.AUTO:
            rooms[behavior.name] = room_for_samples(engines, behavior)
            behavior = start_limit(engines[0], behavior, rooms[behavior.name])
        found.append(follow_template(behavior, engines[0].codec))
    return replace(request, behaviors=tuple(found)), rooms


def _open_engines(request: DiagnoseRequest, opened: ExitStack, reporter: Reporter) -> tuple[Engine, Engine | None, Engine | None]:
    """Return the engines of the model, of the teacher and of the earlier checkpoint.

    Those that were not given open are of one kind, and are closed with `opened`.
    """
    kind = request.engine if isinstance(request.engine, str) else "transformers"

    def open_model(model: str | Path, workers: int = 1) -> Engine:
        with reporter.task(f"opening {model}", None):
            if workers == 1:
                engine = open_engine(kind, str(model), request.loaded)
            else:
                engine = open_pool(kind, str(model), request.loaded, workers=workers)
        opened.callback(engine.close)
        return engine

    policy = open_model(request.model, request.workers) if isinstance(request.engine, str) else request.engine
    teacher = open_model(request.teacher) if isinstance(request.teacher, str) else request.teacher
    earlier = open_model(request.earlier) if isinstance(request.earlier, str) else request.earlier
    return policy, teacher, earlier


def _measurement(
    request: DiagnoseRequest, policy: Engine, inputs: ProbeInputs, directory: RunDirectory, reporter: Reporter
) -> MeasurementRun:
    """Return what samples, scores, checks and probes, and stores everything."""
    sampling = SamplingSettings(
        directory=directory,
        engine=policy,
        goal=request.goal,
        split=request.split,
        seed=request.seed,
        thresholds=request.thresholds,
        reporter=reporter,
    )
    probes = ProbeRun(names=request.probes, inputs=inputs, settings=sampling)
    return MeasurementRun(settings=sampling, probe_run=probes, pilot=request.pilot)


def _engine_settings(engine: Engine) -> dict[str, Any]:
    """Return what a resumed run must share of the engine."""
    info = engine.info
    return {
        "engine": {"name": info.name, "sample_dtype": info.sample_dtype, "score_dtype": info.score_dtype},
        "model_fingerprint": info.model_fingerprint,
    }


def _details(request: DiagnoseRequest, engine: Engine) -> dict[str, Any]:
    """Return what is worth recording and may differ when a run is resumed."""
    info, loaded = engine.info, request.loaded
    date = template_date(engine.codec)
    return {
        **({"template_date": date} if date else {}),
        "end_tokens": end_texts(engine.codec),
        "model": {"source": str(request.model), "fingerprint": info.model_fingerprint, "device": info.device},
        "versions": {"posttrain": version("posttrain"), "python": platform.python_version(), **info.versions},
        "sources": {b.name: str(Path(b.source).resolve()) if Path(b.source).is_file() else b.source for b in loaded},
        "behavior_options": {b.name: dict(b.options) for b in loaded if b.options},
        "command": request.command,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
