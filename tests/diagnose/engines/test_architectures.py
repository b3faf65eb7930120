"""Samples and scores of the embedded engine are the model's own, alone and beside longer prompts, whatever the architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_models import ARCHITECTURES, RECURRENT, VOCABULARY, logprobs_alone, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.errors import ModelError, SettingsError
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


def test_the_context_of_a_model_with_images_too_is_that_of_its_texts(tiny_model: Path) -> None:
    """Such a configuration says how long texts may be in a part of it."""
    texts = {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    images = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=texts, vision_config=images, mm_tokens_per_image=1, image_token_index=70)
    model = AutoModelForCausalLM.from_config(config).eval()
    engine = TransformersEngine.from_model(model, AutoTokenizer.from_pretrained(tiny_model), sample_dtype="float32")
    prompt = tuple(range(3, 63))
    assert (
        len(engine.sample([SampleRequest(key="p", prompt_ids=prompt, num_samples=1)], Sampling(max_tokens=4), seed="s")[0]) == 1
    )
    with pytest.raises(SettingsError) as refused:
        engine.sample([SampleRequest(key="p", prompt_ids=prompt, num_samples=1)], Sampling(max_tokens=5), seed="s")
    assert refused.value.code == "max_tokens_too_large"
