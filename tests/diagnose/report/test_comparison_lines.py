"""What `compare` prints: no role without its meaning, and no abbreviation."""

from __future__ import annotations

import re

import pytest
from helpers.imported_runs import SAMPLED_PLAINLY, run_of, spread

from posttrain.diagnose.comparison.change_role import ObservedRole
from posttrain.diagnose.comparison.compare_json import CompareFile
from posttrain.diagnose.comparison.comparison_words import ROLE_MEANINGS
from posttrain.diagnose.pipeline.compare_files import compare
from posttrain.diagnose.report.comparison_lines import comparison_lines
from posttrain.diagnose.storage.json_model import read_model


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> CompareFile:
    folder = tmp_path_factory.mktemp("compared")
    before, after = (run_of(spread(30, 16, right), folder / str(right), SAMPLED_PLAINLY).path for right in (3, 10))
    compare(before, after, out=folder / "out")
    return read_model(folder / "out" / "compare.json", CompareFile)


def test_a_role_is_printed_with_its_meaning_and_numbers_without_abbreviations(compared: CompareFile) -> None:
    (entry,) = compared.behaviors
    lines = list(comparison_lines(entry))
    assert entry.role_observed is ObservedRole.POLICY_RESHAPING
    assert ROLE_MEANINGS[ObservedRole.POLICY_RESHAPING] in lines[1]
    assert set(entry.support) == {"SRR", "NDR", "SDS", "NSCR"}
    assert not re.search(r"\b(SRR|NDR|SDS|NSCR)\b", "\n".join(lines))
    shares = [line for line in lines if "one model sampled twice" in line and line.startswith("  of the problems")]
    assert [f"{entry.support[name].estimate:.2f}" for name in ("SRR", "NDR")] == [
        re.findall(r": ([0-9.]+) ", line)[0] for line in shares
    ]


@pytest.mark.parametrize("role", ObservedRole)
def test_every_role_has_a_meaning(role: ObservedRole, compared: CompareFile) -> None:
    (entry,) = compared.behaviors
    lines = list(comparison_lines(entry.model_copy(update={"role_observed": role})))
    assert ROLE_MEANINGS[role] in lines[1]


def test_a_file_without_a_measure_or_support_is_printed_too(compared: CompareFile) -> None:
    (entry,) = compared.behaviors
    bare = entry.model_copy(update={"measure": {}, "support": {}, "problems": ()})
    assert next(comparison_lines(bare)) == next(comparison_lines(entry))
