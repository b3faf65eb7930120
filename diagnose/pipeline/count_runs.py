"""Files of counts in the place of runs: imported into a folder that lasts as long as they are needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.diagnose.gates.decide_gates import gate as gate_folder
from posttrain.diagnose.gates.gate_result import GateResult
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from posttrain.diagnose.pipeline.run_files import Run


@contextmanager
def with_counts_as_runs(runs: Sequence[Run | None]) -> Iterator[list[Run | None]]:
    """Yield runs in which files of counts are imported, all under one name of a behavior, so that they pair by the ids of their problems.

    Args:
        runs: Run directories, runs, None, or JSONL files of `{"id", "c", "n"}`.

    Raises:
        SourceError: A file holds no counts.
    """
    files = {number: file for number, run in enumerate(runs) if (file := _file(run)) is not None}
    name = _shared_name(list(files.values()))
    with tempfile.TemporaryDirectory() as folder:
        yield [
            run if (file := files.get(number)) is None else _import_counts(file, Path(folder) / str(number), name)
            for number, run in enumerate(runs)
        ]


def gate(run: str | os.PathLike[str], conditions: str | Sequence[str]) -> GateResult:
    """Decide conditions on a finished run, on a comparison of two, or on a file of counts.

    Args:
        run: The folder of a `posttrain diagnose` or `import` (or the run), of a `posttrain compare` or `loop` for conditions on `delta pass@K`, or a JSONL
            file of `{"id", "c", "n"}`.
        conditions: One or several, all of which must hold, such as `pass@16>=0.5`; see `gates.decide_gates`.

    Raises:
        SettingsError: A condition is malformed, or names a behavior that was not measured.
        RunError: The folder does not hold what the conditions are about.
        SourceError: The file holds no counts.
    """
    with with_counts_as_runs([run]) as (found,):
        if isinstance(found, DiagnosedRun) and _file(run) is not None:
            from posttrain.diagnose.pipeline.diagnosis_file import diagnosis_file

            folder = RunDirectory(Path(found.run.path))
            write_model(folder.diagnosis_json, diagnosis_file(found))
            return gate_folder(folder.path, conditions)
    return gate_folder(run, conditions)


def _shared_name(files: Sequence[Path]) -> str:
    """Return the name of a behavior that is called after these files."""
    if not files:
        return ""
    from posttrain.diagnose.importing.source_rows import behavior_of_file

    stems = {behavior_of_file(file) for file in files}
    return stems.pop() if len(stems) == 1 else "counts"


def _file(run: Run | None) -> Path | None:
    """Return the file that stands in the place of a run; None where it is none."""
    if run is None or isinstance(run, DiagnosedRun):
        return None
    return Path(run) if Path(run).is_file() else None


def _import_counts(file: Path, folder: Path, name: str) -> DiagnosedRun:
    """Return the run of a file of counts, which is called after the file."""
    from posttrain.diagnose.importing.formats.counts import (
        COUNTS,  # where there are no such files, a gate starts in half of the time
    )
    from posttrain.diagnose.importing.imported import ReadOptions
    from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run

    found = COUNTS.read([file], ReadOptions(behavior=name))
    run = store_run(found, ImportSettings(out=folder, paths=[file], command=f"posttrain import counts {file} --out RUN"))
    return replace(run, path=file)
