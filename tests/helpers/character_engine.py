"""An engine that writes one token per character, and chat templates that differ in what they write around an answer."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from tokenizers import decoders as tokenizer_decoders
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.engines.base import BaseEngine, EngineInfo
from posttrain.diagnose.engines.codec import TextCodec

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz +-=?.,:<>/[]{}()\"'_\n"
START, END, BOS = "<|im_start|>", "<|im_end|>", "<s>"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nbe kind<|im_end|>\n{% endif %}" + CHATML
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
OPENS_THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
"""Opens an answer with `<think>`, and so do the answers of its chats."""
HIDES_THINKING = DROPS_THINKING.replace(" and not loop.last", "").replace(
    "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"
)
"""Opens an answer with `<think>`, and shows no thinking in any finished turn."""
ENDS_NOTHING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class CharacterEngine(BaseEngine):
    """Writes prompts and paths with one token per character; samples nothing."""

    def __init__(self, template: str | None, *, writes_bos: bool = False) -> None:
        vocabulary = {token: i for i, token in enumerate(["<unk>", BOS, START, END, *CHARACTERS])}
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        made.decoder = tokenizer_decoders.Fuse()
        if writes_bos:
            made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="<unk>", bos_token=BOS, eos_token=END, additional_special_tokens=[START]
        )
        self.tokenizer.chat_template = template
        self.codec = TextCodec(self.tokenizer, frozenset({vocabulary[END]}))

    @property
    def info(self) -> EngineInfo:
        """Say that it cannot score."""
        return EngineInfo(
            name="characters",
            model="",
            model_fingerprint="",
            fingerprint="",
            sample_dtype="",
            score_dtype="",
            device="",
            can_score=False,
        )

    def text(self, ids: Sequence[int]) -> str:
        return "".join(self.tokenizer.convert_ids_to_tokens(list(ids)))


THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n"
    "{% endif %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n"
    "{% endif %}{% endif %}"
)
"""Writes thinking before every answer, empty thinking too, as Qwen3 does, and knows tool calls."""
SHOWS_TOOLS = "{% if tools %}{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}{% endif %}" + CHATML
NEXT_TURN_ENDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Ends a turn with what begins the next one, as GLM-4.5 does; a model of it has `<|im_start|>` among its end tokens."""
ENDS_CHAT = CHATML + "{% if not add_generation_prompt %}<s>{% endif %}"
"""Writes a token of its own behind the whole chat, as Phi-3 does."""
READS_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Knows content in parts alone, as templates of vision models do."""
ASKS_DATE = "today is {{ strftime_now('%d %b %Y') | lower }}\n" + CHATML
