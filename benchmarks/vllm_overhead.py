"""Overhead of our vLLM engine over vLLM called directly: tokens per second of both, on one and the same loaded model.

    VLLM_PYTHON benchmarks/vllm_overhead.py [--model demo] [--prompts 64] [--samples 16] [--max-tokens 48] [--out FILE]

Both sample the same number of completions of the same chat prompts at temperature 1 with a seed and the log-probability of every token, to
the model's own end of text, and both return texts. Directly means `LLM.generate` with n samples per prompt. The two alternate, in reversed
order from one repetition to the next, and each starts with an empty prefix cache; the goal is a median of the ratios within a repetition
of at least 97 %. Prints one JSON object; with --out also writes a page, such as reports/benchmarks/vllm_overhead.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")

GOAL = 0.97


def measure(
    model: str, *, num_prompts: int, samples: int, max_tokens: int, repeats: int, engine_args: dict[str, Any]
) -> dict[str, Any]:
    """Alternate `repeats` repetitions of ours and of vLLM called directly, after one of each to warm up."""
    import vllm

    from posttrain.diagnose.engines.base import SampleRequest
    from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine
    from posttrain.diagnose.types import PromptFormat, Sampling

    engine = VllmEngine.open(model, dtype="bfloat16", **engine_args)
    questions = [f"What is {i + 2} times {2 * i + 3}? Say how you know." for i in range(num_prompts)]
    prompts = [engine.codec.encode_prompt(question, PromptFormat()).token_ids for question in questions]

    def ours(number: int) -> int:
        requests = [SampleRequest(key=f"p{i}", prompt_ids=ids, num_samples=samples) for i, ids in enumerate(prompts)]
        completions = engine.sample(requests, Sampling(max_tokens=max_tokens), seed=str(number))
        return sum(len(completion.token_ids) for row in completions for completion in row)

    def direct(number: int) -> int:
        params = vllm.SamplingParams(
            n=samples,
            temperature=1.0,
            max_tokens=max_tokens,
            seed=10**6 * number,
            logprobs=0,
            stop_token_ids=sorted(engine.codec.eos_ids),
        )
        outputs = engine.llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "direct": []}
    for number in range(repeats + 1):
        pair = [("ours", ours), ("direct", direct)]
        for name, sample in pair if number % 2 else reversed(pair):
            engine.llm.reset_prefix_cache()
            start = time.perf_counter()
            tokens = sample(number)
            seconds = time.perf_counter() - start
            if number:  # the first repetition of each warms up
                rounds[name].append({"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds})
    engine.close()
    speeds = {name: statistics.median(one["tokens_per_s"] for one in all_of_it) for name, all_of_it in rounds.items()}
    ratios = [
        mine["tokens_per_s"] / theirs["tokens_per_s"] for mine, theirs in zip(rounds["ours"], rounds["direct"], strict=True)
    ]
    ratio = statistics.median(ratios)
    return {
        "ours_tokens_per_s": speeds["ours"],
        "direct_tokens_per_s": speeds["direct"],
        "ratio": ratio,
        "ratios": ratios,
        "goal": GOAL,
        "met": ratio >= GOAL,
        "rounds": rounds,
        "prompts": num_prompts,
        "samples": samples,
        "max_tokens": max_tokens,
        "vllm": engine.info.versions["vllm"],
        "device": engine.info.device,
    }


def page(result: dict[str, Any], model: str, command: str) -> str:
    """Write the Markdown page."""
    rows = [
        f"| {name} | {result[f'{key}_tokens_per_s']:.0f} | {', '.join(str(round(one['tokens_per_s'])) for one in result['rounds'][key])} |"
        for name, key in (("through posttrain", "ours"), ("vLLM called directly", "direct"))
    ]
    return "\n".join(
        [
            "# vLLM through posttrain and called directly",
            "",
            f"    {command}",
            "",
            f"vLLM {result['vllm']} on {result['device']}, {os.cpu_count()} cores; {model} in bfloat16, {result['prompts']} prompts × {result['samples']} samples",
            f"of at most {result['max_tokens']} tokens, both with log-probabilities and texts. The two alternate on one loaded model.",
            "",
            "| | tokens/s | each repetition |",
            "| --- | ---: | --- |",
            *rows,
            "",
            f"Ours is {result['ratio']:.0%} of vLLM called directly (goal: {GOAL:.0%}): {'met' if result['met'] else 'not met'}. That is the median of",
            f"the repetitions: {', '.join(f'{one:.0%}' for one in result['ratios'])}.",
            "",
        ]
    )


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7, help="repetitions, after one that warms up")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--eager", action="store_true", help="without compiled graphs: slower, but starts sooner")
    given = parser.parse_args()
    result = measure(
        given.model,
        num_prompts=given.prompts,
        samples=given.samples,
        max_tokens=given.max_tokens,
        repeats=given.repeats,
        engine_args={"enforce_eager": True} if given.eager else {},
    )
    print(json.dumps(result))
    if given.out is not None:
        given.out.write_text(page(result, given.model, shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])))


if __name__ == "__main__":
    main()
