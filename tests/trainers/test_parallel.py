"""Two processes that train one model arrive where one process alone does; this file is also what they run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from posttrain import trainers
from posttrain.diagnose.engines.base import TokenScores
from posttrain.diagnose.errors import NonFiniteError
from posttrain.trainers.config import load_config
from posttrain.trainers.evaluation import dev_looks
from posttrain.trainers.parallel import current, join
from posttrain.trainers.stage import OtherModel
from posttrain.trainers.training_loop import Beside, run_recipe
from posttrain.trainers.types import TrainingSet

pytestmark = pytest.mark.slow

SAMPLED = ["problems_per_batch=3", "group_size=4", "num_steps=2"]
CASES = {
    "sft": ["num_steps=3", "rows_per_batch=4"],
    "sft of three rows, one per forward pass": ["num_steps=3", "rows_per_batch=3", "micro_batch_tokens=6"],
    "sft of one row": ["num_steps=2", "rows_per_batch=1"],
    "sft of a model with a head of its own": ["num_steps=3", "rows_per_batch=4"],
    "sft of a model that scales its logits": ["num_steps=3", "rows_per_batch=4"],
    "ppo of a model that scales its logits": [*SAMPLED, "updates_per_batch=1"],
    "dpo": ["num_steps=2", "rows_per_batch=3", "num_samples=8"],
    "kto": ["num_steps=2", "rows_per_batch=4", "num_samples=8"],
    "reward_model": ["num_steps=2", "rows_per_batch=3", "num_samples=8"],
    "grpo": [*SAMPLED, "kl_weight=0.1"],
    "grpo of one prompt": ["problems_per_batch=1", "group_size=8", "num_steps=3"],
    "grpo in two updates": [*SAMPLED, "updates_per_batch=2", "micro_batch_tokens=24"],
    "grpo without signal": SAMPLED,
    "grpo with looks at the dev slice": [*SAMPLED, "eval_every=1", "save_every=1"],
    "sft of a model with NaN": ["num_steps=2", "rows_per_batch=4"],
    "ppo": [*SAMPLED, "updates_per_batch=2"],
    "opd with a teacher": ["problems_per_batch=3", "num_steps=2"],
    "merge": [],
    "self_distill": ["num_steps=2", "rows_per_batch=3", "num_samples=4", "scaffold=reference"],
}
"""Name, which begins with the recipe → its settings."""


class ScaledHead(torch.nn.Linear):
    """A head that the log-probabilities cannot be computed without: its weights are not all there is to it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) * 0.5


def start(kit: ModuleType, case: str) -> PreTrainedModel:
    """In float64: AdamW makes of a gradient near 0, whose last digits depend on the order of a sum, a step of any size up to the learning rate."""
    model = kit.tiny_llama(dtype=torch.float64)
    if "head of its own" in case:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    if "scales" in case:
        model.lm_head.__class__ = ScaledHead
    if "NaN" in case:
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
    return model


def scoring_engine(kit: ModuleType, model: PreTrainedModel):
    """The tiny engine, with scores of references."""

    class Scoring(kit.TinyEngine):
        @torch.no_grad()
        def score(self, requests, **more):
            found = []
            for one in requests:
                logits = self.model(input_ids=torch.tensor([one.prompt_ids + one.path_ids])).logits[
                    0, len(one.prompt_ids) - 1 : -1
                ]
                values = torch.log_softmax(logits, -1).gather(1, torch.tensor(one.path_ids)[:, None])[:, 0].numpy()
                found.append(TokenScores(logprobs=values, ranks=np.zeros(len(values), dtype=np.int32)))
            return found

    return Scoring(model)


def train(kit: ModuleType, tokenizer, case: str, out: Path) -> dict:
    """Run a case in this process, or in this one of several."""
    recipe, model, processes = case.split()[0], start(kit, case), current()
    config = load_config(recipe, None, ["autocast=float32", "learning_rate=1e-2", *CASES[case]])
    sampled = processes.copy_for_sampling(model, torch.float64)
    engine = processes.sampling(scoring_engine(kit, sampled), model, sampled)
    grade = kit.grade_all(0.0) if "without signal" in case else kit.grade_parity
    training_set = TrainingSet([kit.make_behavior()])
    taught = kit.tiny_llama(seed=1, dtype=torch.float64)
    other = OtherModel(source="other", fingerprint="2", model=taught, tokenizer=tokenizer, engine=kit.TinyEngine(taught))
    look = dev_looks(engine, {"sums": grade}, training_set, num_samples=4, seed=0)
    try:
        result = run_recipe(
            recipe, model, tokenizer, engine, training_set, grade, config, out=out, beside=Beside(teacher=other), evaluate=look
        )
    except NonFiniteError as error:
        return {"error": str(error)}
    return {key: value for key, value in asdict(result).items() if key not in ("seconds", "log", "checkpoint")}


def main(out: Path) -> None:
    """What each of two processes does: all cases, one after the other."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parent / "conftest.py")
    kit = importlib.util.module_from_spec(spec)
    sys.modules["kit"] = kit
    spec.loader.exec_module(kit)
    with join() as processes:
        assert processes.size == 2
        for case in CASES:
            folder = out / f"rank{processes.rank}" / case
            result = train(kit, kit.make_tokenizer(), case, folder)
            (folder / "result.json").write_text(json.dumps(result))


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-8000:]
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases; they are started once, since that takes longer than the cases."""
    out = tmp_path_factory.mktemp("two")
    torchrun(__file__, out)
    return out


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_arrive_where_one_does(kit, tokenizer, two: Path, case: str, tmp_path: Path) -> None:
    expected = train(kit, tokenizer, case, tmp_path)
    found = [json.loads((two / f"rank{rank}" / case / "result.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    if case == "grpo of one prompt":  # each process reads the prompt
        assert found[0].pop("input_tokens") >= expected.pop("input_tokens")
    assert found[0] == expected
    compare_logs(tmp_path, two / "rank0" / case)
    assert not list((two / "rank1" / case).glob("checkpoint*"))
    if "NaN" in case:
        assert "at step 0" in expected["error"]
        return
    compare_checkpoints(kit, case, tmp_path, two / "rank0" / case)


def compare_checkpoints(kit: ModuleType, case: str, alone: Path, together: Path) -> None:
    loader = AutoModelForSequenceClassification if case == "reward_model" else AutoModelForCausalLM
    before = start(kit, case)
    assert {path.name for path in alone.iterdir()} | {"result.json"} == {path.name for path in together.iterdir()}
    folders = [path / "checkpoint" for path in (alone, together)]
    assert len({(folder / "config.json").read_text() for folder in folders}) == 1
    assert len({tuple(sorted(file.name for file in folder.iterdir())) for folder in folders}) == 1
    one, both = (loader.from_pretrained(folder, dtype=torch.float64) for folder in folders)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(before.base_model.parameters(), one.base_model.parameters(), strict=True)
    ]
    assert (max(moved) > 1e-3) == ("without signal" not in case)
    for (name, weight), other in zip(one.named_parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def compare_logs(alone: Path, together: Path) -> None:
    for ours, theirs in zip(records(alone), records(together), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if key in (
                "loss",
                "grad_norm",
                "tokens",
                "reward",
                "status",
                "generated_tokens",
                "reference_kl",
                "accuracy",
                "dev_score",
            ):
                assert theirs[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True))


def test_the_command_line_under_torchrun(tiny_model: Path, sums_file: Path, tmp_path: Path) -> None:
    settings = ["num_steps=3", "rows_per_batch=4", "learning_rate=1e-3", "autocast=float32"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    said = torchrun(
        "-m", "posttrain", "loop", tiny_model, sums_file, "--out", tmp_path / "loop", "--stages", "sft", "--samples", "2",
        "--probes", "none", *flags,
    )  # fmt: skip
    assert said.stdout.count("checkpoint: ") == 1
    assert said.stderr.count("in each of 2 processes") == 1
    assert json.loads((tmp_path / "loop" / "loop.json").read_text())["rounds"][0]["stage"] == "sft"
    result = trainers.train("sft", tiny_model, [sums_file], out=tmp_path / "one", overrides=settings)
    folders = [tmp_path / "one", tmp_path / "loop" / "stage-1"]
    tokens = [[record.get("tokens") for record in records(folder)] for folder in folders]
    assert tokens[0] == tokens[1]
    assert sum(tokens[0][1:]) == result.trained_tokens
    one, both = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in folders)
    for weight, other in zip(one.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-5)  # a hundredth of one step of AdamW
    assert {file.name for file in tmp_path.iterdir()} >= {"one", "loop"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
