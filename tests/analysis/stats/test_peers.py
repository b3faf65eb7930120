"""Other libraries of pass@k inference, where they compute what this one does: passk-inference (arXiv 2609.22547) and scorio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from posttrain import diagnose
from posttrain.analysis import stats as ps
from posttrain.diagnose.storage.count_files import ProblemCount


def counts(seed: int, num_problems: int = 120, n: int = 24) -> tuple[npt.NDArray[np.int64], ...]:
    """[P] samples, and successes before and after: a gain at k = 1, and a loss at large k."""
    rng = np.random.default_rng(seed)
    lost = rng.random(num_problems) < 0.4
    first = np.where(lost, 0.08, rng.beta(2.0, 2.0, num_problems))
    last = np.where(lost, 0.0, np.minimum(1.0, first + 0.25))
    return np.full(num_problems, n), rng.binomial(n, first), rng.binomial(n, last)


def peer(name: str) -> Any:
    """Return a module of another library, or skip the test."""
    return pytest.importorskip(name, reason=f"{name} is installed with the dev dependencies")


def test_pass_at_k_is_that_of_the_peers() -> None:
    n, c, _ = counts(0)
    passk, scorio = peer("passk_inference"), peer("scorio.eval")
    outcomes = (np.arange(n[0])[None, :] < c[:, None]).astype(int)
    for k in (1, 3, 8, 24):
        np.testing.assert_allclose(ps.pass_at_k(n, c, k), passk.pass_at_k(c, n, k), atol=1e-12)
        assert ps.pass_at_k(n, c, k).mean() == pytest.approx(scorio.pass_at_k(outcomes, k), abs=1e-12)


def test_the_band_and_the_first_loss_are_those_of_the_peer() -> None:
    """With 120 problems both bands are normal ones; ours is a little wider, by its pseudo-observations."""
    n, before, after = counts(1)
    found = peer("passk_inference").compare(before, n, after, n)
    ks = ps.dense_ks(int(n[0]))
    sides = [np.stack([ps.pass_at_k(n, c, k) for k in ks], axis=1) for c in (before, after)]
    band = ps.max_t_deltas(*sides, rng=np.random.default_rng(0))
    np.testing.assert_allclose(band.estimate, found["mean"], atol=1e-12)
    theirs, ours = np.array(found["upper"]) - np.array(found["lower"]), band.high - band.low
    assert np.all((ours > 0.98 * theirs) & (ours < 1.1 * theirs))
    loss, (low, high) = ps.first_loss(ks, band.low, band.high), found["first_loss_interval"]
    assert loss.high is not None
    assert loss.low == pytest.approx(low, abs=1)
    assert loss.high == pytest.approx(high, abs=1)


def test_files_of_counts_are_those_of_the_peer(tmp_path: Path) -> None:
    rows = [ProblemCount("a", 16, 3), ProblemCount("b", 8, 8)]
    diagnose.write_counts(tmp_path / "counts.jsonl", rows)
    assert peer("passk_inference").load_counts(tmp_path / "counts.jsonl") == {
        one.id: {"id": one.id, "c": one.num_correct, "n": one.num_samples} for one in rows
    }
