"""The held-out families and the judge of `benchmarks/held_out_statistics.py`: truth is what it is said to be, and errors are seen."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import held_out_library as library
import held_out_page
import held_out_rates as rates
import held_out_statistics as statistics

from posttrain.analysis.stats import Interval
from posttrain.diagnose.types import Bottleneck


@pytest.mark.parametrize("family", [name for name in rates.FAMILIES if name != "clustered"])
def test_the_population_is_where_the_problems_come_from(family: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        behavior = rates.FAMILIES[family](rng)
        drawn, _ = behavior.draw(rng, 4000)
        population = behavior.population
        assert drawn.min() >= 0.0
        assert drawn.max() <= 1.0
        assert abs(drawn.mean() - population.mean()) < 4.0 * population.std() / np.sqrt(4000) + 1e-3
        assert abs((drawn < rates.EPSILON).mean() - (population < rates.EPSILON).mean()) < 0.035


def test_groups_of_related_problems_have_the_population_on_average() -> None:
    rng = np.random.default_rng(1)
    distance = []
    for _ in range(300):
        behavior = rates.clustered(rng, 15)
        drawn, groups = behavior.draw(rng, 60)
        assert len(set(groups or ())) == 15
        distance.append(drawn.mean() - behavior.population.mean())
    assert abs(np.mean(distance)) < 4.0 * np.std(distance) / np.sqrt(300)


def test_what_stays_inside_support_never_leaves_it() -> None:
    rng = np.random.default_rng(2)
    for name in ("faint lift", "faint loss", "lift, faint loss", "lift inside"):
        for _ in range(10):
            before, after = rates.CHANGES[name](rng).draw(rng, 200)
            assert np.any(before != after) or name == "lift inside"
            assert np.all((before < rates.EPSILON) == (after < rates.EPSILON))
    before, after = rates.CHANGES["expansion"](rng).draw(rng, 200)
    assert np.any((before < rates.EPSILON) & (after >= rates.EPSILON))
    assert not np.any(after < before)


def test_a_borderline_label_hangs_on_little() -> None:
    rng = np.random.default_rng(3)
    seen = {rates.true_label(rates.borderline(rng, 20)) for _ in range(60)}
    assert seen == {*rates.LABELS, Bottleneck.MIXED}


def test_gates_that_an_interval_decides_wrongly_are_seen() -> None:
    """`>=` at −.05, −.005, 0, .005, .05 from the truth, then `<=`."""
    covering, above, below = (Interval(e, e - 0.1, e + 0.1, "") for e in (0.5, 0.62, 0.38))
    assert sum(library.gate_errors(covering, 0.5)) == 0
    assert library.gate_errors(above, 0.5) == (0, 0, 0, 1, 0, 0, 0, 1, 1, 0)
    assert library.gate_errors(below, 0.5) == (0, 1, 1, 0, 0, 0, 1, 0, 0, 0)


def test_chance_is_told_from_failure() -> None:
    assert not held_out_page.is_below(184, 200)
    assert held_out_page.is_below(176, 200)
    assert not held_out_page.is_above(14, 200)
    assert held_out_page.is_above(17, 200)


@pytest.mark.parametrize("part", list(statistics.RUNS))
def test_a_run_is_the_same_again(part: str) -> None:
    family = "5 groups" if part == "clusters" else "crossing" if part in ("deltas", "null") or "change" in part else "few atoms"
    first, again = (statistics.RUNS[part][0](family, 12, 4, seed=5) for _ in range(2))
    assert first == again
    assert first.intervals or first.rates


def test_the_page_names_a_cell_that_fails() -> None:
    cell = {"runs": 0, "seconds": 0.0}
    for seed in range(40):
        record = library.Record()
        record.note("pass@1", Interval(0.9, 0.8, 1.0, ""), 0.5 if seed % 2 else 0.9)
        record.labels.append(("mastered", 0.97, False))
        statistics.add_to(cell, record, seed)
    assert held_out_page.suspicious(cell)
    assert cell["missed"]["pass@1"][:2] == [1, 3]
    text = held_out_page.page({"run|beta|20|16": cell}, "command", 0)
    assert "| pass@1 | 1 | 40 | 1.00 | 0.500 | – | 0.20 | 1 | beta, 20 × 16 | beta, P = 20, n = 16: 0.50" in text
    assert "| 20 | 16 | 40 | 40 **fails** |" in text
