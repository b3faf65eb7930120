"""Confines the process that calls it, for good: files by Landlock, system calls by seccomp, resources by limits of the kernel.

It runs in the child before any text is parsed or executed, and needs the standard library alone. Bubblewrap, where it is there, has
already taken away network, files and the other processes; the filter of system calls then only takes away what is left. Numbers of
system calls are those of the kernel's tables for x86-64 and of the generic table that aarch64 uses.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import resource

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

# Rights of Landlock: bit 1 writes files, bit 2 reads them, bit 3 lists folders. Bits 0 to 12 are known to its first version.
_WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
_NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NUM_RIGHTS_NOW = 16


class _Machine(NamedTuple):
    """What seccomp must know of a processor architecture."""

    arch: int
    clone: int
    kill: int
    tgkill: int
    prlimit: int
    prctl: int
    fcntl: int
    ioctl: int
    capset: int
    denied: tuple[int, ...]


_DENIED_EVERYWHERE = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 448, 452)
"""pidfd_*, io_uring_*, the mounting calls, process_madvise, memfd_secret, process_mrelease, fchmodat2."""
_LAST_KNOWN = 462
"""What came later than mseal is answered as a kernel without it would."""

_MACHINES = {
    "x86_64": _Machine(
        0xC000003E, 56, 62, 234, 302, 157, 72, 16, 126,
        # socket; fork, vfork, execve, execveat; tkill, rt_sigqueueinfo, rt_tgsigqueueinfo; setpgid, setsid
        (41, 57, 58, 59, 322, 200, 129, 297, 109, 112,
         # ptrace, process_vm_readv, process_vm_writev, kcmp; unshare, setns, mount, umount2, pivot_root, chroot
         101, 310, 311, 312, 272, 308, 165, 166, 155, 161,
         # keyctl, add_key, request_key, bpf, perf_event_open, userfaultfd, open_by_handle_at, name_to_handle_at
         250, 248, 249, 321, 298, 323, 304, 303,
         # modules, kexec, reboot, swap, iopl, ioperm, personality, modify_ldt, syslog, acct, quotactl
         175, 176, 313, 246, 320, 169, 167, 168, 172, 173, 135, 154, 103, 163, 179,
         # setpriority, sched_set*, ioprio_set; shmget, shmat, msgget, semget, mq_open, memfd_create, fanotify_init
         141, 142, 144, 203, 314, 251, 29, 30, 68, 64, 240, 319, 300,
         # clocks, host name; chmod, chown, utime, xattr and mknod families, truncate by path
         159, 164, 227, 305, 170, 171, 90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 133, 259, 76),
    ),
    "aarch64": _Machine(
        0xC00000B7, 220, 129, 131, 261, 167, 25, 29, 91,
        (198, 221, 281, 130, 138, 240, 154, 157, 117, 270, 271, 272, 97, 268, 40, 39, 41, 51, 219, 217, 218, 280, 241, 282, 265, 264,
         105, 106, 273, 104, 294, 142, 224, 225, 92, 116, 89, 60, 140, 118, 119, 122, 274, 30, 194, 196, 186, 190, 180, 279, 262,
         171, 170, 112, 266, 161, 162, 52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16, 33, 45),
    ),
}  # fmt: skip
_CLONE_THREAD, _CLONE3 = 0x10000, 435
_OWNERSHIP_OF_SIGNALS = (8, 10, 15)
"""fcntl's F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to any process of the user, by way of a file."""
_IOCTLS = (0x5412, 0x8901, 0x8902)
"""TIOCSTI, FIOSETOWN, SIOCSPGRP."""


_PRECISION_BYTES = 16 << 20


class Limits(NamedTuple):
    """What a confined process may use."""

    memory_bytes: int = 1 << 30
    """Address space beside what is in use."""
    cpu_seconds: int = 60
    file_bytes: int = 1 << 20
    """Size of each file."""
    open_files: int = 64


class ConfinementError(OSError):
    """The kernel refuses a part of the confinement; nothing may be executed."""


def finish(limits: Limits) -> None:
    """Confine a process that was forked to run one text: it ends with the one that forked it, starts none itself, and has its limits.

    Raises:
        ConfinementError: A part of it is impossible.
    """
    _libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    limit_resources(limits)
    restrict_calls()


def restrict_files(readable: Sequence[str] | None) -> None:
    """Take away all files but those beneath the given paths, which can be read and listed; None leaves what is in sight.

    Raises:
        ConfinementError: The kernel has no Landlock.
    """
    if readable is None:
        return
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        raise ConfinementError(ctypes.get_errno(), "the kernel has no Landlock")
    handled = (1 << _NUM_RIGHTS.get(version, _NUM_RIGHTS_NOW)) - 1
    # Network rights come with version 4, scopes (abstract sockets and signals) with 6; a kernel takes the size that it knows.
    attributes = struct.pack("QQQ", handled, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        raise ConfinementError(ctypes.get_errno(), "Landlock refuses its rules")
    for path in readable:
        if not Path(path).exists():
            continue
        rights = _READ_FILE | (_READ_FOLDER if Path(path).is_dir() else _WRITE_FILE if path == os.devnull else 0)
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, beneath), 0) < 0:
            raise ConfinementError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
        os.close(beneath)
    _no_new_privileges(libc)
    if libc.syscall(_LANDLOCK_RESTRICT, rules, 0) < 0:
        raise ConfinementError(ctypes.get_errno(), "Landlock cannot be applied")
    os.close(rules)


def restrict_calls() -> None:
    """Take away network, new processes, signals to others, tracing, and all that administers a machine.

    Raises:
        ConfinementError: The kernel has no seccomp, or the processor is an unknown one.
    """
    libc = _libc()
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise ConfinementError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    _no_new_privileges(libc)
    # Capabilities last, so that root is no more than another user: header of version 3 for this thread, and empty sets.
    libc.syscall(machine.capset, struct.pack("Ii", 0x20080522, 0), bytes(24))
    program = _filter_program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        raise ConfinementError(ctypes.get_errno(), "seccomp cannot be applied")


def limit_resources(limits: Limits) -> None:
    """Bound memory, processor time, files and core dumps. After the imports, which may need more address space than any text."""
    if sys.platform == "win32":
        return
    set_limit(resource.RLIMIT_AS, address_space() + limits.memory_bytes)
    set_limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    set_limit(resource.RLIMIT_NOFILE, limits.open_files)
    set_limit(resource.RLIMIT_CORE, 0)


def set_limit(which: int, value: int) -> None:
    """Set a limit and keep it from being raised again."""
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(which)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (limit, limit))
    except (ValueError, OSError):  # macOS does not know every limit
        print(f"limit {which} cannot be set here", file=sys.stderr)


def address_space() -> int:
    """Return bytes of address space in use; where /proc is out of sight, the smallest limit under which a page can be mapped."""
    if sys.platform == "win32":
        return 0
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 47
    while high - low > _PRECISION_BYTES:
        middle = (low + high) // 2
        try:
            resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
            mmap.mmap(-1, mmap.PAGESIZE).close()
        except (OSError, ValueError, MemoryError):
            low = middle
        else:
            high = middle
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _no_new_privileges(libc: ctypes.CDLL) -> None:
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfinementError(ctypes.get_errno(), "no_new_privs cannot be set")


def _filter_program(machine: _Machine, pid: int) -> bytes:
    """Return a program of the Berkeley packet filter: one check after another, each with its verdict behind it."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, unknown = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    code: list[tuple[int, int, int, int]] = []

    def check(test: int, value: int, verdict: int) -> None:
        code.extend([(test, 0, 1, value), (give, 0, 0, verdict)])

    def check_argument(call: int, number: int, tests: Sequence[tuple[int, int, int]], otherwise: int) -> None:
        # The lower half of an argument: what is compared are ints of the kernel.
        body = [(load, 0, 0, 16 + 8 * number)]
        for test, value, verdict in tests:
            body += [(test, 0, 1, value), (give, 0, 0, verdict)]
        body.append((give, 0, 0, otherwise))
        code.append((equal, 0, len(body), call))
        code.extend(body)

    code += [(load, 0, 0, 4), (equal, 1, 0, machine.arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    check(at_least, _LAST_KNOWN + 1, unknown)
    check(equal, _CLONE3, unknown)  # its flags lie in memory, out of a filter's sight; clone is called in its place
    for call in (*machine.denied, *_DENIED_EVERYWHERE):
        check(equal, call, refuse)
    check_argument(machine.clone, 0, [(any_bit, _CLONE_THREAD, allow)], refuse)
    check_argument(machine.kill, 0, [(equal, pid, allow)], refuse)
    check_argument(machine.tgkill, 0, [(equal, pid, allow)], refuse)
    check_argument(machine.prlimit, 0, [(equal, 0, allow)], refuse)
    check_argument(machine.prctl, 0, [(equal, _PR_SET_PDEATHSIG, refuse)], allow)
    check_argument(machine.fcntl, 1, [(equal, command, refuse) for command in _OWNERSHIP_OF_SIGNALS], allow)
    check_argument(machine.ioctl, 1, [(equal, command, refuse) for command in _IOCTLS], allow)
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
