"""Rows of lighteval before its version 0.10, in which each field has a column of its own, as rows of the versions after it.

Columns are `example`, `full_prompt`, `predictions` (texts, or log-likelihoods of options), `gold` (texts that are right) or `choices` with `gold_index`,
`cont_tokens`, `metrics`, `specifics` and others; before 0.8 each holds what Python prints. A document has a row for each kind of metric (texts,
options), with the metrics of that kind.

Source: `DetailsLogger.log` in `src/lighteval/logging/info_loggers.py`, and `evaluation_tracker.py`, of lighteval 0.3 to 0.9.2.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.importing.source_rows import SourceRow

_COLUMNS = ("predictions", "metrics")
_NUMPY = re.compile(r"\bnp\.\w+\(([^()]*)\)")
_NO_NUMBER = re.compile(r"(?<=[:\[( ,])(?:nan|-?inf)(?=[\]), }])")


def is_flat(row: SourceRow) -> bool:
    """Return whether a row has a column for each field."""
    return all(name in row.values for name in _COLUMNS)


def nested(row: SourceRow) -> SourceRow:
    """Return a row with the objects `doc`, `model_response` and `metric`."""
    gold, choices = _list(row.get("gold")), _list(row.get("choices"))
    predictions = _list(row.get("predictions"))
    texts = [one for one in predictions if isinstance(one, str)]
    tokens = _list(row.get("cont_tokens"))
    specifics = _printed(row.get("specifics"))
    document = {
        "query": row.get("example") or row.get("full_prompt"),
        "choices": choices,
        "gold_index": _printed(row.get("gold_index")),
        "specific": specifics if isinstance(specifics, Mapping) else None,
    }
    if gold and texts:
        document |= {"choices": gold, "gold_index": list(range(len(gold)))}
    response = {
        "input": _chat(row.get("full_prompt")),
        "text": texts,
        "logprobs": []
        if texts
        else [one[0] if isinstance(one, list | tuple) and one else one for one in predictions][: len(choices)],
        # of several samples of one request the tokens stand together
        "output_tokens": tokens[0] if len(texts) > 1 and len(tokens) == 1 else tokens,
    }
    metrics = row.get("metrics")
    if isinstance(metrics, dict):  # parquet has every key of any row in each
        metrics = {name: value for name, value in metrics.items() if value is not None}
    else:
        metrics = _printed(metrics)
    return SourceRow(
        row.where, {"doc": document, "model_response": response, "metric": metrics if isinstance(metrics, dict) else {}}
    )


def _printed(value: Any) -> Any:
    """Return what a text says in Python, and any other value, or a text that says nothing, as it is."""
    if not isinstance(value, str):
        return value
    for text in (value, _NO_NUMBER.sub("None", _NUMPY.sub(r"\1", value))):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value


def _list(value: Any) -> list[Any]:
    found = _printed(value)
    return list(found) if isinstance(found, list | tuple) else []


def _chat(prompt: Any) -> Any:
    """Return the messages of a prompt that was printed; any other as it is."""
    found = _printed(prompt) if isinstance(prompt, str) and prompt.startswith("[{") else prompt
    return found if isinstance(found, list) else prompt
