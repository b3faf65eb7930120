"""Folders with a made-up diagnosis.json and compare.json, and their pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.checkpoint_files import checkpoints_file
from helpers.loop_files import loop_file
from helpers.report_files import compare_file, diagnosis_file

from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.types import Split

Pages = tuple[Path, str, str]
"""Folder, HTML, Markdown."""


def render(folder: Path) -> Pages:
    html, markdown = write_report(folder)
    return folder, html.read_text(), markdown.read_text()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    folder = tmp_path_factory.mktemp("diagnosis")
    write_model(folder / "diagnosis.json", diagnosis_file())
    return render(folder)


@pytest.fixture(scope="session")
def training_pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Return a loop: a comparison, one on the final split, and the rounds in between."""
    folder = tmp_path_factory.mktemp("loop")
    file = compare_file()
    write_model(folder / "compare.json", file)
    final = file.model_copy(update={"split": Split.FINAL, "behaviors": [file.behaviors[0]]})
    write_model(folder / "final" / "compare.json", final)
    write_model(folder / "loop.json", loop_file())
    return render(folder)


@pytest.fixture(scope="session")
def comparison_pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Two runs between which nothing was trained here."""
    folder = tmp_path_factory.mktemp("comparison")
    file = compare_file()
    behaviors = [entry.model_copy(update={"trained": False, "stage": None}) for entry in file.behaviors]
    write_model(folder / "compare.json", file.model_copy(update={"behaviors": behaviors}))
    return render(folder)


@pytest.fixture(scope="session")
def checkpoint_pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Four checkpoints of one training run."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_model(folder / "checkpoints.json", checkpoints_file())
    return render(folder)
