"""Public chat template families, as TRL ships them, each on a small byte-level tokenizer with the family's special tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.engines.base import BaseEngine
from posttrain.diagnose.engines.codec import TextCodec

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
_SPECIAL = re.compile(
    r"<[|｜][^|｜<>\s\"'{}]{1,40}[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_\w+>|\[/?INST\]|\[gMASK\]|<sop>"
)
_NOW = re.compile(r"strftime_now\([^)]*\)")
_CORPUS = (
    "What is 12 and 34? 1234 is France.\n\nThe answer is four, or five.\n中国的首都是北京。 user assistant system tool think",
    "Fr ance France Let me add: two plus two.\n\nThe sum is four.\n",
)


@dataclass(frozen=True, slots=True)
class Family:
    """A chat template with the tokens that the family's tokenizer has beside it."""

    name: str
    """The file of the template, without its ending."""
    eos: str
    bos: str | None = None
    writes_bos: bool = False
    """Whether the tokenizer begins every text with `bos`."""
    ends: tuple[str, ...] = ()
    """What ends a turn beside `eos`, as the model's generation config lists it."""
    arguments_are_text: bool = False
    """Whether the template wants a tool call's arguments as JSON text."""
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name

    @property
    def has_generation_markers(self) -> bool:
        """Whether there is a template that marks what the assistant says."""
        return (TEMPLATES / f"{self.name}_training.jinja").exists()


FAMILIES = (
    Family("cohere", "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", writes_bos=True),
    Family("cohere2", "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", writes_bos=True),
    Family("deepseek_r1_distill", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", writes_bos=True, arguments_are_text=True),
    Family("deepseekv3", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", writes_bos=True),
    Family("gemma", "<eos>", "<bos>", writes_bos=True, ends=("<end_of_turn>",)),
    Family("gemma3", "<eos>", "<bos>", writes_bos=True, ends=("<end_of_turn>",)),
    Family("gemma4", "<eos>", "<bos>", writes_bos=True, ends=("<turn|>", "<|tool_response>")),
    Family("glm4moe", "<|endoftext|>", ends=("<|user|>", "<|observation|>")),
    Family("gptoss", "<|return|>", "<|startoftext|>", ends=("<|call|>", "<|endoftext|>")),
    Family("idefics3", "<|end_of_text|>", "<|begin_of_text|>", writes_bos=True, ends=("<end_of_utterance>",)),
    Family("lfm2", "<|im_end|>", "<|startoftext|>", writes_bos=True),
    Family("lfm2_v2", "<|im_end|>", "<|startoftext|>", writes_bos=True),
    Family("llama3", "<|eot_id|>", "<|begin_of_text|>", writes_bos=True, ends=("<|end_of_text|>",)),
    Family("llama3_1", "<|eot_id|>", "<|begin_of_text|>", writes_bos=True, ends=("<|end_of_text|>", "<|eom_id|>")),
    Family("llama3_2", "<|eot_id|>", "<|begin_of_text|>", writes_bos=True, ends=("<|end_of_text|>", "<|eom_id|>")),
    Family("llava_next", "</s>", "<s>", writes_bos=True),
    Family("muse_glimmer", "<|eot|>", "<|begin_of_text|>", writes_bos=True, ends=("<|eom|>",)),
    Family("nemotron_3_nano", "<|im_end|>", "<s>"),
    Family("phi3", "<|endoftext|>", "<s>", ends=("<|end|>",)),
    Family("phi3_5", "<|endoftext|>", "<s>", ends=("<|end|>",)),
    Family("qwen2_5", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("qwen2_5", "<|endoftext|>", label="qwen2_5_base"),
    Family("qwen3", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("qwen3", "<|endoftext|>", label="qwen3_base"),
    Family("qwen3_instruct_2507", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("qwen3_5_think", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("qwen3_5_nothink", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("qwen3_8", "<|im_end|>", ends=("<|endoftext|>",)),
    Family("smolvlm", "<|im_end|>", "<|im_start|>", ends=("<end_of_utterance>",)),
)


class EncodingEngine(BaseEngine):
    """Writes prompts and paths with a family's tokenizer; samples nothing."""

    def __init__(self, family: Family, tokenizer: PreTrainedTokenizerFast) -> None:
        ends = tokenizer.convert_tokens_to_ids([family.eos, *family.ends])
        self.codec = TextCodec(tokenizer, frozenset(ends))


@cache
def make_family_tokenizer(family: Family, *, marked: bool) -> PreTrainedTokenizerFast:
    """Return the family's tokenizer.

    Args:
        family: Gives template and special tokens.
        marked: Whether the template is the one that marks what the assistant says.
    """
    template = (TEMPLATES / f"{family.name}{'_training' if marked else ''}.jinja").read_text(encoding="utf-8")
    special = dict.fromkeys(["<|endoftext|>", family.eos, *family.ends, *([family.bos] if family.bos else [])])
    special |= dict.fromkeys(_SPECIAL.findall(template))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=len(special) + 400, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(list(special))
    if family.writes_bos:
        assert family.bos is not None
        made.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, made.token_to_id(family.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=family.eos,
        bos_token=family.bos,
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special),
    )
    tokenizer.chat_template = _NOW.sub("'26 Jul 2024'", template)
    return tokenizer
