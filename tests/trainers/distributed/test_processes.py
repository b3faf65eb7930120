"""Two processes that train one model arrive where one process alone does; this file is also what they run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import TinyEngine, grade_all, grade_parity, make_behavior, make_inputs, make_tokenizer, tiny_llama
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from typer.testing import CliRunner

from posttrain import trainers
from posttrain.cli import app
from posttrain.diagnose.engines.base import TokenScores
from posttrain.diagnose.errors import NonFiniteError, RunError
from posttrain.trainers.distributed.fsdp import join
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.sources.policy import sampler_of
from posttrain.trainers.stage import FrozenModel
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training.dev_evaluation import DevEvaluator
from posttrain.trainers.training.resume_state import find_state
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training.transform import run_transform
from posttrain.trainers.training_types import TrainingSet

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
    "grpo with evaluations on the dev slice": [*SAMPLED, "eval_every=1", "save_every=1"],
    "ppo with an average and evaluations on the dev slice": [*SAMPLED, "eval_every=1", "save_every=1", "ema_decay=0.3"],
    "sft with an average and evaluations on the dev slice": ["num_steps=4", "rows_per_batch=4", "eval_every=1", "ema_decay=0.3"],
    "grpo of an adapter": [*SAMPLED, "kl_weight=0.1", "updates_per_batch=2", "lora_rank=2"],
    "ppo of an adapter, with an average and evaluations": [
        *SAMPLED,
        "eval_every=1",
        "save_every=1",
        "ema_decay=0.3",
        "lora_rank=2",
    ],
    "sft of an adapter, also to a head of its own, with gradient checkpointing": [
        "num_steps=3",
        "rows_per_batch=4",
        "lora_rank=3",
        "lora_targets=[q_proj, down_proj, lm_head]",
        "gradient_checkpointing=true",
    ],
    "sft of a model with NaN": ["num_steps=2", "rows_per_batch=4"],
    "ppo": [*SAMPLED, "updates_per_batch=2"],
    "opd with a teacher": ["problems_per_batch=3", "num_steps=2"],
    "merge": [],
    "self_distill": ["num_steps=2", "rows_per_batch=3", "num_samples=4", "scaffold=reference"],
}
"""Name, which begins with the recipe → its settings."""

RESUMED = [
    "sft of three rows, one per forward pass",
    "grpo in two updates",
    "ppo with an average and evaluations on the dev slice",
    "ppo of an adapter, with an average and evaluations",
]
"""Cases that are also stopped after their first step, and gone on with by both processes, by one alone, and by both where one alone began."""
COMMAND = ["num_steps=3", "rows_per_batch=4", "learning_rate=1e-3", "autocast=float32"]
LORA = [*COMMAND, "lora_rank=2", "ema_decay=0.3"]
"""Settings of the commands."""


class Stopped:
    """Presses Ctrl-C after the first step."""

    def __call__(self, record) -> None:
        if record["event"] == "step":
            raise KeyboardInterrupt


class ScaledHead(torch.nn.Linear):
    """A head that the log-probabilities cannot be computed without: its weights are not all there is to it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) * 0.5


def start(case: str) -> PreTrainedModel:
    """In float64: AdamW makes of a gradient near 0, whose last digits depend on the order of a sum, a step of any size up to the learning rate."""
    model = tiny_llama(dtype=torch.float64)
    if "head of its own" in case:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    if "scales" in case:
        model.lm_head.__class__ = ScaledHead
    if "NaN" in case:
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
    return model


def scoring_engine(model: PreTrainedModel):
    """Return the tiny engine, with scores of references."""

    class Scoring(TinyEngine):
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


def train(tokenizer, case: str, out: Path, on_step=None, processes: ProcessGroup | None = None) -> dict:
    """Run a case in this process, or in this one of several."""
    recipe, model, processes = case.split()[0], start(case), processes or ProcessGroup()
    config = load_config(recipe, None, ["autocast=float32", "learning_rate=1e-2", *CASES[case]])
    sampled = processes.copy_for_sampling(model, torch.float64)
    adapter = None if config.lora_rank is None else LoraAdapter(model, config, processes=processes)
    weights = None if adapter is None else adapter.merged_weights
    engine = processes.sampling_engine(scoring_engine(sampled), model, sampled, weights)
    grade = grade_all(0.0) if "without signal" in case else grade_parity
    training_set = TrainingSet([make_behavior()])
    taught = tiny_llama(seed=1, dtype=torch.float64)
    other = FrozenModel(source="other", fingerprint="2", model=taught, tokenizer=tokenizer, engine=TinyEngine(taught))
    inputs = make_inputs(
        model, tokenizer, grade=grade, engine=engine, training_set=training_set, teacher=other, processes=processes
    )
    evaluate = DevEvaluator(sampler_of(inputs), training_set, num_samples=4, seed=0)
    try:
        if recipe == "merge":
            result = run_transform(recipe, inputs, config, out=out, evaluate=evaluate, on_step=on_step)
        else:
            result = run_recipe(recipe, inputs, config, out=out, evaluate=evaluate, on_step=on_step, adapter=adapter)
    except NonFiniteError as error:
        return {"error": str(error)}
    inexact = ("seconds", "log", "checkpoint", "nats_per_token")  # the last is compared in the log, up to the order of sums
    return {key: value for key, value in asdict(result).items() if key not in inexact}


def stop(tokenizer, case: str, out: Path, processes: ProcessGroup | None = None) -> None:
    """Run a case until its first step is done."""
    with pytest.raises(KeyboardInterrupt):
        train(tokenizer, case, out, Stopped(), processes)


def command(out: Path, model: Path, behavior: Path) -> list[str]:
    settings = [flag for setting in LORA for flag in ("--set", setting)]
    return ["train", "sft", str(model), str(behavior), "--out", str(out), *settings]


def run_command(out: Path, *given: Path, processes: ProcessGroup, stopped_by: signal.Signals | None) -> None:
    """Run the command in both processes; the second one may get a signal within its first step. What is said is kept in a file."""
    step = Stepper.step

    def stopped(self, *arguments):
        assert stopped_by is not None
        os.kill(os.getpid(), stopped_by)
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        if stopped_by is not None and not processes.is_rank_zero:
            patch.setattr(Stepper, "step", stopped)
        done = CliRunner().invoke(app, command(out, *given))
    name = f"{stopped_by.name if stopped_by else 'resumed'}-{processes.rank}.txt"
    (out.parent / name).write_text(f"{done.exit_code} {done.exception!r}\n{done.output}")


def sums_behavior(folder: Path) -> Path:
    """Return a behavior with references, for the command."""
    rows = [
        {"id": f"p{i}", "prompt": f"{i} + {i + 3} =", "answer": str(2 * i + 3), "references": [f"= {2 * i + 3}"]}
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "sums.yaml"
    path.write_text("problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsplit: {train: 0.5}\n")
    return path


def main(out: Path, *given: Path) -> None:
    """Run in each of two processes: all cases, one after the other, then a command that is stopped and goes on."""
    with join() as processes:
        assert processes.size == 2
        for case in CASES:
            folder = out / f"rank{processes.rank}" / case
            result = train(make_tokenizer(), case, folder, processes=processes)
            (folder / "result.json").write_text(json.dumps(result))
        for case in RESUMED:
            mine = out / f"rank{processes.rank}"
            stop(make_tokenizer(), case, mine / f"{case}, resumed", processes)
            if processes.is_rank_zero:
                shutil.copytree(mine / f"{case}, resumed", mine / f"{case}, stopped")
            processes.all_gather(None)
            for folder in (mine / f"{case}, resumed", mine / f"{case}, begun alone"):
                result = train(make_tokenizer(), case, folder, processes=processes)
                (folder / "result.json").write_text(json.dumps(result))
        for stopped_by in (signal.SIGTERM, signal.SIGINT, None):
            run_command(out / "command", *given, processes=processes, stopped_by=stopped_by)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Return what two processes made of all cases; they are started once, since that takes longer than the cases."""
    out = tmp_path_factory.mktemp("two")
    for case in RESUMED:
        stop(make_tokenizer(), case, out / "rank0" / f"{case}, begun alone")
    torchrun(__file__, out, tiny_model, sums_behavior(out))
    return out


def records(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [record for record in found if record["event"] != "resumed"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_arrive_where_one_does(tokenizer, two: Path, case: str, tmp_path: Path) -> None:
    expected = train(tokenizer, case, tmp_path)
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
    compare_checkpoints(case, tmp_path, two / "rank0" / case)


@pytest.mark.parametrize("case", RESUMED)
def test_what_was_stopped_goes_on_with_any_number_of_processes(tokenizer, two: Path, case: str, tmp_path: Path) -> None:
    expected = train(tokenizer, case, tmp_path / "whole")
    uninterrupted, left = two / "rank0" / case, two / "rank0" / f"{case}, stopped"
    state = find_state(left)
    assert state is not None
    sizes = [path.stat().st_size for path in state.glob("tensors-*-of-00002.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 1.3 * min(sizes)  # a half of it each
    shutil.copytree(left, tmp_path / "alone")
    alone = train(tokenizer, case, tmp_path / "alone")
    assert alone == expected
    compare_logs(tmp_path / "whole", tmp_path / "alone")
    for name in ("resumed", "begun alone"):
        folder = two / "rank0" / f"{case}, {name}"
        assert json.loads((folder / "result.json").read_text()) == expected
        compare_logs(tmp_path / "whole", folder)
        compare_checkpoints(case, tmp_path / "whole", folder)
    (tmp_path / "alone" / "result.json").touch()
    compare_checkpoints(case, tmp_path / "whole", tmp_path / "alone")
    weights = [folder / "checkpoint" / "model.safetensors" for folder in (uninterrupted, two / "rank0" / f"{case}, resumed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_command_is_stopped_after_a_step_and_goes_on(two: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A SIGTERM, then a Ctrl-C, reached the second process alone, in the middle of a step."""
    terminated, stopped, resumed = (
        [(two / f"{name}-{rank}.txt").read_text() for rank in (0, 1)] for name in ("SIGTERM", "SIGINT", "resumed")
    )
    assert all("StoppedBySignal" in said for said in terminated), terminated
    assert all("KeyboardInterrupt" in said for said in stopped), stopped
    assert "what is finished is kept in" in terminated[0]
    assert "goes on at step 1 of 3" in stopped[0]
    assert "what is finished is kept in" in stopped[0]
    assert all(said.startswith("0 ") for said in resumed), resumed
    assert "goes on at step 2 of 3" in resumed[0]
    assert "3 optimizer steps" in resumed[0]
    trainers.train("sft", tiny_model, [two / "sums.yaml"], out=tmp_path / "one", overrides=LORA)
    compare_roughly(tmp_path / "one", two / "command")
    assert {file.name for file in (two / "command").iterdir()} == {file.name for file in (tmp_path / "one").iterdir()}
    assert not (two / ".command.work").exists()


def compare_roughly(alone: Path, together: Path) -> None:
    """Weights that were trained in float32."""
    one, both = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (alone, together))
    for weight, other in zip(one.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-5)  # a hundredth of one step of AdamW


def test_a_folder_that_only_one_machine_sees_is_refused(tokenizer, tmp_path: Path) -> None:
    class Blind(ProcessGroup):
        size = 2

        def all_gather(self, value):
            return [value, False]

    with pytest.raises(RunError) as refused:
        train(tokenizer, "grpo with evaluations on the dev slice", tmp_path, processes=Blind())
    assert refused.value.code == "folder_not_shared"


def compare_checkpoints(case: str, alone: Path, together: Path) -> None:
    loader = AutoModelForSequenceClassification if case == "reward_model" else AutoModelForCausalLM
    before = start(case)
    assert {path.name for path in alone.iterdir()} | {"result.json"} == {path.name for path in together.iterdir()}
    folders = [path / "checkpoint" for path in (alone, together)]
    assert len({(folder / "config.json").read_text() for folder in folders}) == 1
    assert len({tuple(sorted(file.name for file in folder.iterdir())) for folder in folders}) == 1
    if "adapter" in case:
        compare_lora_weights(*(folder / "adapter" for folder in folders))
    one, both = (loader.from_pretrained(folder, dtype=torch.float64) for folder in folders)
    moved = [  # a reward model's table of tokens may have got a row for padding
        float((a - b[: len(a)]).detach().abs().max())
        for a, b in zip(before.base_model.parameters(), one.base_model.parameters(), strict=True)
    ]
    assert (max(moved) > 1e-3) == ("without signal" not in case)
    for (name, weight), other in zip(one.named_parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def compare_lora_weights(alone: Path, together: Path) -> None:
    one, both = (json.loads((folder / "adapter_config.json").read_text()) for folder in (alone, together))
    assert one | {"target_modules": set(one["target_modules"])} == both | {"target_modules": set(both["target_modules"])}
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (alone, together))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


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
                "moved",
            ):
                assert theirs[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True))
        if "nats_per_token" in ours:  # of log-probabilities that are rounded to float32
            assert theirs["nats_per_token"] == pytest.approx(ours["nats_per_token"], rel=1e-4, abs=1e-6)


def test_the_command_line_under_torchrun(tiny_model: Path, sums_file: Path, tmp_path: Path) -> None:
    flags = [flag for setting in COMMAND for flag in ("--set", setting)]
    said = torchrun(
        "-m", "posttrain", "loop", tiny_model, sums_file, "--out", tmp_path / "loop", "--stages", "sft", "--samples", "2",
        "--probes", "none", "--pilot", "off", *flags,
    )  # fmt: skip
    assert said.stdout.count("report: ") == 1
    assert said.stderr.count("in each of 2 processes") == 1
    assert json.loads((tmp_path / "loop" / "loop.json").read_text())["rounds"][0]["stage"] == "sft"
    result = trainers.train("sft", tiny_model, [sums_file], out=tmp_path / "one", overrides=COMMAND)
    folders = [tmp_path / "one", tmp_path / "loop" / "stage-1"]
    tokens = [[record.get("tokens") for record in records(folder)] for folder in folders]
    assert tokens[0] == tokens[1]
    assert sum(number or 0 for number in tokens[0][1:]) == result.trained_tokens
    compare_roughly(*folders)
    assert {file.name for file in tmp_path.iterdir()} >= {"one", "loop"}


def train_three_times(out: Path, model: Path, behavior: Path) -> None:
    for number in range(3):
        trainers.train("sft", model, [behavior], out=out / str(number), overrides=COMMAND)


def test_the_same_processes_train_one_model_after_the_other(tiny_model: Path, sums_file: Path, tmp_path: Path) -> None:
    """A group of processes that was left and made anew found the first one's addresses, and waited for ever."""
    torchrun(__file__, "--three", tmp_path / "out", tiny_model, sums_file)
    first, *others = [(tmp_path / "out" / str(number) / "model.safetensors").read_bytes() for number in range(3)]
    assert others == [first, first]


if __name__ == "__main__":
    if sys.argv[1] == "--three":
        train_three_times(*map(Path, sys.argv[2:]))
    else:
        main(*map(Path, sys.argv[1:]))
