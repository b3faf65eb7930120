"""What is read back is what was written: damage of any kind is refused in one line by every reader, and sampled again on resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.refusals import refused
from helpers.stored_runs import rewrite_shard

from posttrain import analysis, diagnose
from posttrain.analysis.input_error import InputError
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import RunError, UserError
from posttrain.diagnose.pipeline.compare_files import compare_folders
from posttrain.diagnose.storage.files import read_json, read_parquet, write_json, write_parquet
from posttrain.diagnose.storage.run_check import check_folder

ROLLOUTS = "rollouts/sums.eval-sampled.0000-{:05d}-of-00002.parquet"
GREEDY = "rollouts/sums.eval-greedy.0000-00000-of-00001.parquet"
PATHS, AGREEMENT = "paths/sums.eval.00000.parquet", "agreement/sums.eval.00000.parquet"
PROBE, FINDING = "probes/sums.eval-decoding.00000.parquet", "probes/sums.decoding.json"
DONE, VALIDITY = "done/sums.json", "validity/sums.json"
SHARDS = (ROLLOUTS.format(0), ROLLOUTS.format(1), GREEDY, PATHS, AGREEMENT, PROBE)
PARTS = (DONE, VALIDITY, FINDING)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write a finished run with two shards of samples, a second run, and what they are made from; of few problems, to be fast."""
    folder = tmp_path_factory.mktemp("damage")
    rows = [
        {"id": f"p{i}", "prompt": f"{i} + {i} =", "answer": str(2 * i), "references": [f"{2 * i}"], "split": "eval"} for i in range(8)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 20}\nmeasure: {primary_k: 4}\n"
    )
    measure(folder, "run", probes=["decoding"])
    measure(folder, "other", seed=1)
    yield folder


def measure(folder: Path, name: str, **options: Any) -> diagnose.DiagnosedRun:
    behavior = diagnose.load_behavior(folder / "sums.yaml")
    engine = ScriptedEngine.for_behaviors([behavior], {problem.id: 0.4 for problem in behavior.problems})
    given = {"engine": engine, "samples": 40, "probes": ["none"], **options}
    return diagnose.run("m", [folder / "sums.yaml"], out=folder / name, **given)


@pytest.fixture
def run(setting: Path, tmp_path: Path) -> Path:
    """Copy the run, to be damaged."""
    shutil.copytree(setting / "run", tmp_path / "run")
    return tmp_path / "run"


READERS: dict[str, Callable[[Path, Path], object]] = {
    "report": lambda run, other: diagnose.rewrite_report(run),
    "compare": lambda run, other: compare_folders(run, other),
    "compare_after": lambda run, other: compare_folders(other, run),
    "gate": lambda run, other: diagnose.gate(run, ["pass@1>=0.2", "greedy>=0.1"]),
    "plot": lambda run, other: (check_folder(run), analysis.plot("pass_at_k", run)),
}


def flip(path: Path, place: float) -> None:
    """Change one bit of a file, at this share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def damages() -> dict[str, Callable[[Path, Path], object]]:
    """Return ways to damage a run; each is given its folder, and another run."""
    ways: dict[str, Callable[[Path, Path], object]] = {}

    def of(name: str, kinds: dict[str, Callable[[Path], object]]) -> None:
        for kind, change in kinds.items():
            ways[f"{name} {kind}"] = lambda run, other, change=change: change(run / name)

    for name in (*SHARDS, *PARTS):
        of(
            name,
            {
                "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
                "empty": lambda path: path.write_bytes(b""),
                "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(500)),
            },
        )
        ways[f"{name} of another run"] = lambda run, other, name=name: shutil.copy(other / name, run / name)
    for name in SHARDS:
        of(
            name,
            {
                "gone": Path.unlink,
                "a folder": lambda path: (path.unlink(), path.mkdir()),
                "flipped": lambda path: flip(path, 0.5),
                "flipped footer": lambda path: flip(path, 0.9),
                "copied": lambda path: shutil.copy(path, path.with_name(path.name.replace("00000", "00009", 1))),
                "rewritten by another program": lambda path: pq.write_table(pq.read_table(path), path),
            },
        )
    ways["two shards swapped"] = lambda run, other: swap(run / SHARDS[0], run / SHARDS[1])
    ways["a shard as a round of its own"] = lambda run, other: shutil.copy(
        run / GREEDY, run / "rollouts/sums.eval-sampled.0001-00000-of-00001.parquet"
    )
    ways["a row twice"] = lambda run, other: _write_rows(run / SHARDS[0], lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    ways["a row less"] = lambda run, other: _write_rows(run / SHARDS[0], lambda table: table.slice(1))
    ways["a sample's number twice"] = lambda run, other: rewrite_shard(
        run / SHARDS[1], lambda columns: {"sample_index": [0, *columns["sample_index"][1:]]}
    )
    ways["a status that is none"] = lambda run, other: rewrite_shard(
        run / SHARDS[1], lambda columns: {"status": ["scores", *columns["status"][1:]]}
    )
    ways["the validity of another part"] = lambda run, other: shutil.copy(run / FINDING, run / VALIDITY)
    ways["version 0"] = lambda run, other: _write_rows(run / SHARDS[0], lambda table: table, schema=0)
    ways["version 99"] = lambda run, other: _write_rows(run / SHARDS[0], lambda table: table, schema=99)
    return ways


def _write_rows(path: Path, change: Callable[[pa.Table], pa.Table], **record: Any) -> None:
    shard = read_parquet(path)
    write_parquet(path, change(shard.table()), {**shard.record, **record})


DAMAGES = damages()
CODES = {"damaged_shard", "missing_shard", "unknown_shard", "incomplete_samples", "damaged_part"}


def test_there_are_many_kinds_of_damage() -> None:
    assert len(DAMAGES) >= 50


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_by_every_reader(kind: str, run: Path, setting: Path) -> None:
    DAMAGES[kind](run, setting / "other")
    if "other" not in kind and "another" in kind and not (setting / "other" / kind.split()[0]).exists():
        pytest.skip("the other run has no such file")
    before = (run / "run.json").read_bytes()
    for reader, read in READERS.items():
        if kind.startswith((VALIDITY, FINDING, "the validity")) and reader in ("gate", "plot"):
            continue  # they read neither
        with pytest.raises(RunError) as caught:
            read(run, setting / "other")
        assert caught.value.code in CODES, reader
        assert "\n" not in str(caught.value)
    assert (run / "run.json").read_bytes() == before, "nothing was written"
