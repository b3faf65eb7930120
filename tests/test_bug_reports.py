"""The log of public bug reports names tests that exist, and each report once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = ROOT / "reports" / "BUG_REPORTS.md"


def test_every_report_has_an_address_and_tests_that_exist() -> None:
    rows = [line for line in LOG.read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    addresses = [re.findall(r"\((https://github\.com/[^)\s]+/(?:issues|pull)/[0-9]+)\)", row) for row in rows]
    assert len(rows) >= 20
    assert all(len(found) == 1 for found in addresses)
    assert len({found[0] for found in addresses}) == len(rows)
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= defined, row
