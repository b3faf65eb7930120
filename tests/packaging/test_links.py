"""Links in Markdown lead to files of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PAGES = [page for page in LISTED if not page.startswith("tests/")]  # the reports there have no figures beside them
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = LINK.findall((ROOT / page).read_text())
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


PLACES = re.compile(r"`((?:posttrain|diagnose|trainers|analysis|tests|benchmarks|reports|docs|schemas)/[\w./]*)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("docs/", "README", "CONTRIBUTING", "reports/LOG"))])
def test_places_named_in_the_documentation_exist(page: str) -> None:
    named = PLACES.findall((ROOT / page).read_text())
    assert [place for place in named if not (ROOT / place).exists()] == []
