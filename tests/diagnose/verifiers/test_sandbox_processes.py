"""Nothing that was started for a text outlives its grading, whatever ends first."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.diagnose.verifiers.sandbox.code_run import ProgramRunner, ProgramTests, Verdict
from posttrain.diagnose.verifiers.sandbox.isolation import VARIABLE, Isolation, available

RUNS_LONG = """
import sys
from posttrain.diagnose.verifiers.sandbox.code_run import ProgramRunner, ProgramTests
from posttrain.diagnose.verifiers.sandbox.isolation import require_isolation
runner = ProgramRunner(require_isolation("a test"), seconds=300.0, memory_bytes=1 << 29)
runner.run(sys.argv[1], ProgramTests(tests="assert f(1) == 1"))
"""
PROGRAMS = {
    "a loop": "def f(x):\n    while True: pass",
    "sleep": "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 13, 15)]\ndef f(x): time.sleep(1000)",
    "loading": "while True: pass",
}


def children(pid: int) -> set[int]:
    """Return the processes that one has started; each leads a group with all that it starts itself."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[1]) == pid:
            found.add(int(path.parent.name))
    return found


def is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20.0
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def command_of(pid: int) -> str:
    """Return the command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture(params=list(Isolation))
def isolation(request: pytest.FixtureRequest) -> Isolation:
    if request.param not in available():
        pytest.skip(f"{request.param} does not work here")
    chosen: Isolation = request.param
    return chosen


@pytest.mark.parametrize("name", PROGRAMS)
def test_when_the_grading_process_is_killed(name: str, isolation: Isolation) -> None:
    environment = {**os.environ, VARIABLE: isolation.value}
    grading = subprocess.Popen([sys.executable, "-c", RUNS_LONG, PROGRAMS[name]], env=environment)
    try:
        started: set[int] = set()

        def has_started() -> bool:
            # Trying the isolation starts processes too, which end by themselves.
            started.update(one for one in children(grading.pid) if "code_" in command_of(one))
            return len(started) == (1 if name == "loading" else 2)

        assert wait_for(has_started)
        time.sleep(0.3)
    finally:
        grading.kill()
        grading.wait()
    assert wait_for(lambda: all(map(is_empty, started)))


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_when_a_runner_is_closed_or_dropped(how: str, isolation: Isolation) -> None:
    before = children(os.getpid())
    runner = ProgramRunner(isolation, seconds=30.0, memory_bytes=1 << 29)
    tests = ProgramTests(tests="assert f(1) == 1")
    assert runner.run(PROGRAMS["sleep"], tests, seconds=0.3).verdict is Verdict.FAILED
    assert runner.run("def f(x): return x", tests).verdict is Verdict.PASSED
    started = children(os.getpid()) - before
    assert len(started) == 2
    if how == "closed":
        runner.close()
    del runner
    gc.collect()
    assert wait_for(lambda: all(map(is_empty, started)))
