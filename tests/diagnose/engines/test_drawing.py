"""The draw: exact truncation, exact probabilities."""

from __future__ import annotations

import numpy as np
import torch

from posttrain.diagnose.engines.drawing import draw, draw_by_inversion, sampler_logits, uniforms
from posttrain.diagnose.types import Sampling


def test_inversion_walks_the_distribution_in_order() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.25])
    u = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.999999], dtype=torch.float64)
    ids, normaliser = draw_by_inversion(probabilities.log().expand(len(u), -1), u)
    assert ids.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(normaliser, torch.zeros(len(u)), atol=1e-6, rtol=0)


def test_inversion_spans_blocks_and_never_draws_what_has_no_mass() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1000, generator=generator)
    logits[:, ::3] = -torch.inf
    ids, normaliser = draw_by_inversion(logits, torch.rand(64, dtype=torch.float64, generator=generator))
    assert (ids % 3 != 0).all()
    torch.testing.assert_close(normaliser, logits.logsumexp(-1), atol=1e-5, rtol=0)
    top, _ = draw_by_inversion(logits, torch.full((64,), 1 - 1e-16, dtype=torch.float64))
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
    penalised = sampler_logits(logits, Sampling(repetition_penalty=2.0), torch.tensor([[0, 1, -1]]))
    assert penalised.tolist() == [[1.0, -4.0, 1.0]]


def test_both_log_probabilities_are_given() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(8, -1)
    ids, policy, sampler = draw(logits, Sampling(top_k=2), torch.linspace(0, 0.99, 8, dtype=torch.float64), None)
    np.testing.assert_allclose(policy.exp(), torch.tensor([0.4, 0.3])[ids], rtol=1e-5)
    np.testing.assert_allclose(sampler.exp(), torch.tensor([4 / 7, 3 / 7])[ids], rtol=1e-5)


def test_uniforms_belong_to_one_sample() -> None:
    first = uniforms("seed", "problem", 3, 5)
    assert (first == uniforms("seed", "problem", 3, 5)).all()
    assert (first[:3] == uniforms("seed", "problem", 3, 3)).all()
    for other in (("other", "problem", 3), ("seed", "other", 3), ("seed", "problem", 4)):
        assert not (first == uniforms(*other, 5)).any()
