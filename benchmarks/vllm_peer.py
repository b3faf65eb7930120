"""How fast vLLM itself samples a file of prompts: the number that our engines are held against.

    VLLM_PYTHON benchmarks/vllm_peer.py --model DIR --prompts FILE.json --samples 16 --max-tokens 48

FILE.json holds a list of prompts, each a text or a list of token ids. vLLM runs in bfloat16 with prefix caching, at temperature 1, to the
model's own end of text or `--max-tokens`; the log-probability of every drawn token is asked for, as our engines give it, unless
`--no-logprobs`. Samples have no seeds of their own. One round warms up, then `--repeats` rounds are timed. Prints one JSON object. Needs nothing but vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")


def measure(
    model: str, prompts: list[str | list[int]], *, samples: int, max_tokens: int, logprobs: bool, repeats: int
) -> dict[str, Any]:
    """Time `repeats` rounds of len(prompts) × samples; tokens/s counts generated tokens, the end token included."""
    import vllm

    llm = vllm.LLM(model=model, dtype="bfloat16", enable_prefix_caching=True, generation_config="vllm", seed=0)
    inputs = [prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt} for prompt in prompts]
    rounds = []
    for number in range(repeats + 1):
        params = vllm.SamplingParams(n=samples, temperature=1.0, max_tokens=max_tokens, logprobs=0 if logprobs else None)
        llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
        if number:  # the first round warms up
            rounds.append({"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds})
    return {
        "tokens_per_s": statistics.median(one["tokens_per_s"] for one in rounds),
        "rounds": rounds,
        "prompts": len(prompts),
        "samples": samples,
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "dtype": "bfloat16",
        "vllm": vllm.__version__,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True, type=Path)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-logprobs", action="store_true")
    given = parser.parse_args()
    result = measure(
        given.model,
        json.loads(given.prompts.read_text()),
        samples=given.samples,
        max_tokens=given.max_tokens,
        logprobs=not given.no_logprobs,
        repeats=given.repeats,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
