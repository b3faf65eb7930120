"""Processor time and memory of an import of 10^5 rows, and of what is asked of the run then.

    python benchmarks/import_speed.py [--shared]

Tables of 10^5 rows with texts of 1.5 kB: 1000 problems with 100 samples, and 10^5 problems with one. A log of lm-evaluation-harness with 10^5 documents, whose
rows are those that the tool wrote (tests/fixtures) with other ids and questions; a rollout file of verl, likewise, with 1000 prompts; where inspect-ai is
installed, a log of 10^4 samples that it writes, beside its own reader alone. Each command runs in a process of its own, its start included. What no import
in one process can save is measured beside: a table of 100 rows (start, decision, figures and pages), and the JSON of the log of lm-evaluation-harness alone,
read once, with its documents written twice (for the behavior file, and with sorted keys for its fingerprint). Writes reports/benchmarks/import_speed.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from hardware import describe_processor

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "benchmarks" / "import_speed.md"
LM_EVAL = "evaluations/lm_eval/RylanSchaeffer__mem_Qwen3-93M/samples_math_perturbed_full_2026-01-21T03-44-18.458309.jsonl"
VERL = "rollouts/verl/rollout_data/1.jsonl"
NUM_ROWS, NUM_INSPECT = 100_000, 10_000
_TEXT = 1500
_JSON_ALONE = """
import json, sys
from pydantic_core import from_json, to_json
with open(sys.argv[1], "rb") as file:
    rows = [from_json(line) for line in file]
encode = json.JSONEncoder(sort_keys=True).encode
written = [to_json(row["doc"]) for row in rows], [encode(row["doc"]) for row in rows]
"""
_POSTTRAIN = [sys.executable, "-m", "posttrain"]
_UNDECIDED = 3
"""Exit code of `gate`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is imported."""

    words: str
    format: str
    file: str
    """Its name."""
    write: Callable[[Path], None]


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows, one per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def table_rows(num_problems: int) -> Iterator[dict[str, Any]]:
    """Yield a table of samples, as many of each problem."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("abcdefgh ,.") for _ in range(_TEXT)) for _ in range(50)]
    for i in range(num_problems):
        rate = rng.choice((0.0, 0.1, 0.3, 0.9, 1.0))
        for _ in range(NUM_ROWS // num_problems):
            row = {"qid": i, "question": f"What is {i} plus {i}?", "answer": str(2 * i), "is_right": rng.random() < rate}
            yield {**row, "output": rng.choice(texts) + str(rng.random())}


def fixture_rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a fixture over and over."""
    lines = (ROOT / "tests" / "fixtures" / name).read_text(encoding="utf-8").splitlines()
    return islice(map(json.loads, cycle(lines)), NUM_ROWS)


def lm_eval_rows() -> Iterator[dict[str, Any]]:
    """Yield documents that differ in id and question."""
    for i, row in enumerate(fixture_rows(LM_EVAL)):
        asked, digest = row["arguments"]["gen_args_0"], hashlib.sha256(str(i).encode()).hexdigest()
        asked["arg_0"] = f"{i}. {asked['arg_0']}"
        yield {**row, "doc_id": i, "doc_hash": digest, "prompt_hash": digest}


def verl_rows() -> Iterator[dict[str, Any]]:
    """Yield rollouts of 1000 prompts."""
    for i, row in enumerate(fixture_rows(VERL)):
        yield {**row, "input": row["input"].replace("?", f" and {i % 1000}?"), "request_id": f"r{i}"}


LM_EVAL_LOG = Source(
    words="lm-eval, 100,000 documents",
    format="lm-eval",
    file=Path(LM_EVAL).name,
    write=lambda path: write_rows(path, lm_eval_rows()),
)
SOURCES = (
    Source(
        words="table, 100 rows",
        format="table",
        file="table.jsonl",
        write=lambda path: write_rows(path, islice(table_rows(NUM_ROWS), 100)),
    ),
    Source(
        words="table, 1,000 problems with 100 samples",
        format="table",
        file="table.jsonl",
        write=lambda path: write_rows(path, table_rows(1000)),
    ),
    Source(
        words="table, 100,000 problems",
        format="table",
        file="table.jsonl",
        write=lambda path: write_rows(path, table_rows(NUM_ROWS)),
    ),
    LM_EVAL_LOG,
    Source(words="verl, 1,000 prompts", format="verl", file="1.jsonl", write=lambda path: write_rows(path, verl_rows())),
)


def write_inspect_log(path: Path) -> None:
    """Write a log of Inspect with as many samples as `NUM_INSPECT`, one of each problem."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    rng, said = random.Random(0), "a" * 200
    samples = [
        EvalSample(
            id=i,
            epoch=1,
            input=f"What is {i} plus {i}?",
            target=str(2 * i),
            messages=[ChatMessageUser(content=f"What is {i} plus {i}?"), ChatMessageAssistant(content=f"{said} {2 * i}")],
            output=ModelOutput.from_content("m", f"{said} {2 * i}"),
            scores={"match": Score(value=rng.choice("CI"), answer=str(2 * i))},
        )
        for i in range(NUM_INSPECT)
    ]
    spec = EvalSpec(created="2026-01-01T00:00:00+00:00", task="sums", dataset=EvalDataset(), model="m/m", config=EvalConfig())
    write_eval_log(EvalLog(status="success", eval=spec, samples=samples), str(path))


INSPECT = Source(words=f"Inspect, {NUM_INSPECT:,} samples", format="inspect", file="log.eval", write=write_inspect_log)


def measure(*command: str) -> tuple[float, float]:
    """Run a command.

    Returns:
        Processor seconds and peak memory in MB.

    Raises:
        RuntimeError: It fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in (0, _UNDECIDED):
        raise RuntimeError(f"{' '.join(command)}: exit code {code}")
    process.returncode = code
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure each command, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", action="store_true", help="say on the page that other programs ran on the machine meanwhile")
    shared = parser.parse_args().shared
    rows = []
    for source in [*SOURCES, *([INSPECT] if find_spec("inspect_ai") else [])]:
        with tempfile.TemporaryDirectory() as folder:
            path, run = Path(folder) / source.file, str(Path(folder) / "run")
            source.write(path)
            commands = {
                "import": (*_POSTTRAIN, "import", source.format, str(path), "--out", run, "--quiet"),
                "gate": (*_POSTTRAIN, "gate", run, "pass@1>=0"),
            }
            if source is INSPECT:
                reading = f"from inspect_ai.log import read_eval_log; read_eval_log({str(path)!r})"
                commands["read_eval_log alone"] = (sys.executable, "-c", reading)
            if source is LM_EVAL_LOG:
                commands["its JSON alone"] = (sys.executable, "-c", _JSON_ALONE, str(path))
            for verb, command in commands.items():
                seconds, megabytes = measure(*command)
                rows.append(f"| {source.words} | {verb} | {seconds:.1f} s | {megabytes:.0f} MB |")
                print(rows[-1], flush=True)
    conditions = "Other programs ran on the same processors meanwhile, which makes processor time longer." if shared else ""
    page = [
        "# Importing 100,000 rows\n",
        "    python benchmarks/import_speed.py" + (" --shared" if shared else "") + "\n",
        f"{describe_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; one process for each command, its start and its figures included. {conditions}\n".replace(
            " \n", "\n"
        ),
        "| rows | command | processor time | peak memory |",
        "| --- | --- | ---: | ---: |",
        *rows,
    ]
    REPORT.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
