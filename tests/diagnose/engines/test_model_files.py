"""Which files make a model: none outside its folder, and all of them in the fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.refusals import refused

from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_model, load_tokenizer
from posttrain.diagnose.engines.models.model_source import check_model
from posttrain.diagnose.errors import ModelError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tiny_model: Path, tmp_path: Path) -> Path:
    """Write the tiny model in several files with an index."""
    path = tmp_path / "sharded"
    load_model(tiny_model, dtype=torch.float32).save_pretrained(path, max_shard_size="30KB")
    load_tokenizer(tiny_model).save_pretrained(path)
    assert (path / INDEX).exists()
    return path


def rename_in_index(folder: Path, old: str, new: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: new if name == old else name for key, name in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def first_shard(folder: Path) -> str:
    return str(sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))[0])


@pytest.mark.parametrize("kind", ["up", "deep", "absolute", "link", "folder_link", "windows"])
def test_weights_outside_the_folder_are_refused(sharded: Path, tmp_path: Path, kind: str) -> None:
    shard, other = first_shard(sharded), tmp_path / "other"
    other.mkdir()
    (sharded / shard).rename(other / "w.safetensors")
    name = {
        "up": "../other/w.safetensors",
        "deep": "sub/../../other/w.safetensors",
        "absolute": str(other / "w.safetensors"),
        "link": "w.safetensors",
        "folder_link": "sub/w.safetensors",
        "windows": "C:\\other\\w.safetensors",
    }[kind]
    (sharded / "sub").symlink_to(other) if kind == "folder_link" else (sharded / "sub").mkdir()
    if kind == "link":
        (sharded / "w.safetensors").symlink_to(other / "w.safetensors")
    rename_in_index(sharded, shard, name)
    for use in (check_model, fingerprint_model, TransformersEngine.open):
        with refused(ModelError, "weights_outside_folder"):
            use(str(sharded))


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_an_index_that_cannot_be_read_is_refused(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with refused(ModelError, "index_unreadable"):
        check_model(str(sharded))


@pytest.mark.parametrize("name", ["x\0y", "\ud800", "n" * 300])
def test_an_index_of_names_that_no_file_can_have_is_refused(sharded: Path, name: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with refused(ModelError, "index_unreadable"):
        check_model(str(sharded))


def test_the_layout_of_the_hub_cache_is_kept(sharded: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(sharded.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert fingerprint_model(snapshot) == fingerprint_model(sharded)
    assert load_model(snapshot, dtype=torch.float32).num_parameters() == load_model(sharded, dtype=torch.float32).num_parameters()


def test_weights_in_a_folder_below_are_in_the_fingerprint(sharded: Path) -> None:
    shard = first_shard(sharded)
    (sharded / "below").mkdir()
    (sharded / shard).rename(sharded / "below" / shard)
    rename_in_index(sharded, shard, f"below/{shard}")
    before = fingerprint_model(sharded)
    weights = {name: tensor.clone() for name, tensor in load_model(sharded, dtype=torch.float32).state_dict().items()}
    content = bytearray((sharded / "below" / shard).read_bytes())
    content[-2] ^= 1
    (sharded / "below" / shard).write_bytes(content)
    changed = load_model(sharded, dtype=torch.float32).state_dict()
    assert any(not torch.equal(weights[name], changed[name]) for name in weights)
    assert fingerprint_model(sharded) != before


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja", "modeling_own.py", "added_tokens.json"])  # fmt: skip
def test_what_is_loaded_beside_the_weights_is_in_the_fingerprint(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    before = fingerprint_model(folder)
    assert before == fingerprint_model(tiny_model)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert fingerprint_model(folder) != before


def test_a_folder_with_an_adapter_beside_a_model_is_what_transformers_makes_of_it(tiny_model: Path, tmp_path: Path) -> None:
    """Transformers loads the base that the adapter names, not the weights beside it; so the base is in the fingerprint."""
    import peft
    from transformers import AutoModelForCausalLM

    base, both = tmp_path / "base", tmp_path / "both"
    shutil.copytree(tiny_model, base)
    shutil.copytree(tiny_model, both)
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(both)
    before = fingerprint_model(both)
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(both, dtype=torch.float32)(input_ids=ids).logits
        torch.testing.assert_close(load_model(both, dtype=torch.float32)(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert fingerprint_model(both) != before


def test_code_that_comes_with_a_model_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config | own))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with refused(ModelError, "model_not_loadable"):
        load_model(folder, dtype=torch.float32)
    assert not (tmp_path / "ran").exists()
