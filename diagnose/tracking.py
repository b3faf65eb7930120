"""Numbers of a run, sent to an experiment tracker while it runs: trackio, wandb, mlflow or tensorboard, none of which is needed.

    reporter = Reporter(tracker=open_tracker("wandb:my-project"))
    trainers.train("grpo", "demo", ["products"], out="runs/grpo", reporter=reporter)

A tracker that fails is told of once and left alone: it never stops a run.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.strict_settings import unknown

Values = Mapping[str, float]
Import = Callable[[str], Any]
DEFAULT_PROJECT = "posttrain"


class Tracker(Protocol):
    """Takes numbers by name."""

    def log(self, values: Values, step: int) -> None:
        """Take numbers of a step; steps rise from call to call."""

    def close(self) -> None:
        """Send what is left."""


class _Module:
    """A tracker whose module has `init`, `log` and `finish`: trackio and wandb."""

    def __init__(self, module: Any, project: str, settings: Mapping[str, Any]) -> None:
        self._module = module
        module.init(project=project, config=dict(settings))

    def log(self, values: Values, step: int) -> None:
        """Log numbers of a step."""
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        """End the run of the tracker."""
        self._module.finish()


class _Mlflow:
    """A run of mlflow in an experiment."""

    def __init__(self, module: Any, project: str, settings: Mapping[str, Any]) -> None:
        self._module = module
        module.set_experiment(project)
        module.start_run()
        module.log_params({name: str(value)[:500] for name, value in settings.items()})

    def log(self, values: Values, step: int) -> None:
        """Log numbers of a step."""
        self._module.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """End the run of mlflow."""
        self._module.end_run()


class _Tensorboard:
    """Event files in a folder, which is named where others have a project."""

    def __init__(self, module: Any, project: str, settings: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(log_dir=project)
        self._writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()))

    def log(self, values: Values, step: int) -> None:
        """Write numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


TRACKERS: dict[str, tuple[str, str, Callable[[Any, str, Mapping[str, Any]], Tracker]]] = {
    "trackio": ("trackio", "trackio", _Module),
    "wandb": ("wandb", "wandb", _Module),
    "mlflow": ("mlflow", "mlflow", _Mlflow),
    "tensorboard": ("torch.utils.tensorboard", "tensorboard", _Tensorboard),
}
"""Name → the module that is imported, the package that is installed, and what speaks to it."""


class SafeTracker:
    """Sends numbers to trackers; one that fails is told of once, and gets no more.

    Names are reduced to what every tracker takes, values that are not finite are left out, and steps are made to rise: in a loop each stage begins
    at 0 again.
    """

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say, self._last = dict(trackers), say, -1

    def log(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Send the numbers among these values.

        Args:
            values: What is not a finite number is left out.
            step: Of the training; the one after the last where None.
        """
        numbers = {
            _plain_name(name): float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if not numbers:
            return
        self._last = max(self._last + 1, step if step is not None else 0)
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.log(numbers, self._last))

    def close(self) -> None:
        """Close all of them."""
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.close())
        self._trackers = {}

    def _try(self, name: str, call: Callable[[Tracker], None]) -> None:
        try:
            call(self._trackers[name])
        except Exception as error:
            del self._trackers[name]
            self._say(f"--track {name}: failed ({_one_line(error)}); the run goes on without it")


def open_tracker(
    names: str | Sequence[str],
    settings: Mapping[str, Any] | None = None,
    *,
    say: Callable[[str], None] = print,
    import_module: Import = importlib.import_module,
) -> SafeTracker:
    """Open trackers.

    Args:
        names: `trackio`, `wandb`, `mlflow` or `tensorboard`, or several; `:PROJECT` behind one names the project, for tensorboard the folder.
        settings: Recorded with the run.
        say: Takes a line where a tracker fails.
        import_module: Imports the module of a tracker by name.

    Raises:
        SettingsError: A name is unknown (`unknown_tracker`), given twice (`name_twice`), has an empty project (`empty_name`), or its package is not
            installed (`missing_package`).
    """
    opened: dict[str, Tracker] = {}
    modules: dict[str, tuple[Any, str]] = {}
    for given in [names] if isinstance(names, str) else names:
        name, mark, project = given.partition(":")
        if name not in TRACKERS:
            raise SettingsError(f"--track: {unknown('tracker', name, TRACKERS)}", code="unknown_tracker")
        if name in modules:
            raise SettingsError(f"--track: got {name} twice; give each tracker once", code="name_twice")
        if mark and not project:
            raise SettingsError(f"--track: got {given!r}; give a project behind the colon, or {name} alone", code="empty_name")
        module, package, _ = TRACKERS[name]
        try:
            modules[name] = import_module(module), project or DEFAULT_PROJECT
        except ImportError as error:
            raise SettingsError(
                f"--track {name}: {package} is not installed; pip install {package}, or leave --track out", code="missing_package"
            ) from error
    for name, (module, project) in modules.items():
        try:
            opened[name] = TRACKERS[name][2](module, project, settings or {})
        except Exception as error:
            say(f"--track {name}: failed ({_one_line(error)}); the run goes on without it")
    return SafeTracker(opened, say)


def _plain_name(name: str) -> str:
    """Return a name of letters, digits and `_ - . /` alone, which all trackers take: `pass@4` is `pass_at_4`."""
    return re.sub(r"[^\w\-./]", "_", re.sub(r"@(?=\d)", "_at_", name), flags=re.ASCII)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
