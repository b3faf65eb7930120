"""The draw: exact truncation, exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from posttrain.diagnose.engines.token_sampling import pick_tokens, sample_by_inversion, sampler_logits, uniforms
from posttrain.diagnose.types import Sampling


def test_inversion_walks_the_distribution_in_order() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.25])
    u = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.999999], dtype=torch.float64)
    ids, normaliser = sample_by_inversion(probabilities.log().expand(len(u), -1), u)
    assert ids.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(normaliser, torch.zeros(len(u)), atol=1e-6, rtol=0)


def test_inversion_spans_blocks_and_never_draws_what_has_no_mass() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1000, generator=generator)
    logits[:, ::3] = -torch.inf
    ids, normaliser = sample_by_inversion(logits, torch.rand(64, dtype=torch.float64, generator=generator))
    assert (ids % 3 != 0).all()
    torch.testing.assert_close(normaliser, logits.logsumexp(-1), atol=1e-5, rtol=0)
    top, _ = sample_by_inversion(logits, torch.full((64,), 1 - 1e-16, dtype=torch.float64))
    assert (top % 3 != 0).all()
    assert (top < 1000).all()


def test_truncation_keeps_exactly_what_it_should() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(**settings: float) -> list[int]:
        return torch.isfinite(sampler_logits(logits, Sampling(**settings), None))[0].nonzero()[:, 0].tolist()  # type: ignore[arg-type]

    assert kept(top_k=2) == [0, 1]
    assert kept(top_p=0.7) == [0, 1]
    assert kept(top_p=0.71) == [0, 1, 2]
    assert kept(top_p=0.01) == [0]
    assert kept(min_p=0.5) == [0, 1, 2]
    assert kept(min_p=0.51) == [0, 1]


def test_repetition_penalty_touches_seen_tokens_only() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    penalised = sampler_logits(logits, Sampling(repetition_penalty=2.0), torch.tensor([[True, True, False]]))
    assert penalised.tolist() == [[1.0, -4.0, 1.0]]


def test_greedy_obeys_the_repetition_penalty() -> None:
    logits, seen = torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([[True, False, False]])
    none = torch.zeros(1, dtype=torch.float64)
    assert pick_tokens(logits, Sampling(temperature=0.0, repetition_penalty=2.0), none, seen)[0].tolist() == [1]
    assert pick_tokens(logits, Sampling(temperature=0.0), none, None)[0].tolist() == [0]


@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.001, 0.5, 0.95, 0.9999])
def test_top_p_among_many_tokens_keeps_what_a_sort_keeps(spread: float, top_p: float) -> None:
    """Both where a few tokens hold the mass, and where nearly all are needed."""
    logits = spread * torch.randn(5, 3000, generator=torch.Generator().manual_seed(1))
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.double().softmax(-1)
    wanted = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, probabilities.cumsum(-1) - probabilities < top_p)
    kept = torch.isfinite(sampler_logits(logits, Sampling(top_p=top_p), None))
    # Sums in fp32 may put the border one token, or a few of nearly no mass, further.
    differs = (kept != wanted).double() * logits.double().softmax(-1)
    assert differs.sum(-1).max() < 1e-3
    assert (kept.sum(-1) >= 1).all()


def test_tokens_as_likely_as_the_last_one_stay() -> None:
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log()
    assert torch.isfinite(sampler_logits(logits, Sampling(top_p=0.5), None)).all()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(top_k=5), Sampling(top_p=0.8), Sampling(min_p=0.1), Sampling(temperature=0.7, top_p=0.9, top_k=20)],
)
def test_draws_follow_the_sampler_and_many_rows_are_drawn_as_few(sampling: Sampling) -> None:
    num, generator = 4000, torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(1, 40, generator=generator)
    u = torch.rand(num, dtype=torch.float64, generator=generator)
    ids, policy, sampler = pick_tokens(logits.expand(num, -1), sampling, u, None)
    wanted = num * sampler_logits(logits, sampling, None)[0].double().softmax(-1).numpy()
    counts = np.bincount(ids.numpy(), minlength=40)
    common = wanted >= 5
    assert (counts[wanted == 0] == 0).all()
    observed, expected = (np.append(x[common], x[~common].sum()) for x in (counts, wanted))
    keep = expected > 1e-9
    assert stats.chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue > 1e-3
    torch.testing.assert_close(sampler.exp().double(), torch.from_numpy(wanted / num)[ids], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(policy, logits[0].log_softmax(-1)[ids], rtol=1e-4, atol=1e-5)
    one = pick_tokens(logits, sampling, u[17:18], None)
    assert one[0] == ids[17]


def test_both_log_probabilities_are_given() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(8, -1)
    ids, policy, sampler = pick_tokens(logits, Sampling(top_k=2), torch.linspace(0, 0.99, 8, dtype=torch.float64), None)
    np.testing.assert_allclose(policy.exp(), torch.tensor([0.4, 0.3])[ids], rtol=1e-5)
    np.testing.assert_allclose(sampler.exp(), torch.tensor([4 / 7, 3 / 7])[ids], rtol=1e-5)


def test_uniforms_belong_to_one_sample() -> None:
    first = uniforms("seed", "problem", 3, 5)
    assert (first == uniforms("seed", "problem", 3, 5)).all()
    assert (first[:3] == uniforms("seed", "problem", 3, 3)).all()
    for other in (("other", "problem", 3), ("seed", "other", 3), ("seed", "problem", 4)):
        assert not (first == uniforms(*other, 5)).any()
