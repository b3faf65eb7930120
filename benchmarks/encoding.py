"""Time of reading and encoding chats: 10,000 chats of 3 + 3 turns, and one chat of 128 + 128 turns; TRL's preprocessing beside it.

    python benchmarks/encoding.py

The chats are words chosen at random, written by the chat template of the demo model. Ours reads the file, compares it with what is measured,
renders, tokenises and marks what is learned; TRL's is `SFTTrainer`'s tokenisation of a chat, `apply_chat_template` with the marks of
`{% generation %}` (an equivalent template with markers) over the rows in a list. Both run in one process, one after the other, several times.
Writes reports/benchmarks/encoding.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware import describe_processor
from trl.data_utils import _tokenize

from posttrain.diagnose.engines.base import BaseEngine
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.models.loading import load_tokenizer
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.trainers.data.data_set import read_data

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "encoding.md"
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "some",
    "more",
    "words",
    "follow",
    "here",
]
MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant "
    "named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == "
    "'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}"
)
"""The demo model's template with marks around what the assistant says, as TRL needs it to mask."""
GOALS = {"10,000 chats of 3 + 3 turns": 10.0, "one chat of 128 + 128 turns": 0.3}


class TokenizerOnly(BaseEngine):
    """An engine of which nothing but the tokenizer is used."""

    def __init__(self) -> None:
        """Load the demo model's tokenizer."""
        tokenizer = load_tokenizer("demo")
        assert isinstance(tokenizer.eos_token_id, int)
        self.codec = TextCodec(tokenizer, frozenset({tokenizer.eos_token_id}))


def make_chats(num: int, num_pairs: int) -> list[dict[str, Any]]:
    """Return chats of as many pairs of turns, 12 words of the user and 24 of the assistant each."""
    chosen = random.Random(0)

    def say(role: str, num_words: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(chosen.choice(WORDS) for _ in range(num_words))}

    return [
        {"messages": [turn for _ in range(num_pairs) for turn in (say("user", 12), say("assistant", 24))]} for _ in range(num)
    ]


def measured() -> Behavior:
    """Return a behavior that the rows are compared with."""
    problems = [Problem(id=split, prompt=f"{split}?", answer="2", key=split, split=split) for split in (Split.TRAIN, Split.EVAL)]
    return Behavior(
        name="sums", problems=tuple(problems), verifier=VerifierSpec(kind="exact"), measure=MeasureSettings(epsilon=0.006)
    )


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of the wall and of processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def hardware() -> str:
    """Describe processor, cores, memory and Python in one line."""
    return f"{describe_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; load before the run {os.getloadavg()[0]:.1f}"


def measure(num_repetitions: int) -> list[str]:
    """Return the rows of the table."""
    engine, behavior = TokenizerOnly(), measured()
    tokenizer = engine.codec.tokenizer
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["POSTTRAIN_CACHE"] = folder
        for name, chats in zip(GOALS, (make_chats(10_000, 3), make_chats(1, 128)), strict=True):
            path = Path(folder) / "rows.jsonl"
            path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))

            def ours(path: Path = path) -> None:
                read_data(path, engine, [behavior])  # type: ignore[arg-type]

            def theirs(chats: list[dict[str, Any]] = chats) -> None:
                for chat in chats:
                    _tokenize(tokenizer, chat["messages"], chat_template=MARKED, return_assistant_tokens_mask=True)

            times: dict[str, list[tuple[float, float]]] = {"posttrain": [], "posttrain, from the cache": [], "TRL": []}
            for _ in range(num_repetitions):
                for file in Path(folder).glob("encoded/*"):
                    file.unlink()
                times["posttrain"].append(timed(ours))
                if len(chats) > 1:
                    times["posttrain, from the cache"].append(timed(ours))
                times["TRL"].append(timed(theirs))
            for who, found in times.items():
                if found:
                    walls, cpus = ([pair[i] for pair in found] for i in (0, 1))
                    lines.append(
                        f"| {name} | {who} | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | "
                        f"{statistics.median(cpus):.2f} | {GOALS[name] if who == 'posttrain' else ''} |"
                    )
    return lines


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    head = hardware()
    rows = measure(options.repetitions)
    REPORT.write_text(
        "# Reading and encoding chats\n\n"
        f"`python benchmarks/encoding.py --repetitions {options.repetitions}`. {head}. Tokenizer and template of the demo model (SmolLM2-135M-Instruct). "
        "Medians over the repetitions, in brackets the lowest and the highest. Seconds of processors add up over cores, and say more than the wall "
        "where other work runs beside.\n\n"
        "| chats | by | seconds of the wall | seconds of processors | goal |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "Ours reads the file, checks every row, compares it with what is measured, and finds what is learned from any template; TRL's row is the "
        "tokenisation alone, of rows in memory, with a template that marks what the assistant says.\n"
    )


if __name__ == "__main__":
    main()
