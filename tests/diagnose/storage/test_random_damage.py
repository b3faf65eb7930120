"""A run that is damaged, or killed, at a random place: read as damaged, made whole by the same command, and never other data in silence."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.two_behaviors import KINDS, contents, measure, measure_in_own_group, write_behaviors

from posttrain import diagnose
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.sampling.plan import Goal

GOAL = Goal(max_tokens=2_500)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two behaviors, and a run on them."""
    folder = tmp_path_factory.mktemp("random")
    write_behaviors(folder)
    measure(folder, folder / "run", goal=GOAL)
    return folder


def flips(run: Path, number: int, seed: int) -> list[tuple[Path, int]]:
    """Return places of single bits: every kind of file in turn, then a random file of it and a random bit."""
    rng, found = np.random.default_rng(seed), []
    kinds = [kind for kind in KINDS if (run / kind).is_dir()]
    for i in range(number):
        files = sorted((run / kinds[i % len(kinds)]).iterdir())
        file = files[rng.integers(len(files))]
        found.append((file.relative_to(run), int(rng.integers(8 * file.stat().st_size))))
    return found


def refusal_of(run: Path, decided: list[str]) -> str:
    """Return why a run is refused; where it is read, it must say what was decided, and there is no reason."""
    try:
        found = diagnose.assemble(run)
    except RunError as error:
        return str(error)
    assert [one.sentence for one in found.diagnoses] == decided
    return ""


def check_flips(setting: Path, folder: Path, number: int, seed: int) -> None:
    """Flip bits one at a time; each is refused or harmless, and the same command makes the run whole."""
    whole, noticed = setting / "run", 0
    decided = [one.sentence for one in diagnose.assemble(whole).diagnoses]
    wanted = contents(whole)
    for name, bit in flips(whole, number, seed):
        run = folder / f"{name.parent}-{name.name}-{bit}"
        shutil.copytree(whole, run)
        changed = bytearray((run / name).read_bytes())
        changed[bit // 8] ^= 1 << bit % 8
        (run / name).write_bytes(changed)
        said = refusal_of(run, decided)
        noticed += bool(said)
        assert not said or (name.stem in said and "\n" not in said), (name, bit, said)
        measure(setting, run, goal=GOAL)
        assert contents(run) == wanted, (name, bit)
    assert noticed >= 0.7 * number


def test_a_random_flipped_bit_is_noticed_and_mended(setting: Path, tmp_path: Path) -> None:
    check_flips(setting, tmp_path, 6, seed=0)


@pytest.mark.slow
def test_many_random_flipped_bits_are_noticed_and_mended(setting: Path, tmp_path: Path) -> None:
    check_flips(setting, tmp_path, 60, seed=1)


@pytest.mark.parametrize("pilot", [True, False])
def test_a_damaged_mark_of_a_finished_behavior_is_made_again(setting: Path, tmp_path: Path, pilot: bool) -> None:
    """Also where the pilot is off, which looks at the mark before anything is sampled."""
    shutil.copytree(setting / "run", tmp_path / "run")
    (tmp_path / "run" / "done" / "sums.json").write_bytes(b"{")
    measure(setting, tmp_path / "run", pilot=pilot, goal=GOAL)
    check_whole(tmp_path / "run", setting / "run")


def check_whole(run: Path, wanted: Path) -> None:
    """Check that a run holds what another one holds, apart from what its pilot showed."""
    found, expected = contents(run), contents(wanted)
    for name in ("done/sums.json", "done/kept.json"):
        del found[name]["pilot"], expected[name]["pilot"]
    assert found == expected


def check_kills(setting: Path, folder: Path, number: int, seed: int) -> None:
    """Kill a process that measures, again and again, at random times; then the same command ends with the data of a run that was not stopped."""
    processes: Any = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["helpers.two_behaviors"])
    rng, num_killed = np.random.default_rng(seed), 0
    begin = time.monotonic()
    work_alone = processes.Process(target=measure_in_own_group, args=(setting, folder / "whole", GOAL))
    work_alone.start()
    work_alone.join()
    assert work_alone.exitcode == 0
    duration = time.monotonic() - begin
    for i in range(number):
        process = processes.Process(target=measure_in_own_group, args=(setting, folder / f"{i // 2}", GOAL))
        process.start()
        process.join(duration * rng.uniform(0.2, 0.9))
        if process.is_alive():
            num_killed += 1
            with suppress(ProcessLookupError):  # it may not lead a group yet
                (os.kill if rng.random() < 0.5 else os.killpg)(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
        if i % 2:
            measure(setting, folder / f"{i // 2}", goal=GOAL, names=["sums"])
            assert contents(folder / f"{i // 2}") == contents(folder / "whole"), i
    assert num_killed


def test_a_killed_run_goes_on_as_if_it_had_not_been(setting: Path, tmp_path: Path) -> None:
    check_kills(setting, tmp_path, 2, seed=0)


@pytest.mark.slow
def test_many_killed_runs_go_on_as_if_they_had_not_been(setting: Path, tmp_path: Path) -> None:
    check_kills(setting, tmp_path, 16, seed=1)
