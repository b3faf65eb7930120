"""Write what is exported of a run to a file that appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.exporting.export_formats import CONFIGURATIONS, EXPORTS, ExportFormat, Row
from posttrain.diagnose.storage.files import write_text
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.strict_settings import unknown


def check_export(format_name: str, out: Path) -> ExportFormat:
    """Return the format of a name, and refuse a file that it cannot be written to, before a run is read.

    Raises:
        SettingsError: The format is unknown (`unknown_format`), or is not read from files of this ending (`other_suffix`).
        RunError: The file exists (`file_exists`), or may not be written (`not_writable`).
    """
    if format_name not in EXPORTS:
        raise SettingsError(f"--to: {unknown('format', format_name, (*EXPORTS, *CONFIGURATIONS))}", code="unknown_format")
    found = EXPORTS[format_name]
    if out.suffix not in found.suffixes:
        raise SettingsError(
            f"--out {out}: {format_name} is read from {' or '.join(found.suffixes)} files; give a name that ends like that",
            code="other_suffix",
        )
    check_writable(out.parent)
    if os.path.lexists(out):
        raise RunError(
            f"--out {out}: it exists, and an export writes over nothing; give a new name, or remove it", code="file_exists"
        )
    return found


def write_rows(out: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON lines, or as parquet for a name that ends so, and return their number."""
    found = [_storable(row) for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".parquet":
        _write_parquet(out, found)
    else:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    return len(found)


def _write_parquet(out: Path, rows: list[Any]) -> None:
    """Write plain parquet: without our checksum, which other tools would only carry along."""
    import pyarrow as pa
    from pyarrow import parquet

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        parquet.write_table(pa.Table.from_pylist(rows), temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _storable(value: Any) -> Any:
    """Return a value whose texts can be stored: halves of surrogate pairs, which a model may write, become question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _storable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_storable(one) for one in value]
    return value
