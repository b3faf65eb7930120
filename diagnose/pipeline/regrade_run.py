"""Grade the stored texts of a run again, without a model, into a new run; samples, indices and likelihoods stay what they are.

The new run has the same shards with other grades, validity checks that rest on grades are made anew, and a verdict is decided from it. What further probes
sampled and found rests on the grades of before, and is left out. Stopped, it resumes: shards that are written are not graded again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.measure.regraded_checks import check_regraded
from posttrain.diagnose.measure.sample_checks import SampledBehavior
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.pipeline.assemble import assemble, read_validity
from posttrain.diagnose.pipeline.grade_changes import regrade_file
from posttrain.diagnose.progress import Reporter, Task
from posttrain.diagnose.sampling.token_limit import recorded_limit
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import ValidityEntry
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.regrade_json import RegradeFile
from posttrain.diagnose.storage.run_check import PLANS, checked_table
from posttrain.diagnose.storage.run_directory import BEHAVIORS, KINDS, RunDirectory
from posttrain.diagnose.storage.shard_file import COSTS, read_shard
from posttrain.diagnose.strict_settings import closest
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Cost, Grade, GradeStatus, Problem, Split, StopReason
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import verifier_selftest
from posttrain.diagnose.verifiers.thinking import opening_in_prompt

_IMPORTED = "imported"
"""Engine of imported samples; a text of theirs that is empty was not stored."""
_MOST_TRIED = 256
"""Problems on which the verifier is tried, about, where there are more."""
_AT_A_TIME = 64
"""Problems whose texts are read while others are compared."""
_GRADE = ("status", "score", "extracted", "lenient_score", "detail", "answer_start")


@dataclass(frozen=True, kw_only=True)
class _Regrading:
    """One run that is graded again."""

    source: RunDirectory
    record: Mapping[str, Any]
    out: RunDirectory
    chosen: tuple[str, ...]
    """Behaviors that are graded again; the grades of others are taken over."""
    reporter: Reporter

    @property
    def split(self) -> Split:
        return Split(self.record["settings"]["split"])


def regrade(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    verifier: Mapping[str, Any] | None = None,
    behaviors: Sequence[str] = (),
    command: str = "",
    reporter: Reporter | None = None,
) -> RegradeFile:
    """Grade the stored texts of a run again, say whose grade changed, and write the report of the new run.

    Returns:
        What is written to `out` as regrade.json, beside the new run.

    Args, errors: As for `store_regraded`.
    """
    found, finished = _grade_again(run, Path(out), verifier, behaviors, command, reporter)
    from posttrain.diagnose.pipeline.run_files import write_run  # drawing figures needs matplotlib: not before it is used

    with locked_folder(Path(out)):
        write_run(finished)
    return found


def store_regraded(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    verifier: Mapping[str, Any] | None = None,
    behaviors: Sequence[str] = (),
    command: str = "",
    reporter: Reporter | None = None,
) -> RegradeFile:
    """Grade the stored texts of a run again, and say whose grade changed; there is no report yet.

    Args:
        run: The folder of a finished `posttrain diagnose`, or of imported samples with texts.
        out: A new folder; the same call on the same folder resumes.
        verifier: `kind` and its options; None takes that of each behavior as its file is now.
        behaviors: Names of those to grade; all without any.
        command: What to print under "how to reproduce".
        reporter: Where progress goes.

    Raises:
        RunError: The run is not finished, `out` is the run itself (`in_place`), it holds no texts (`no_texts`), or its problems have changed
            (`changed_problems`).
        SettingsError: An unknown behavior (`unknown_behavior`), or a verifier that cannot grade.
        BehaviorError: The verifier does not suit the problems.
    """
    return _grade_again(run, Path(out), verifier, behaviors, command, reporter)[0]


def _grade_again(
    run: str | os.PathLike[str],
    out: Path,
    verifier: Mapping[str, Any] | None,
    behaviors: Sequence[str],
    command: str,
    reporter: Reporter | None,
) -> tuple[RegradeFile, DiagnosedRun]:
    """Return whose grade changed, and the new run; arguments and errors as for `store_regraded`."""
    source, target = RunDirectory(Path(run)), RunDirectory(out)
    record = source.read_json()
    if record["kind"] != "diagnose":
        raise RunError(f"run {run}: holds a {record['kind']} run; give the folder of a `posttrain diagnose`", code="other_kind")
    if target.path.resolve() == source.path.resolve():
        raise RunError(f"--out {out}: got the run itself; a run is never graded in place, give a new folder", code="in_place")
    names = tuple(record["settings"]["behaviors"])
    if unknown := [name for name in behaviors if name not in names]:
        raise SettingsError(
            f"--behavior: got {unknown[0]!r}, measured there: {', '.join(names)}{closest(unknown[0], names)}",
            code="unknown_behavior",
        )
    work = _Regrading(
        source=source,
        record=record,
        out=target,
        chosen=tuple(name for name in names if not behaviors or name in behaviors),
        reporter=reporter or Reporter(quiet=True),
    )
    for name in work.chosen:
        _check_texts(source, name)
    options = _options(work, verifier)
    loaded = {name: _load(work, name, options[name]) for name in options}
    settings = {
        **record["settings"],
        "behaviors": {**record["settings"]["behaviors"], **{name: loaded[name].fingerprint for name in work.chosen}},
        "regraded": {"run": source.identity, "behaviors": list(work.chosen)},
    }
    target.check("diagnose", settings)
    with ExitStack() as opened:
        graders = {name: opened.enter_context(Grader(loaded[name])) for name in work.chosen}
        for grader in graders.values():
            grader.check_ready()
        opened.enter_context(locked_folder(target.path))
        target.open("diagnose", settings, _details(work, options, command))
        for name, behavior in loaded.items():
            if not target.is_done(name):
                _write_behavior(work, behavior, graders.get(name))
        finished = assemble(target.path)
        found = regrade_file(source, finished, work.chosen)
        write_model(target.path / "regrade.json", found)
    return found, finished


def _load(work: _Regrading, name: str, options: BehaviorOptions) -> Behavior:
    """Return a behavior as its file is now.

    Raises:
        RunError: A problem of which samples are stored is gone (`changed_problems`).
    """
    behavior = load_behavior(work.source.behavior_source(work.record, name), options, measured=work.split)
    known = {problem.id for problem in behavior.problems}
    if lost := [one for one in work.source.rollout_table(name).problem_ids if one not in known]:
        raise RunError(
            f"run {work.source.path}: {behavior.source} has no problem {lost[0]!r} any more, of which samples are stored; bring back the file",
            code="changed_problems",
        )
    return recorded_limit(behavior, work.record)


def _options(work: _Regrading, verifier: Mapping[str, Any] | None) -> dict[str, BehaviorOptions]:
    """Return the settings that each behavior is loaded with."""
    known = work.record.get("behavior_options", {})
    found = {}
    for name in work.record["settings"]["behaviors"]:
        given = BehaviorOptions.model_validate(known.get(name, {}))
        if verifier is not None and name in work.chosen:
            given = given.model_copy(update={"verifier": dict(verifier)})
        found[name] = given
    return found


def _details(work: _Regrading, options: Mapping[str, BehaviorOptions], command: str) -> dict[str, Any]:
    """Return what run.json records beside the settings."""
    kept = {key: value for key, value in work.record.items() if key not in ("kind", "settings", "state", "schema", "checksum")}
    if kept.get("decision", {}).get("before"):  # what an earlier run showed rests on the grades of before
        kept["decision"] = {key: value for key, value in kept["decision"].items() if key != "before"}
    return {
        **kept,
        "versions": {**work.record["versions"], "posttrain": version("posttrain")},
        "behavior_options": {name: given for name, one in options.items() if (given := one.given())},
        "command": command,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "regraded_from": str(work.source.path.resolve()),
    }


def _check_texts(source: RunDirectory, behavior: str) -> None:
    """Refuse a behavior of which there is nothing to grade, before anything is written.

    Raises:
        RunError: Code `no_texts`, or the run is not finished or is damaged.
    """
    checked_table(source, behavior)
    for path in source.shards("rollouts", behavior):
        if pc.any(pc.not_equal(read_shard(path).table(["text"]).column("text"), "")).as_py():
            return
    raise RunError(
        f"run {source.path}: holds no text of a sample of {behavior}, so there is nothing to grade; import or sample again with texts, or grade "
        "others with --behavior NAME",
        code="no_texts",
    )


def _write_behavior(work: _Regrading, behavior: Behavior, grader: Grader | None) -> None:
    """Write everything of one behavior; its grades are taken over where there is no grader."""
    name, source, out = behavior.name, work.source, work.out
    if (source.path / BEHAVIORS / f"{name}.yaml").is_file():
        (out.path / BEHAVIORS).mkdir(exist_ok=True)
        for suffix in (".yaml", ".jsonl"):
            shutil.copyfile(source.path / BEHAVIORS / f"{name}{suffix}", out.path / BEHAVIORS / f"{name}{suffix}")
    opening = opening_in_prompt(read_validity(source, behavior).prompt_example, behavior.prompt.thinking)
    problems = {problem.id: problem for problem in behavior.problems}
    num_rows = len(source.rollout_table(name))
    with work.reporter.task(f"grading {name}", num_rows) as task:
        for kind in KINDS if grader is None else KINDS[:-1]:
            for path in source.shards(kind, name):
                if out.shard(kind, path.stem).exists():
                    continue
                shard = read_shard(path, source.identity)
                table = shard.table()
                if kind == "rollouts" and grader is not None:
                    table = _grade_table(table, problems, grader, opening, task)
                out.write_shard(kind, path.stem, table, Cost(**{key: shard.record[key] for key in COSTS}))
    for kind in (PLANS,) if grader is not None else (PLANS, "probes"):
        for path in source.json_parts(kind, name):
            out.write_part(kind, path.stem, source.read_part(kind, path.stem))
    validity = source.read_part("validity", name)
    if grader is not None:
        validity = ValidityEntry.model_validate(_check_again(work, behavior, grader)).to_json()
    out.write_part("validity", name, validity)
    plan = source.read_part("done", name)
    out.write_done(name, {key: value for key, value in plan.items() if key not in ("shards", "parts")})


def _check_again(work: _Regrading, behavior: Behavior, grader: Grader) -> Any:
    """Return the validity of the new grades."""
    thresholds = Thresholds.from_json(work.record["settings"]["thresholds"])
    problems, table = behavior.split(work.split), work.out.rollout_table(behavior.name)
    samples = SampledBehavior(
        problems=problems,
        counts=count_successes(behavior, problems, table),
        rollouts=table,
        paths=tuple(work.out.read_paths(behavior.name)),
    )
    selftest = verifier_selftest(behavior, grader, problems[:: max(1, len(problems) // _MOST_TRIED)], thresholds)
    return check_regraded(behavior, thresholds, read_validity(work.source, behavior), selftest, samples)


def _grade_table(table: pa.Table, problems: Mapping[str, Problem], grader: Grader, opening: str, task: Task) -> pa.Table:
    """Return the rows of a shard with new grades; a sample that its engine failed on, or whose text is not stored, keeps its own."""
    columns = {name: table.column(name).to_pylist() for name in ("problem_id", "text", "stop", "engine", "status")}
    starts = table.column("answer_start").to_pylist() if "answer_start" in table.column_names else [0] * table.num_rows
    members: dict[str, list[int]] = {}
    for row, problem in enumerate(columns["problem_id"]):
        lacks_text = columns["engine"][row] == _IMPORTED and not columns["text"][row]
        if columns["stop"][row] != StopReason.ERROR and not lacks_text:
            members.setdefault(problem, []).append(row)
    grades: dict[int, Grade] = {}
    groups = list(members.items())
    for start in range(0, len(groups), _AT_A_TIME):
        several = groups[start : start + _AT_A_TIME]
        texts = [[columns["text"][row] or "" for row in rows] for _, rows in several]
        asked = [(problems[name], [opening + text for text in own]) for (name, _), own in zip(several, texts, strict=True)]
        for (problem, _), own, (_, rows), found in zip(asked, texts, several, grader.grade_several(asked), strict=True):
            stored = [starts[row] or 0 for row in rows]
            unfinished = [columns["status"][row] == GradeStatus.UNFINISHED_THOUGHT for row in rows]
            found = [replace(one, answer_start=max(0, one.answer_start - len(opening))) for one in found]
            grades |= dict(zip(rows, _behind_thoughts(grader, problem, own, stored, unfinished, found), strict=True))
            task.advance(len(rows))
    for name in _GRADE:
        old = table.column(name).to_pylist() if name in table.column_names else [0] * table.num_rows
        values = [getattr(grades[row], name) if row in grades else old[row] for row in range(table.num_rows)]
        index = table.schema.get_field_index(name)
        if index >= 0:
            field = table.schema.field(index)
            table = table.set_column(index, field, pa.array([str(v) if name == "status" else v for v in values], field.type))
    return table


def _behind_thoughts(
    grader: Grader,
    problem: Problem,
    texts: Sequence[str],
    starts: Sequence[int],
    unfinished: Sequence[bool],
    grades: Sequence[Grade],
) -> list[Grade]:
    """Return the grades of samples of one problem, as they are where no thought hides an answer.

    Where a thought is known to a chat template alone, the grades of before say where it ends: an answer that began behind something, where none of the
    markers that are known here stands, begins there still.

    Args:
        grader: Of the behavior.
        problem: What was asked.
        texts: What the model wrote.
        starts: Index at which each answer began by the grade of before.
        unfinished: Whether its thought was never closed.
        grades: What the texts as they are were graded with.
    """
    found = list(grades)
    hidden = [row for row, one in enumerate(found) if one.answer_start == 0 and starts[row] > 0 and not unfinished[row]]
    if hidden:
        behind = grader.grade_answers(problem, [texts[row][starts[row] :] for row in hidden])
        for row, one in zip(hidden, behind, strict=True):
            found[row] = replace(one, answer_start=starts[row])
    for row, one in enumerate(found):
        if unfinished[row] and one.answer_start == 0:
            found[row] = Grade(
                status=GradeStatus.UNFINISHED_THOUGHT,
                score=0.0,
                lenient_score=0.0,
                detail=one.detail,
                answer_start=len(texts[row]),
            )
    return found
