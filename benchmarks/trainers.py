"""Seconds and memory of a training step of SmolLM2-135M on two cores, compared with TRL: SFT, DPO, GRPO, and SFT on rows of many lengths.

    python benchmarks/trainers.py [--only sft --only dpo ...] [--repeats 3] [--only-table]

Each measurement is a process of its own, which warms up with one step and then takes the median over the next ones; ours and the peer's
alternate, so that other load on the machine affects both. Both have fp32 weights, forward and backward under bf16 autocast (policy and reference
alike), AdamW, the same rows and an allocator that keeps large blocks. Every repetition is added to build/benchmarks/trainers.json; ratios are medians
of the ratios within a repetition. Writes reports/benchmarks/trainers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware import describe_processor

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "benchmarks" / "trainers.md"
RESULTS = ROOT / "build" / "benchmarks" / "trainers.json"
HEADER = "RESULT "
LENGTH, PROMPT, ROWS = 256, 64, 8
GROUP, NEW_TOKENS = 8, 32
STEPS = {"sft": 4, "dpo": 3, "grpo": 3, "ragged": 3}
KEEP_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
PARTS = {
    "sft": (f"SFT, {ROWS} rows × {LENGTH} tokens", 1.6, 0.8),
    "dpo": (f"DPO, {ROWS} pairs × 2 × {LENGTH} tokens, {PROMPT} of them the prompt", 1.6, 0.7),
    "grpo": (f"GRPO, {ROWS} prompts × {GROUP} samples × {NEW_TOKENS} tokens, sampling and update", 3.0, 0.6),
    "ragged": ("SFT, 32 rows of 20–250 tokens", 1.5, None),
}
PEERS = {"sft": ["trl"], "dpo": ["trl"], "grpo": ["trl"], "ragged": ["trl", "trl packed"]}


# ----------------------------------------------------------------------------------------------------------------- the rows


def rows_of(part: str, steps: int) -> list[list[list[int]]]:
    """Token ids: per step, rows of [ids] (or [prompt, chosen, rejected]); random tokens, since no time depends on which they are."""
    rng = random.Random(0)

    def ids(num: int) -> list[int]:
        return [rng.randrange(1000, 40000) for _ in range(num)]

    if part == "dpo":
        return [[ids(PROMPT), ids(LENGTH - PROMPT), ids(LENGTH - PROMPT)] for _ in range(ROWS * steps)]
    if part == "ragged":
        return [[ids(rng.randint(20, 250))] for _ in range(32 * steps)]
    return [[ids(LENGTH)] for _ in range(ROWS * steps)]


def questions(steps: int) -> list[str]:
    """Prompts for GRPO."""
    rng = random.Random(0)
    return [
        f"Write a short story about {rng.randrange(1000)} trees and {rng.randrange(1000)} birds." for _ in range(ROWS * steps)
    ]


# --------------------------------------------------------------------------------------------- the trainers, one per process


def run_ours(part: str, model: str, steps: int) -> dict[str, Any]:
    """Measure this project's trainers through `run_recipe`, with the rows as data."""
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
    from posttrain.diagnose.types import Split
    from posttrain.trainers.models.loading import load_for_training
    from posttrain.trainers.recipes.overrides import load_config
    from posttrain.trainers.stage import TrainingInputs
    from posttrain.trainers.training.trainer import run_recipe
    from posttrain.trainers.training_types import RowRole, TrainingRow, TrainingSet

    loaded = load_for_training(model)
    engine = _NeverTruncated(TransformersEngine.from_model(loaded.model, loaded.tokenizer)) if part == "grpo" else _Unused()

    def row(number: int, prompt: Sequence[int], completion: Sequence[int], kind: RowRole) -> TrainingRow:
        return TrainingRow(
            behavior="data", problem_id=str(number), split=Split.TRAIN, group_id=str(number), prompt_ids=tuple(prompt),
            completion_ids=tuple(completion), role=kind,
        )  # fmt: skip

    data: list[TrainingRow] = []
    per_batch = 32 if part == "ragged" else ROWS
    settings = [f"num_steps={steps}", "autocast=bfloat16", "micro_batch_tokens=8192"]
    if part == "dpo":
        for number, (prompt, chosen, rejected) in enumerate(rows_of(part, steps)):
            data += [row(number, prompt, chosen, RowRole.CHOSEN), row(number, prompt, rejected, RowRole.REJECTED)]
        settings += [f"rows_per_batch={per_batch}", "nll_weight=0", "use_references=false"]
    elif part == "grpo":
        settings += [f"problems_per_batch={ROWS}", f"group_size={GROUP}", "dev_share=0"]
    else:
        data = [row(n, one[:1], one[1:], RowRole.DEMONSTRATION) for n, (one,) in enumerate(rows_of(part, steps))]
        settings.append(f"rows_per_batch={per_batch}")
    behavior = _behavior(questions(steps) if part == "grpo" else ["?"])
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = {"ragged": "sft"}.get(part, part)
        inputs = TrainingInputs(
            engine=engine, training_set=TrainingSet([behavior], dev_share=0), graders={behavior.name: _parity}, model=loaded.model,
            tokenizer=loaded.tokenizer, data=tuple(data),
        )  # fmt: skip
        config = load_config(recipe, None, settings)
        run_recipe(recipe, inputs, config, out=Path(folder), on_step=lambda record: records.append(dict(record)))
    taken = [record for record in records if record["event"] == "step"]
    assert all(record["status"] == "updated" for record in taken), taken
    seconds = [float(record["seconds"]) for record in taken[1:]]
    sampling = [float(record["source_seconds"]) for record in taken[1:]]
    return {"seconds": seconds, "sampling": sampling, "peak": peak()}


class _NeverTruncated:
    """An engine whose samples are never marked truncated: none ends in so few tokens, and truncated samples get no reward here."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sample(self, *args: Any, **more: Any) -> Any:
        from posttrain.diagnose.types import StopReason

        return [[replace(one, stop=StopReason.EOS) for one in row] for row in self._engine.sample(*args, **more)]


class _Unused:
    """An engine that must not be called."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine must not be used, got {name}")


def _behavior(prompts: Sequence[str]) -> Any:
    from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Sampling, Split, VerifierSpec

    problems = tuple(Problem(id=str(n), prompt=text, answer="", key=str(n), split=Split.TRAIN) for n, text in enumerate(prompts))
    return Behavior(
        name="stories", problems=problems, verifier=VerifierSpec(kind="exact"), sampling=Sampling(max_tokens=NEW_TOKENS),
        measure=MeasureSettings(epsilon=0.006),
    )  # fmt: skip


def _score(text: str) -> float:
    return float(sum(map(ord, text)) % 2)


def _parity(problem: Any, texts: Sequence[str]) -> list[Any]:
    """Grade by parity: a reward that differs within a group, for samples that all end at the limit."""
    from posttrain.diagnose.types import Grade, GradeStatus

    return [Grade(status=GradeStatus.SCORED, score=_score(text)) for text in texts]


def run_trl(part: str, model: str, steps: int, *, packed: bool = False) -> dict[str, Any]:
    """TRL's trainers, with rows that are tokenised already."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.began, self.seconds = 0.0, []

        def on_step_begin(self, *args: Any, **more: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_step_end(self, *args: Any, **more: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self.began)
            self.began = now  # the next batch is fetched, and for GRPO sampled, between two steps

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "max_steps": steps, "bf16": True, "use_cpu": True, "gradient_checkpointing": False, "report_to": [],
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-6, "dataloader_pin_memory": False,
        }  # fmt: skip
        if part in ("sft", "ragged"):
            rows = [one for (one,) in rows_of(part, steps)]
            per_batch = 32 if part == "ragged" else ROWS
            if packed:  # as many tokens a step as without
                tokens = sum(map(len, rows)) // steps
                per_batch = max(1, round(tokens / LENGTH))
            config = SFTConfig(
                per_device_train_batch_size=per_batch, max_length=LENGTH, packing=packed, padding_free=False, **common
            )
            trainer: Any = SFTTrainer(
                policy,
                config,
                train_dataset=Dataset.from_dict({"input_ids": rows}),
                processing_class=tokenizer,
                callbacks=[clock],
            )
        elif part == "dpo":
            reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            made = rows_of(part, steps)
            DPOTrainer._prepare_dataset = lambda self, dataset, *args, **more: dataset  # the rows are token ids already
            table = Dataset.from_dict(
                {
                    "prompt_ids": [one[0] for one in made],
                    "chosen_ids": [one[1] for one in made],
                    "rejected_ids": [one[2] for one in made],
                }
            )
            trainer = DPOTrainer(
                policy, reference, DPOConfig(per_device_train_batch_size=ROWS, max_length=LENGTH, **common), train_dataset=table,
                processing_class=tokenizer, callbacks=[clock],
            )  # fmt: skip
        else:
            prompts = [[{"role": "user", "content": text}] for text in questions(steps)]
            config = GRPOConfig(
                per_device_train_batch_size=ROWS * GROUP,
                num_generations=GROUP,
                max_completion_length=NEW_TOKENS,
                beta=0.0,
                **common,
            )
            trainer = GRPOTrainer(
                policy, reward_funcs=lambda completions, **more: [_score(one[0]["content"]) for one in completions], args=config,
                train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer, callbacks=[clock],
            )  # fmt: skip
        trainer.train()
    return {"seconds": clock.seconds[1:], "peak": peak()}


def peak() -> float:
    """Largest resident memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# ---------------------------------------------------------------------------------------------------------------- measuring


def measure(part: str, who: str, model: str) -> dict[str, Any]:
    """Measure in a separate process."""
    env = {**os.environ, **KEEP_BLOCKS, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__)), "--child", part, who, "--model", model]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(HEADER):
            found: dict[str, Any] = json.loads(line.removeprefix(HEADER))
            return found
    raise RuntimeError(f"{who}, {part}: {done.stderr[-2000:]}")


def tokens_per_step(part: str) -> float:
    """Return the tokens that the throughput counts: all tokens of the rows, or the sampled ones."""
    if part == "grpo":
        return ROWS * GROUP * NEW_TOKENS
    rows = rows_of(part, STEPS[part])
    every = [sum(map(len, one)) + (len(one[0]) if part == "dpo" else 0) for one in rows]
    return sum(every) / STEPS[part]


def write_report(results: dict[str, Any]) -> None:
    """Write the Markdown page from all repetitions."""
    from importlib.metadata import version

    about = (
        f"SmolLM2-135M-Instruct on two cores ({describe_processor()}), fp32 weights, bf16 autocast, AdamW; torch {version('torch')}, transformers "
        f"{version('transformers')}, TRL {version('trl')}. Medians over repetitions; within a repetition ours and TRL's ran one after the other. Memory is "
        "the largest resident set of the process, model and optimizer included."
    )
    head = "| step | who | s / step | tokens/s | memory, GB | times faster | memory, ratio | goal |"
    rule = "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    lines = ["# A training step compared with TRL", "", "    python benchmarks/trainers.py", "", about, "", head, rule]
    for part, (title, faster, smaller) in PARTS.items():
        repetitions = results.get(part, [])
        if not repetitions:
            lines.append(f"| {title} | not run | | | | | | |")
            continue
        seconds = {who: [statistics.median(one[who]["seconds"]) for one in repetitions] for who in repetitions[0]}
        memory = {who: statistics.median(one[who]["peak"] for one in repetitions) for who in repetitions[0]}
        best = min(PEERS[part], key=lambda who: statistics.median(seconds[who]))
        ratio = statistics.median(seconds[best][i] / seconds["ours"][i] for i in range(len(repetitions)))
        share = memory["ours"] / memory[best]
        met = ratio >= faster and (smaller is None or share <= smaller)
        goal = f"{faster}×" + (f", {smaller}× memory" if smaller else "") + (": met" if met else ": not met")
        for who in ("ours", *PEERS[part]):
            median = statistics.median(seconds[who])
            cells = [f"{ratio:.2f}", f"{share:.2f}", goal] if who == "ours" else ["", "", ""]
            lines.append(
                f"| {title} | {who} | {median:.1f} | {tokens_per_step(part) / median:,.0f} | {memory[who]:.1f} | "
                + " | ".join(cells)
                + " |"
            )
        if part == "grpo":
            sampled = statistics.median(statistics.median(one["ours"]["sampling"]) for one in repetitions)
            lines.append(f"| of which sampling | ours | {sampled:.1f} | | | | | |")
    numbers = ", ".join(f"{part} {len(results[part])}" for part in PARTS if results.get(part))
    lines += ["", f"Repetitions: {numbers}. Compared with TRL's better setting where it has two (with packing and without)."]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, keep the results, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("PART", "WHO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        part, who = arguments.child
        found = (
            run_ours(part, arguments.model, STEPS[part])
            if who == "ours"
            else run_trl(part, arguments.model, STEPS[part], packed="packed" in who)
        )
        print(HEADER + json.dumps(found))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not arguments.only_table:
        from posttrain.diagnose.engines.models.loading import materialize

        model = str(materialize(arguments.model))
        for _ in range(arguments.repeats):
            for part in arguments.only or PARTS:
                repetition = {who: measure(part, who, model) for who in ("ours", *PEERS[part])}
                results.setdefault(part, []).append(repetition)
                print(
                    part,
                    {who: (statistics.median(one["seconds"]), round(one["peak"], 2)) for who, one in repetition.items()},
                    flush=True,
                )
                RESULTS.parent.mkdir(parents=True, exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=1), encoding="utf-8")
    write_report(results)


if __name__ == "__main__":
    main()
