"""Which isolation this machine has for code that a model wrote, and how a child is started in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

from posttrain.diagnose.errors import SettingsError

BOOTSTRAP = Path(__file__).resolve().with_name("bootstrap.py")
VARIABLE = "POSTTRAIN_ISOLATION"
"""Environment variable that chooses one of those that work here."""
_SYSTEM_LIBRARIES = (
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_TMP_BYTES = 16 << 20
_PROBE_SECONDS = 20.0


class Isolation(StrEnum):
    """How code is kept from the machine that it runs on."""

    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own: no network, no other process, and no file but libraries and an empty /tmp; and a filter of system calls."""
    LANDLOCK = "landlock"
    """The kernel lets the process read libraries alone, and a filter of system calls takes network, processes and signals away."""


@cache
def available() -> tuple[Isolation, ...]:
    """Return what works here, best first. Each is tried once by running a process that must not be able to do certain things."""
    return tuple(isolation for isolation in Isolation if _works(isolation))


def require_isolation(what: str) -> Isolation:
    """Return the isolation to use.

    Args:
        what: What has to be isolated, for the error message.

    Raises:
        SettingsError: There is none, or the one that POSTTRAIN_ISOLATION names does not work here.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen and chosen not in list(Isolation):
        raise SettingsError(f"{VARIABLE}: got {chosen!r}; allowed: {', '.join(Isolation)}", code="unknown_isolation")
    found = [isolation for isolation in available() if not chosen or isolation == chosen]
    if not found:
        got = f"{chosen} does not work" if chosen else "neither bubblewrap nor Landlock with seccomp works"
        raise SettingsError(
            f"{what} would execute what a model wrote, and {got} on this machine, so nothing was run; install bubblewrap (the command"
            " `bwrap`, with user namespaces allowed), or use Linux 5.13 or newer with Landlock on x86-64 or aarch64;"
            " `posttrain env` says what works",
            code="no_isolation",
        )
    return found[0]


def describe() -> str:
    """Return what works here in one line, for `posttrain env`."""
    found = available()
    return ", ".join(found) if found else "none (verifiers that execute what a model wrote are refused)"


def isolated_command(isolation: Isolation, script: str, own_code: Sequence[Path], extra: Sequence[str] = ()) -> list[str]:
    """Return the command that starts a child script in isolation.

    Args:
        isolation: In which.
        script: One of those that `bootstrap.py` knows.
        own_code: Folders of this package that it imports.
        extra: Further folders from which it may read and import.
    """
    python = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B", str(BOOTSTRAP), script, *_site_packages(), *extra]
    if isolation is Isolation.LANDLOCK:
        return python
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--cap-drop", "ALL", "--hostname", "sandbox"]
    command += ["--dir", "/dev", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]  # first: a library may lie beneath /tmp
    for path in readable_paths(own_code, extra):
        command += ["--symlink", str(Path(path).readlink()), path] if Path(path).is_symlink() else ["--ro-bind", path, path]
    for device in _DEVICES:
        command += ["--dev-bind-try", device, device]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", *python]


def confinement(isolation: Isolation, own_code: Sequence[Path], extra: Sequence[str] = ()) -> list[str] | None:
    """Return what files the child has to restrict itself to; None where it was started without others in sight."""
    return [*readable_paths(own_code, extra), *_DEVICES] if isolation is Isolation.LANDLOCK else None


def readable_paths(own_code: Sequence[Path], extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what isolated code can read: the interpreter, its libraries, and the scripts that serve it."""
    base = Path(os.path.realpath(sys.executable))
    paths = [
        *_SYSTEM_LIBRARIES,
        str(base),
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(base.parents[1] / "lib"),
    ]
    paths += [*_site_packages(), *map(str, own_code), *extra, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    return tuple(path for path in dict.fromkeys(paths) if path and Path(path).is_absolute() and Path(path).exists())


def _site_packages() -> list[str]:
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages") and Path(path).is_dir()]


def _works(isolation: Isolation) -> bool:
    if sys.platform != "linux" or (isolation is Isolation.BUBBLEWRAP and shutil.which("bwrap") is None):
        return False
    folder = [BOOTSTRAP.parent]
    told = json.dumps(confinement(isolation, folder))
    try:
        done = subprocess.run(
            isolated_command(isolation, "try_isolation", folder),
            input=told.encode(),
            capture_output=True,
            env={},
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout == b"confined"
