"""The scorer that comes with a reasoning-gym data set.

The documented exception to the rule that the child sees no answer: these scorers need the whole entry, so they run whole in the
child. Some of them evaluate what they are given; only the limits of the child protect against a malicious text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier

_ENTRY = "reasoning_gym"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"\banswer(?:[ \t]+is)?[ \t]*[:=]?[ \t]*(.+)", re.IGNORECASE)


class ReasoningGymOptions(StrictModel):
    """Options of `reasoning_gym`: none, the data set is named by the entry."""


class ReasoningGymVerifier(Verifier):
    """Gives the text to the data set's own scorer: what stands in the last <answer> tag, else all of it.

    The lenient reading takes the best score of the last line and of what follows the last `answer is`.
    """

    Options = ReasoningGymOptions

    def __init__(self, options: ReasoningGymOptions) -> None:
        self._scorers: dict[str, Callable[..., Any]] = {}

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Score a text (child process).

        Returns:
            The score and what was scored, as `0.5 <text>`.
        """
        assert payload is not None
        candidates = _read(text, lenient)
        if not candidates:
            return None
        scorer = self._scorer(str(payload["metadata"]["source_dataset"]))
        scored = [(float(scorer(candidate, payload)), candidate) for candidate in candidates]
        score, candidate = max(scored, key=lambda pair: pair[0])
        return f"{min(max(score, 0.0), 1.0)!r} {candidate}"

    def _scorer(self, dataset: str) -> Callable[..., Any]:
        if dataset not in self._scorers:
            from reasoning_gym.factory import get_score_answer_fn  # slow to import: only in the child, only for this kind

            self._scorers[dataset] = get_score_answer_fn(dataset)
        return self._scorers[dataset]

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the score that the child worked out."""
        return float(extracted.split(" ", 1)[0])

    def complaint(self, problem: Problem) -> str | None:
        """Refuse a problem without its entry."""
        entry = problem.metadata.get(_ENTRY)
        if not isinstance(entry, Mapping) or "source_dataset" not in entry.get("metadata", {}):
            return (
                "metadata holds no reasoning-gym entry, which the verifier reasoning_gym scores by;"
                " get the problems from `reasoning_gym:`, or use the verifier exact"
            )
        return None

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the entry, answer included."""
        entry: Mapping[str, Any] = problem.metadata[_ENTRY]
        return entry


def _read(text: str, lenient: bool) -> list[str]:
    tagged = _TAGGED.findall(text)
    if not lenient:
        candidates = [tagged[-1] if tagged else text]
    else:
        candidates = [*tagged[-1:], *text.strip().splitlines()[-1:], *_ANSWER.findall(text)[-1:]]
        candidates += [candidate.strip().rstrip(".") for candidate in candidates]
    return [candidate for raw in dict.fromkeys(candidates) if (candidate := raw.strip())]
