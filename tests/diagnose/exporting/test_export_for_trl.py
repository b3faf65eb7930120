"""Exported rows go through the data preparation of TRL's own trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.exported_runs import exported_run

from posttrain.diagnose import export
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun

datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DiagnosedRun:
    return exported_run(tmp_path_factory.mktemp("runs") / "train")


@pytest.fixture
def model(tiny_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = TEMPLATE
    return AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer


def load(run: DiagnosedRun, name: str, path: Path) -> Any:
    num = export(run, name, path)
    loaded = datasets.load_dataset(path.suffix[1:].replace("jsonl", "json"), data_files=str(path), split="train")
    assert len(loaded) == num
    return loaded


def settings(folder: Path, **others: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False, "max_steps": 1, "save_strategy": "no", "disable_tqdm": True, **others
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_sft_learns_the_completion_alone(run: DiagnosedRun, model: tuple[Any, Any], tmp_path: Path, suffix: str) -> None:
    rows = load(run, "trl-sft", tmp_path / f"a{suffix}")
    config = trl.SFTConfig(**settings(tmp_path / "out"))
    trainer = trl.SFTTrainer(model=model[0], args=config, train_dataset=rows, processing_class=model[1])
    first = trainer.train_dataset[0]
    learned = [token for token in first["labels"] if token != -100]
    assert 0 < len(learned) < len(first["input_ids"])
    assert model[1].decode(learned).strip().startswith("4")
    assert trainer.train().global_step == 1


def test_dpo_reads_pairs(run: DiagnosedRun, model: tuple[Any, Any], tmp_path: Path) -> None:
    rows = load(run, "trl-pairs", tmp_path / "a.jsonl")
    trainer = trl.DPOTrainer(
        model=model[0], args=trl.DPOConfig(**settings(tmp_path / "out")), train_dataset=rows, processing_class=model[1]
    )
    assert len(trainer.train_dataset) == 2
    assert trainer.train().global_step == 1


def test_grpo_hands_answers_and_names_to_its_reward(run: DiagnosedRun, model: tuple[Any, Any], tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    def reward(completions: list[Any], answer: list[str], behavior: list[str], problem_id: list[str], **_: Any) -> list[float]:
        seen.extend(zip(answer, behavior, problem_id, strict=True))
        return [0.0 if index % 2 else 1.0 for index in range(len(completions))]

    rows = load(run, "trl-prompts", tmp_path / "a.jsonl")
    config = trl.GRPOConfig(
        **settings(tmp_path / "out", per_device_train_batch_size=2, num_generations=2, max_completion_length=4)
    )
    trainer = trl.GRPOTrainer(model=model[0], args=config, train_dataset=rows, processing_class=model[1], reward_funcs=reward)
    trainer.train()
    assert {(answer, behavior) for answer, behavior, _ in seen} == {("4", "sums")}
    assert {problem for _, _, problem in seen} <= {"even", "hard", "easy", "cut"}
