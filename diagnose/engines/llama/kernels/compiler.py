"""Compiles a C file with the machine's own compiler, once per processor, text and flags, and loads it.

The library shares torch's OpenMP threads: it is linked against none, and finds the one that torch has loaded. Where there is no compiler,
no OpenMP or a failure of any kind, `load_library` gives None and a reason, and the caller goes on in torch alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from posttrain.diagnose.engines.models.model_source import cache_dir

_HEADERS = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=gnu11", "-fPIC", "-Wno-psabi")
_OFF = "POSTTRAIN_NATIVE"


@functools.cache
def load_library(source: Path, *flags: str) -> tuple[ctypes.CDLL | None, str]:
    """Load the functions of a C file; return None and the reason where that fails.

    Args:
        source: May include the headers of this folder.
        flags: Of the compiler, beside the usual ones.
    """
    if os.environ.get(_OFF, "1") == "0":
        return None, f"{_OFF}=0"
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler (cc, gcc or clang)"
    try:
        _load_openmp()
        return ctypes.CDLL(str(_compiled(source, compiler, flags))), ""
    except (OSError, subprocess.SubprocessError) as error:
        message = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        return None, f"{source.name} does not compile or load: {(message.strip().splitlines() or ['no message'])[0]}"


def _load_openmp() -> None:
    """Make the symbols of torch's OpenMP library visible: two of them in one process would fight for the cores."""
    folders = (Path(torch.__file__).parent / "lib", Path(torch.__file__).parents[1] / "torch.libs")
    names = ("libgomp*.so*", "libiomp*.so*", "libomp*.so*")
    found = [file for folder in folders if folder.is_dir() for name in names for file in folder.glob(name)]
    ctypes.CDLL(str(found[0]) if found else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def _compiled(source: Path, compiler: str, flags: tuple[str, ...]) -> Path:
    """Return the shared library in the cache, compiled there first where it is missing; other processes may do so at the same time."""
    texts = [file.read_text(encoding="utf-8") for file in (source, *sorted(_HEADERS.glob("*.h")))]
    about = [*texts, compiler, platform.machine(), _processor(), *_FLAGS, *flags]
    path = cache_dir() / "native" / f"{source.stem}-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        object_file, library = Path(folder) / "library.o", Path(folder) / "library.so"
        for command in (
            [compiler, *_FLAGS, *flags, "-fopenmp", "-I", str(_HEADERS), "-c", str(source), "-o", str(object_file)],
            [compiler, "-shared", str(object_file), "-o", str(library), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        library.replace(path)
    return path


def _processor() -> str:
    """Return what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
