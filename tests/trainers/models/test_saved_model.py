"""Every kind of checkpoint gives the same numbers in plain transformers, and its adapter in plain peft."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from helpers.architectures import ARCHITECTURES, VOCAB, tiny_model_of
from helpers.training import make_inputs, make_tokenizer, move_weights, random_pairs
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.diagnose.errors import ModelError
from posttrain.trainers.models.checkpoint import save_checkpoint
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.training.trainer import run_recipe

TEXTS = [[5, 31], [7, 8, 9, 31], [31, 4, 6, 31, 3, 31]]
"""Unequal lengths, all with the end token last, as rows are trained; one holds it in the middle."""
LOADERS = {
    "policy": AutoModelForCausalLM,
    "reward_model": AutoModelForSequenceClassification,
    "process_reward_model": AutoModelForTokenClassification,
}
NONE = {
    ("gemma3", "process_reward_model"),
    ("opt", "process_reward_model"),
    ("mamba", "reward_model"),
    ("mamba", "process_reward_model"),
}
"""Architectures without such a class in transformers."""
CASES = [(one, kind) for one in ARCHITECTURES for kind in LOADERS if (one, kind) not in NONE]


def tokenizer_with(pad: str | None) -> PreTrainedTokenizerBase:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = pad
    return tokenizer


def random_head(model: PreTrainedModel, *, bias: bool) -> nn.Linear:
    head = scalar_head(model, bias=bias)
    with torch.no_grad():
        for each in head.parameters():
            each.normal_()
    return head


@torch.no_grad()
def our_numbers(model: PreTrainedModel, kind: str, head: nn.Linear, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return logits [S, V], the reward [1], or step rewards [S] of each text, run alone."""
    found = []
    for text in texts:
        ids = torch.tensor([text])
        if kind == "policy":
            found.append(model(input_ids=ids).logits[0])
            continue
        values = head(model.get_decoder()(input_ids=ids).last_hidden_state)[0, :, 0]
        found.append(values[-1:] if kind == "reward_model" else values)
    return found


@torch.no_grad()
def their_numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, texts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Return the same from a padded batch, as a user of transformers makes it."""
    ids = [list(text) for text in texts]
    batch = {"input_ids": torch.tensor(ids)} if len(ids) == 1 else tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    logits = model.eval()(**batch).logits
    if kind == "reward_model":
        return list(logits)
    if kind == "process_reward_model":
        logits = logits[..., 1] - logits[..., 0]
    return [row[: len(text)] for row, text in zip(logits, texts, strict=True)]


def compare(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pad", ["t31", None, "t2"], ids=["pad is the end", "no pad", "own pad"])
@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_full_weights(architecture: str, kind: str, pad: str | None, tmp_path: Path) -> None:
    model = tiny_model_of(architecture)
    head = random_head(model, bias=kind != "reward_model")
    save_checkpoint(tmp_path / "out", model, tokenizer_with(pad), {}, saves=kind, scalar_head=None if kind == "policy" else head)
    loaded = LOADERS[kind].from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for texts in [[text] for text in TEXTS] if kind == "policy" and pad is None else [TEXTS]:
        compare(their_numbers(loaded, tokenizer, kind, texts), our_numbers(model, kind, head, texts))
    if kind != "policy":
        assert tokenizer.pad_token_id == loaded.config.pad_token_id
        assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, None)
        assert (pad == "t2") == (tokenizer.pad_token == "t2")
        assert loaded.get_input_embeddings().weight.shape[0] == (VOCAB if pad == "t2" else VOCAB + 1)


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")  # of peft, which overlooks fused experts
@pytest.mark.parametrize(("architecture", "kind"), [case for case in CASES if case[0] != "mamba"])  # peft refuses its layers
def test_an_adapter(architecture: str, kind: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model_of(architecture), tokenizer_with("t2")
    model.save_pretrained(tmp_path / "base")
    adapter = LoraAdapter(model, load_config("sft", None, ["lora_rank=2"]), base=str(tmp_path / "base"))
    move_weights(nn.ParameterList([each for name, each in model.named_parameters() if ".lora_" in name]))
    head = random_head(model, bias=kind != "reward_model")
    save_checkpoint(
        tmp_path / "out",
        adapter.merge(),
        tokenizer,
        {},
        saves=kind,
        scalar_head=None if kind == "policy" else head,
        save_adapter=partial(adapter.save, adapter.lora_weights()),
    )
    expected = our_numbers(model, kind, head, TEXTS)
    assert not torch.allclose(expected[0], our_numbers(tiny_model_of(architecture), kind, head, TEXTS)[0], atol=1e-2)
    compare(their_numbers(LOADERS[kind].from_pretrained(tmp_path / "out"), tokenizer, kind, TEXTS), expected)
    labels = {"policy": {}, "reward_model": {"num_labels": 1}, "process_reward_model": {"num_labels": 2}}[kind]
    base = LOADERS[kind].from_pretrained(tmp_path / "base", pad_token_id=2, **labels)
    with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    compare(their_numbers(with_adapter, tokenizer, kind, TEXTS), expected)


def test_a_special_token_that_is_named_so_pads_before_a_new_one(tmp_path: Path) -> None:
    model, tokenizer = tiny_model_of("llama"), tokenizer_with("t31")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|fim_pad|>"]})
    model.resize_token_embeddings(len(tokenizer))
    head = random_head(model, bias=False)
    save_checkpoint(tmp_path / "out", model, tokenizer, {}, saves="reward_model", scalar_head=head)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == "<|fim_pad|>"
    assert loaded.get_input_embeddings().weight.shape == model.get_input_embeddings().weight.shape
    assert tokenizer.pad_token == "t31"


@pytest.mark.parametrize(("architecture", "kind"), sorted(NONE))
def test_what_cannot_be_saved_is_refused_before_the_first_step(architecture: str, kind: str, tmp_path: Path) -> None:
    inputs = make_inputs(tiny_model_of(architecture), make_tokenizer(), data=tuple(random_pairs()))
    if kind == "process_reward_model":
        inputs = make_inputs(tiny_model_of(architecture), make_tokenizer(), grade=lambda problem, texts: [])
    with pytest.raises(ModelError) as refused:
        run_recipe(kind, inputs, load_config(kind, None, ["num_steps=1"]), out=tmp_path)
    assert refused.value.code == "no_classifier"
    assert not list(tmp_path.iterdir())


class Unsavable(type(make_tokenizer())):
    """A tokenizer that cannot be written."""

    def save_pretrained(self, *arguments: object, **named: object) -> tuple[str, ...]:
        raise ValueError("not serializable")


def test_a_tokenizer_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path: Path) -> None:
    tokenizer = Unsavable(tokenizer_object=make_tokenizer().backend_tokenizer)
    inputs = make_inputs(tiny_model_of("llama"), tokenizer, data=tuple(random_pairs()))
    with pytest.raises(ModelError) as refused:
        run_recipe("dpo", inputs, load_config("dpo", None, ["num_steps=1"]), out=tmp_path)
    assert refused.value.code == "not_savable"
    assert not list(tmp_path.iterdir())


def test_a_trained_reward_model_tells_its_pairs_apart_in_transformers(tmp_path: Path) -> None:
    pairs, model, tokenizer = random_pairs(8), tiny_model_of("llama"), tokenizer_with("t31")
    settings = ["num_steps=60", "learning_rate=1e-2", "autocast=float32", "rows_per_batch=8"]
    result = run_recipe(
        "reward_model",
        make_inputs(model, tokenizer, data=tuple(pairs)),
        load_config("reward_model", None, settings),
        out=tmp_path,
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(result.checkpoint)
    saved = AutoTokenizer.from_pretrained(result.checkpoint)
    rewards = torch.cat(their_numbers(loaded, saved, "reward_model", [pair.prompt_ids + pair.completion_ids for pair in pairs]))
    assert bool((rewards[0::2] > rewards[1::2]).all())
