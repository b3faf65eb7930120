"""SIGTERM and SIGHUP save as Ctrl-C does; after a SIGKILL the last state that was saved is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from posttrain import trainers
from posttrain.diagnose.errors import StoppedBySignal
from posttrain.diagnose.progress import Reporter, Task
from posttrain.trainers.distributed.interrupts import StoppedAtOnceError, held_interrupts, stopped_by_signals
from posttrain.trainers.training.resume_state import find_state

SETTINGS = ["num_steps=4", "rows_per_batch=3", "learning_rate=1e-3"]


class SignallingReporter(Reporter):
    """Sends this process a signal when a number of steps are reported."""

    def __init__(self, number: int, num_steps: int) -> None:
        super().__init__(quiet=True)
        self.number, self.left = number, num_steps

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Task]:
        yield self if description.startswith("training") else Task()  # type: ignore[misc]

    def expect(self, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def signals_end_the_process() -> Iterator[None]:
    """Whoever started the tests may have ignored a signal, as nohup does."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_same_call_resumes(number: int, sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    def train(out: str, reporter: Reporter | None = None) -> None:
        trainers.train("sft", tiny_model, [sums_file], out=tmp_path / out, overrides=SETTINGS, reporter=reporter)

    train("whole")
    with pytest.raises(StoppedBySignal) as stopped:
        train("cut", SignallingReporter(number, 2))
    assert stopped.value.signal_number == number
    state = find_state(tmp_path / ".cut.work")
    assert state is not None
    assert state.name == "training_state-2"
    assert (tmp_path / ".cut.work" / "checkpoint" / "model.safetensors").exists()
    assert signal.getsignal(number) is signal.SIG_DFL
    train("cut")
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def send(numbers: list[int], done: list[int]) -> None:
    with held_interrupts():
        for number in numbers:
            os.kill(os.getpid(), number)
            done.append(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_end_of_a_block_and_further_ones_change_nothing(number: int) -> None:
    done: list[int] = []
    with stopped_by_signals():
        with pytest.raises(StoppedBySignal) as stopped:
            send([number] * 3, done)
        os.kill(os.getpid(), number)  # while the state is saved
    assert stopped.value.signal_number == number
    assert done == [number] * 3
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ctrl_c_still_ends_at_once_what_a_signal_is_stopping() -> None:
    done: list[int] = []
    with stopped_by_signals(), pytest.raises(StoppedAtOnceError):
        send([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], done)
    assert done == [signal.SIGTERM]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


ENDLESS = {
    "sft": ["rows_per_batch=2"],
    "ppo": ["problems_per_batch=2", "group_size=2"],
    "process_reward_model": ["rows_per_batch=2", "num_samples=2", "num_rollouts=1", "step_separator=a"],
}
STOPS = {"sft": (signal.SIGINT, 130), "ppo": (signal.SIGHUP, 129), "process_reward_model": (signal.SIGTERM, 143)}


def signalled(arguments: list[str], work: Path, num_steps: int, number: int) -> tuple[int, str]:
    """Run the command until it has logged a number of steps, send it a signal, and return its exit code and what it said."""
    process = subprocess.Popen([sys.executable, "-m", "posttrain", *arguments], stderr=subprocess.PIPE, text=True)
    log, end = work / "training_log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b'"event": "step"') >= num_steps):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def last_step(work: Path) -> int:
    state = find_state(work)
    assert state is not None
    return int(json.loads((state / "state.json").read_text())["progress"]["next_step"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ENDLESS)
def test_the_command_is_killed_and_terminated_and_goes_on(recipe: str, letters: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = [flag for setting in [*ENDLESS[recipe], "num_steps=1000000", "save_every=1"] for flag in ("--set", setting)]
    arguments = ["train", recipe, str(tiny_model), str(letters), "--out", str(tmp_path / "out"), *settings]
    work = tmp_path / ".out.work"
    code, _ = signalled(arguments, work, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert last_step(work) >= 1
    before, (number, exit_code) = last_step(work), STOPS[recipe]
    code, said = signalled(arguments, work, before + 3, number)
    assert code == exit_code, said
    assert "posttrain: stopped" in said
    assert f"goes on at step {before} of" in said
    assert last_step(work) >= before + 3
