"""Which engine samples the model in training, and one that is given the live weights in place against the one that shares them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import build_stage, tiny_llama
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from posttrain import trainers
from posttrain.diagnose.engines.base import Completion, ScoreRequest, TakesWeights
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.rollouts import live_engines
from posttrain.trainers.rollouts.weight_sync import checkpoint_tensors, stored_tensors
from posttrain.trainers.stage import Score

GRPO = ["num_steps=3", "learning_rate=1e-2", "problems_per_batch=4", "group_size=16", "autocast=float32"]


class Copying(TransformersEngine):
    """Samples a copy of its own, which takes weights by the names of a checkpoint."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.held: list[str] = []
        self.closed = 0
        self.shift = 0.0
        """Added to what it says of its own draws."""
        self.stop_at: int | None = None
        """Ctrl-C comes at this draw."""
        self.draws = 0

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], *, model_fingerprint: str) -> None:
        left = self.model.load_state_dict(dict(named_tensors), strict=False)
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        assert not left.unexpected_keys
        assert set(left.missing_keys) == tied
        super().refresh()
        self.held.append(model_fingerprint)
        self.info = replace(self.info, model_fingerprint=model_fingerprint)

    def refresh(self) -> None:
        raise AssertionError("its weights are no live ones")

    def sample(self, *arguments: Any, **settings: Any) -> list[list[Completion]]:
        self.draws += 1
        if self.draws == self.stop_at:
            raise KeyboardInterrupt
        drawn = super().sample(*arguments, **settings)
        return [[replace(one, sampler_logprobs=one.sampler_logprobs + self.shift) for one in group] for group in drawn]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def copying(other_model: Path) -> Copying:
    """Open on other weights than those that are trained."""
    return Copying.open(str(other_model))


def steps(out: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == "step"]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


MORE = {
    "grpo": [],
    "grpo with an adapter": ["lora_rank=2"],
    "grpo of an average, with looks": ["ema_decay=0.5", "eval_every=1", "eval_samples=2"],
    "rft": ["num_samples=32", "rows_per_batch=2", "rounds=2", "num_steps=2"],
}


@pytest.mark.parametrize("case", MORE)
@pytest.mark.slow
def test_weights_in_place_train_as_live_ones_do(
    case: str, copying: Copying, tiny_model: Path, letters: Path, tmp_path: Path
) -> None:
    """Two engines of one precision, one that shares the weights and one that is given them: the same draws, the same checkpoint, bit for bit."""
    recipe = case.split()[0]
    overrides = [*(GRPO if recipe == "grpo" else ["learning_rate=1e-2", "autocast=float32"]), *MORE[case]]
    trainers.train(recipe, tiny_model, [letters], out=tmp_path / "live", overrides=overrides)
    trainers.train(recipe, tiny_model, [letters], out=tmp_path / "placed", overrides=overrides, engine=copying)
    assert weights(tmp_path / "live") == weights(tmp_path / "placed") != weights(tiny_model)
    assert json.loads((tmp_path / "placed" / "posttrain_config.json").read_text())["engine"] == "transformers"
    *live, last = copying.held
    assert live == [f"live:0:{number}" for number in range(1, len(live) + 1)]
    assert len(live) >= 2
    assert last == fingerprint_model(tmp_path / "placed") == copying.info.model_fingerprint
    path = ScoreRequest(prompt_ids=(1, 20, 30), path_ids=(5, 6, 7))
    wanted = TransformersEngine.open(str(tmp_path / "placed")).score([path])[0].logprobs
    assert copying.score([path])[0].logprobs == pytest.approx(wanted, abs=1e-6)
    assert copying.closed == 0, "it was given open"


def test_importance_weights_are_those_of_the_sampler(tiny_model: Path, letters: Path, tmp_path: Path) -> None:
    """An engine that calls its draws less likely than the trainer does: every loss counts more, up to the cap, and the gap is logged."""
    found = {}
    for shift in (0.0, -0.5, -1.5):
        engine = Copying.open(str(tiny_model), sample_dtype="float32")
        engine.shift = shift
        out = tmp_path / f"{-shift:g}"
        trainers.train("grpo", tiny_model, [letters], out=out, overrides=[*GRPO, "num_steps=1"], engine=engine)
        found[shift] = steps(out)[0]
    assert [record["sampler_gap"] for record in found.values()] == pytest.approx([0.0, 0.5, 1.5], abs=1e-4)
    assert [record["importance_capped"] for record in found.values()] == [0.0, 0.0, 1.0]
    norms = [record["grad_norm"] / found[0.0]["grad_norm"] for record in found.values()]
    assert norms == pytest.approx([1.0, exp(0.5), 2.0], rel=1e-3)


GRADIENTS = [
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "ppo",
    "guided_grpo",
    "luffy",
    "chord",
    "hpt",
    "minillm",
]


@pytest.mark.parametrize("recipe", GRADIENTS)
def test_every_policy_gradient_asks_what_the_sampler_said(recipe: str) -> None:
    model = tiny_llama()
    more = {"teacher": tiny_llama(seed=1)} if recipe == "minillm" else {}
    stage, _ = build_stage(recipe, model, **more)
    assert Score.SAMPLER in stage.needs


# ------------------------------------------------------------------------------------------------------------------ by name


@pytest.fixture
def vllm_opened(monkeypatch: pytest.MonkeyPatch, other_model: Path) -> list[tuple[Copying, str, dict[str, Any]]]:
    """In place of vLLM an engine that takes weights as it does; with what it was opened."""
    opened: list[tuple[Copying, str, dict[str, Any]]] = []

    def start(source: str, **settings: Any) -> Copying:
        opened.append((Copying.open(str(other_model)), source, settings))
        return opened[-1][0]

    monkeypatch.setattr(VllmEngine, "open", start)
    monkeypatch.setattr("posttrain.diagnose.engines.vllm.vllm_engine.require_vllm", lambda: None)
    return opened


def test_vllm_by_name(
    vllm_opened: list[tuple[Copying, str, dict[str, Any]]], tiny_model: Path, letters: Path, tmp_path: Path
) -> None:
    """It is started once, beside the model, in a share of the memory, ended with the run, and written down."""
    out = tmp_path / "out"
    trainers.train("grpo", tiny_model, [letters], out=out, overrides=[*GRPO, "engine_memory=0.2"], engine="vllm")
    (engine, source, settings), *more = vllm_opened
    assert not more
    assert source == str(tiny_model)
    assert settings == {"gpu_memory_utilization": 0.2, "max_model_len": -1}
    assert engine.held == ["live:0:1", "live:0:2", "live:0:3"]
    assert engine.closed == 1
    assert json.loads((out / "posttrain_config.json").read_text())["engine"] == "vllm"
    assert "- engine: vllm" in (out / "README.md").read_text()


def test_a_stage_that_draws_nothing_starts_nothing(
    vllm_opened: list[tuple[Copying, str, dict[str, Any]]], tiny_model: Path, letters: Path, tmp_path: Path
) -> None:
    trainers.train("sft", tiny_model, [letters], out=tmp_path / "out", overrides=["num_steps=1"], engine="vllm")
    assert not vllm_opened


def test_a_stopped_run_goes_on_with_the_same_engine(
    vllm_opened: list[tuple[Copying, str, dict[str, Any]]], copying: Copying, tiny_model: Path, letters: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def train(out: str, engine: str) -> None:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / out, overrides=GRPO, engine=engine)

    train("whole", "vllm")
    start = VllmEngine.open

    def start_to_stop(source: str, **settings: Any) -> Copying:
        engine: Any = start(source, **settings)
        engine.stop_at = 3
        return engine

    monkeypatch.setattr(VllmEngine, "open", start_to_stop)
    with pytest.raises(KeyboardInterrupt):
        train("cut", "vllm")
    assert vllm_opened[-1][0].closed == 1
    monkeypatch.setattr(VllmEngine, "open", start)
    with pytest.raises(RunError) as refused:
        train("cut", "transformers")
    assert refused.value.code == "other_settings"
    assert "engine:" in str(refused.value)
    train("cut", "vllm")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_loop_measures_and_trains_with_one_engine(
    vllm_opened: list[tuple[Copying, str, dict[str, Any]]], tiny_model: Path, sums_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from posttrain.diagnose import engines

    measured: list[str] = []

    def open_engine(address: str, model: str, behaviors: object) -> TransformersEngine:
        measured.append(model)
        return TransformersEngine.open(model)

    monkeypatch.setitem(engines.ENGINES, "vllm", open_engine)
    out = tmp_path / "loop"
    trainers.loop(
        tiny_model,
        [sums_file],
        out=out,
        stages=["grpo"],
        samples=4,
        probes=["none"],
        pilot=False,
        overrides=[*GRPO, "num_steps=1"],
        engine="vllm",
    )
    assert len(vllm_opened) == 1
    assert {str(tiny_model), str(out / "stage-1")} <= set(measured)
    assert json.loads((out / "stage-1" / "posttrain_config.json").read_text())["engine"] == "vllm"
    with pytest.raises(RunError) as refused:
        trainers.loop(
            tiny_model, [sums_file], out=out, stages=["grpo"], samples=4, probes=["none"], overrides=[*GRPO, "num_steps=1"]
        )
    assert refused.value.code == "other_settings"
    assert "engine:" in str(refused.value)


# ----------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["openai:http://localhost:1/v1", "scripted"])
def test_engines_with_weights_of_their_own_are_refused(name: str, tiny_model: Path, letters: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / "out", engine=name)
    assert refused.value.code == "engine_not_trainable"
    assert f"got {name}, " in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / "out", overrides=[f"engine={name}"])
    assert refused.value.code == "engine_not_trainable"
    for settings in ({"engine": name}, {"overrides": [f"engine={name}"]}):
        with pytest.raises(SettingsError) as refused:
            trainers.loop(tiny_model, [letters], out=tmp_path / "out", **settings)
        assert refused.value.code == "engine_not_trainable"
    assert not (tmp_path / "out").exists()


def test_what_is_no_engine_or_not_here_is_refused(tiny_model: Path, letters: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / "out", engine="vlm")
    assert refused.value.code == "unknown_engine"
    frozen = TransformersEngine.open(str(tiny_model))
    assert not isinstance(frozen, TakesWeights)
    with pytest.raises(SettingsError) as refused:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / "out", engine=frozen)
    assert refused.value.code == "engine_not_trainable"


def test_a_missing_vllm_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, letters: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError) as refused:
        trainers.train("grpo", tiny_model, [letters], out=tmp_path / "out", engine="vllm")
    assert refused.value.code == "missing_package"
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_several_processes_share_no_vllm(copying: Copying) -> None:
    live_engines.check_engine("transformers", 2)
    for engine in ("vllm", copying):
        with pytest.raises(SettingsError) as refused:
            live_engines.check_engine(engine, 2)
        assert refused.value.code == "engine_for_one_process"


# ------------------------------------------------------------------------------------------------------------------- names


def mixture() -> PreTrainedModel:
    """Its experts lie in one tensor, and apart in a checkpoint."""
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            num_local_experts=4, max_position_embeddings=64,
        )
    )  # fmt: skip


def untied() -> PreTrainedModel:
    model = tiny_llama()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    return model


def merged() -> PreTrainedModel:
    adapter = LoraAdapter(tiny_llama(), load_config("sft", None, ["lora_rank=2"]))
    return adapter.merge()


@pytest.mark.parametrize("make", [tiny_llama, untied, merged, mixture])
def test_names_are_those_of_the_checkpoint(make: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    given, stored = dict(checkpoint_tensors(model)), dict(stored_tensors(tmp_path))
    assert given.keys() == stored.keys()
    assert all(torch.equal(given[name], stored[name]) for name in stored)
