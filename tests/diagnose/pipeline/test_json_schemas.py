"""The committed JSON Schemas describe the files that are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoint_files import checkpoints_file
from helpers.loop_files import loop_file
from helpers.report_files import compare_file, diagnosis_file

from posttrain.diagnose.pipeline.json_schemas import MODELS, schema_text
from posttrain.diagnose.storage.json_model import FileModel, read_model, write_model

SCHEMAS = Path(__file__).parents[3] / "schemas"
FILES: dict[str, FileModel] = {
    "diagnosis": diagnosis_file(),
    "compare": compare_file(),
    "checkpoints": checkpoints_file(),
    "loop": loop_file(),
}
ROWS = {"diagnosis": "behaviors", "compare": "behaviors", "checkpoints": "behaviors", "loop": "rounds"}
"""The list whose members each file is about."""


@pytest.mark.parametrize("name", list(MODELS))
def test_committed_schemas_are_current(name: str) -> None:
    """`python -m posttrain.diagnose.pipeline.json_schemas schemas` writes them again."""
    assert (SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8") == schema_text(name)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_key_of_a_file_is_in_its_schema(name: str) -> None:
    schema: dict[str, Any] = json.loads(schema_text(name))
    entry = FILES[name].to_json()[ROWS[name]][0]
    (items,) = [schema["properties"][ROWS[name]]["items"]["$ref"].rpartition("/")[2]]
    assert set(entry) == set(schema["$defs"][items]["properties"])
    assert schema["properties"]["schema"]["const"] == 1


@pytest.mark.parametrize("name", list(MODELS))
def test_reading_what_was_written_loses_nothing(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "a.json", FILES[name])
    again = read_model(tmp_path / "a.json", MODELS[name])
    assert again.to_json() == FILES[name].to_json()
