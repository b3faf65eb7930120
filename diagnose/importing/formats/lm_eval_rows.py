"""Rows of `samples_*.jsonl` of lm-evaluation-harness: one per document and filter.

Source: `SampleResult` in `lm_eval/result_schema.py` of lm-evaluation-harness 0.4.13, and `save_results_samples` in
`lm_eval/loggers/evaluation_tracker.py`, which writes them; before 0.4.3 `arguments` was a list of lists and there were no hashes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import Prompt, read_prompt
from posttrain.diagnose.importing.imported import problem_of_text
from posttrain.diagnose.importing.outcomes import is_score, read_score
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.shared_scores import spread_share
from posttrain.diagnose.importing.source_rows import SourceRow, as_float
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Sampling

WANTED = "samples_*.jsonl, which lm_eval writes with --log_samples"
BYPASS = "bypass"
"""The metric of `--predict_only`: nothing was graded."""
_OF_ALL = re.compile(r"pass(?:@|_at_)1")
"""A metric that is the share of successes among all responses, where a filter leaves several."""
_ID_LENGTH = 12
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_TRUNCATION = ("top_p", "top_k")


class Grading(StrEnum):
    """Which responses to a document the metric is of."""

    EACH = "each"
    FIRST = "first"
    """Of several, the first alone."""
    TOGETHER = "together"
    """Of several, all at once, by a vote or an estimate of pass@k: that of one is not known."""
    NONE = "none"


@dataclass(kw_only=True, slots=True)
class Response:
    """One response to a document."""

    text: str | None
    score: float | None


@dataclass(slots=True)
class DocumentRow:
    """A document under one filter, with every response to it."""

    row: SourceRow
    filter: str = field(init=False)
    """The name of its filter."""
    requests: list[list[Any]] = field(init=False)
    """The arguments of each request."""
    is_likelihood: bool = field(init=False)
    """Whether options were compared by their likelihood, so that nothing was written."""

    def __post_init__(self) -> None:
        """Read what is asked for again and again, and refuse a row of another format."""
        self.row.require("doc_id", "arguments", "resps", wanted=WANTED)
        self.filter = str(self.row.get("filter") or "none")
        found = self.row.get("arguments")
        several = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
        self.requests = [
            list(one.values()) if isinstance(one, dict) else list(one) if isinstance(one, list) else [one] for one in several
        ]
        first = _first(_first(self.row.get("resps")))
        self.is_likelihood = isinstance(first, (list, tuple)) and len(first) == 2

    @property
    def metrics(self) -> list[str]:
        """Return the names of its metrics; before 0.4.3 the keys that are none of the others."""
        named = self.row.get("metrics")
        return [str(one) for one in named] if isinstance(named, list) else [key for key in self.row.values if key not in _KEYS]

    def has_score(self, metric: str) -> bool:
        """Return whether a metric says how right the responses are: it is a number, or a text that is one."""
        value = self.row.get(metric)
        return isinstance(value, bool | int | float) or (isinstance(value, str) and is_score(value))

    @property
    def problem(self) -> str:
        """Return what tells the document from others, the same in every run: the beginning of the digest of its content."""
        digest = self.row.get("doc_hash")
        if not isinstance(digest, str) or not digest:
            digest = hashlib.sha256(json.dumps(self.document, indent=2, ensure_ascii=False).encode()).hexdigest()
        return (
            digest[:_ID_LENGTH] if self.document or self.row.get("doc_hash") else problem_of_text(self.prompt or "", self.target)
        )

    @property
    def document(self) -> dict[str, Any]:
        """Return the row of the data set."""
        found = self.row.get("doc")
        return found if isinstance(found, dict) else {}

    @property
    def target(self) -> str:
        """Return what is right, as text."""
        target = self.row.get("target")
        return "" if target is None or target != target else str(target)

    @property
    def answers(self) -> tuple[str, ...]:
        """Return every answer that is right; of a choice between options its words."""
        if self.options and (right := self._right_option()) is not None:
            return (right,)
        if self.target.startswith("[") and self.target.endswith("]"):  # lm-eval stores a list of targets as Python writes it
            try:
                several = ast.literal_eval(self.target)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return (self.target,)
            if isinstance(several, list) and several and all(isinstance(one, str) for one in several):
                return tuple(several)
        return (self.target,) if self.target else ()

    @property
    def prompt(self) -> Prompt | None:
        """Return what the model was given for the first request."""
        return read_context(self.requests[0][0], self.row.where) if self.requests and self.requests[0] else None

    @property
    def options(self) -> list[str]:
        """Return the options whose likelihoods were compared; none where the model wrote."""
        if not self.is_likelihood:
            return []
        asked = self._conditional()
        continuations = [str(self.requests[i][1]) for i in asked if len(self.requests[i]) > 1 and self.requests[i][1] is not None]
        if len(asked) > 1 and len(set(continuations)) < len(asked):  # the options stand in the contexts, as in winogrande
            return [str(self.requests[i][0]) for i in asked]
        return [one.strip() for one in continuations]

    def responses(self, metric: str | None, is_vote: bool) -> tuple[list[Response], Grading]:
        """Return every response to the document, and which the metric is of.

        Args:
            metric: The one that counts; None where nothing was graded.
            is_vote: Whether the filter makes one response of several.

        Raises:
            SourceError: The metric is no number, or there is no response.
        """
        score = None if metric is None else self._score(metric)
        if self.is_likelihood:
            return [Response(text=self._chosen(metric), score=score)], Grading.EACH if metric else Grading.NONE
        found = self.row.get("resps")
        given = found[0] if isinstance(found, list) and found and isinstance(found[0], list) else []
        texts = ["" if text is None else str(text) for text in given]
        if not texts:
            raise SourceError(f"{self.row.where}: resps: got {shorten(found)}; {WANTED}", code="not_this_format")
        if metric is None:
            return [Response(text=text, score=None) for text in texts], Grading.NONE
        if len(texts) == 1:
            return [Response(text=texts[0], score=score)], Grading.EACH
        kept = _first(self.row.get("filtered_resps"))
        if is_vote or (isinstance(kept, list) and len(kept) > 1):
            return self._together(texts, metric, None if is_vote else score)
        rest = [Response(text=text, score=None) for text in texts[1:]]
        return [Response(text=texts[0], score=score), *rest], Grading.FIRST

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the first request that says anything says of the sampler."""
        return next((one[1] for one in self.requests if len(one) > 1 and isinstance(one[1], dict)), {})

    def sampling(self, engine: str) -> Sampling | None:
        """Return the settings of the sampler; None where the row does not tell them all.

        Args:
            engine: What sampled. That of transformers truncates as the model's own generation settings say, which no log has, unless the
                request sets both top_p and top_k.
        """
        if self.is_likelihood:
            return Sampling(temperature=0.0, max_tokens=0)
        given = self.settings
        limit = next((given[name] for name in _LIMITS if isinstance(given.get(name), int)), 0)
        temperature, samples = given.get("temperature"), given.get("do_sample")
        if samples is False or (samples is None and not temperature):
            return Sampling(temperature=0.0, max_tokens=limit)
        if not temperature or (engine.startswith("hf") and any(name not in given for name in _TRUNCATION)):
            return None
        return read_sampling({**given, "max_tokens": limit})

    def _score(self, metric: str) -> float | None:
        value = self.row.get(metric)
        if isinstance(value, str):  # lm-eval writes numbers of numpy as text, such as "1.0" or "True"
            return read_score(value, f"{self.row.where}: {metric}")
        return self.row.number(metric)

    @staticmethod
    def _together(texts: Sequence[str], metric: str, score: float | None) -> tuple[list[Response], Grading]:
        """Return the responses that one number is of: each is graded where it is the share of successes.

        Which ones succeeded is told only where all did or none; else their texts are left out.
        """
        spread = spread_share(texts, score) if _OF_ALL.fullmatch(metric) else None
        if spread is None:
            return [Response(text=text, score=None) for text in texts], Grading.TOGETHER
        return [Response(text=text, score=value) for text, value in spread], Grading.EACH

    def _right_option(self) -> str | None:
        """Return the option that the target names, by its index or its words.

        Where options are numbers a target may be either: what `acc` says of the chosen option tells, else it is the index, which lm-eval makes of a
        target of digits.
        """
        options, target = self.options, self.target.strip()
        named = [options[int(target)]] if target.isdecimal() and int(target) < len(options) else []
        named += [target] if target in options else []
        if len(set(named)) > 1 and (right := self.row.get("acc")) in (0, 1):
            chosen = self._chosen("acc")
            named = [one for one in named if (one == chosen) == bool(right)] or named
        return named[0] if named else None

    def _conditional(self) -> list[int]:
        """Return the places of the requests that show the context, without those that ask for the options alone."""
        with_context = [i for i, one in enumerate(self.requests) if one and one[0] not in ("", None)]
        return with_context or list(range(len(self.requests)))

    def _chosen(self, metric: str | None) -> str | None:
        """Return the option with the highest likelihood, per character for `acc_norm`; the only one where it is what the model would write."""
        likelihoods = self.row.get("resps")
        options = self.options
        pairs = [_first(likelihoods[i]) for i in self._conditional() if isinstance(likelihoods, list) and i < len(likelihoods)]
        if not options or len(pairs) != len(options):
            return None
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return None
        if len(options) == 1:
            return options[0] if str(pairs[0][1]) == "True" else None
        per = [max(len(option), 1) if metric == "acc_norm" else 1 for option in options]
        known = [as_float(pair[0]) for pair in pairs]
        if any(value is None or math.isnan(value) for value in known):
            return None
        values = [value / length for value, length in zip(known, per, strict=True) if value is not None]
        return options[max(range(len(values)), key=values.__getitem__)]


_KEYS = frozenset(
    {
        "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
        "doc_hash", "prompt_hash", "target_hash", "task_name", "schema_version",
    }
)  # fmt: skip


def read_context(context: Any, where: str) -> Prompt | None:
    """Return what the model was given: a text, or the messages of a chat, which lm-eval stores as JSON text in a list.

    Raises:
        SourceError: It is neither.
    """
    if isinstance(context, list) and len(context) == 1 and isinstance(context[0], str):
        context = context[0]
    if isinstance(context, str) and context.startswith("[{"):
        try:
            return read_prompt(json.loads(context), where)
        except (ValueError, SourceError):  # a text that begins like a chat
            return context
    return read_prompt(context, where)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and value else None


def describe(document: DocumentRow) -> Mapping[str, Any]:
    """Return what else a verifier may need of a document: its row of the data set, its number and its options."""
    choices = {"choices": document.options} if len(document.options) > 1 else {}
    return {**document.document, **choices, "doc_id": document.row.get("doc_id")}
