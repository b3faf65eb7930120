"""Programs that attack what runs them: none passes, none touches anything, and none changes what comes of the next program."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.attacks import ATTACKS, Attack, table

from posttrain.diagnose.verifiers.sandbox.code_run import ProgramRunner, ProgramTests, Verdict
from posttrain.diagnose.verifiers.sandbox.isolation import Isolation, available

TESTS = ProgramTests(
    tests="def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n", entry_point="add"
)
RIGHT = "def add(a, b): return a + b"
WRONG = "def add(a, b): return a - b"
SECURITY = Path(__file__).resolve().parents[3] / "SECURITY.md"


class Surroundings(NamedTuple):
    """What attacks aim at."""

    folder: Path
    port: int
    listener: socket.socket
    victim: subprocess.Popen[bytes]

    def aim(self, program: str) -> str:
        secret, marker = self.folder / "secret.txt", self.folder / "marker"
        aims = {"SECRET": secret, "MARKER": marker, "PORT": self.port, "PARENT": os.getpid(), "VICTIM": self.victim.pid}
        for name, value in aims.items():
            program = program.replace(name, str(value))
        return program


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "secret.txt").write_text("secret")
    os.utime(folder / "secret.txt", (1e9, 1e9))
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "secret")
        yield Surroundings(folder, listener.getsockname()[1], listener, victim)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # no connection was made
            listener.accept()
    assert victim.poll() is None
    victim.kill()
    victim.wait()
    assert [path.name for path in folder.iterdir()] == ["secret.txt"]
    secret = folder / "secret.txt"
    assert (secret.read_text(), secret.stat().st_mtime, secret.stat().st_mode & 0o111) == ("secret", 1e9, 0)


@pytest.fixture(scope="module", params=list(Isolation))
def runner(request: pytest.FixtureRequest, surroundings: Surroundings) -> Iterator[ProgramRunner]:
    if request.param not in available():
        pytest.skip(f"{request.param} does not work here")
    one = ProgramRunner(request.param, seconds=10.0, memory_bytes=1 << 29)
    yield one
    one.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{attack.family}: {attack.tries}" for attack in ATTACKS])
def test_no_attack_passes_or_changes_the_next_program(runner: ProgramRunner, surroundings: Surroundings, attack: Attack) -> None:
    seconds = 0.25 if attack.family in ("memory", "output", "time") else 1.0
    outcome = runner.run(surroundings.aim(attack.program), TESTS, seconds=seconds)
    assert outcome.verdict in (Verdict.FAILED, Verdict.UNSUPPORTED), outcome
    assert runner.run(WRONG, TESTS).verdict is Verdict.FAILED
    assert runner.run(RIGHT, TESTS).verdict is Verdict.PASSED


def test_the_clock_of_a_program_starts_when_it_is_isolated(runner: ProgramRunner) -> None:
    """Setting up takes longer than this; on a busy machine, longer than any limit."""
    runner.close()
    assert runner.run("while True: pass", TESTS, seconds=1e-4).verdict is Verdict.FAILED
    assert runner.run(RIGHT, TESTS).verdict is Verdict.PASSED


def test_a_reach_that_succeeds_would_pass(runner: ProgramRunner) -> None:
    """The attacks of this kind measure something: where their lines run through, the program passes."""
    from helpers.attacks import reach

    assert runner.run(reach("files", "read the library", "open(os.__file__).read()").program, TESTS).verdict is Verdict.PASSED


def test_the_table_of_attacks_is_this_list() -> None:
    text = SECURITY.read_text()
    if os.environ.get("POSTTRAIN_WRITE_GOLDEN"):
        text = text[: text.index("| kind | what the program tries |")] + table() + "\n"
        SECURITY.write_text(re.sub(r"these \d+ programs", f"these {len(ATTACKS)} programs", text))
        text = SECURITY.read_text()
    assert len(ATTACKS) >= 40
    assert table() in text
    assert f"these {len(ATTACKS)} programs" in text
