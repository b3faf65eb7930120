"""Output folders: one process writes at a time, a killed one blocks no other, and nothing of another command is overwritten."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.other_process import another_process_in
from helpers.refusals import refused

from posttrain import analysis, diagnose
from posttrain.analysis.figures.saving import write_whole
from posttrain.analysis.input_error import InputError
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import write_bytes
from posttrain.diagnose.storage.output_folder import LOCK, content_of, locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory

Measure = Callable[..., diagnose.DiagnosedRun]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Measure two problems with a scripted model."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1), "split": "eval"} for i in range(2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text("problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n")
    (folder / "model.yaml").write_text("success: 0.3\n")

    def run(out: Path, seed: int = 0) -> diagnose.DiagnosedRun:
        return diagnose.run(
            str(folder / "model.yaml"), [folder / "sums.yaml"], out=out, engine="scripted", samples=4, probes=["none"], seed=seed
        )

    return run


@pytest.fixture(scope="module")
def finished(measure: Measure, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write two finished runs, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    for name, seed in (("before", 0), ("after", 1)):
        measure(folder / name, seed)
    return folder / "before", folder / "after"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_is_refused_and_a_killed_one_blocks_no_other(
    tmp_path: Path, measure: Measure, finished: tuple[Path, Path]
) -> None:
    new, out = tmp_path / "new", tmp_path / "run"
    shutil.copytree(finished[0], out)
    for folder in (new, out):
        with another_process_in(folder) as other:
            with refused(RunError, "folder_in_use") as caught:
                measure(folder)
            assert str(folder) in str(caught.value)
            assert f"process {other.pid} " in str(caught.value)
            if folder is out:
                with refused(RunError, "folder_in_use"):
                    diagnose.rewrite_report(out)
        assert (folder / LOCK).exists(), "it was killed"
    measure(new)
    diagnose.rewrite_report(out)
    assert not (new / LOCK).exists()
    assert not (out / LOCK).exists()


def test_one_process_holds_a_folder_once(tmp_path: Path) -> None:
    with locked_folder(tmp_path), refused(RunError, "folder_in_use"), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_written_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a" / "b").exists()


def test_what_a_killed_process_did_not_write_to_the_end_is_removed(
    tmp_path: Path, measure: Measure, finished: tuple[Path, Path]
) -> None:
    new, out = tmp_path / "new", tmp_path / "run"
    shutil.copytree(finished[0], out)
    (new / "rollouts").mkdir(parents=True)
    for folder in (new, out):
        (folder / ".run.json.4711.tmp").write_text("{")
        (folder / LOCK).write_text("4711\n")
    assert content_of(new) == [new / "rollouts"]
    with refused(RunError, "other_files"):
        measure(new)
    (new / "rollouts").rmdir()
    RunDirectory(new).check("diagnose", {})
    (out / "rollouts" / ".sums.parquet.4711.tmp").write_text("PAR1")
    measure(out)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_comparison_overwrites_nothing_of_another_command(
    tmp_path: Path, measure: Measure, finished: tuple[Path, Path]
) -> None:
    first, second = finished
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
        measure(compared)


@pytest.mark.parametrize("write", [write_bytes, write_whole])
def test_a_disk_that_is_full_is_told_with_the_file_and_nothing_half_written_is_left(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """The largest size of a file stands for the disk: both end a write with an error that names no file."""
    path, limits = tmp_path / "a.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"whole")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            write(path, b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"whole"
