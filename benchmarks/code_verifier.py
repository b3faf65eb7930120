"""The verifier `code` on the reference solutions of HumanEval and MBPP: how many pass, and how many programs are graded in a second.

    python benchmarks/code_verifier.py --humaneval HumanEval.jsonl.gz --mbpp mbpp.jsonl

The files are those that openai/human-eval and google-research/mbpp publish. Each problem is graded with its own solution, which must pass, with
the solution of the problem before it, which must not, and with a program that ends its process at once. Writes reports/benchmarks/code_verifier.md.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.sandbox.isolation import VARIABLE, available

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "code_verifier.md"
EARLY_END = "```python\nimport os\nos._exit(0)\ndef {name}(*arguments): pass\n```"


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


def humaneval(path: Path) -> list[Problem]:
    return [
        Problem(
            id=row["task_id"],
            prompt=row["prompt"],
            answer=row["canonical_solution"],
            key=row["task_id"],
            split=Split.EVAL,
            metadata={"test": row["test"], "entry_point": row["entry_point"]},
        )
        for row in read(path)
    ]


def mbpp(path: Path) -> list[Problem]:
    return [
        Problem(
            id=f"MBPP/{row['task_id']}",
            prompt=row["text"],
            answer=row["code"].replace("\r\n", "\n"),
            key=str(row["task_id"]),
            split=Split.EVAL,
            metadata={"test_list": row["test_list"], "test_setup_code": row["test_setup_code"]},
        )
        for row in read(path)
    ]


def grade(name: str, problems: Sequence[Problem], isolation: str) -> list[str]:
    """Return one row of the table, and lines on what came out otherwise than it should."""
    os.environ[VARIABLE] = isolation
    behavior = Behavior(
        name="b", problems=tuple(problems), verifier=VerifierSpec(kind="code"), measure=MeasureSettings(epsilon=0.006)
    )
    passed = wrongly = ended = 0
    notes = []
    with Grader(behavior) as grader:
        start = time.monotonic()
        for problem in problems:
            (found,) = grader.grade(problem, [problem.answer])
            passed += found.score == 1.0
            if found.score != 1.0:
                notes.append(f"- {problem.id}: {found.status}, {found.detail or 'failed'}")
        seconds = time.monotonic() - start
        for before, problem in itertools.pairwise(problems):
            texts = [before.answer, EARLY_END.format(name=problem.metadata.get("entry_point", "anything"))]
            other, early = grader.grade(problem, texts)
            wrongly += other.score == 1.0
            ended += early.score == 1.0
            if other.score == 1.0:
                notes.append(f"- {problem.id} accepts the solution of {before.id}")
    row = f"| {name} | {isolation} | {passed} of {len(problems)} | {wrongly} | {ended} | {len(problems) / seconds:.0f} |"
    return [row, *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--humaneval", type=Path, required=True)
    parser.add_argument("--mbpp", type=Path, required=True)
    options = parser.parse_args()
    sets = {"HumanEval": humaneval(options.humaneval), "MBPP": mbpp(options.mbpp)}
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}, Python {platform.python_version()}"
    results = {(name, one): grade(name, problems, one) for name, problems in sets.items() for one in available()}
    notes = list(dict.fromkeys(note for (_, one), result in results.items() for note in result[1:] if one == available()[0]))
    REPORT.write_text(
        "\n".join(
            [
                "# Programs as answers",
                "",
                "    python benchmarks/code_verifier.py --humaneval HumanEval.jsonl.gz --mbpp mbpp.jsonl",
                "",
                f"{machine}; the grading process and its children, one program at a time.",
                "",
                "| problems | isolation | own solutions that pass | solutions of the problem before that pass | early ends that pass | programs a second |",
                "| --- | --- | ---: | ---: | ---: | ---: |",
                *(result[0] for result in results.values()),
                "",
                "What came out otherwise:",
                "",
                *notes,
                "",
            ]
        )
    )
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
