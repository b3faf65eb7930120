"""From a file, or the name of a bundled behavior, to a `Behavior`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.diagnose.behaviors.behavior_fingerprint import fingerprint_behavior
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.behaviors.bundled_files import bundled_behaviors
from posttrain.diagnose.behaviors.environment_problems import read_environment, require_success
from posttrain.diagnose.behaviors.guessed_verifier import guess_verifier
from posttrain.diagnose.behaviors.hub_data import FORM, is_hub_data, parse_hub_data, read_hub_rows
from posttrain.diagnose.behaviors.problem_rows import ProblemFile, Row, read_problem_objects, read_problems
from posttrain.diagnose.behaviors.reasoning_gym_problems import generate_rows
from posttrain.diagnose.behaviors.row_files import GZIP, ROW_FILES, read_text, require_file, row_suffix
from posttrain.diagnose.behaviors.schema import BehaviorConfig, MeasureConfig, SplitConfig, VerifierConfig
from posttrain.diagnose.behaviors.splits import default_key, normalise, refuse_empty_split, refuse_overlap, split_keys
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import closest, explain, shorten
from posttrain.diagnose.types import Behavior, Problem, Split, VerifierOrigin, VerifierSpec
from posttrain.diagnose.verifiers import VERIFIERS, build_verifier
from posttrain.diagnose.verifiers.sandbox.isolation import require_isolation
from posttrain.diagnose.yaml_text import YamlTextError, parse_yaml


def load_behavior(source: str | Path, options: BehaviorOptions | None = None, *, measured: Split = Split.EVAL) -> Behavior:
    """Read a behavior.

    Args:
        source: A YAML file, a file of problems, the name of a bundled behavior, or a data set as `hf:NAME[:CONFIG][:SPLIT]`.
        options: Settings that win over those of the file.
        measured: The split that is measured, and so must hold a problem.

    Returns:
        The behavior with its problems split into train, eval and final; equal inputs give equal fingerprints.

    Raises:
        BehaviorError: If anything in it is wrong; one line that says what was got, what is allowed and what to use instead.
    """
    path, options = Path(source), options or BehaviorOptions()
    if is_hub_data(source):
        data = parse_hub_data(str(source), Path())
        return _assemble(BehaviorConfig(name=data.behavior_name, problems=data.source), Path(), data.source, options)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    if not is_yaml and not row_suffix(path):
        behavior = _load_bundled(str(source), path, options)
    else:
        require_file(path, f"a .yaml, {ROW_FILES} file, {FORM}, or one of {', '.join(bundled_behaviors())}")
        if is_yaml:
            behavior = _load_yaml(path, str(path), options)
        else:
            behavior = _assemble(BehaviorConfig(name=name_from(path), problems=path.name), path, str(path), options)
    refuse_empty_split(behavior.problems, str(path), measured)
    return behavior


def load_behaviors(sources: Iterable[str | Path], options: BehaviorOptions | None = None) -> tuple[Behavior, ...]:
    """Read several behaviors, whose names must differ: runs keep their rows apart by name.

    Raises:
        BehaviorError: If one cannot be read, or two have the same name.
    """
    behaviors: dict[str, Behavior] = {}
    for source in sources:
        behavior = load_behavior(source, options)
        if behavior.name in behaviors:
            other = behaviors[behavior.name].source
            raise BehaviorError(
                f"{behavior.source} and {other} are both named {behavior.name!r}; give one another `name:`", code="duplicate_name"
            )
        behaviors[behavior.name] = behavior
    return tuple(behaviors.values())


def _load_bundled(source: str, path: Path, options: BehaviorOptions) -> Behavior:
    bundled = bundled_behaviors()
    if source in bundled:
        return _load_yaml(bundled[source], source, options)
    got = f"the {'folder' if path.is_dir() else 'file'} {source}" if path.exists() else repr(source)
    if path.is_dir():
        got += f" (a folder of data files is hf:{source}, one of logs or rollouts is read by `posttrain import auto {source}`)"
    elif path.exists():
        got += f" (a log of another tool is read by `posttrain import auto {source}`)"
    raise BehaviorError(
        f"got {got} as a behavior; allowed: a .yaml, {ROW_FILES} file, {FORM}, or one of {', '.join(bundled)}{closest(source, bundled)}",
        code="unknown_behavior",
    )


def _load_yaml(path: Path, source: str, options: BehaviorOptions) -> Behavior:
    return _assemble(read_config(path), path, source, options)


def read_config(path: Path) -> BehaviorConfig:
    """Read the settings of a behavior file; problems are not looked for.

    Raises:
        BehaviorError: It cannot be read, or a setting is wrong.
    """
    try:
        content = parse_yaml(read_text(path, "a YAML file"))
    except YamlTextError as error:
        raise BehaviorError(
            f"{path}{error.place}: not valid YAML ({error}); quote texts that hold ': ', '#' or braces", code="invalid_yaml"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BehaviorError(
            f"{path}: got {shorten(content)}; a behavior is a mapping such as `problems: problems.jsonl`", code="not_a_mapping"
        )
    try:
        return BehaviorConfig.model_validate(content)
    except ValidationError as error:
        raise BehaviorError(f"{path}: {explain(error, BehaviorConfig)}", code="invalid_setting") from None


def name_from(path: Path) -> str:
    """Return the name of a behavior that is called after its file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path.name.removesuffix(GZIP)).stem).strip("-._") or "behavior"


def behavior_of_rows(config: BehaviorConfig, rows: Iterable[Mapping[str, Any]], path: Path, measured: Split) -> Behavior:
    """Return the behavior that `load_behavior` reads from a behavior file and the JSONL file that it names, which were just written.

    Args:
        config: What the behavior file holds.
        rows: What stands on each line of the other file.
        path: The behavior file.
        measured: The split that is measured, and so must hold a problem.

    Raises:
        BehaviorError: As for `load_behavior`.
    """
    file = path.parent / str(config.problems)
    numbered = ((number, f"{file}:{number}", row) for number, row in enumerate(rows, start=1))
    found = read_problem_objects(numbered, "line", str(file), config.columns)
    behavior = _assemble(config, path, str(path), BehaviorOptions(), found)
    refuse_empty_split(behavior.problems, str(path), measured)
    return behavior


def _assemble(
    config: BehaviorConfig, path: Path, source: str, options: BehaviorOptions, rows: ProblemFile | None = None
) -> Behavior:
    """Return the behavior of a behavior file; its rows are read where None."""
    config, where = options.apply(config), source if is_hub_data(source) else str(path)
    shown = [example.question for example in config.prompt.examples]
    if config.environment is not None:
        file, config = _read_environment(config, path, where)
    elif config.reasoning_gym is not None:
        keep_entries = config.verifier is None or config.verifier.kind == "reasoning_gym"
        file = ProblemFile(generate_rows(config.reasoning_gym, shown=shown, keep_entries=keep_entries, where=where))
    else:
        file = rows or _read_files(config, path)
    if config.reasoning_gym is None:
        if options.measures_all:
            file = file._replace(rows=tuple(row._replace(split=None) for row in file.rows))
        _refuse_worked_examples(file.rows, shown, where)
    problems = options.choose(_split(file.rows, config.split, where), (config.split or SplitConfig()).seed)
    spec, origin = _verifier(config, file, path, where)
    verifier = build_verifier(spec, where=where)
    for problem in problems:
        if not problem.answer and verifier.needs_answer:
            raise BehaviorError(f"{file.places.get(problem.id, where)}: {_no_answer(spec.kind)}", code="missing_key")
        complaint = verifier.complaint(problem)
        if complaint is not None:
            raise BehaviorError(f"{where}: problem {problem.id}: {complaint}", code="unsuitable_problem")
    if verifier.executes_text(problems):
        require_isolation(f"{where}: verifier {spec.kind}")
    behavior = Behavior(
        name=config.name or name_from(path),
        problems=problems,
        verifier=spec,
        verifier_origin=origin,
        prompt=config.prompt.build(),
        sampling=config.sampling.build(),
        limit_source=config.sampling.limit_source,
        measure=_measure(config, spec.kind, where).build(verifier.success),
        purpose=config.purpose,
        source=source,
        options=options.given(),
        notes=_announce(file, config),
    )
    return dataclasses.replace(behavior, fingerprint=fingerprint_behavior(behavior, verifier.identity()))


def _read_environment(config: BehaviorConfig, path: Path, where: str) -> tuple[ProblemFile, BehaviorConfig]:
    """Return the problems of an environment, and the settings with what its grader asks for: its parser may read the thought itself."""
    assert config.environment is not None
    found = read_environment(config.environment, path.parent, where)
    if not _has_own_grader(config):
        return ProblemFile(found.rows, origin=found.note), config
    require_success(found, config.environment.name, config.measure.success, where)
    note = found.note
    if found.reads_thoughts and config.prompt.thinking == "auto":
        config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"thinking": "none"})})
        note += "; its parser reads the thought before an answer itself (thinking: none)"
    return ProblemFile(found.rows, origin=note), config


def _has_own_grader(config: BehaviorConfig) -> bool:
    """Return whether answers are graded by the environment that the problems come from."""
    return config.environment is not None and config.verifier in (None, VerifierConfig(kind="environment"))


def _measure(config: BehaviorConfig, kind: str, where: str) -> MeasureConfig:
    """Return what counts. A reward of an environment from which on an answer is right may lie outside (0, 1]: scores are 1 and 0 then."""
    success = config.measure.success
    if success is None or 0.0 < success <= 1.0:
        return config.measure
    if kind != "environment":
        raise BehaviorError(
            f"{where}: measure.success: got {success:g}; allowed: a score above 0 and up to 1", code="invalid_setting"
        )
    return config.measure.model_copy(update={"success": 1.0})


def _verifier(config: BehaviorConfig, file: ProblemFile, path: Path, where: str) -> tuple[VerifierSpec, VerifierOrigin]:
    """Return the verifier, and where it comes from."""
    if config.verifier is not None and not _has_own_grader(config):
        options = _find_folder(config.verifier, path.parent)
        return VerifierSpec(kind=config.verifier.kind, options=options), VerifierOrigin.CHOSEN
    if config.environment is not None:
        named = config.environment.model_dump(include={"name", "arguments", "eval_arguments"})
        given = {name: value for name, value in {**named, "success": config.measure.success}.items() if value not in ({}, None)}
        options = {**given, "folder": os.path.realpath(path.parent)}
        return VerifierSpec(kind="environment", options=options), VerifierOrigin.GENERATOR
    if config.reasoning_gym is not None:
        return VerifierSpec(kind="reasoning_gym"), VerifierOrigin.GENERATOR
    return guess_verifier(
        file, str(path)
    ), VerifierOrigin.GUESSED if file.layout is None or file.verifier is None else VerifierOrigin.LAYOUT


def _no_answer(kind: str) -> str:
    needless = ", ".join(name for name, one in VERIFIERS.items() if not one.needs_answer and name != "imported")
    return f"the row has no answer, which the verifier {kind} needs; give each row one, or use a verifier that needs none: {needless}"


def _announce(file: ProblemFile, config: BehaviorConfig) -> tuple[str, ...]:
    """Say in one line what a file was taken for, and how the prompt could say how to answer."""
    layout, first = file.layout, (file.origin,) if file.origin else ()
    if layout is None:
        return (*first, file.columns) if file.columns else first
    line = f"{len(file.rows)} rows read as {layout.name} publishes them"
    if config.prompt.template != "{question}" or config.prompt.system or layout.template == "{question}":
        return (*first, line)
    proposal = json.dumps({"template": layout.template}, ensure_ascii=False)
    return (
        *first,
        f"{line}; nothing in the prompt says how to answer; a behavior file that does, which posttrain init writes, has prompt: {proposal}",
    )


def _find_folder(verifier: VerifierConfig, beside: Path) -> dict[str, Any]:
    """Return the options of a verifier; relative folders of a model or a function are taken from the behavior file, as its problems are."""
    options = verifier.options
    if verifier.kind == "python":
        return options | {"folder": os.path.realpath(beside / str(options.get("folder", "")))}
    model = options.get("model")
    found = isinstance(model, str) and (beside / model).is_dir()
    return options | {"model": os.path.realpath(beside / str(model))} if found else options


def _read_files(config: BehaviorConfig, path: Path) -> ProblemFile:
    """Return the rows of `problems:`, and of a train file where one is given, with what the files say about splits."""
    assert config.problems is not None
    found = read_source(config.problems, path.parent, config.columns)
    rows = found.rows
    train = config.split.train if config.split is not None else None
    if not isinstance(train, str):
        return found
    if not row_suffix(Path(train)) and not is_hub_data(train):
        raise BehaviorError(
            f"{path}: split.train: got {train!r}; allowed: a fraction such as 0.5, a {ROW_FILES} file, or {FORM}",
            code="invalid_split",
        )
    for row in rows:
        if row.split is Split.TRAIN:
            raise BehaviorError(
                f"{path}: row {row.id} of {config.problems} is marked train; move it to {train}, or mark it eval",
                code="row_marked_train",
            )
    extra = [row._replace(split=Split.TRAIN) for row in read_source(train, path.parent, config.columns).rows]
    taken = {row.id for row in rows}
    # Ids that were made from line numbers clash as a matter of course; the file's name tells them apart.
    stem = Path(train).stem
    extra = [row._replace(id=f"{stem}:{row.id}") if row.id in taken else row for row in extra]
    return found._replace(rows=(*rows, *extra))


def read_source(source: str, beside: Path, columns: Mapping[str, str]) -> ProblemFile:
    """Read the problems of a data set, or of a file.

    Args:
        source: `hf:NAME[:CONFIG][:SPLIT]`, or a file.
        beside: The folder from which relative paths are taken.
        columns: Our name → column, where the user says it.

    Raises:
        BehaviorError: It cannot be read.
    """
    if not is_hub_data(source):
        return read_problems(beside / source, columns)
    data = parse_hub_data(source, beside)
    found = read_hub_rows(data)
    return read_problem_objects(found.rows, "row", data.source, columns)._replace(origin=found.note)


def _refuse_worked_examples(rows: Sequence[Row], shown: Sequence[str], where: str) -> None:
    questions = {normalise(question) for question in shown}
    clashes = [row.id for row in rows if questions and isinstance(row.prompt, str) and normalise(row.prompt) in questions]
    if clashes:
        listed = ", ".join(clashes[:3]) + (", …" if len(clashes) > 3 else "")
        raise BehaviorError(
            f"{where}: problem(s) {listed} are worked examples in prompt.examples too; remove one of the two",
            code="example_is_measured",
        )


def _split(rows: Sequence[Row], config: SplitConfig | None, where: str) -> tuple[Problem, ...]:
    """Give every row its split: what the rows say, or fractions of the keys."""
    keys = [row.key if row.key is not None else default_key(row.prompt) for row in rows]
    settings = config or SplitConfig()
    open_keys = [key for row, key in zip(rows, keys, strict=True) if row.split is None]
    has_train_file = isinstance(settings.train, str)
    marked = [row for row in rows if row.split is not None]
    if marked and open_keys and not has_train_file:
        raise BehaviorError(
            f"{where}: {len(marked)} row(s) have a split and {len(open_keys)} have none;"
            " give every row one, or none and let `split` divide",
            code="split_of_some_rows",
        )
    if marked and config is not None and not has_train_file:
        raise BehaviorError(
            f"{where}: the rows say their split and `split:` divides them too; keep one of the two", code="split_given_twice"
        )
    divided: dict[str, Split] = {}
    if open_keys:
        train = settings.train if isinstance(settings.train, float) else 0.0
        divided = split_keys(open_keys, train=train, final=settings.final, seed=settings.seed)
    problems = tuple(
        Problem(
            id=row.id,
            prompt=row.prompt,
            answer=row.answer,
            references=row.references,
            group=row.group,
            key=key,
            split=row.split or divided[key],
            hint=row.hint,
            metadata=row.metadata,
            answers=row.answers,
        )
        for row, key in zip(rows, keys, strict=True)
    )
    refuse_overlap(problems, where)
    return problems
