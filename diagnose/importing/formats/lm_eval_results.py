"""What `results_*.json` of lm-evaluation-harness says of a task: the model, how its responses were filtered, how many documents there are.

Source: `lm_eval/result_schema.py` of lm-evaluation-harness 0.4.13.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_MODEL_ARGUMENTS = re.compile(r"(?:^|,)\s*(?:pretrained|model|model_name)\s*=\s*([^,]+)")
_VOTES = re.compile(r"maj(?:ority)?[@_-]|vote|consensus", re.IGNORECASE)
"""Names of filters that make one response of several, where no configuration says it."""
_VOTING = frozenset({"majority_vote", "consensus"})


@dataclass(frozen=True)
class TaskResults:
    """What is known of one task beside its documents; empty where there is no such file."""

    content: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""

    @property
    def model(self) -> str:
        """Return the name of the model; empty where it is not known."""
        if isinstance(name := self.content.get("model_name"), str) and name:
            return name
        arguments = self._config.get("model_args")
        if isinstance(arguments, Mapping):
            return str(arguments.get("pretrained") or arguments.get("model") or "")
        found = _MODEL_ARGUMENTS.search(arguments) if isinstance(arguments, str) else None
        return found[1].strip() if found else ""

    @cached_property
    def engine(self) -> str:
        """Return what sampled: `hf`, `vllm`, `local-completions`, ..."""
        return str(self._config.get("model") or "")

    @property
    def version(self) -> str:
        """Return the version of lm-eval, or the commit of its repository."""
        return str(self.content.get("lm_eval_version") or self.content.get("git_hash") or "")

    @property
    def num_examples(self) -> int:
        """Return how many worked examples stand before each question."""
        number = self._of_task("n-shot")
        return number if isinstance(number, int) else 0

    @property
    def num_documents(self) -> tuple[int, int] | None:
        """Return how many documents were evaluated, and of how many; None where it is not known."""
        sizes = self._of_task("n-samples")
        if not isinstance(sizes, Mapping) or not all(isinstance(sizes.get(key), int) for key in ("effective", "original")):
            return None
        return sizes["effective"], sizes["original"]

    @property
    def cuts_thoughts(self) -> bool:
        """Return whether what stands before the end of a thought was removed from responses before they were stored."""
        arguments = self._config.get("model_args")
        return bool(arguments) and "think_end_token" in (arguments if isinstance(arguments, Mapping) else str(arguments))

    def is_better_when_lower(self, metric: str) -> bool:
        """Return whether a metric, such as a perplexity, says more of a response the lower it is."""
        known = self._of_task("higher_is_better")
        return isinstance(known, Mapping) and known.get(metric) is False

    def is_vote(self, filter: str) -> bool:
        """Return whether a filter makes one response of several: its metric is then not that of a response."""
        config = self._of_task("configs")
        filters = config.get("filter_list") if isinstance(config, Mapping) else None
        for one in filters if isinstance(filters, Sequence) else ():
            if isinstance(one, Mapping) and one.get("name") == filter:
                steps = one.get("filter")
                return any(isinstance(step, Mapping) and step.get("function") in _VOTING for step in steps or ())
        return _VOTES.search(filter) is not None

    def subtasks(self, group: str) -> frozenset[str]:
        """Return the tasks of a group such as `mmlu`, those of its groups included; none where it is no group."""
        known, found, open_groups = self.content.get("group_subtasks"), set[str](), [group]
        while isinstance(known, Mapping) and open_groups:
            inner = [name for name in known.get(open_groups.pop()) or () if name not in found]
            found.update(inner)
            open_groups += inner
        return frozenset(found)

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups that this task is in, the largest first."""
        known = self.content.get("group_subtasks")
        of_group = {name: self.subtasks(name) for name in known} if isinstance(known, Mapping) else {}
        return tuple(sorted((name for name in of_group if self.task in of_group[name]), key=lambda name: -len(of_group[name])))

    @property
    def _config(self) -> Mapping[str, Any]:
        found = self.content.get("config")
        return found if isinstance(found, Mapping) else {}

    def _of_task(self, key: str) -> Any:
        found = self.content.get(key)
        return found.get(self.task) if isinstance(found, Mapping) else None


def read_results(folder: Path, task: str, date: str) -> TaskResults:
    """Return what the file of results beside a file of samples says.

    Args:
        folder: Where the samples lie.
        task: Of the samples.
        date: In the name of their file; the file of the same date is taken, else the newest that knows the task.
    """
    same_date = list(folder.glob(f"*_{date}.json")) if date else []
    for path in (*same_date, *sorted(folder.glob("results*.json"), reverse=True)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # samples say enough without it
            continue
        if isinstance(content, dict) and task in (content.get("configs") or content.get("results") or {}):
            return TaskResults(content, task)
    return TaskResults(task=task)
