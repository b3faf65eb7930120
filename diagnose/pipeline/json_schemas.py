"""JSON Schemas of the files that others read, generated from their typed models.

python -m posttrain.diagnose.pipeline.json_schemas schemas
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
from posttrain.diagnose.comparison.compare_json import CompareFile
from posttrain.diagnose.comparison.loop_json import LoopFile
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.files import finite
from posttrain.diagnose.storage.json_model import FileModel

MODELS: dict[str, type[FileModel]] = {
    "diagnosis": DiagnosisFile,
    "compare": CompareFile,
    "checkpoints": CheckpointsFile,
    "loop": LoopFile,
}
"""Stem of each file, and its model."""


def schema_text(name: str) -> str:
    """Return the JSON Schema (draft 2020-12) of a file, as it is committed."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **finite(
            MODELS[name].model_json_schema(mode="serialization")
        ),  # NaN, in Python the default of an unknown number, is null
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the schemas into a folder, `schemas` without an argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "schemas")
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        (folder / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
