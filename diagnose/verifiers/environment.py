"""The grader of an environment of the library verifiers.

A behavior file with `environment:` gets it by itself. The reward of the environment, its weighted sum, is the score. Where the behavior says from
which reward on an answer is right, rewards outside [0, 1] are allowed: they are cut off at 0 and 1, or stored as 1 and 0 where that number lies
outside, too. The environment's code is the user's own and trusted, as that of `python`: it sees the expected answer, and its child has no
isolation. Connections to other machines are refused to it, because it could swallow that they fail; an answer whose reward function fails is
missing, where the library gives 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem, reaches
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.python import read_score

KIND = "environment"
ENTRY = "environment"
"""Key of `Problem.metadata` under which stands what the environment needs to grade an answer."""


class EnvironmentOptions(StrictModel):
    """Options of `environment`; a behavior file says them as `environment:`."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    eval_arguments: dict[str, Any] = Field(default_factory=dict)
    success: float | None = None
    """From which reward on an answer is right; None where rewards lie between 0 and 1."""
    folder: str = ""
    """Where its module is looked for beside installed packages, and to which its relative paths belong."""


class EnvironmentVerifier(Verifier):
    """Has an environment score texts. There is no lenient reading."""

    Options = EnvironmentOptions
    needs_answer = False
    accepts_answer_alone = False
    memory_bytes = 4 << 30
    start_seconds = 600.0
    """The library and its data are loaded again."""
    variables = ("PYTHONPATH", "HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    is_slow = True

    def __init__(self, options: EnvironmentOptions) -> None:
        self._options = options
        self._environments: dict[str, Any] = {}
        self._grader: Any = None

    def folders(self) -> tuple[str, ...]:
        """Return the folder of the behavior file."""
        return (self._options.folder,) if self._options.folder else ()

    def identity(self) -> str:
        """Return a hash of the environment's source where it lies in the folder; an installed package is named alone."""
        from posttrain.diagnose.verifiers.environments.opening import module_name

        place = Path(self._options.folder or "no folder", module_name(self._options.name))
        files = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.rglob("*.py"))
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest() if files else ""

    def prepare(self) -> None:
        """Load the environment (child process)."""
        from posttrain.diagnose.verifiers.environments.network import read_data_offline
        from posttrain.diagnose.verifiers.environments.opening import OfflineGrader, open_environment

        options = self._options
        if options.folder:
            os.chdir(options.folder)
        read_data_offline()
        logging.disable(logging.CRITICAL)
        self._environments["train"] = environment = open_environment(options.name, options.arguments)
        own = {**options.arguments, **options.eval_arguments}
        self._environments["eval"] = open_environment(options.name, own) if options.eval_arguments else environment
        self._grader = OfflineGrader()
        self._grader.warm_up(options.name, environment)

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Return the reward of a text (child process), as JSON."""
        if lenient:
            return None
        assert payload is not None
        environment = self._environments[payload["set"]]
        return json.dumps(self._grader.grade(self._options.name, environment, payload["entry"], payload["prompt"], text))

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the score of a reward.

        Raises:
            SettingsError: It lies outside [0, 1], and nothing says from which reward on an answer is right (`score_range`).
            CannotGrade: It is no number.
        """
        reward, success = read_score(extracted), self._options.success
        if reward != reward:  # NaN, which the grader reports
            return reward
        if success is None:
            if not (reaches(reward, 0.0) and reaches(1.0, reward)):
                raise SettingsError(outside_range(self._options.name, f"the reward {reward:g}", reward), code="score_range")
            return reward
        if 0.0 < success <= 1.0:
            return min(1.0, max(0.0, reward))
        return float(reaches(reward, success))

    def shown(self, extracted: str) -> None:
        """Return nothing: a reward is no answer."""

    def complaint(self, problem: Problem) -> str | None:
        """Refuse a problem of another source."""
        entry = problem.metadata.get(ENTRY)
        if not isinstance(entry, Mapping) or not {"set", "entry"} <= entry.keys():
            return (
                "it does not come from an environment, whose problems alone the verifier environment grades; get the problems from "
                "`environment: {name: NAME}`, or use another verifier, such as exact or python"
            )
        return None

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return what the environment knows of the problem, answer included: it compares."""
        entry = problem.metadata[ENTRY]
        turns = (
            problem.prompt
            if isinstance(problem.prompt, str)
            else [{"role": turn.role, "content": turn.content} for turn in problem.prompt]
        )
        return {"set": entry["set"], "entry": entry["entry"], "prompt": turns}


def outside_range(name: str, got: str, high: float) -> str:
    """Say that rewards lie outside [0, 1].

    Args:
        name: The environment.
        got: What was got, in words.
        high: The highest reward that is known, which the message proposes.
    """
    return f"environment {name}: got {got}, and scores lie between 0 and 1; say from which reward on an answer is right, such as measure: {{success: {high:g}}}"
