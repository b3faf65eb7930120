"""`max_tokens: auto`: the limit follows from the references, else from the first greedy samples; what goes on from a run takes it over."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.token_counter import TokenCounter

from posttrain import diagnose
from posttrain.diagnose import load_behavior
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.comparison.comparable_runs import check_comparable
from posttrain.diagnose.errors import BehaviorError, RunError
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.pilot import needs_longer
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.pipeline.run_plan import plan_run
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import BehaviorSampler, SamplingSettings
from posttrain.diagnose.sampling.plan import Goal
from posttrain.diagnose.sampling.token_budget import TokenBudget
from posttrain.diagnose.sampling.token_limit import (
    MOST,
    MOST_THOUGHT,
    limit_without_pilot,
    next_limit,
    room_for_samples,
    start_limit,
)
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.files import read_json, write_json
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, LimitSource, Problem, Rollout, Split, StopReason

NUM = 12


def write_rows(folder: Path, *, reference: int = 0, more: str = "") -> Path:
    """Write sums whose references have that many characters; none for 0."""
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1), "split": "eval"} for i in range(NUM)]
    for row in rows if reference else ():
        row["references"] = [("so " * 100)[: reference - len(row["answer"]) - 1] + " " + row["answer"]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "sums.yaml"
    path.write_text(f"problems: rows.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\n{more}")
    return path


def long_text(num: int) -> str:
    """Return a text of that many bytes, one token each, that does not repeat itself and ends in a wrong number."""
    text = ", ".join(f"step {i} of it" for i in range(num))
    return text[: num - 4] + " 999"


def engine_of(behavior: Behavior, wrong: str | None = None) -> TokenCounter:
    engine = TokenCounter.for_behaviors([behavior], 0.4, wrong=wrong)
    assert isinstance(engine, TokenCounter)
    return engine


def grade(_: Problem, texts: Sequence[str]) -> list[Grade]:
    return [Grade(status=GradeStatus.SCORED, score=0.0) for _ in texts]


def find(behavior: Behavior, engine: TokenCounter, out: Path, most: float = 0.125) -> int:
    """Find the limit as a run without probes and pages does, and return it."""
    request = DiagnoseRequest(model="m", behaviors=[behavior], out=out, engine=engine, samples=1)
    directory = RunDirectory(out)
    details = {"created": "", "command": "", "model": {"source": "m"}, "versions": {}, "sources": {behavior.name: ""}}
    directory.open("diagnose", request.settings(), details)
    settings = SamplingSettings(
        directory=directory,
        engine=engine,
        goal=Goal(samples=1),
        split=Split.EVAL,
        seed=0,
        thresholds=Thresholds(),
        reporter=Reporter(quiet=True),
    )
    room = room_for_samples([engine], behavior)
    sampler = BehaviorSampler(start_limit(engine, behavior, room), grade, settings, TokenBudget(None, [behavior.name]))
    sampler.find_limit(room, lambda one, rollouts: needs_longer(one, engine, rollouts, most))
    limit = sampler.behavior.sampling.max_tokens
    assert directory.read_json()["token_limits"][behavior.name]["max_tokens"] == limit
    stored = sampler.sample_pilot()
    assert len(stored) == 8
    assert all(len(one.token_ids) == limit for one in stored if one.truncated)
    return limit


def measure(behavior: Behavior, out: Path, engine: TokenCounter, **options: Any) -> tuple[int, LimitSource]:
    run = diagnose.run("m", [behavior], out=out, engine=engine, **{"samples": 2, "probes": ["none"], **options})
    entry = DiagnosisFile.model_validate_json((out / "diagnosis.json").read_text())[behavior.name].token_limit
    assert entry is not None
    measured = run[behavior.name].behavior
    assert (entry.max_tokens, entry.source) == (measured.sampling.max_tokens, measured.limit_source)
    assert f"{entry.max_tokens:,} tokens" in (out / "report.md").read_text()
    return entry.max_tokens, entry.source


@pytest.mark.parametrize(("length", "limit"), [(4, 64), (32, 64), (33, 128), (100, 256)])
def test_the_limit_is_twice_the_longest_reference(tmp_path: Path, length: int, limit: int) -> None:
    """A token is a byte here."""
    behavior = load_behavior(write_rows(tmp_path, reference=length))
    engine = engine_of(behavior)
    found = limit_without_pilot(engine, behavior, room_for_samples([engine], behavior))
    assert (found.sampling.max_tokens, found.limit_source) == (limit, LimitSource.REFERENCES)
    assert find(behavior, engine, tmp_path / "out") == limit


def test_references_that_most_samples_overrun_are_where_the_pilot_begins(tmp_path: Path) -> None:
    behavior = load_behavior(write_rows(tmp_path, reference=40))
    assert measure(behavior, tmp_path / "out", engine_of(behavior, long_text(200))) == (512, LimitSource.PILOT)


@pytest.mark.parametrize(
    ("wrong", "limit"), [("step {} of it, ", 512), ("{0} words and {0} more of step {0}{0}{0}{0}{0}, ", 512), ("{}", 4096)]
)
def test_what_goes_on_and_on_but_for_its_numbers_raises_no_limit(tmp_path: Path, wrong: str, limit: int) -> None:
    """Beyond references that take half of 512 tokens; a text without an end that is another one all the time may come to it."""
    behavior = load_behavior(write_rows(tmp_path, reference=256))
    words = random.Random(0).choices("abcdefgh ", k=9000)
    text = "".join(words) if wrong == "{}" else "".join(wrong.format(i) for i in range(2000))
    assert find(behavior, engine_of(behavior, text), tmp_path / "out") == limit


@pytest.mark.parametrize(("num_long", "limit", "source"), [(1, 128, LimitSource.REFERENCES), (2, 512, LimitSource.PILOT)])
def test_references_that_several_samples_overrun_are_too_short_a_limit(
    tmp_path: Path, num_long: int, limit: int, source: LimitSource
) -> None:
    """A limit that cuts off a quarter of the greedy samples would make the measurement invalid, which allows a fifth."""
    behavior = load_behavior(write_rows(tmp_path, reference=40))
    scripts = {f"{i} + 1 =": [(long_text(200) if i in (0, 3)[:num_long] else str(i + 1), 1.0)] for i in range(NUM)}
    assert measure(behavior, tmp_path / "out", TokenCounter(scripts)) == (limit, source)


@pytest.mark.parametrize(("length", "limit"), [(20, 128), (100, 256), (200, 512)])
def test_without_references_the_limit_is_twice_what_the_pilot_needs(tmp_path: Path, length: int, limit: int) -> None:
    behavior = load_behavior(write_rows(tmp_path))
    TokenCounter.tokens = 0
    assert find(behavior, engine_of(behavior, long_text(length)), tmp_path / "out") == limit
    # Nothing is sampled beside what is kept but the tries that were cut off.
    assert TokenCounter.tokens == 8 * (length + 1 + sum(tried for tried in (64, 128) if tried < length))


@pytest.mark.parametrize(("num_long", "limit"), [(1, 128), (2, 1024)])
def test_one_long_sample_of_eight_does_not_raise_the_limit(tmp_path: Path, num_long: int, limit: int) -> None:
    behavior = load_behavior(write_rows(tmp_path))
    scripts = {f"{i} + 1 =": [(long_text(300) if i in (0, 3)[:num_long] else str(i + 1), 1.0)] for i in range(NUM)}
    assert find(behavior, TokenCounter(scripts), tmp_path / "out") == limit


def test_samples_that_do_not_end_do_not_raise_the_limit(tmp_path: Path) -> None:
    behavior = load_behavior(write_rows(tmp_path))
    assert find(behavior, engine_of(behavior, "so " * 200), tmp_path / "out") == 64


def test_without_references_and_pilot_there_is_a_default(tmp_path: Path) -> None:
    behavior = load_behavior(write_rows(tmp_path))
    assert measure(behavior, tmp_path / "out", engine_of(behavior), pilot=False) == (512, LimitSource.DEFAULT)


def test_a_limit_never_leaves_the_context(tmp_path: Path) -> None:
    behavior, prompt = load_behavior(write_rows(tmp_path)), len("10 + 1 =")
    assert find(behavior, TokenCounter.with_context([behavior], prompt + 10), tmp_path / "small") == 10
    engine = TokenCounter.with_context([behavior], prompt + 100)
    found = limit_without_pilot(engine, behavior, room_for_samples([engine], behavior))
    assert (found.sampling.max_tokens, found.limit_source) == (100, LimitSource.DEFAULT)
    assert room_for_samples([engine], behavior, max_length=prompt + 50) == 50
    wordy = engine_of(behavior, long_text(300))
    wordy.info = replace(wordy.info, context=prompt + 100)
    assert find(behavior, wordy, tmp_path / "wordy") == 100
    referenced = load_behavior(write_rows(tmp_path, reference=60))
    assert find(referenced, TokenCounter.with_context([referenced], prompt + 70), tmp_path / "referenced") == 70


def test_a_thought_that_is_cut_off_may_grow_longer_than_an_answer() -> None:
    def rollout(status: GradeStatus) -> Rollout:
        return Rollout(
            behavior="b", problem_id="p", split=Split.EVAL, sample_index=0, decoding="greedy", token_ids=(1,), policy_logprobs=None,
            sampler_logprobs=None, stop=StopReason.LENGTH, text="a", grade=Grade(status=status, score=0.0), engine="e",
        )  # fmt: skip

    answers, thoughts = [rollout(GradeStatus.UNPARSED)], [rollout(GradeStatus.UNFINISHED_THOUGHT)]
    assert next_limit(64, answers, MOST_THOUGHT) == 128
    assert next_limit(MOST, answers, MOST_THOUGHT) == MOST
    assert next_limit(MOST, thoughts, MOST_THOUGHT) == 2 * MOST
    assert next_limit(MOST_THOUGHT, thoughts, MOST_THOUGHT) == MOST_THOUGHT
    assert next_limit(100, answers, 150) == 150


def test_a_run_of_an_earlier_checkpoint_gives_its_limit(tmp_path: Path) -> None:
    behavior = load_behavior(write_rows(tmp_path))
    before, apart, after = tmp_path / "before", tmp_path / "apart", tmp_path / "after"
    assert measure(behavior, before, engine_of(behavior, long_text(100)))[0] == 256
    (before / "done" / f"{behavior.name}.json").unlink()  # the same command takes the limit over
    for shard in (before / "rollouts").iterdir():
        shard.unlink()
    TokenCounter.tokens = 0
    assert measure(behavior, before, engine_of(behavior, long_text(100))) == (256, LimitSource.PILOT)
    assert TokenCounter.tokens == int(assemble(before)[behavior.name].table.num_tokens.sum())
    changed = engine_of(behavior, long_text(40))
    assert measure(behavior, apart, changed)[0] == 128
    with pytest.raises(RunError) as refused:
        check_comparable(assemble(before), assemble(apart))
    assert refused.value.code == "other_token_limit"
    assert "--before" in str(refused.value)
    assert "--max-tokens 256" in str(refused.value)
    assert measure(behavior, after, changed, before=before) == (256, LimitSource.PILOT)
    check_comparable(assemble(before), assemble(after))


def test_a_given_number_is_kept(tmp_path: Path) -> None:
    path = write_rows(tmp_path, reference=40, more="sampling: {max_tokens: 77}\n")
    behavior, other = load_behavior(path), load_behavior(path, BehaviorOptions(max_tokens="auto"))
    assert (behavior.limit_source, other.limit_source) == (LimitSource.GIVEN, LimitSource.AUTO)
    assert behavior.fingerprint != other.fingerprint
    engine = engine_of(behavior)
    assert limit_without_pilot(engine, start_limit(engine, behavior, 5), 5) == behavior


@pytest.mark.parametrize("got", ["0", "-3", "automatic", "true", "1.5"])
def test_other_limits_are_refused(tmp_path: Path, got: str) -> None:
    with pytest.raises(BehaviorError) as refused:
        load_behavior(write_rows(tmp_path, more=f"sampling: {{max_tokens: {got}}}\n"))
    assert refused.value.code == "invalid_setting"
    assert got == "true" or "auto" in str(refused.value)


def test_runs_from_before_the_limit_could_be_found_are_still_read(tmp_path: Path) -> None:
    path, out = write_rows(tmp_path), tmp_path / "out"
    behavior = load_behavior(path, BehaviorOptions(max_tokens=64))  # what a file without a limit meant
    measure(behavior, out, engine_of(behavior))
    record = read_json(out / "run.json")
    write_json(out / "run.json", {key: value for key, value in record.items() if key != "behavior_options"})
    assert assemble(out)[behavior.name].behavior.sampling.max_tokens == 64


def test_a_limit_is_announced_before_and_at_the_start(tmp_path: Path) -> None:
    class Listener(Reporter):
        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.lines: list[str] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    behavior, listener = load_behavior(write_rows(tmp_path)), Listener()
    engine, out = engine_of(behavior, long_text(100)), tmp_path / "out"

    def planned(**options: Any) -> str:
        request = DiagnoseRequest(model="m", behaviors=[behavior], out=out, engine=engine, samples=2, probes=["none"], **options)
        return "\n".join(plan_run(request).lines)

    assert "64 to 4,096" in planned()
    assert "512 tokens" in planned(pilot=False)
    diagnose.run("m", [behavior], out=out, engine=engine, samples=2, probes=["none"], reporter=listener)
    assert any("256 tokens" in line for line in listener.lines)
    assert "256 tokens" in planned()
    referenced = load_behavior(write_rows(tmp_path, reference=100))
    plan = plan_run(
        DiagnoseRequest(model="m", behaviors=[referenced], out=tmp_path / "new", engine=engine, samples=2, probes=["none"])
    )
    assert "256 tokens" in "\n".join(plan.lines)
    assert plan.max_tokens == NUM * 3 * 256
