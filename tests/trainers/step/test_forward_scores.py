"""Models that are only looked at are the ones they are said to be."""

from __future__ import annotations

import torch
from helpers.training import VOCAB, TinyEngine, make_behavior, random_rows
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.stage import Score, TrainingInputs
from posttrain.trainers.training.preparation import make_scorer
from posttrain.trainers.training_types import TrainingSet


def test_the_reference_stays_where_it_was_in_every_precision() -> None:
    """In bfloat16 on a processor the layers are computed by functions that hold a model: they must not be the live one's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    inputs = TrainingInputs(
        engine=TinyEngine(model), training_set=TrainingSet([make_behavior()]), graders={}, model=model, tokenizer=None
    )
    stage = find_recipe("dpo").build(inputs, load_config("dpo"))
    rows = random_rows()
    for dtype in ("float32", "bfloat16"):
        scorer = make_scorer(inputs, load_config("dpo", None, [f"autocast={dtype}"]), stage)
        before = [torch.tensor(each) for each in scorer.score_rows(rows, Score.REFERENCE)]
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.add_(0.3)
        after = [torch.tensor(each) for each in scorer.score_rows(rows, Score.REFERENCE)]
        moved = [torch.tensor(each) for each in scorer.score_rows(rows, Score.POLICY)]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), dtype
        assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True)), dtype
