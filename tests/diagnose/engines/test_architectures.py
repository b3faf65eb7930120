"""Samples and scores of the embedded engine are the model's own, alone and beside longer prompts, whatever the architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_models import ARCHITECTURES, RECURRENT, VOCABULARY, logprobs_alone, small_model
from transformers import AutoTokenizer

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.errors import ModelError
from posttrain.diagnose.types import Sampling


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_batch_changes_neither_samples_nor_scores(kind: str, tiny_model: Path) -> None:
    model = small_model(kind, spread=0.3)
    engine = TransformersEngine.from_model(model, AutoTokenizer.from_pretrained(tiny_model), sample_dtype="float32")
    rng = np.random.default_rng(0)

    def tokens(num: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(3, VOCABULARY, num)))

    prompts = [tokens(num) for num in (3, 60, 17, 1)]
    asked = [SampleRequest(key=f"p{number}", prompt_ids=prompt, num_samples=2) for number, prompt in enumerate(prompts)]
    together = engine.sample(asked, Sampling(max_tokens=20), seed="s")
    for request, sampled in zip(asked, together, strict=True):
        alone = engine.sample([request], Sampling(max_tokens=20), seed="s")[0]
        assert [one.token_ids for one in alone] == [one.token_ids for one in sampled]
        for one in sampled:
            wanted = logprobs_alone(model, request.prompt_ids, one.token_ids)
            torch.testing.assert_close(torch.from_numpy(one.policy_logprobs), wanted, atol=1e-4, rtol=0)
    paths = [ScoreRequest(prompt_ids=prompt, path_ids=tokens(num)) for prompt, num in zip(prompts, (40, 5, 17, 1), strict=True)]
    for path, scores in zip(paths, engine.score(paths), strict=True):
        wanted = logprobs_alone(model, path.prompt_ids, path.path_ids)
        torch.testing.assert_close(torch.from_numpy(scores.logprobs), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_model_whose_state_is_not_in_the_cache_is_refused_at_its_first_sample(kind: str, tiny_model: Path) -> None:
    engine = TransformersEngine.from_model(small_model(kind, spread=0.3), AutoTokenizer.from_pretrained(tiny_model))
    with pytest.raises(ModelError) as refused:
        engine.sample([SampleRequest(key="p", prompt_ids=(3, 4), num_samples=2)], Sampling(max_tokens=2), seed="s")
    assert refused.value.code == "not_decodable"
    assert "\n" not in str(refused.value)
