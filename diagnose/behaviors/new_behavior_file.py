"""Write a behavior file for a file of problems: every key with its default or what was guessed, and a comment that says why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from posttrain.diagnose.behaviors.behavior_files import load_behavior, read_source
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.behaviors.hub_data import is_hub_data
from posttrain.diagnose.behaviors.published_layouts import Layout
from posttrain.diagnose.behaviors.row_files import row_suffix
from posttrain.diagnose.behaviors.schema import SOURCES, BehaviorConfig, MeasureConfig, PromptConfig, SamplingConfig, SplitConfig
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, VerifierOrigin
from posttrain.diagnose.verifiers import VERIFIERS

COMMENTS: Mapping[str, str] = {
    "name": "names the behavior in runs and reports",
    "problems": "a .jsonl, .json, .csv, .tsv or .parquet file beside this one, or hf:NAME[:CONFIG][:SPLIT]",
    "columns": "our name: column of the file, where it is not found by itself, such as {prompt: question, answer: target}",
    "reasoning_gym": "in place of problems: problems that are generated, such as {dataset: products, size: 64}",
    "environment": "in place of problems: problems and grader of an environment of verifiers, such as {name: gsm8k} (docs/verifiers.md)",
    "verifier": "what reads answers",
    "verifier.kind": f"one of {', '.join(VERIFIERS)} (docs/verifiers.md)",
    "prompt": "how a question becomes a prompt",
    "prompt.system": "the system message; null leaves the chat template its own",
    "prompt.template": "{question} stands for the prompt of a row; what is around it says how to answer",
    "prompt.examples": "worked examples before the question, such as [{question: '1+1?', answer: '2'}]; never measured ones",
    "prompt.format": "chat, completion, or auto: chat where the model has a chat template",
    "prompt.thinking": "auto finds the markers of a thought, which is cut off before the answer is read; none; or [opening, closing]",
    "prompt.template_arguments": "variables of the chat template, such as {enable_thinking: false}",
    "sampling": "every setting of the sampler; nothing is inherited from the model",
    "sampling.temperature": "1 without truncation is what most can be said of: only then does a missing success say something about support",
    "sampling.top_p": "1 keeps all tokens",
    "sampling.top_k": "0 keeps all tokens",
    "sampling.min_p": "0 keeps all tokens",
    "sampling.repetition_penalty": "1 penalises nothing",
    "sampling.max_tokens": "tokens of a sample at most; auto takes twice the longest reference path, or what the first greedy samples need",
    "sampling.stop": "texts that end a sample",
    "sampling.known": "false where samples were taken elsewhere and nothing says how",
    "measure": "what counts",
    "measure.primary_k": "k of the primary pass@k",
    "measure.epsilon": "success rate below which a problem is out of support; null takes it from group_size",
    "measure.success": "a score of at least this is a success; null takes 1, or 0.5 where a model scores",
    "measure.group_size": "samples of one prompt that a trainer would compare with each other",
    "split": "shares of the problems; what remains is measured (eval). Equal problems share a split",
    "split.train": "share to train on, or a file of its own such as train.jsonl",
    "split.final": "share that is sampled once, at the end of a loop",
    "split.by": "what makes problems the same one",
    "split.seed": "another one divides otherwise",
    "purpose": "target (it should get better) or retention (it should not get worse)",
}  # fmt: skip
"""What is said of each key; every key of a behavior file has one."""
_PARTS: Mapping[str, type[BaseModel]] = {
    "prompt": PromptConfig, "sampling": SamplingConfig, "measure": MeasureConfig, "split": SplitConfig,
}  # fmt: skip
_ORIGINS = {
    VerifierOrigin.GUESSED: "guessed from the form of the answers",
    VerifierOrigin.LAYOUT: "that of the published set whose columns the rows have",
    VerifierOrigin.CHOSEN: "as given",
    VerifierOrigin.GENERATOR: "the problems come with it",
}
_PROPOSALS = {
    "number": "{question}\nThink step by step, and end with a line that holds #### and the number alone.",
    "math": "{question}\nThink step by step, and put the final answer into \\boxed{}.",
    "choice": "{question}\nEnd with: The answer is LETTER.",
    "exact": "{question}\nWrite the answer alone, without an explanation.",
}


def write_behavior_file(source: str | Path, out: str | Path | None = None, options: BehaviorOptions | None = None) -> Path:
    """Write a behavior file for problems, with every key; it loads.

    Args:
        source: A file of problems, or `hf:NAME[:CONFIG][:SPLIT]`.
        out: The YAML file; one beside the source without it, or in the working directory for a data set by name.
        options: Columns, a verifier and a system message that are given; they stand in the file.

    Returns:
        The file that was written.

    Raises:
        BehaviorError: The source is no file of problems, it cannot be read, or the file is there already (`file_exists`).
    """
    options = options or BehaviorOptions()
    if not is_hub_data(source) and not row_suffix(Path(source)):
        raise BehaviorError(
            f"init: got {source}; allowed: a file of problems such as my.jsonl, or hf:NAME[:CONFIG][:SPLIT]",
            code="not_a_problem_file",
        )
    behavior = load_behavior(source, options)
    folder = Path() if is_hub_data(source) else Path(source).parent
    path = Path(out) if out is not None else folder / f"{behavior.name}.yaml"
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise BehaviorError(f"init: --out: got {path}; allowed: a .yaml file", code="not_a_yaml_file")
    if path.exists():
        raise BehaviorError(f"{path}: is there already; remove it, or give another file with --out", code="file_exists")
    problems = behavior.source if is_hub_data(source) else os.path.relpath(source, path.parent)
    text = "\n".join(_lines(behavior, problems, options)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.stem}.{os.getpid()}.yaml")
    try:
        written.write_text(text, encoding="utf-8")
        load_behavior(written)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return path


def _lines(behavior: Behavior, problems: str, options: BehaviorOptions) -> Iterator[str]:
    file = read_source(behavior.source, Path(), options.columns or {})
    is_marked = any(row.split is not None for row in file.rows)
    yield f"# What is measured, how it is asked and how answers are graded: {len(behavior.problems)} problems. Every key has its default, or what was guessed."
    for name, field in BehaviorConfig.model_fields.items():
        yield ""
        yield f"# {COMMENTS[name]}"
        if name == "problems":
            layout = None if file.layout is None else f"{len(file.rows)} rows read as {file.layout.name} publishes them"
            yield from (f"# {note}" for note in (file.origin, layout, file.columns) if note)
            yield f"problems: {_write(problems)}"
        elif name in SOURCES:
            yield f"# {name}: {{}}"
        elif name == "verifier":
            yield from _verifier_lines(behavior)
        elif name in _PARTS:
            hidden = "# " if name == "split" and is_marked else ""
            if hidden:
                yield "# (the rows say their split themselves)"
            yield f"{hidden}{name}:"
            yield from (hidden + line for line in _part_lines(behavior, name, file.layout))
        else:
            given = {"name": behavior.name, "columns": options.columns or {}}
            yield f"{name}: {_write(given.get(name, field.get_default(call_default_factory=True)))}"


def _verifier_lines(behavior: Behavior) -> Iterator[str]:
    spec = behavior.verifier
    kept = {name: value for name, value in spec.options.items() if name != "folder"}
    yield f"# {COMMENTS['verifier.kind']}; this one is {_ORIGINS[behavior.verifier_origin]}"
    yield "verifier:"
    yield f"  kind: {_write(spec.kind)}"
    for name, field in VERIFIERS[spec.kind].Options.model_fields.items():
        if name in kept:
            yield f"  {name}: {_write(kept[name])}"
        elif not field.is_required():
            yield f"  # {name}: {_write(field.get_default(call_default_factory=True))}"


def _part_lines(behavior: Behavior, part: str, layout: Layout | None) -> Iterator[str]:
    for name, field in _PARTS[part].model_fields.items():
        value = field.get_default(call_default_factory=True)
        if (part, name) == ("prompt", "system"):
            value = behavior.prompt.system
        yield f"  # {COMMENTS[f'{part}.{name}']}"
        if (part, name) == ("prompt", "template") and (proposal := _proposal(behavior, layout)) not in (None, value):
            yield "  # nothing in the prompts says how to answer, so that this was added; {question} alone asks what the rows ask"
            value = proposal
        yield f"  {name}: {_write(value)}"


def _proposal(behavior: Behavior, layout: Layout | None) -> str | None:
    """Return a template that says how to answer; None where the behavior's prompts say it, or nothing is known to say."""
    if behavior.verifier_origin is VerifierOrigin.CHOSEN or behavior.prompt.system is not None:
        return None
    if not all(isinstance(problem.prompt, str) for problem in behavior.problems):
        return None
    return _PROPOSALS.get(behavior.verifier.kind) if layout is None else layout.template


def _write(value: Any) -> str:
    """Return a value as YAML on one line."""
    if (
        isinstance(value, str)
        and value.isidentifier()
        and value not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    ):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
