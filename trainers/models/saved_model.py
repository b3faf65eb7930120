"""What a checkpoint holds: the model in the class that a Hugging Face loader opens, and a tokenizer that pads as this class reads.

A reward model is saved as a sequence classifier, which reads its head behind the last token that is not the padding token. Where the padding
token also ends answers, or is missing, it would read elsewhere (huggingface/transformers#35352): such a checkpoint gets a padding token that ends
nothing.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.limits import first_line, known_ids
from posttrain.diagnose.errors import ModelError
from posttrain.trainers.models.heads import hidden_width

CLASSIFIERS = {"reward_model": AutoModelForSequenceClassification, "process_reward_model": AutoModelForTokenClassification}
"""The kinds of checkpoints that are no policy, and the class that loads each."""
LABELS = {"reward_model": {0: "reward"}, "process_reward_model": {0: "wrong", 1: "right"}}
_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedModel:
    """A model as it is saved; it shares the memory of the model in training."""

    model: PreTrainedModel
    weights: Mapping[str, Tensor]
    """By name, as the model's own `state_dict`, but for the rows of a padding token."""
    tokenizer: PreTrainedTokenizerBase
    note: str = ""
    """One line for people, where the tokenizer got a token."""


def as_saved(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, saves: str = "policy", scalar_head: nn.Linear | None = None
) -> SavedModel:
    """Return the model in the class that its checkpoint is loaded with.

    Args:
        model: With full weights.
        tokenizer: Its own; it stays as it is.
        saves: What is made of the model: a `policy`, a `reward_model` (one number a text) or a `process_reward_model` (one a step).
        scalar_head: Stored with a reward model.

    Raises:
        ModelError: Transformers has no such class for this architecture.
    """
    if saves == "policy":
        _stop_at_every_end(model, tokenizer)
        return SavedModel(model=model, weights=model.state_dict(), tokenizer=tokenizer)
    assert scalar_head is not None
    tokenizer, note = _with_padding(model, tokenizer)
    settings = _classifier_settings(model, tokenizer, LABELS[saves])
    classifier, head = _empty_classifier(model, settings, saves)
    _fill_head(head, scalar_head)
    weights = classifier.state_dict()
    table = model.get_input_embeddings().weight
    missing = settings.get_text_config().vocab_size - len(table)
    if missing > 0:
        name = next(name for name, weight in classifier.named_parameters() if weight is table)
        weights[name] = torch.cat([weights[name], weights[name].new_zeros(missing, table.shape[1])])
        note += f", and a row of its own in {name}"
    return SavedModel(model=classifier, weights=weights, tokenizer=tokenizer, note=note)


def check_saved(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, saves: str = "policy", scalar_head: nn.Linear | None = None
) -> str:
    """Save everything but the weights in a temporary folder, and compare the class that loads them with what is trained on a few tokens.

    Args:
        model: In training, with full weights; it may have LoRA weights.
        tokenizer: Its own.
        saves: See `as_saved`.
        scalar_head: The head in training.

    Returns:
        One line for people, where the saved tokenizer gets a token; else nothing.

    Raises:
        ModelError: The model cannot be saved, or its checkpoint would give other numbers.
    """
    probe = None
    if scalar_head is not None and saves != "policy":
        probe = copy.deepcopy(scalar_head)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nn.init.normal_(probe.weight)
    saved = as_saved(model, tokenizer, saves, probe)
    with tempfile.TemporaryDirectory() as folder:
        try:
            saved.model.save_pretrained(folder, state_dict={})
            saved.tokenizer.save_pretrained(folder)
        except Exception as error:
            raise ModelError(
                f"model {model.name_or_path}: its checkpoint could not be saved ({type(error).__name__}: {first_line(error)}); correct its "
                "configuration files, or use another model",
                code="not_savable",
            ) from error
    if probe is not None and not _agrees(model, saved, probe):
        raise ModelError(
            f"model {model.name_or_path}: {type(saved.model).__name__} reads other hidden states than those that {saves} trains; use a "
            "decoder whose classifier reads the last token, such as Llama, Qwen or GPT-2",
            code="classifier_reads_elsewhere",
        )
    return saved.note


def _classifier_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: Mapping[int, str]
) -> PreTrainedConfig:
    settings = copy.deepcopy(model.config)
    settings.id2label = dict(labels)
    settings.label2id = {label: number for number, label in labels.items()}
    text = settings.get_text_config()
    for each in (settings, text):
        each.pad_token_id = tokenizer.pad_token_id
    text.vocab_size = max(len(model.get_input_embeddings().weight), tokenizer.pad_token_id + 1)
    return settings


def _empty_classifier(model: PreTrainedModel, settings: PreTrainedConfig, saves: str) -> tuple[PreTrainedModel, nn.Linear]:
    """Return a classifier around the trunk of a model, and its head, which has no weights yet.

    Raises:
        ModelError: There is none for this architecture, or it has another trunk or head.
    """
    kind = CLASSIFIERS[saves]
    try:
        with torch.device("meta"):
            classifier = kind.from_config(settings).eval()
    except ValueError as error:
        raise _no_classifier(model, saves) from error
    trunk = classifier.base_model
    heads = [part for _, part in classifier.named_children() if part is not trunk and not isinstance(part, nn.Dropout)]
    if len(heads) != 1 or type(heads[0]) is not nn.Linear or heads[0].in_features != hidden_width(model):
        raise _no_classifier(model, saves)
    if type(trunk) is not type(model.base_model) or (len(LABELS[saves]) == 2 and heads[0].bias is None):
        raise _no_classifier(model, saves)  # step rewards are trained with a bias
    setattr(classifier, classifier.base_model_prefix, model.base_model)
    return classifier, heads[0]


def _no_classifier(model: PreTrainedModel, saves: str) -> ModelError:
    return ModelError(
        f"model {model.name_or_path}: {saves} is saved with {CLASSIFIERS[saves].__name__}, which transformers does not have for "
        f"{model.config.model_type} in a form with one linear head on the last hidden states; use another architecture, such as Llama, "
        "Qwen or GPT-2",
        code="no_classifier",
    )


@torch.no_grad()
def _fill_head(head: nn.Linear, scalar_head: nn.Linear) -> None:
    """Give the head of a classifier the weights of the head in training: of two labels, the difference of their logits is what it says."""
    weight = scalar_head.weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    bias = weight.new_zeros(1) if scalar_head.bias is None else scalar_head.bias.detach().to(weight.dtype)
    if head.out_features == 2:
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    head.weight = nn.Parameter(weight)
    if head.bias is not None:
        head.bias = nn.Parameter(bias)


def _with_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokenizer with a padding token that ends no answer, on the right, and what is to be said of a new token.

    One that the tokenizer has is taken where there is one: its own, or a special token that is named so.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"  # on the left it moves the positions of some architectures
    config, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
    ends = known_ids(tokenizer.eos_token_id, config.eos_token_id, getattr(generation, "eos_token_id", None))
    num_rows = len(model.get_input_embeddings().weight)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends and tokenizer.pad_token_id < num_rows:
        return tokenizer, ""
    special = sorted((number, token) for token, number in tokenizer.get_added_vocab().items())
    named = [token for number, token in special if "pad" in token.lower() and number not in ends and number < num_rows]
    if named:
        tokenizer.pad_token = named[0]
        return tokenizer, ""
    token = "<|pad|>"
    while token in tokenizer.get_vocab():
        token = token.replace("pad", "_pad")
    tokenizer.add_special_tokens({"pad_token": token})
    return (
        tokenizer,
        f"its tokenizer has no padding token that ends no answer, so the checkpoint gets {token} ({tokenizer.pad_token_id})",
    )


def _stop_at_every_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the generation settings stop at every token that ends an answer here, such as the one that a chat template ends a turn with."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    given = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    known = [number for number in given if number is not None]
    missing = sorted(TextCodec(tokenizer, known_ids(tokenizer.eos_token_id, known)).eos_ids - set(known))
    if missing:
        settings.eos_token_id = [*known, *missing] if known or len(missing) > 1 else missing[0]


@torch.no_grad()
def _agrees(model: PreTrainedModel, saved: SavedModel, head: nn.Linear) -> bool:
    """Return whether the classifier gives the numbers of the head behind the last token of sequences, padded or not."""
    if any(weight.is_meta for weight in model.parameters()):
        return True  # nothing to run
    pad, device = saved.tokenizer.pad_token_id, model.device
    num_rows = len(model.get_input_embeddings().weight)
    ids = [number for number in range(num_rows) if number != pad][1:8]
    short, long = ids[:3], ids[2:]
    batches = [[short], [long]]
    if pad < num_rows:
        batches.append([short + [pad] * (len(long) - len(short)), long])
    decode = model.get_decoder()
    for batch in batches:
        rows = torch.tensor(batch, device=device)
        mask = (rows != pad).long()
        states = decode(input_ids=rows, attention_mask=mask, use_cache=False).last_hidden_state.to(head.weight.dtype)
        expected = head(states)[..., 0]  # [B, S]
        found = saved.model(input_ids=rows, attention_mask=mask, use_cache=False).logits
        if found.shape[-1] == 2:
            found, expected = (found[..., 1] - found[..., 0])[mask > 0], expected[mask > 0]
        else:
            found, expected = found[:, 0], expected[torch.arange(len(rows)), mask.sum(1) - 1]
        if not torch.allclose(found.to(expected), expected, atol=_TOLERANCE, rtol=_TOLERANCE):
            return False
    return True
