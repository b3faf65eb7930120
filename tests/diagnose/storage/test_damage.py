"""What is read back is what was written: damage of any kind is refused in one line by every reader, and sampled again on resume."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from posttrain.cli import main
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import RunError, UserError
from posttrain.diagnose.pipeline.compare_files import compare_folders
from posttrain.diagnose.pipeline.measure_behaviors import MeasurementRun
from posttrain.diagnose.probes.runner import ProbeInputs, ProbeRun
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import BehaviorSampler, SamplingSettings
from posttrain.diagnose.sampling.plan import Goal
from posttrain.diagnose.sampling.token_budget import TokenBudget
from posttrain.diagnose.storage.files import METADATA_KEY, read_json, read_parquet, write_json, write_parquet
from posttrain.diagnose.storage.run_check import check_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.shard_file import COSTS
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Split
from posttrain.diagnose.verifiers.grader import Grader

ROLLOUTS = "rollouts/sums.eval-sampled.0000-{:05d}-of-00002.parquet"
GREEDY = "rollouts/sums.eval-greedy.0000-00000-of-00001.parquet"
PATHS, AGREEMENT = "paths/sums.eval.00000.parquet", "agreement/sums.eval.00000.parquet"
PROBE, FINDING = "probes/sums.eval-decoding.00000.parquet", "probes/sums.decoding.json"
DONE, VALIDITY = "done/sums.json", "validity/sums.json"
SHARDS = (ROLLOUTS.format(0), ROLLOUTS.format(1), GREEDY, PATHS, AGREEMENT, PROBE)
PARTS = (DONE, VALIDITY, FINDING)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a finished run with two shards of samples, a second run, and what they are made from; of few problems, to be fast."""
    folder = tmp_path_factory.mktemp("damage")
    rows = [
        {"id": f"p{i}", "prompt": f"{i} + {i} =", "answer": str(2 * i), "references": [f"{2 * i}"], "split": "eval"}
        for i in range(8)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 20}\nmeasure: {primary_k: 4}\n"
    )
    measure(folder, "run", probes=["decoding"])
    measure(folder, "other", probes=["decoding"], seed=1)
    return folder


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
    for name in (VALIDITY, FINDING):
        of(name, {"gone": Path.unlink})
    for name in SHARDS:
        of(
            name,
            {
                "gone": Path.unlink,
                "a folder": lambda path: (path.unlink(), path.mkdir()),
                "flipped": lambda path: flip(path, 0.5),
                "flipped footer": lambda path: flip(path, 0.9),
                "copied": lambda path: shutil.copy(path, path.with_name(path.name.replace("sums.eval", "sums.eval-again", 1))),
                "rewritten by another program": lambda path: pq.write_table(pq.read_table(path), path),
            },
        )
    ways[f"{DONE} without its list"] = lambda run, other: (run / DONE).write_text('{"num_rounds": 0}')
    ways["two shards swapped"] = lambda run, other: swap(run / SHARDS[0], run / SHARDS[1])
    ways["a shard as a round of its own"] = lambda run, other: shutil.copy(
        run / GREEDY, run / "rollouts/sums.eval-sampled.0001-00000-of-00001.parquet"
    )
    ways["a row twice"] = lambda run, other: _write_rows(
        run / SHARDS[0], lambda table: pa.concat_tables([table, table.slice(0, 1)])
    )
    ways["a row less"] = lambda run, other: _write_rows(run / SHARDS[0], lambda table: table.slice(1))
    ways["a sample's number twice"] = lambda run, other: rewrite_shard(
        run / SHARDS[1], lambda columns: {"sample_index": [1, *columns["sample_index"][1:]]}
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
CODES = {"damaged_shard", "missing_shard", "unknown_shard", "incomplete_samples", "damaged_part", "missing_part"}


def test_there_are_many_kinds_of_damage() -> None:
    assert len(DAMAGES) >= 50


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_by_every_reader(kind: str, run: Path, setting: Path) -> None:
    DAMAGES[kind](run, setting / "other")
    before = (run / "run.json").read_bytes()
    for reader, read in READERS.items():
        with pytest.raises(RunError) as caught:
            read(run, setting / "other")
        assert caught.value.code in CODES, reader
        assert "\n" not in str(caught.value)
    assert (run / "run.json").read_bytes() == before, "nothing was written"


@pytest.mark.parametrize("verb", ["report", "compare", "gate", "plot"])
def test_the_command_line_names_the_damaged_file_in_one_line(
    verb: str, run: Path, setting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / SHARDS[1], 0.5)
    arguments = {
        "report": [run],
        "compare": [setting / "other", run, "--out", tmp_path / "out"],
        "gate": [run, "pass@1>=0.2"],
        "plot": ["pass_at_k", run, "--out", tmp_path / "figure.svg"],
    }
    monkeypatch.setattr(sys, "argv", ["posttrain", verb, *map(str, arguments[verb])])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert str(run / SHARDS[1]) in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "figure.svg").exists()


def test_a_run_without_its_samples_is_refused(run: Path) -> None:
    shutil.rmtree(run / "rollouts")
    for read in (diagnose.rewrite_report, check_folder):
        with refused(RunError, "missing_shard"):
            read(run)


RESUMED = (
    *(f"{name} {kind}" for name in (SHARDS[0], GREEDY, PATHS, AGREEMENT, PROBE) for kind in ("gone", "flipped")),
    f"{SHARDS[1]} of another run",
    f"{DONE} truncated",
    f"{DONE} without its list",
    f"{VALIDITY} noise",
    f"{FINDING} empty",
    f"{FINDING} gone",
    f"{VALIDITY} gone",
    "two shards swapped",
    "a shard as a round of its own",
    "a row less",
)


@pytest.mark.parametrize("kind", RESUMED)
def test_damage_is_sampled_again_on_resume(kind: str, run: Path, setting: Path) -> None:
    whole = contents(run)
    DAMAGES[kind](run, setting / "other")
    said = resume(setting, run)
    assert contents(run) == whole
    assert len(said) == 1
    check_folder(run)
    assert resume(setting, run) == []


def resume(setting: Path, run: Path) -> list[str]:
    """Measure what is missing, without writing a report; returns what was said."""
    said: list[str] = []

    class Heard(Reporter):
        def say(self, text: str) -> None:
            said.append(text)

    behavior = diagnose.load_behavior(setting / "sums.yaml")
    engine = ScriptedEngine.for_behaviors([behavior], {problem.id: 0.4 for problem in behavior.problems})
    reporter, directory = Heard(quiet=True), RunDirectory(run)
    sampling = SamplingSettings(
        directory=directory, engine=engine, goal=Goal(samples=40), split=Split.EVAL, seed=0, thresholds=Thresholds(), reporter=reporter
    )  # fmt: skip
    probes = ProbeRun(names=["decoding"], inputs=ProbeInputs(), settings=sampling)
    MeasurementRun(settings=sampling, probe_run=probes).measure([behavior])
    return said


def contents(run: Path) -> dict[str, Any]:
    """Return all rows of all shards, and what stands in the other parts, apart from times."""
    found: dict[str, Any] = {}
    for path in sorted(
        path for kind in ("rollouts", "paths", "agreement", "probes", "done", "validity") for path in (run / kind).iterdir()
    ):
        if path.suffix == ".parquet":
            found[path.name] = read_parquet(path).table().to_pylist()
        else:
            content = read_json(path)
            found[f"{path.parent.name}/{path.name}"] = {**content, "finding": {**content.get("finding", {}), "seconds": 0}}
    return found


def test_a_whole_run_says_what_was_damaged_and_ends_as_before(
    setting: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "diagnosis.json").read_text())["behaviors"][0]
    flip(run / SHARDS[0], 0.5)
    measure(setting, str(run), probes=["decoding"], reporter=Reporter())
    assert "rollouts/sums.eval-sampled.0000-00000-of-00002 damaged" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (run / "damaged").iterdir()] == [f"0-rollouts-{Path(SHARDS[0]).name}"]
    after = json.loads((run / "diagnosis.json").read_text())["behaviors"][0]
    for entry in (before, after):
        entry["cost"]["seconds"] = entry["settles_with"] = None
        for probe in entry["probes"]:
            probe["cost"] = None
    assert after == before
    assert diagnose.gate(run, ["pass@1>=0.2"]).exit_code == 0


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_round_of_an_adaptive_run_is_sampled_again_as_it_was_planned(setting: Path, tmp_path: Path, lost: int) -> None:
    """With a shared budget, what is left later would plan another round."""

    def sample(budget: int) -> BehaviorSampler:
        behavior = diagnose.load_behavior(setting / "sums.yaml")
        engine = ScriptedEngine.for_behaviors([behavior], {problem.id: 0.02 for problem in behavior.problems})
        settings = SamplingSettings(
            directory=RunDirectory(tmp_path), engine=engine, goal=Goal(max_tokens=budget), split=Split.EVAL, seed=0,
            thresholds=Thresholds(), reporter=Reporter(quiet=True),
        )  # fmt: skip
        with Grader(behavior) as grader:
            sampler = BehaviorSampler(behavior, grader.grade, settings, TokenBudget(budget, [behavior.name]))
            while not sampler.done:
                sampler.sample_round()
        return sampler

    def rows() -> dict[str, Any]:
        return {path.name: read_parquet(path).table().to_pylist() for path in (tmp_path / "rollouts").iterdir()}

    num_rounds = sample(2_000).num_rounds
    assert num_rounds > lost
    whole = rows()
    for path in (tmp_path / "rollouts").glob(f"*-sampled.{lost:04d}-*"):
        path.unlink()
    assert sample(1_000).num_rounds == num_rounds
    assert rows() == whole


def test_a_check_without_a_number_is_read(run: Path) -> None:
    """An engine that does not know the probabilities of its samples has no gap between sampler and scorer."""
    content = json.loads((run / VALIDITY).read_text())
    del content["checksum"]
    content["checks"][0] |= {"estimate": None, "low": None, "high": None}
    (run / VALIDITY).write_text(json.dumps(content))
    assert math.isnan(diagnose.assemble(run)["sums"].validity.checks[0].estimate)


@pytest.mark.parametrize("version", [0, 99, "1", True, None, 1.5])
@pytest.mark.parametrize("name", ["run.json", "diagnosis.json", DONE, VALIDITY, FINDING])
def test_another_version_is_refused_and_not_rewritten(name: str, version: object, run: Path, setting: Path) -> None:
    content = {**json.loads((run / name).read_text()), "schema": version}
    (run / name).write_text(json.dumps(content))
    written = (run / name).read_bytes()
    readers = {reader: read for reader, read in READERS.items() if name != "diagnosis.json" or reader in ("gate", "plot")}
    for read in readers.values():
        with pytest.raises((RunError, InputError)) as caught:
            read(run, setting / "other")
        assert caught.value.code == "unknown_version"
    if name == "run.json":
        with refused(RunError, "unknown_version"):
            measure(setting, str(run), probes=["decoding"])
    assert (run / name).read_bytes() == written


WRONG: tuple[Any, ...] = (None, "x", 7, -1.5, [], {}, True, "", [1], {"a": 1})


@pytest.mark.parametrize("name", ["run.json", "diagnosis.json", DONE, VALIDITY, FINDING])
def test_json_of_wrong_types_never_ends_in_a_traceback(name: str, run: Path, setting: Path) -> None:
    """Without a checksum, as an earlier version or another program wrote it."""
    original = json.loads((run / name).read_text())
    del original["checksum"]
    places = list(places_of(original))
    rng = np.random.default_rng(0)
    of_reports = name == "diagnosis.json"  # figures take long
    chosen = [places[i] for i in rng.choice(len(places), min(len(places), 10), replace=False)]
    for place in chosen:
        for wrong in (WRONG[i] for i in rng.choice(len(WRONG), 1 if of_reports else 3, replace=False)):
            content = json.loads(json.dumps(original))
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            (run / name).write_text(json.dumps(content))
            for read in [READERS["gate"], READERS["plot"]] if of_reports else [lambda run, _: diagnose.assemble(run)]:
                with suppress(UserError, InputError):
                    read(run, setting / "other")


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        ("run.json", "behavior_options", "x"),
        ("run.json", "behavior_options", {"sums": {"max_tokens": "many"}}),
        (DONE, "parts", ["validity"]),
        (DONE, "parts", ["../run/validity/sums"]),
        (DONE, "shards", {"rollouts": 3}),
    ],
)
def test_an_entry_that_no_run_writes_is_refused(name: str, key: str, wrong: object, run: Path) -> None:
    write_json(run / name, {**read_json(run / name), key: wrong})
    with pytest.raises(RunError) as caught:
        diagnose.assemble(run)
    assert caught.value.code == ("unreadable_run" if name == "run.json" else "damaged_shard")


def places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a JSON object, of lists that of the first entry."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*place, key)
        yield from places_of(inner, (*place, key))


def test_a_run_of_an_earlier_version_is_read_and_says_that_it_has_no_checksums(run: Path) -> None:
    for path in (run / "rollouts").iterdir():
        without_checksum(path)
    (run / DONE).write_text(json.dumps({"num_rounds": 0}))
    codes = [note.code for note in diagnose.assemble(run).diagnoses[0].caveats]
    assert "no_checksums" in codes
    (run / SHARDS[0]).unlink()
    with refused(RunError, "missing_shard"):
        diagnose.assemble(run)


def without_checksum(path: Path) -> None:
    """Write a shard as an earlier version did: it says what it took, and nothing else."""
    shard = read_parquet(path)
    record = {name: shard.record[name] for name in COSTS}
    pq.write_table(shard.table().replace_schema_metadata({METADATA_KEY: json.dumps(record).encode()}), path)


def test_a_diagnosis_of_another_run_is_refused(run: Path, setting: Path) -> None:
    shutil.copy(setting / "other" / "diagnosis.json", run)
    for reader in ("gate", "plot"):
        with refused(RunError, "other_run"):
            READERS[reader](run, setting)
