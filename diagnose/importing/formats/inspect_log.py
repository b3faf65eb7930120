"""Files of Inspect logs: `.eval`, an archive of JSON files, and `.json`, the same in one.

The archive is read as it stands: `header.json` and `samples/ID_epoch_N.json`, versions 1 to 3 of the layout (`log/_recorders/eval.py` of inspect-ai 0.3.285),
compressed with Deflate or Zstandard. inspect-ai itself, where it is installed, reads archives of later layouts.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.source_rows import SourceRow

WANTED = "logs of Inspect, .eval or .json, or their folder"
INSTALL = "pip install 'posttrain[inspect]'"
EVAL, JSON = ".eval", ".json"
_VERSIONS = (1, 2, 3)
_ZSTANDARD = 93
"""The method of compression, by the numbers of the format ZIP."""
_LOCAL_HEADER = struct.Struct("<26xHH")
"""What stands before the name of a member: 26 bytes, and the lengths of its name and of further fields."""
_ATTACHMENT = "attachment://"
_NOT_READ = ("events", "store", "events_data", "message_pool", "timelines")
"""Of a sample: large, and not needed."""


@dataclass(frozen=True, slots=True)
class InspectLog:
    """A log, of which only the header is read yet."""

    path: Path
    header: Mapping[str, Any]
    with_inspect: bool = False
    """Whether inspect-ai reads the samples."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """Return what was evaluated."""
        return part(self.header, "eval")

    @property
    def task(self) -> str:
        """Return the name of the task."""
        return str(self.spec.get("task") or self.path.stem)

    @property
    def model(self) -> str:
        """Return the name of the model."""
        return str(self.spec.get("model") or "")

    @property
    def created(self) -> str:
        """Return when it was begun, in a form whose order is that of time within one time zone."""
        return str(self.spec.get("created") or "")

    def samples(self) -> Iterator[SourceRow]:
        """Yield its samples, long texts put back in their places.

        Raises:
            SourceError: The file is damaged, or cannot be read without inspect-ai.
        """
        if self.path.suffix == JSON:
            found = self.header.get("samples")
            rows: Iterator[tuple[str, Any]] = (
                (f"sample {i}", one) for i, one in enumerate(found if isinstance(found, list) else [])
            )
        elif self.with_inspect:
            rows = _read_with_inspect(self.path)
        else:
            rows = _read_archive(self.path)
        for name, content in rows:
            if not isinstance(content, dict) or "id" not in content:
                raise SourceError(f"{self.path}: {name}: got no sample of Inspect; give {WANTED}", code="not_this_format")
            yield SourceRow(f"{self.path}: {name}", _attach(content))


def open_log(path: Path) -> InspectLog:
    """Return a log with its header; inspect-ai reads it where it must and is installed.

    Raises:
        SourceError: It is no log, is damaged, or cannot be read without inspect-ai.
    """
    try:
        return read_header(path)
    except SourceError as error:
        if error.code == "needs_inspect" and inspect_is_installed():
            return read_header(path, with_inspect=True)
        raise


def read_header(path: Path, *, with_inspect: bool = False) -> InspectLog:
    """Return a log with its header.

    Args:
        path: The file.
        with_inspect: Whether inspect-ai reads an archive.

    Raises:
        SourceError: It is no log, is damaged, or cannot be read without inspect-ai.
    """
    if path.suffix == JSON:
        try:
            header = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: cannot be read as JSON ({error}); give {WANTED}", code="unreadable_file") from None
    elif with_inspect:
        header = _header_with_inspect(path)
    else:
        with _open_archive(path) as archive:
            names = archive.namelist()
            first = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
            if first is None:
                raise SourceError(f"{path}: an archive without header.json; give {WANTED}", code="not_this_format")
            header = _member(archive, first, path)
    if not isinstance(header, dict) or not isinstance(header.get("eval"), dict):
        raise SourceError(f"{path}: got no log of Inspect; give {WANTED}", code="not_this_format")
    if not with_inspect and header.get("version") not in _VERSIONS:
        raise SourceError(
            f"{path}: version {header.get('version')} of the layout is not known, which inspect-ai may read; {INSTALL}",
            code="needs_inspect",
        )
    return InspectLog(path, header, with_inspect)


def inspect_is_installed() -> bool:
    """Return whether inspect-ai can be imported."""
    return importlib.util.find_spec("inspect_ai") is not None


def part(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the object under these keys, one within the other; empty where there is none."""
    for key in keys:
        inner = content.get(key)
        content = inner if isinstance(inner, Mapping) else {}
    return content


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot be read as an archive ({error}); give {WANTED}", code="unreadable_file") from None


def _read_archive(path: Path) -> Iterator[tuple[str, Any]]:
    with _open_archive(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(JSON)]
        for name in names:
            yield name, _member(archive, name, path)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    info = archive.getinfo(name)
    try:
        content = _read_zstandard(path, info) if info.compress_type == _ZSTANDARD else archive.read(name)
        return json.loads(content)
    except NotImplementedError:
        raise SourceError(
            f"{path}: {name}: compressed by method {info.compress_type}, which inspect-ai may read; {INSTALL}",
            code="needs_inspect",
        ) from None
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path}: {name}: cannot be read ({error})", code="unreadable_file") from None


def _read_zstandard(path: Path, info: zipfile.ZipInfo) -> bytes:
    """Return a member that is compressed with Zstandard, which the standard library reads from Python 3.14 on."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        file.seek(name_length + extra_length, 1)
        return bytes(pa.decompress(file.read(info.compress_size), info.file_size, codec="zstd", asbytes=True))


def _header_with_inspect(path: Path) -> Any:
    from inspect_ai.log import read_eval_log

    try:
        return read_eval_log(str(path), header_only=True).model_dump(mode="json", exclude_none=True)
    except Exception as error:  # whatever it meets in a damaged file
        raise SourceError(
            f"{path}: inspect-ai cannot read it ({_first_line(error)}); give {WANTED}", code="unreadable_file"
        ) from None


def _read_with_inspect(path: Path) -> Iterator[tuple[str, Any]]:
    from inspect_ai.log import read_eval_log_samples

    try:
        for sample in read_eval_log_samples(str(path), all_samples_required=False):
            name = f"samples/{sample.id}_epoch_{sample.epoch}{JSON}"
            yield name, sample.model_dump(mode="json", exclude_none=True, exclude=set(_NOT_READ))
    except SourceError:
        raise
    except Exception as error:  # whatever it meets in a damaged file
        raise SourceError(f"{path}: inspect-ai cannot read its samples ({_first_line(error)})", code="unreadable_file") from None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _attach(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample with its attachments in their places, without what is not read."""
    kept = {key: value for key, value in sample.items() if key not in (*_NOT_READ, "attachments")}
    attachments = part(sample, "attachments")
    return {key: _put_back(value, attachments) for key, value in kept.items()} if attachments else kept


def _put_back(value: Any, attachments: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return attachments.get(value[len(_ATTACHMENT) :], value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, dict):
        return {key: _put_back(inner, attachments) for key, inner in value.items()}
    return [_put_back(inner, attachments) for inner in value] if isinstance(value, list) else value
