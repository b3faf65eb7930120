"""From samples of another tool to a run directory that can be read back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from helpers.imported_runs import SOURCE, run_of, sample

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, Untold
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.import_run import ImportSettings, import_by_policy, store_run
from posttrain.diagnose.pipeline.read_and_import import from_frame
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.types import Message, Sampling, Split, StopReason


def refused(samples: list[ImportedSample], out: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        run_of(samples, out, **settings)
    assert "\n" not in str(caught.value)
    assert not (out / "run.json").exists()
    return caught.value.code


def test_samples_are_counted_per_problem_and_a_missing_grade_is_no_failure(tmp_path: Path) -> None:
    outcomes = {"p1": [1, 0, 0, None], "p2": [1, 1], "p3": [None], "p4": [0.0]}
    samples = [sample(name, score) for name, scores in outcomes.items() for score in scores]
    counts = run_of(samples, tmp_path / "run")["sums"].sampling
    assert counts.problem_ids == ("p1", "p2", "p3", "p4")
    assert counts.num_correct.tolist() == [1, 2, 0, 0]
    assert counts.num_samples.tolist() == [3, 2, 0, 1]
    assert counts.num_missing.tolist() == [1, 0, 1, 0]


def test_a_run_is_read_back_as_it_was_written_wherever_its_folder_lies(tmp_path: Path) -> None:
    prompt = (Message("system", "Be brief."), Message("user", "2+2?"))
    given = [
        sample(text="4", prompt=prompt, answer="4", stop=StopReason.LENGTH, num_tokens=7),
        sample("p2", 0.0, text="\ud800x", prompt="q"),
    ]
    written = run_of(
        given, tmp_path / "a" / "run", source=replace(SOURCE, sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=12))
    )
    shutil.move(tmp_path / "a", tmp_path / "b")
    read = assemble(tmp_path / "b" / "run")
    assert read.diagnoses == written.diagnoses
    behavior = read["sums"].behavior
    assert behavior.problems[0].prompt == prompt
    assert behavior.problems[0].answer == "4"
    assert (behavior.sampling.temperature, behavior.sampling.top_p, behavior.sampling.max_tokens) == (0.7, 0.9, 12)
    first, second = read["sums"].rollouts
    assert (first.text, first.truncated, read["sums"].table.num_tokens.tolist()) == ("4", True, [7, 0])
    assert second.text == "\ufffdx"


def test_a_behavior_that_was_just_written_is_the_one_that_is_read_back(tmp_path: Path) -> None:
    chat = (Message("system", "Be brief."), Message("user", "2+2?\u2028\x85"))
    given = [
        sample(prompt=chat, answer="4", answers=("four", "4 ", "4"), group="sums"),
        sample("7", prompt="A 'quoted' \"one\"\r\n\t\\ and a tab", answer="First 3.\nThen 4.\n#### 7"),
        sample("1.0", prompt="How many?", answer="It is \\boxed{7}, since 3 + 4 is.", answers=("7",)),
        sample("blank", answer=" \n", group=" "),
        sample("\ud800", prompt="\ud83d", answer="\ud800", metadata={"n": 1, "p": 0.1, "of": [None, {"a": True}], "é": "ß"}),
        sample("dates", metadata={1: date(2026, 1, 2), "pair": (1, 2.0), "bytes": b"x", "big": 10**30}),
        sample("agent", prompt=(Message("user", "Do."), Message("assistant", "Done.", '{"tool_calls": []}'))),
    ]
    source = replace(SOURCE, sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=12, stop=("\n\n", "no", "1")))
    for split in Split:
        written = run_of(given, tmp_path / split, source=source, split=split, success=0.5)["sums"].behavior
        assert written == assemble(tmp_path / split)["sums"].behavior
    assert written.problems[1].answer == "7"


def test_samples_of_problems_that_come_mixed_up_keep_their_order_within_a_problem(tmp_path: Path) -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")]
    run = run_of([sample(name, text=text) for name, text in rows], tmp_path / "run")
    assert [(one.problem_id, one.sample_index, one.text) for one in run["sums"].rollouts] == [
        ("b", 0, "1"), ("b", 1, "3"), ("a", 0, "2"), ("a", 1, "4"),
    ]  # fmt: skip


def test_problems_are_measured_unless_their_split_is_said(tmp_path: Path) -> None:
    for split in Split:
        run = run_of([sample()], tmp_path / split, split=split)
        assert [problem.split for problem in run["sums"].behavior.problems] == [split]
        assert assemble(tmp_path / split).settings["split"] == split
    assert {one.split for one in run_of([sample()], tmp_path / "default")["sums"].behavior.problems} == {Split.EVAL}


@pytest.mark.parametrize(
    ("scores", "success", "right"),
    [
        ([0.0, 0.5, 1.0], None, [0, 0, 1]),
        ([0.0, 0.5, 1.0], 0.5, [0, 1, 1]),
        ([-1.0, 1.0, -1.0], 1.0, [0, 1, 0]),
        ([0.1, 1.1, 2.0], 2.0, [0, 0, 1]),
        ([-2.0, -1.0, 0.0], 0.0, [0, 0, 1]),
        ([0.2, 0.4, 0.6], 0.6, [0, 0, 1]),
        ([0.0, 1.0, 0.7 + 0.2 + 0.1], None, [0, 1, 1]),
    ],
)
def test_a_success_is_a_score_from_which_the_user_says(
    tmp_path: Path, scores: list[float], success: float | None, right: list[int]
) -> None:
    samples = [sample(f"p{i}", score) for i, score in enumerate(scores)]
    run = run_of(samples, tmp_path / "run", success=success)
    assert run["sums"].sampling.num_correct.tolist() == right
    assert assemble(tmp_path / "run")["sums"].sampling.num_correct.tolist() == right
    assert all(0.0 <= score <= 1.0 for score in run["sums"].table.score)


@pytest.mark.parametrize(
    ("scores", "success", "code"),
    [
        ([-1.0, 1.0], None, "score_range"),
        ([0.0, 1.1], None, "score_range"),
        ([0.1, 0.8], None, "no_success_score"),
        ([1.0], float("nan"), "success"),
    ],
)
def test_scores_that_do_not_say_what_is_right_are_refused(
    tmp_path: Path, scores: list[float], success: float | None, code: str
) -> None:
    assert refused([sample(f"p{i}", score) for i, score in enumerate(scores)], tmp_path / "run", success=success) == code


def test_no_samples_are_refused(tmp_path: Path) -> None:
    assert refused([], tmp_path / "run") == "no_samples"


def test_a_run_is_of_one_policy(tmp_path: Path) -> None:
    samples = [sample(policy="10"), sample(policy="20", score=0.0), sample(policy="10")]
    assert refused(samples, tmp_path / "run") == "several_policies"
    assert refused(samples, tmp_path / "run", step="30") == "unknown_policy"
    assert run_of(samples, tmp_path / "run", step="20")["sums"].sampling.num_samples.tolist() == [1]
    runs = import_by_policy(ImportedSamples(source=SOURCE, samples=samples), ImportSettings(out=tmp_path / "runs"))
    assert {name: run.path.name for name, run in runs.items()} == {"10": "10", "20": "20"}
    assert runs["10"]["sums"].sampling.num_correct.tolist() == [2]


def test_policies_whose_names_differ_in_what_no_file_name_holds_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a b", "A/B", "..", "x" * 400, "x" * 401]
    samples = [sample(policy=name, score=i % 2) for i, name in enumerate(names)]
    runs = import_by_policy(ImportedSamples(source=SOURCE, samples=samples), ImportSettings(out=tmp_path / "runs"))
    assert [run["sums"].sampling.num_correct.tolist() for run in runs.values()] == [[0], [1]] * 3
    assert len({run.path.name.lower() for run in runs.values()}) == len(names)
    assert {run.path.parent for run in runs.values()} == {tmp_path / "runs"}


def test_what_is_right_is_the_same_for_every_policy(tmp_path: Path) -> None:
    """The first step never reaches 1: it has failed, and its best score is no success."""
    found = ImportedSamples(source=SOURCE, samples=[sample(policy="1", score=0.5), sample(policy="2", score=1.0)])
    for runs in (
        import_by_policy(found, ImportSettings(out=tmp_path / "runs")),
        {step: store_run(found, ImportSettings(out=tmp_path / step, step=step)) for step in ("1", "2")},
    ):
        assert [run["sums"].sampling.num_correct.tolist() for run in runs.values()] == [[0], [1]]


def test_scores_of_a_later_policy_are_refused_before_a_run_is_written(tmp_path: Path) -> None:
    found = ImportedSamples(source=SOURCE, samples=[sample(policy="1", score=1.0), sample(policy="2", score=-1.0)])
    with pytest.raises(UserError) as caught:
        import_by_policy(found, ImportSettings(out=tmp_path / "runs"))
    assert caught.value.code == "score_range"
    assert not (tmp_path / "runs").exists()


def test_a_truncated_sample_that_the_source_calls_right_fails_and_the_run_says_so(tmp_path: Path) -> None:
    run = run_of([sample(stop=StopReason.LENGTH), sample(stop=StopReason.EOS)], tmp_path / "run")
    assert run["sums"].sampling.num_correct.tolist() == [1]
    notes = run.settings["source"]["behaviors"]["sums"]["notes"]
    assert [note["code"] for note in notes] == ["truncated_successes"]


def test_names_of_behaviors_become_file_names_and_stay_apart(tmp_path: Path) -> None:
    given = [sample(behavior="a/b c"), sample(behavior="a:b c", score=0.0), sample(behavior="A:b c")]
    run = run_of(given, tmp_path / "run")
    # some file systems take names that differ in capitals alone for one
    assert [one.behavior.name for one in run.behaviors] == ["a-b-c", "a-b-c-2", "A-b-c-3"]
    assert run.settings["source"]["behaviors"]["a-b-c-2"]["name"] == "a:b c"


def test_the_same_samples_may_be_imported_again_and_others_may_not(tmp_path: Path) -> None:
    first = run_of([sample()], tmp_path / "run")
    assert run_of([sample()], tmp_path / "run").diagnoses == first.diagnoses
    with pytest.raises(UserError) as caught:
        run_of([sample(score=0.0)], tmp_path / "run")
    assert caught.value.code == "other_settings"


def test_what_no_sample_tells_is_recorded_as_untold(tmp_path: Path) -> None:
    bare = set(run_of([sample()], tmp_path / "bare").settings["source"]["untold"])
    assert bare == {*Untold} - {Untold.PROBLEM_IDS, Untold.COMPLETENESS, Untold.POLICY}
    full = sample(text="4", prompt="2+2?", answer="4", stop=StopReason.EOS, num_tokens=2)
    told = run_of([full], tmp_path / "full", source=replace(SOURCE, sampling=Sampling()))
    assert told.settings["source"]["untold"] == [Untold.LOGPROBS]


def test_what_the_user_knows_of_the_sampler_is_taken_where_the_source_does_not_tell(tmp_path: Path) -> None:
    said = Sampling(temperature=1.0, max_tokens=0)
    run = run_of([sample()], tmp_path / "run", sampling=said)
    assert run["sums"].behavior.sampling.samples_the_policy
    assert Untold.SAMPLING not in run.settings["source"]["untold"]
    cool = replace(SOURCE, sampling=Sampling(temperature=0.7, max_tokens=9))
    assert (
        run_of([sample()], tmp_path / "told", cool, sampling=replace(cool.sampling, max_tokens=0))[
            "sums"
        ].behavior.sampling.max_tokens
        == 9
    )
    with pytest.raises(UserError) as caught:
        run_of([sample()], tmp_path / "other", cool, sampling=said)
    assert caught.value.code == "other_sampling"


def test_imported_samples_are_trained_on_where_their_split_says_so_alone(tmp_path: Path) -> None:
    from posttrain.diagnose.behaviors.data_sets import read_training_rows
    from posttrain.trainers.sources.finished_run import read_run
    from posttrain.trainers.training_types import TrainingSet

    runs = {
        split: run_of([sample(f"p{i}", prompt=f"{i}?", answer="4") for i in range(8)], tmp_path / split, split=split)
        for split in Split
    }
    write_run(runs[Split.EVAL])
    training_set = TrainingSet([runs[Split.TRAIN]["sums"].behavior])
    assert len(training_set.train) + len(training_set.dev) == 8
    for split in (Split.EVAL, Split.FINAL):
        with pytest.raises(UserError) as caught:
            TrainingSet([runs[split]["sums"].behavior])
        assert caught.value.code == "no_train_problems"
        with pytest.raises(UserError) as caught:
            read_training_rows(runs[split].path / "behaviors" / "sums.jsonl")
        assert caught.value.code == "measured_row"
    with pytest.raises(UserError) as caught:
        read_run(runs[Split.EVAL].path, cast(Any, None), training_set)
    assert caught.value.code == "run_measured_split"
    assert len(read_training_rows(runs[Split.TRAIN].path / "behaviors" / "sums.jsonl")) == 8


def test_the_index_of_a_frame_is_a_column_unless_a_column_has_its_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"qid": ["a", "a", "b"], "subject": ["x", "x", "y"], "correct": [1, 0, 1]})
    for number, one in enumerate(
        (frame.set_index("qid"), frame.set_index("qid", drop=False), frame.set_index(["qid", "subject"]))
    ):
        run = from_frame(one, out=tmp_path / str(number))
        assert run["samples"].sampling.problem_ids == ("a", "b")
        assert run["samples"].sampling.num_correct.tolist() == [1, 1]
