"""Compiles llama.c with the machine's own C compiler, once per processor and text, and calls it on torch tensors.

The library shares torch's OpenMP threads: it is linked against none, and finds the one that torch has loaded. Where there is no compiler,
no OpenMP or a failure of any kind, `load_native` gives None and a reason, and the engine goes on in torch alone.
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

from posttrain.diagnose.engines.loading import cache_dir

_SOURCE = Path(__file__).with_name("llama.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=gnu11", "-fPIC", "-Wno-psabi")
_OFF = "POSTTRAIN_NATIVE"
LANES = 16
"""Tokens that lie together in the layout of keys; widths must be multiples of it."""


class NativeLibrary:
    """The functions of llama.c. Shapes and meanings stand there."""

    def __init__(self, library: ctypes.CDLL):
        """Take the loaded library."""
        self._library = library

    def add_and_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Add `delta` to the hidden states x [R, C] (fp32, in place) and return them normalised, in bf16."""
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        self._library.add_and_norm(_int(x.shape[0]), _int(x.shape[1]), _at(x), _at(delta), _at(weight), _real(epsilon), _at(y))
        return y

    def gate(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up [R, C] of the two side by side [R, 2 C]."""
        lines, width = gate_and_up.shape[0], gate_and_up.shape[1] // 2
        y = torch.empty(lines, width, dtype=torch.bfloat16)
        self._library.gate(_int(lines), _int(width), _at(gate_and_up), _at(y))
        return y

    def rotate_heads(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        weight: torch.Tensor | None,
        epsilon: float,
        scaling: float,
    ) -> torch.Tensor:
        """Heads [N, H, D] bf16, rotated by cosine and sine [N, D] fp32, normalised before where there is a weight [D], and scaled."""
        assert x.stride()[1:] == (x.shape[2], 1)
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        self._library.rotate_heads(
            *map(_int, x.shape), ctypes.c_void_p(x.data_ptr()), _int(x.stride(0)), *map(_at, rotation), _at(weight),
            _real(epsilon), _real(scaling), _at(y),
        )  # fmt: skip
        return y

    def attend(
        self,
        qkv: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        norms: tuple[torch.Tensor | None, torch.Tensor | None, float],
        scaling: float,
        layer: int,
        own: tuple[torch.Tensor, torch.Tensor],
        lines: tuple[torch.Tensor, torch.Tensor],
        prompts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Attention [R, H · D] of one layer.

        Args:
            qkv: [R, (H + 2 K) · D] bf16, before rotation.
            rotation: Cosine and sine [R, D] fp32.
            norms: Weights [D] for the heads of queries and keys, or None, and their epsilon.
            scaling: Of the queries.
            layer: Its number.
            own: Keys and values [layers, slots, K, columns, D] bf16 of the samples; the new ones are appended.
            lines: Of each line [R] int64: its slot, and how many tokens it has written.
            prompts: Of each line [R] int64: addresses of its prompt's keys and values, and the length.
        """
        _, slots, key_heads, columns, width = own[0].shape
        heads = qkv.shape[1] // width - 2 * key_heads
        out = torch.empty(qkv.shape[0], heads * width, dtype=torch.bfloat16)
        failed = self._library.attend(
            *map(_int, (qkv.shape[0], heads, key_heads, width, slots, layer)), _at(qkv), *map(_at, rotation), _at(norms[0]), _at(norms[1]),
            _real(norms[2]), _real(scaling), *map(_at, own), _int(columns), *map(_at, (*lines, *prompts)), _at(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("attention: no memory for the scores")
        return out

    def score_tokens(
        self, logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of tokens [M] after rows [M] of bf16 logits [R, V]: log-probability, rank, mass above, the most likely one's log-probability."""
        logprob, mass, top = torch.empty(3, len(tokens)).unbind()
        rank = torch.empty(len(tokens), dtype=torch.int32)
        self._library.score_tokens(
            _int(len(tokens)), _int(logits.shape[1]), *map(_at, (logits, rows, tokens, logprob, rank, mass, top))
        )
        return logprob, rank, mass, top

    def draw(self, logits: torch.Tensor, u: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A token per row of bf16 logits [R, V] by inversion with u [R] float64; ids [R], log-probabilities of policy and sampler [R]."""
        ids = torch.empty(len(logits), dtype=torch.long)
        policy, sampler = torch.empty(2, len(logits)).unbind()
        failed = self._library.draw(
            _int(len(logits)), _int(logits.shape[1]), _at(logits), _at(u), _real(temperature), _at(ids), _at(policy), _at(sampler)
        )
        if failed:
            raise MemoryError("draw: no memory for the sums of blocks")
        return ids, policy, sampler


_int, _real = ctypes.c_int64, ctypes.c_float


def _at(x: torch.Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


@functools.cache
def load_native() -> tuple[NativeLibrary | None, str]:
    """The library, or None and why there is none."""
    if os.environ.get(_OFF, "1") == "0":
        return None, f"{_OFF}=0"
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler (cc, gcc or clang)"
    try:
        _load_openmp()
        return NativeLibrary(ctypes.CDLL(str(_compiled(compiler)))), ""
    except (OSError, subprocess.SubprocessError) as error:
        message = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        return None, f"{_SOURCE.name} does not compile or load: {(message.strip().splitlines() or ['no message'])[0]}"


def _load_openmp() -> None:
    """Make the symbols of torch's OpenMP library visible: two of them in one process would fight for the cores."""
    folders = (Path(torch.__file__).parent / "lib", Path(torch.__file__).parents[1] / "torch.libs")
    names = ("libgomp*.so*", "libiomp*.so*", "libomp*.so*")
    found = [file for folder in folders if folder.is_dir() for name in names for file in folder.glob(name)]
    ctypes.CDLL(str(found[0]) if found else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def _compiled(compiler: str) -> Path:
    """The shared library in the cache; compiled there first where it is not. Others may do the same at the same time."""
    about = [_SOURCE.read_text(encoding="utf-8"), compiler, platform.machine(), _processor(), *_FLAGS]
    path = cache_dir() / "native" / f"llama-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        object_file, library = Path(folder) / "llama.o", Path(folder) / "llama.so"
        for command in (
            [compiler, *_FLAGS, "-fopenmp", "-c", str(_SOURCE), "-o", str(object_file)],
            [compiler, "-shared", str(object_file), "-o", str(library), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        library.replace(path)
    return path


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
