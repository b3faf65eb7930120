"""Rows as JSON."""

from __future__ import annotations

import json

import pytest

from posttrain.diagnose.behaviors.row_files import parse_json


@pytest.mark.parametrize(
    "text",
    [
        ' {"a": 1, "a": 2.5} ', "[1e999, -Infinity, 1.7976931348623159e308, 5e-324, -0]", "123456789012345678901234567890", r'"\ud83d\ude00"',
        r'"half \ud83d of a pair"', '"\u2028 é"', "[" * 300 + "]" * 300,
    ],
)  # fmt: skip
@pytest.mark.parametrize("of_bytes", [False, True])
def test_a_text_is_read_as_json_reads_it(text: str, of_bytes: bool) -> None:
    assert repr(parse_json(text.encode() if of_bytes else text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["01", "[1,]", '"a\tb"', "", b'"\xe2\x28"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf1"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
