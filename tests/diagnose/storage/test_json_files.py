"""JSON files as they are written: values that JSON does not have, the layout, the checksum."""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from pathlib import Path

import numpy as np
from helpers.refusals import refused

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import finite, read_json, write_json


class Colour(StrEnum):
    RED = "red"


def test_objects_and_lists_in_which_nothing_changes_are_not_copied() -> None:
    value = {"rows": [{"id": "a", "p": 0.5, "n": 3, "right": True, "group": None}], "rates": [0.1, 0.2]}
    assert finite(value) is value


def test_only_what_changes_is_copied() -> None:
    same, other = {"p": 0.5}, {"p": math.nan, "n": np.int64(3)}
    value = {"rows": [same, other], "deep": {"low": -math.inf, "pair": (1, np.float32(0.5))}}
    found = finite(value)
    assert found == {"rows": [{"p": 0.5}, {"p": None, "n": 3}], "deep": {"low": None, "pair": [1, 0.5]}}
    assert found["rows"][0] is same
    assert math.isnan(other["p"])
    assert type(found["rows"][1]["n"]) is int


def test_keys_become_texts_as_they_are_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"by_k": {k: 1.0 / k for k in (2, 10, 1)}, "by_colour": {Colour.RED: Colour.RED}})
    assert read_json(tmp_path / "a.json") == {
        "schema": 1,
        "by_k": {"2": 0.5, "10": 0.1, "1": 1.0},
        "by_colour": {"red": "red"},
    }


def test_one_value_stands_on_a_line_as_with_an_indent_of_one(tmp_path: Path) -> None:
    content = {"name": "ε ≥ 0", "none": [], "empty": {}, "rows": [{"id": "a", "p": [0.5, None]}, "b", []], "flag": False}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


def test_each_entry_of_a_long_list_stands_on_one_line(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "p": i / 7, "posterior": {"a": 0.25}} for i in range(300)]
    write_json(tmp_path / "a.json", {"behaviors": [{"problems": rows}]})
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines if '"posterior"' in line] == rows
    assert read_json(tmp_path / "a.json")["behaviors"][0]["problems"] == rows


def test_another_layout_is_no_damage_and_another_value_is(tmp_path: Path) -> None:
    path, content = (
        tmp_path / "a.json",
        {"name": "a, b: c", "checksums": [{"checksum": "x"}], "p": [0.1, 1e300, None], "ε": "é\u2028"},
    )
    write_json(path, content)
    stored = json.loads(path.read_text(encoding="utf-8"))
    for layout in ({"indent": 4}, {"separators": (",", ":")}, {}):
        path.write_text(json.dumps(stored, ensure_ascii=False, **layout), encoding="utf-8")
        assert read_json(path) == {"schema": 1, **content}
        path.write_text(json.dumps({**stored, "name": "a, b: d"}, ensure_ascii=False, **layout), encoding="utf-8")
        with refused(RunError, "damaged_file"):
            read_json(path)


def test_the_checksum_of_an_earlier_version_is_recognized(tmp_path: Path) -> None:
    path, content = tmp_path / "a.json", {"schema": 1, "rows": [{"p": 0.5, "id": "ä"}], "name": "sums"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
    path.write_text(json.dumps({**content, "checksum": digest}, indent=1), encoding="utf-8")
    assert read_json(path) == content
    path.write_text(json.dumps({**content, "name": "sum", "checksum": digest}), encoding="utf-8")
    with refused(RunError, "damaged_file"):
        read_json(path)
