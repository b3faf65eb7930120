"""Rollouts of open-instruct: `{run}_rollouts_{shard}.jsonl`, a row per sample with token ids, beside a `{run}_metadata.jsonl`.

A row has `step`, `sample_idx`, `prompt_idx` (both within the step), `prompt_tokens`, `response_tokens`, `reward`, `advantage`, `finish_reason`, `dataset`,
`ground_truth`, `request_info` (calls of tools) and `logprobs`. Texts need the tokenizer. Groups in which all samples have one reward are dropped before they
are written unless `filter_zero_std_samples` is off, and the files do not say whether it was: they are read only where the user accepts that.

Source: allenai/open-instruct, `open_instruct/rl_utils.py` and `data_loader.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.finish_import import (
    ProblemIds,
    Told,
    as_answer,
    as_answers,
    finish,
    refuse_biased,
    refuse_unused,
)
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions, Untold
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Note, StopReason

_WANTED = "{run}_rollouts_{shard}.jsonl that open-instruct wrote, or their folder"
_KEYS = ("step", "prompt_tokens", "response_tokens", "reward")
_STOPS = {"length": StopReason.LENGTH, "stop": StopReason.EOS}

Decode = Callable[[Sequence[int]], str]


def read_open_instruct(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the rollouts of these files, as `Reader` says it; the policy of a sample is its step."""
    refuse_unused(options, "open-instruct", "tokenizer")
    rows, ids, repeated = RowReader(), ProblemIds(), RepeatedRows()
    decode = _decoder(options.tokenizer) if options.tokenizer else None
    samples: list[ImportedSample] = []
    models: set[str] = set()
    for path in find_files(paths, _WANTED, "**/*_rollouts_*.jsonl"):
        refuse_biased(
            path,
            "open-instruct drops groups with one reward for all samples unless filter_zero_std_samples is off, so that success rates are biased",
            "import an evaluation of the checkpoint",
            options,
        )
        models |= _models(path)
        for row in rows.json_lines(path):
            if not repeated.is_again(row, path, *(row.get(key) for key in ("step", "prompt_idx", "sample_idx"))):
                samples.append(_read_row(row, path, ids, decode))
    notes = [
        *rows.notes,
        *repeated.notes,
        Note("groups_dropped", "groups in which all samples or none succeed may be left out; the files do not say so"),
    ]
    model = models.pop() if len(models) == 1 else "unknown"
    return finish(
        samples, Told(format="open-instruct", model=model, untold=ids.untold | {Untold.COMPLETENESS}, notes=notes), options
    )


def _decoder(name: str) -> Decode:
    """Return what turns token ids into a text without special tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = shorten(" ".join(str(error).split()), 100)
        raise SourceError(
            f"--tokenizer: {name} cannot be loaded ({reason}); give its folder or its name", code="tokenizer"
        ) from None

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    return decode


def _models(rollouts: Path) -> set[str]:
    """Return the model that the metadata beside a file name."""
    metadata = rollouts.with_name(rollouts.name.split("_rollouts_")[0] + "_metadata.jsonl")
    rows = RowReader().json_lines(metadata) if metadata.is_file() else ()
    return {name for row in rows if (name := row.text("model_name")) and name != "unknown"}


def _read_row(row: SourceRow, path: Path, ids: ProblemIds, decode: Decode | None) -> ImportedSample:
    row.require(*_KEYS, wanted=_WANTED)
    asked, said = _tokens(row, "prompt_tokens"), _tokens(row, "response_tokens")
    dataset = row.get("dataset")
    behavior = ".".join(map(str, dataset)) if isinstance(dataset, list) else str(dataset or "open-instruct")
    truth = row.get("ground_truth")
    of_tokens = isinstance(truth, list) and bool(truth) and all(isinstance(token, int) for token in truth)
    answers = ((decode(truth),) if decode else ()) if of_tokens else as_answers(truth)
    calls = row.inside("request_info").count("num_calls")
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(None, behavior, repr(asked), as_answer(truth), path),
        score=row.number("reward"),
        text=decode(said) if decode else None,
        prompt=decode(asked) if decode else None,
        answer=answers[0] if answers else "",
        answers=answers[1:],
        stop=_STOPS.get(row.text("finish_reason") or "", StopReason.UNKNOWN),
        num_tokens=len(said),
        turn_count=calls + 1 if calls else None,
        policy=row.name("step"),
    )


def _tokens(row: SourceRow, key: str) -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(token, int) for token in value):
        raise SourceError(f"{row.where}: {key}: got {shorten(value)}; allowed is a list of token ids", code="invalid_tokens")
    return value


OPEN_INSTRUCT = Format(
    name="open-instruct", title="open-instruct", files="{run}_rollouts_{shard}.jsonl, or their folder", read=read_open_instruct
)
