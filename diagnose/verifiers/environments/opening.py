"""From the name of an environment to the environment, and a grader that is kept off the network (child process)."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from posttrain.diagnose.verifiers.environments.base_environment import (
    ChatTurns,
    Environment,
    EnvironmentRow,
    multi_turn,
    needs_network,
)
from posttrain.diagnose.verifiers.environments.network import NetworkWatch
from posttrain.diagnose.verifiers.environments.refusal import RUN_THERE, EnvironmentRefused, RewardFailed, one_line

_BUILT_IN = "verifiers.v1.tasksets"


def module_name(name: str) -> str:
    """Return the module of an environment: `owner/my-env@1.0` is `my_env`."""
    return name.rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_")


def open_environment(name: str, arguments: Mapping[str, Any]) -> Environment:
    """Load an environment.

    Args:
        name: Of its package, or of a module that can be imported; a hub id `owner/name` too.
        arguments: Of its function `load_environment`, or settings of its taskset.

    Raises:
        EnvironmentRefused: There is none of this name, or it cannot be used.
    """
    module = _import(name)
    if _exports_taskset(module):
        _require_tasksets(name)
        from posttrain.diagnose.verifiers.environments.task_environment import TaskEnvironment

        return TaskEnvironment(name, module, arguments)
    load = _load_environment_of(name, module)
    from posttrain.diagnose.verifiers.environments.rubric_environment import RubricEnvironment

    return RubricEnvironment(name, load, arguments)


def open_with_own_loop(name: str, arguments: Mapping[str, Any]) -> Any:
    """Load an environment whose own loop is to ask a model, of several turns and with tools as well.

    Args:
        name: As for `open_environment`.
        arguments: As for `open_environment`.

    Returns:
        The library's object, of versions before 0.4.

    Raises:
        EnvironmentRefused: There is none of this name, it cannot be loaded, or it is a taskset.
    """
    module = _import(name)
    if _exports_taskset(module):
        raise multi_turn(name, "it is a taskset of several turns or with tools, which programs in runtimes of their own play")
    load = _load_environment_of(name, module)
    from posttrain.diagnose.verifiers.environments.rubric_environment import load_checked

    return load_checked(name, load, arguments)


class OfflineGrader:
    """Grades with an environment whose grader is kept off the network. One of a process."""

    def __init__(self) -> None:
        self._watch = NetworkWatch()

    def grade(self, name: str, environment: Environment, entry: Mapping[str, Any], prompt: ChatTurns, text: str) -> float:
        """Return the reward of a text.

        Raises:
            EnvironmentRefused: The grader asked for the network (`environment_network`), or for a second answer.
            Exception: What the environment's code raised.
        """
        with self._watch.off_network() as asked:
            try:
                reward = environment.grade(entry, prompt, text)
            except Exception:
                if asked:
                    raise needs_network(name, asked[0]) from None
                raise
        if asked:
            raise needs_network(name, asked[0])
        return reward

    def try_out(self, name: str, environment: Environment, row: EnvironmentRow) -> None:
        """Grade one answer, to know before a run what the grader cannot do without.

        Raises:
            EnvironmentRefused: The grader asked for the network, the environment for a second answer, or it failed before there was a reward.
        """
        try:
            self.grade(name, environment, row.entry, row.prompt, row.answer or "0")
        except EnvironmentRefused:
            raise
        except RewardFailed:
            return  # a text that a reward function cannot read; the self-test has more of them, and counts
        except Exception as error:
            raise EnvironmentRefused(
                f"environment {name}: it cannot grade an answer to problem {row.name} ({one_line(error)}); give it other `arguments`, another version of verifiers "
                f"than {_version()}, or the behavior a verifier of ours, such as `verifier: {{kind: exact}}`",
                "environment_failed",
            ) from error

    def warm_up(self, name: str, environment: Environment) -> None:
        """Grade one answer for nothing: what is imported or started with the first must not count against its deadline."""
        with contextlib.suppress(Exception):
            row = next(row for split in ("train", "eval") for row in environment.rows(split, 1) or ())
            self.grade(name, environment, row.entry, row.prompt, row.answer or "0")


def _import(name: str) -> ModuleType:
    wanted = module_name(name)
    try:
        built_in = importlib.util.find_spec(f"{_BUILT_IN}.{wanted}") is not None
    except ModuleNotFoundError:
        built_in = False
    target = f"{_BUILT_IN}.{wanted}" if built_in else wanted
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name != target:
            raise _unusable(name, error) from None
        raise EnvironmentRefused(
            f"environment {name}: there is no package {wanted!r} and no {wanted}.py beside the behavior file; install it, as with `prime env install {name}` "
            "or `pip install PACKAGE`",
            "no_environment",
        ) from None
    except AttributeError as error:
        if not _has_rubrics():
            raise _older(name) from None
        raise _unusable(name, error) from None
    except Exception as error:
        raise _unusable(name, error) from None


def _load_environment_of(name: str, module: ModuleType) -> Callable[..., Any]:
    load: Callable[..., Any] | None = getattr(module, "load_environment", None)
    if not callable(load):
        raise EnvironmentRefused(
            f"environment {name}: {module.__name__} has neither a function load_environment nor a Taskset in __all__; name a package that has",
            "no_environment",
        )
    _require_rubrics(name)
    return load


def _exports_taskset(module: ModuleType) -> bool:
    try:
        import verifiers.v1 as vf
    except ImportError:  # before 0.2
        return False
    taskset = getattr(vf, "Taskset", None)
    exported = (getattr(module, one, None) for one in getattr(module, "__all__", ()))
    return taskset is not None and any(isinstance(one, type) and issubclass(one, taskset) for one in exported)


def _has_rubrics() -> bool:
    import verifiers

    return hasattr(verifiers, "SingleTurnEnv")


def _require_rubrics(name: str) -> None:
    if not _has_rubrics():
        raise _older(name)
    import verifiers

    if not hasattr(verifiers, "Client"):
        raise EnvironmentRefused(
            f'environment {name}: got verifiers {_version()}; allowed: from 0.1.14 on; `pip install -U "verifiers<0.4"`',
            "environment_version",
        )


def _require_tasksets(name: str) -> None:
    import verifiers.v1 as vf

    if not hasattr(vf, "environment_class"):
        raise EnvironmentRefused(
            f"environment {name}: it is a taskset, and verifiers {_version()} is installed; allowed: from 0.3 on; `pip install -U verifiers`",
            "environment_version",
        )


def _older(name: str) -> EnvironmentRefused:
    return EnvironmentRefused(
        f"environment {name}: it is written for verifiers before 0.4 (load_environment), and {_version()} is installed; "
        '`pip install "verifiers<0.4"`, or use an environment that is a taskset',
        "environment_version",
    )


def _unusable(name: str, error: Exception) -> EnvironmentRefused:
    return EnvironmentRefused(
        f"environment {name}: its package cannot be imported ({one_line(error)}); install what it needs, or another version of verifiers than {_version()}",
        "environment_failed",
    )


def unknown_interface(name: str, error: Exception) -> EnvironmentRefused:
    """Return the refusal of an environment with which the library did something unforeseen."""
    return EnvironmentRefused(
        f"environment {name}: cannot be read with verifiers {_version()} ({one_line(error)}); allowed: versions 0.1.14 to 0.4, for tasksets from 0.3 on; "
        f"install one of these, or {RUN_THERE}",
        "environment_failed",
    )


def _version() -> str:
    import verifiers

    return str(getattr(verifiers, "__version__", "of an unknown version"))
