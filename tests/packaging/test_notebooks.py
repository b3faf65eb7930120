"""Every notebook runs from the first cell to the last, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_notebook_runs(path: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_NOTEBOOK_MODEL", str(tiny_model))
    monkeypatch.setenv("POSTTRAIN_NOTEBOOK_OUT", str(tmp_path))
    # The user's own modules of the same names lie beside the notebook.
    (tmp_path / "analysis.py").write_text("raise RuntimeError('a user module was imported in place of ours')\n")
    (tmp_path / "trainers").mkdir()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "sums: " in printed
    assert "report to open: report.html" in printed
