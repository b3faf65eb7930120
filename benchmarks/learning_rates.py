"""Whether the default learning rate of a stage is near the best one at other widths than the one it was chosen at.

    python benchmarks/learning_rates.py --out reports/benchmarks/learning_rates.md

Small Llamas of three widths are trained to copy words and to reverse them in 3 of 10 tries; sorting is never shown (see `stage_plants.py`). From
each, `sft` learns sorting, `grpo` and `dpo` reversing, at the default rate times 1/10, 1/3, 1, 3 and 10, and pass@1 is measured on held-out words.
`--demo` adds SmolLM2-135M with a few steps of `sft`. Results stay in build/benchmarks/learning_rates.json, from which the page is
written; what is there is not run again. One core; about ten minutes, and five for `--demo`. Exit code 1 where a default is more than three times off.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stage_measures import Probe, load
from stage_plants import LETTERS, TASKS, planted_texts, right_texts, write_behavior
from tiny_models import make_llama, make_tokenizer, train

from posttrain import trainers
from posttrain.trainers.recipes.overrides import load_config

ROOT = Path(__file__).parents[1]
PLANTS = ROOT / "build" / "learning_rates"
RESULTS = ROOT / "build" / "benchmarks" / "learning_rates.json"
WIDTHS = (64, 128, 256)
FACTORS = (0.1, 1 / 3, 1.0, 3.0, 10.0)
SHOWN = ("copy", "reverse")
TRAIN_WORDS, EVAL_WORDS = 128, 64
CLEAN_STEPS, NOISY_STEPS = {64: 800, 128: 250, 256: 200}, 150
TRIALS = {
    "sft": ("sort", "rows_per_batch=32 num_steps=60"),
    "sft, LoRA": ("sort", "rows_per_batch=32 num_steps=60 lora_rank=8"),
    "grpo": ("reverse", "problems_per_batch=16 group_size=8 num_steps=25"),
    "dpo": ("reverse", "rows_per_batch=16 num_steps=50 num_samples=4"),
}
"""Row of the page → behavior and settings."""
LEAST_LOSS = 0.05
"""Difference of pass@1 to the best rate that 64 words with 8 samples each do not tell from 0."""


def plant(width: int) -> Path:
    """Return the folder of a model of a width, made once, with its behaviors."""
    folder = PLANTS / str(width)
    rng = random.Random(1)
    words = sorted({"".join(rng.sample(LETTERS, 5)) for _ in range(2 * (TRAIN_WORDS + EVAL_WORDS))})
    rng.shuffle(words)
    held_out, known = words[:EVAL_WORDS], words[EVAL_WORDS : EVAL_WORDS + TRAIN_WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("sort", "reverse"):
        write_behavior(folder / f"{name}.yaml", TASKS[name], known, held_out)
    if not (folder / "base" / "model.safetensors").exists():
        tokenizer = make_tokenizer(folder / "base", LETTERS + "CRS \n")
        model = make_llama(len(tokenizer), hidden_size=width, intermediate_size=3 * width)
        rng, shown = random.Random(0), [TASKS[name] for name in SHOWN]
        slower = min(1.0, 128 / width)
        train(model, tokenizer, right_texts(shown, rng, frozenset(held_out)), CLEAN_STEPS[width], 3e-3 * slower)
        train(model, tokenizer, planted_texts(shown, rng, frozenset(held_out)), NOISY_STEPS, 2e-3 * slower)
        model.save_pretrained(folder / "base")
    return folder


def measure(folder: Path, behavior: str, model: Path) -> float:
    """Return pass@1 on held-out words."""
    return float(np.mean(Probe(folder / f"{behavior}.yaml").pass_at_1(load(model))))


def try_rates(name: str, width: int) -> dict[str, Any]:
    """Train with every rate from the same start."""
    folder, (behavior, settings) = plant(width), TRIALS[name]
    stage, begun = name.partition(",")[0], time.process_time()
    default = load_config(stage, None, settings.split()).learning_rate_for(width)
    before, after = measure(folder, behavior, folder / "base"), []
    for factor in FACTORS:
        out = folder / "trained"
        shutil.rmtree(out, ignore_errors=True)
        overrides = [*settings.split(), "dev_share=0", f"learning_rate={factor * default:.3e}"]
        trainers.train(stage, folder / "base", [folder / f"{behavior}.yaml"], out=out, overrides=overrides, seed=0)
        after.append(measure(folder, behavior, out))
        print(f"{name} {width} {factor * default:.1e}: {before:.3f} -> {after[-1]:.3f}", file=sys.stderr)
    return {
        "stage": name,
        "width": width,
        "default": default,
        "quantity": f"pass@1 of {behavior}",
        "before": before,
        "after": after,
        "seconds": time.process_time() - begun,
    }


def try_demo() -> dict[str, Any]:
    """Train SmolLM2-135M with every rate, and read the log-probability of held-out references."""
    folder = PLANTS / "demo"
    begun, behavior = time.process_time(), plant(64) / "sort.yaml"
    default = load_config("sft").learning_rate_for(576)
    scores = []
    for factor in FACTORS:
        shutil.rmtree(folder, ignore_errors=True)
        settings = [
            "rows_per_batch=4",
            "num_steps=12",
            "eval_every=12",
            "eval_samples=1",
            f"learning_rate={factor * default:.3e}",
        ]
        result = trainers.train("sft", "demo", [behavior], out=folder, overrides=settings, seed=0)
        log = [json.loads(line) for line in result.log.read_text().splitlines()]
        scores.append([record["reference_logprob"] for record in log if record["event"] == "dev"])
        print(f"demo {factor * default:.1e}: {scores[-1]}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "stage": "sft",
        "width": 576,
        "default": default,
        "quantity": "log-probability of sorted words, nats a token",
        "before": scores[0][0],
        "after": [score[-1] for score in scores],
        "seconds": time.process_time() - begun,
    }


def is_near(row: dict[str, Any]) -> bool:
    """Return whether the best rate, or one that is not told from it, is within three times the default."""
    return max(row["after"][1:4]) > max(row["after"]) - LEAST_LOSS


def page(rows: list[dict[str, Any]]) -> str:
    """All that the results file holds, as Markdown."""
    near = sum(map(is_near, rows))
    demo = (
        "Width 576 is SmolLM2-135M after 12 steps of 4 words, on its dev slice. "
        if any(row["width"] == 576 for row in rows)
        else ""
    )
    missing = [str(width) for width in (*WIDTHS, 576) if not any(row["width"] == width for row in rows)]
    if missing:
        demo += f"Not run yet: width {', '.join(missing)}. "
    minutes = sum(row["seconds"] for row in rows) / 60
    lines = f"""# Default learning rates at other widths

    python benchmarks/learning_rates.py{" --demo" if any(row["width"] == 576 for row in rows) else ""} --out reports/benchmarks/learning_rates.md

The best of five rates, or one whose result is not told from it (within {LEAST_LOSS}), is at most three times the default or a third of it
in {near} of {len(rows)} rows.

Small Llamas that copy words, reverse them in 3 of 10 tries and were never shown sorting; `sft` learns sorting, `grpo` and `dpo` reversing.
{EVAL_WORDS} held-out words with 8 samples each; one training seed. {demo}{minutes:.0f} minutes of one core.

| stage | width | default | quantity | before | default / 10 | / 3 | **x 1** | x 3 | x 10 | within three times |
|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|""".splitlines()
    for row in sorted(rows, key=lambda row: (list(TRIALS).index(row["stage"]), row["width"])):
        best = max(row["after"])
        after = " | ".join(f"**{value:.2f}**" if value == best else f"{value:.2f}" for value in row["after"])
        lines.append(
            f"| `{row['stage']}` | {row['width']} | {row['default']:.1e} | {row['quantity']} | {row['before']:.2f} | {after} "
            f"| {'yes' if is_near(row) else '**no**'} |"
        )
    lines += ["", "## Settings", "", *(f"- `{name}`: {behavior}, {settings}" for name, (behavior, settings) in TRIALS.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="train SmolLM2-135M too")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks" / "learning_rates.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    known = {(row["stage"], row["width"]) for row in rows}
    wanted = [(name, width) for width in WIDTHS for name in TRIALS if name != "sft, LoRA" or width == 128]
    for name, width in [*wanted, *([("sft", 576)] if options.demo else [])]:
        if (name, width) not in known:
            rows.append(try_demo() if width == 576 else try_rates(name, width))
            RESULTS.write_text(json.dumps(rows, indent=1))
    options.out.write_text(page(rows))
    sys.exit(0 if all(map(is_near, rows)) else 1)


if __name__ == "__main__":
    main()
