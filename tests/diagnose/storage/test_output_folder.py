"""Output folders: one process writes at a time, a killed one blocks no other, and nothing of another command is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.other_process import another_process_in
from helpers.refusals import refused

from posttrain import analysis, diagnose
from posttrain.analysis.input_error import InputError
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.output_folder import LOCK, content_of, locked_folder


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "model.yaml").write_text("success: 0.3\n")
    return str(tmp_path / "model.yaml")


Measure = Callable[[str], diagnose.DiagnosedRun]


@pytest.fixture
def measure(script: str, sums_file: Path, tmp_path: Path) -> Measure:
    def run(name: str, seed: int = 0) -> diagnose.DiagnosedRun:
        return diagnose.run(script, [sums_file], out=tmp_path / name, engine="scripted", samples=2, probes=["none"], seed=seed)

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_is_refused_and_a_killed_one_blocks_no_other(tmp_path: Path, measure: Measure) -> None:
    out = tmp_path / "run"
    with another_process_in(out) as other:
        with refused(RunError, "folder_in_use") as caught:
            measure("run")
        assert str(out) in str(caught.value)
        assert f"process {other.pid} " in str(caught.value)
    assert (out / LOCK).exists(), "it was killed"
    measure("run")
    assert not (out / LOCK).exists()
    with another_process_in(out):
        with refused(RunError, "folder_in_use"):
            diagnose.rewrite_report(out)
        with refused(RunError, "folder_in_use"):
            measure("run")
    diagnose.rewrite_report(out)


def test_one_process_holds_a_folder_once(tmp_path: Path) -> None:
    with locked_folder(tmp_path), refused(RunError, "folder_in_use"), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_written_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a" / "b").exists()


def test_what_a_killed_process_did_not_write_to_the_end_is_removed(tmp_path: Path, measure: Measure) -> None:
    out = tmp_path / "run"
    (out / "rollouts").mkdir(parents=True)
    (out / ".run.json.4711.tmp").write_text("{")
    (out / LOCK).write_text("4711\n")
    assert content_of(out) == [out / "rollouts"]
    (out / "rollouts").rmdir()
    measure("run")
    (out / "rollouts" / ".sums.parquet.4711.tmp").write_text("PAR1")
    measure("run")
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_comparison_overwrites_nothing_of_another_command(tmp_path: Path, script: str, sums_file: Path) -> None:
    for name, seed in (("before", 0), ("after", 1)):
        diagnose.run(script, [sums_file], out=tmp_path / name, engine="scripted", samples=4, probes=["none"], seed=seed)
    first, second = tmp_path / "before", tmp_path / "after"
    other, file = tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "report.html").write_text("")
    (other / "notes.txt").write_text("mine")
    file.write_text("mine")
    for out in (first, second, other, file):
        before = files(out)
        with refused(RunError, "other_files"):
            diagnose.compare(first, second, out=out)
        assert files(out) == before
    compared = tmp_path / "compared"
    with another_process_in(compared), refused(RunError, "folder_in_use"):
        diagnose.compare(first, second, out=compared)
    diagnose.compare(first, second, out=compared)
    written = (compared / "compare.json").read_bytes()
    diagnose.compare(first, second, out=compared)
    assert (compared / "compare.json").read_bytes() == written
    before = files(compared)
    for name in ("report.md", "figures/pass_at_k.svg", "figures/deep/er/pass_at_k.svg"):
        with pytest.raises(InputError) as caught:
            analysis.plot("pass_at_k", first, out=compared / name)
        assert caught.value.code == "out_is_of_a_report"
    assert files(compared) == before
    with refused(RunError, "other_files"):
        diagnose.run(script, [sums_file], out=compared, engine="scripted", samples=4)
