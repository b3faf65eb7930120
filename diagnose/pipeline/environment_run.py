"""Measure an environment of several turns or with tools: its own loop asks a server, and the rollouts that it stores are imported.

What a behavior of one turn has beyond that is missing: greedy samples, log-probabilities, probes, a pilot, a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors import load_behaviors
from posttrain.diagnose.behaviors.behavior_files import name_from, read_config
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.behaviors.environment_problems import EnvironmentProblems, require_success
from posttrain.diagnose.behaviors.schema import AUTO, BehaviorConfig, VerifierConfig
from posttrain.diagnose.engines import parse_engine, server_seconds
from posttrain.diagnose.engines.openai.server_capabilities import PROBE, base_address, find_card, served_models
from posttrain.diagnose.engines.openai.transport import Transport
from posttrain.diagnose.errors import BehaviorError, RunError, SettingsError, UserError
from posttrain.diagnose.importing.imported import ImportedSamples
from posttrain.diagnose.pipeline.environment_process import EnvironmentProcess
from posttrain.diagnose.pipeline.import_run import ImportSettings, import_run
from posttrain.diagnose.pipeline.read_and_import import read_samples
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.probes.runner import AUTO as AUTO_PROBES
from posttrain.diagnose.probes.runner import NONE
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.plan import sampling_goal
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.files import read_json, write_json
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory, say_differences
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Note
from posttrain.diagnose.verifiers.environment import EnvironmentOptions, EnvironmentVerifier
from posttrain.diagnose.verifiers.environments.refusal import MULTI_TURN

ROLLOUTS = "evaluation"
"""Folder of a run that holds what the environment's loop stored."""
_SETTINGS = "settings.json"
_FOLLOWED = frozenset({"engine", "samples", "thresholds", "command", "pilot"})
"""Fields of `DiagnoseRequest` beside model, behaviors and folder that such a run follows, or has no use for."""
_FOLLOWED_OPTIONS = frozenset({"max_tokens", "temperature", "limit"})
_FOLLOWED_SETTINGS = {"sampling": ("temperature", "top_p", "max_tokens"), "measure": ("success",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRun:
    """An environment of several turns to be measured.

    Raises:
        UserError: Something is given that its own loop cannot follow (`environment_option`), or stands in its file (`environment_setting`), or it stands
            beside other behaviors (`environment_beside_others`).
    """

    model: str
    """As the server calls it."""
    behaviors: Sequence[Any]
    """The behavior file of the environment alone."""
    out: Path
    given: Mapping[str, Any]
    """Further fields of `DiagnoseRequest`, by their names."""
    options: BehaviorOptions = field(default_factory=BehaviorOptions)
    """Settings that win over those of the file."""

    def __post_init__(self) -> None:
        """Check what can be checked without the environment."""
        if len(self.behaviors) != 1:
            raise SettingsError(
                f"got {len(self.behaviors)} behaviors, one of which is an environment of several turns or with tools; allowed: that one alone; measure the others "
                "in a run of their own",
                code="environment_beside_others",
            )
        assert self.samples
        usual = {one.name: one.default for one in fields(DiagnoseRequest) if one.init}
        further = {name: value for name, value in self.given.items() if name not in _FOLLOWED}
        if tuple(further.get("probes", ())) in ((AUTO_PROBES,), (NONE,)):
            del further["probes"]
        unlike = [name for name, value in further.items() if value != usual[name]]
        unlike += sorted(self.options.given().keys() - _FOLLOWED_OPTIONS)
        if unlike:
            named = ", ".join("--" + name.replace("_", "-") for name in unlike)
            raise SettingsError(
                f"{self.file}: an environment of several turns or with tools is sampled by its own loop, which cannot follow {named}; "
                "allowed: --samples, --max-tokens, --temperature, --limit; leave the others out",
                code="environment_option",
            )
        if unlike := _not_followed(self.config):
            raise SettingsError(
                f"{self.file}: got {', '.join(unlike)}, and an environment of several turns or with tools is sampled and graded by its own loop; allowed: name, "
                "environment, sampling: {temperature, top_p, max_tokens}, measure: {success}; leave the others out",
                code="environment_setting",
            )

    @property
    def file(self) -> Path:
        """The behavior file."""
        return Path(self.behaviors[0])

    @property
    def config(self) -> BehaviorConfig:
        """What the file says, and what is given beside it."""
        return self.options.apply(read_config(self.file))

    @property
    def samples(self) -> int:
        """Rollouts of each problem."""
        goal = sampling_goal(self.given.get("samples"), None, None)
        assert goal.samples is not None
        return goal.samples

    @property
    def thresholds(self) -> Thresholds:
        """Every number that the verdict depends on."""
        found = self.given.get("thresholds", Thresholds())
        assert isinstance(found, Thresholds)
        return found

    def settings(self) -> dict[str, Any]:
        """Return what rollouts of one run share."""
        environment, sampling = self.config.environment, self.config.sampling
        assert environment is not None
        limits = [one for one in (environment.size, self.options.limit) if one is not None]
        named = EnvironmentOptions(name=environment.name, folder=str(self.file.parent.resolve()))
        return {
            "name": environment.name,
            "arguments": {**environment.arguments, **environment.eval_arguments},
            "split": environment.split,
            "size": min(limits, default=None),
            "code": EnvironmentVerifier(named).identity(),
            "samples": self.samples,
            "address": base_address(parse_engine(self.given["engine"])[1]),
            "model": self.model,
            "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p}
            | ({} if sampling.max_tokens == AUTO else {"max_tokens": sampling.max_tokens}),
        }

    def request(self) -> dict[str, Any]:
        """Return what the process is asked for, as far as the server need not be known."""
        return {**self.settings(), "seconds": server_seconds(), "folder": str(self.out.resolve() / ROLLOUTS)}


def read_request(
    model: str | Path, behaviors: Sequence[Any], *, out: str | Path, settings: BehaviorOptions | None = None, **given: Any
) -> DiagnoseRequest | EnvironmentRun:
    """Return what is to be measured; an environment whose own loop can ask the engine's server is a run of its own kind.

    Args:
        model: As for `DiagnoseRequest`.
        behaviors: As for `DiagnoseRequest`.
        out: The run directory.
        settings: Win over those of the behaviors.
        given: Further fields of `DiagnoseRequest`.

    Raises:
        UserError: Anything given is wrong.
    """
    try:
        loaded = behaviors if settings is None else load_behaviors(behaviors, settings)
        return DiagnoseRequest(model=model, behaviors=loaded, out=out, **given)
    except BehaviorError as error:
        engine = given.get("engine")
        if error.code != MULTI_TURN or not isinstance(engine, str) or parse_engine(engine)[0] != "openai":
            raise
    return EnvironmentRun(
        model=str(model), behaviors=behaviors, out=Path(out), given=given, options=settings or BehaviorOptions()
    )


def plan_environment(run: EnvironmentRun) -> str:
    """Return what a run would sample, in one line; nothing is asked of the server.

    Raises:
        UserError: The environment cannot be used.
    """
    with _open(run) as process:
        return _in_words(run, process.known)


def measure_environment(run: EnvironmentRun, reporter: Reporter | None = None) -> DiagnosedRun:
    """Sample what is missing, and make a finished run of all rollouts.

    Raises:
        UserError: The environment or the server cannot be used, the folder holds something else, or more rollouts failed than a valid measurement may miss
            (`rollouts_failed`); those that did not are kept.
    """
    reporter, folder = reporter or Reporter(quiet=True), run.out / ROLLOUTS
    _check_folder(run)
    if not RunDirectory(run.out).run_json.exists():
        with locked_folder(run.out):
            _sample(run, reporter)
    settings = ImportSettings(
        out=run.out,
        success=run.config.measure.success,
        thresholds=run.thresholds,
        paths=[folder],
        command=str(run.given.get("command", "")),
    )
    return import_run(_read(run), settings, reporter)


def _sample(run: EnvironmentRun, reporter: Reporter) -> None:
    with _open(run) as process:
        known, stored = process.known, run.out / ROLLOUTS / _SETTINGS
        if stored.exists() and read_json(stored)["digest"] != known["digest"]:
            raise RunError(
                f"{run.file}: the problems of environment {run.settings()['name']} are others than those that were sampled; give a new folder, and where they are others "
                "each time it is loaded a seed, as in `arguments: {seed: 0}`",
                code="environment_changes",
            )
        served = _ask_server(run.settings())
        write_json(stored, {**run.settings(), "set": known["set"], "digest": known["digest"]})
        reporter.say(_in_words(run, known))
        total = known["problems"] * run.samples
        with reporter.task(f"sampling {_name(run)}", total) as task:
            ended = process.sample(served, task.advance)
    if ended["failed"] > run.thresholds.max_missing * total:
        raise RunError(
            f"{run.file}: {ended['failed']} of {total} rollouts failed (the first: {ended['first_failure']}); allowed: {run.thresholds.max_missing:.0%} of them; see "
            "that the server runs and takes what the environment sends, then give the same command again, which samples these alone",
            code="rollouts_failed",
        )


def _open(run: EnvironmentRun) -> EnvironmentProcess:
    """Open the environment, and refuse rewards that leave open what a right answer is."""
    process, measure = EnvironmentProcess(run.request(), run.file.parent, str(run.file)), run.config.measure
    known = process.known
    try:
        problems = EnvironmentProblems((), "", known["low"], known["high"], False)
        require_success(problems, run.settings()["name"], measure.success, str(run.file))
    except UserError:
        process.__exit__(None, None, None)
        raise
    return process


def _ask_server(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of the model on the server, and the sampler with what the server would set otherwise.

    Raises:
        UserError: There is no such server or model, or it does not answer a chat.
    """
    transport, address, sampling = Transport(timeout=server_seconds()), settings["address"], settings["sampling"]
    card = find_card(settings["model"], None, served_models(transport, address), address)
    plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0} if card.get("owned_by") == "vllm" else {}
    url, served = f"{address}/chat/completions", str(card["id"])
    first = {"model": served, "messages": [{"role": "user", "content": PROBE}], **sampling, **plain}
    first.pop("max_tokens", None)
    transport.require(transport.ask("POST", url, {**first, "max_completion_tokens": 1}), url)
    return {"model": served, "sampling": {**sampling, **({"extra_body": plain} if plain else {})}}


def _check_folder(run: EnvironmentRun) -> None:
    """Refuse a folder that holds something else, or rollouts that were sampled otherwise."""
    RunDirectory(run.out, sources=[run.out / ROLLOUTS]).check("diagnose", {})
    stored = run.out / ROLLOUTS / _SETTINGS
    there = read_json(stored, remedy="give a new folder") if stored.exists() else {}
    if not there and RunDirectory(run.out).run_json.exists():
        said = "no rollouts of an environment"
    else:
        said = say_differences(there, run.settings()) if there else ""
    if said:
        raise RunError(
            f"--out {run.out}: holds another run ({said}); give a new folder, or the same settings to resume",
            code="other_settings",
        )


def _read(run: EnvironmentRun) -> ImportedSamples:
    folder = run.out / ROLLOUTS
    found = read_samples("verifiers", folder)
    if len({sample.behavior for sample in found.samples}) == 1:  # several in a group of environments
        found = replace(found, samples=[replace(sample, behavior=_name(run)) for sample in found.samples])
    if read_json(folder / _SETTINGS)["set"] == "train":
        note = Note("train_set_measured", "The problems are of the environment's train set; training on them would show nothing.")
        found = replace(found, source=replace(found.source, notes=(*found.source.notes, note)))
    return found


def _name(run: EnvironmentRun) -> str:
    return run.config.name or name_from(run.file)


def _in_words(run: EnvironmentRun, known: Mapping[str, Any]) -> str:
    num = known["problems"]
    return (
        f"{_name(run)}: {num} problem{'s' * (num != 1)} of the {known['set']} set × {run.samples} samples = {num * run.samples:,} rollouts of environment "
        f"{run.settings()['name']} (verifiers {known['version']}) by its own loop"
    )


def _not_followed(config: BehaviorConfig) -> list[str]:
    """Return the settings of a behavior file that differ from their defaults and are not followed."""
    usual = BehaviorConfig.model_construct()
    unlike = [name for name in ("prompt", "split", "purpose") if getattr(config, name) != getattr(usual, name)]
    if config.verifier not in (None, VerifierConfig(kind="environment")):
        unlike.append("verifier")
    for part, followed in _FOLLOWED_SETTINGS.items():
        own, default = getattr(config, part).model_dump(), getattr(usual, part).model_dump()
        unlike += [f"{part}.{name}" for name in own if name not in followed and own[name] != default[name]]
    return unlike
