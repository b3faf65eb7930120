"""`posttrain check MODEL`: what a template, an end token or an adapter does wrong is named before a sample is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import peft
import pytest
import torch
from helpers.character_engine import CHATML, END, ENDS_NOTHING, START
from helpers.chat_models import character_tokenizer
from helpers.completion_servers import answer_as_vllm, serve
from helpers.refusals import refused
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.errors import BehaviorError, ModelError
from posttrain.diagnose.pipeline.model_check import inspect_model
from posttrain.diagnose.report.model_check_words import model_check_lines
from posttrain.diagnose.storage.model_check_json import ModelCheckFile, ModelWarning

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
"""Writes no generation prompt."""


def write_model(
    folder: Path, says: Mapping[str, float], template: str | None = CHATML, *, ends: str = END, pad: str | None = None
) -> Path:
    """Write a model with one next-token distribution whatever it reads: these tokens with these probabilities, the rest evenly.

    Args:
        folder: Where to.
        says: Token → probability.
        template: Of its tokenizer.
        ends: What its generation settings stop at.
        pad: Padding token.
    """
    tokenizer = character_tokenizer(template)
    tokenizer.pad_token = pad
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=512, bos_token_id=None))
    ids = tokenizer.convert_tokens_to_ids(list(says))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()[:, 0] = 1.0
        rest = (1.0 - sum(says.values())) / (len(tokenizer) - len(says))
        logits = torch.full((len(tokenizer),), rest).log()
        logits[ids] = torch.tensor(list(says.values())).log()
        model.lm_head.weight.zero_()[:, 0] = logits / 4.0  # the norm makes 4 of the first of 16 numbers
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def codes(check: ModelCheckFile) -> set[str]:
    assert model_check_lines(check)
    return {warning.code for warning in check.warnings}


def test_a_model_that_ends_its_answers_is_fine(tmp_path: Path) -> None:
    check = inspect_model(write_model(tmp_path / "model", {END: 0.6}))
    assert codes(check) == set()
    assert check.end_probability == pytest.approx(0.6, rel=1e-3)
    assert [(one.token, one.ends_turns) for one in check.ends] == [(END, True)]
    assert check.prompt.startswith(START)
    assert len(check.answers) == 6


@pytest.mark.parametrize(
    ("says", "template", "settings", "expected"),
    [
        ({"a": 0.99}, CHATML, {}, {ModelWarning.END_UNLIKELY}),
        ({"<s>": 0.9}, CHATML, {"ends": "<s>"}, {ModelWarning.OTHER_END, ModelWarning.TURN_END_UNKNOWN}),
        ({END: 0.6}, TEMPLATE, {}, {"no_generation_prompt"}),
        ({END: 0.6}, ENDS_NOTHING, {}, {ModelWarning.NO_TURN_END}),
        ({END: 0.6}, None, {}, {ModelWarning.NO_TEMPLATE}),
        ({END: 0.6}, CHATML, {"pad": END}, {ModelWarning.PAD_ENDS}),
        ({END: 0.6}, CHATML, {"pad": "?"}, set()),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    says: dict[str, float], template: str | None, settings: dict[str, str], expected: set[str], tmp_path: Path
) -> None:
    # The tokenizer's own end is <|im_end|>, so where the settings stop elsewhere it is taken off the tokenizer.
    model = write_model(tmp_path / "model", says, template, **settings)
    if "ends" in settings:
        path = model / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": settings["ends"]}))
    assert codes(inspect_model(model)) == expected


def test_a_behavior_gives_the_questions(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", {END: 0.6})
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = inspect_model(model, behavior=tmp_path / "sums.jsonl")
    assert [one.answer for one in check.answers] == [str(i + 1) for i in range(8)]
    (tmp_path / "none.jsonl").write_text('{"prompt": "a?"}\n')
    (tmp_path / "none.yaml").write_text("problems: none.jsonl\nverifier: {kind: python, function: 'scorers:judge'}\n")
    (tmp_path / "scorers.py").write_text("def judge(text, problem):\n    return True\n")
    with refused(BehaviorError, "no_answers"):
        inspect_model(model, behavior=tmp_path / "none.yaml")
    with refused(ModelError, "model_not_found"):
        inspect_model(tmp_path / "nothing")


def write_adapter(base: Path, folder: Path, *, trained: bool) -> Path:
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=not trained, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


def test_an_adapter_that_does_nothing_is_named(tiny_model: Path, tmp_path: Path) -> None:
    trained = inspect_model(write_adapter(tiny_model, tmp_path / "trained", trained=True))
    assert codes(trained).isdisjoint({ModelWarning.ADAPTER_NO_EFFECT, ModelWarning.MERGED_DIFFERS, ModelWarning.ADAPTER_UNUSED})
    assert trained.adapter is not None
    assert trained.adapter.kl > 1e-3
    assert trained.adapter.merged_gap < 1e-5
    untrained = inspect_model(write_adapter(tiny_model, tmp_path / "untrained", trained=False))
    assert codes(untrained) - codes(trained) == {ModelWarning.ADAPTER_NO_EFFECT}
    assert untrained.adapter is not None
    assert untrained.adapter.largest_change == 0.0


def test_tensors_that_the_base_does_not_take_up_are_named(tiny_model: Path, tmp_path: Path) -> None:
    """As after a change of names: peft drops them with a warning, and what is loaded is the base."""
    adapter = write_adapter(tiny_model, tmp_path / "adapter", trained=True)
    file = adapter / "adapter_model.safetensors"
    renamed = {name.replace("layers.0", "layers.9"): value for name, value in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="adapter"):
        check = inspect_model(adapter)
    assert ModelWarning.ADAPTER_UNUSED in codes(check)
    assert check.adapter is not None
    assert (check.adapter.num_tensors, check.adapter.num_unused) == (8, 4)


def test_a_server_of_another_model_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", {END: 0.6})
    other = write_model(tmp_path / "other", {END: 0.2})
    for served, expected in ((model, set()), (other, {ModelWarning.SERVED_DIFFERS})):
        engine = open_engine("transformers", str(served), [])
        with serve(answer_as_vllm(engine, str(model), 512)) as address:
            check = inspect_model(model, served=f"openai:{address}")
        assert codes(check) == expected
        assert check.served is not None
        assert (check.served.mean_gap < 1e-3) == (not expected)
