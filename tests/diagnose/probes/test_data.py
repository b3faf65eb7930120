"""The data probe on data sets of which it is known what lies within the support of a scripted policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.probes import context_over, note_codes, one_shard, store_samples, with_measured

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext
from posttrain.diagnose.probes.data import Data, DataOutcome
from posttrain.diagnose.probes.data.numbers import limit_of_support
from posttrain.diagnose.probes.finding_json import finding_from_json, finding_to_json
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import DataThresholds, Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Grade,
    GradeStatus,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Sampling,
    SkipReason,
    Split,
    VerifierSpec,
)

KNOWN, RARE, NEW = "so 4", "so 7", "on the contrary"
"""Answers that the policy gives in .5, .3 and none of its draws; the rest is `no`."""
SCRIPT = ((KNOWN, 0.5), (RARE, 0.3), ("no", 0.2))


def grade(problem: Problem, texts: Sequence[str]) -> list[Grade]:
    return [Grade(status=GradeStatus.SCORED, score=float(text == KNOWN), extracted=text) for text in texts]


def make_context(
    folder: Path, rows: Sequence[DataRow], *, script: Sequence[tuple[str, float]] = SCRIPT, num: int = 16, seed: str = "s"
) -> ProbeContext:
    problems = tuple(
        Problem(id=f"p{i}", prompt=f"{i}", answer=KNOWN, key=f"{i}", split=Split.EVAL if i < 4 else Split.TRAIN) for i in range(6)
    )
    behavior = Behavior(
        name="b",
        problems=problems,
        verifier=VerifierSpec(kind="exact"),
        prompt=PromptFormat(template="Q: {question}?"),
        sampling=Sampling(max_tokens=20),
        measure=MeasureSettings(epsilon=0.01, primary_k=4),
    )
    names = [*(f"Q: {i}?" for i in range(60)), "Once", "user: 5\n"]
    engine = ScriptedEngine(dict.fromkeys(names, script))
    directory = RunDirectory(folder)
    store_samples(directory, engine, behavior, one_shard(behavior, num), grade=grade, seed="s")
    thresholds = Thresholds(num_draws=256)
    return context_over(
        directory, "data", behavior, engine, grade=grade, seed=seed, budget=0, thresholds=thresholds, data=tuple(rows)
    )


def shown(texts: Sequence[str]) -> list[DataRow]:
    return [DataRow(index=i, kind=RowKind.DEMONSTRATION, prompt=f"{i + 10}", completion=text) for i, text in enumerate(texts)]


def paired(pairs: Sequence[tuple[str, str]]) -> list[DataRow]:
    return [
        DataRow(index=i, kind=RowKind.PAIR, prompt=f"{i + 10}", chosen=good, rejected=bad) for i, (good, bad) in enumerate(pairs)
    ]


def test_half_of_the_rows_are_new_and_carry_the_loss(tmp_path: Path) -> None:
    context = make_context(tmp_path, shown([KNOWN, NEW] * 20))
    found = Data().run(context)
    share = found.numbers["share within support"]
    assert share.estimate == 0.5
    assert 0.3 < share.low < 0.5 < share.high < 0.7
    assert found.numbers["share of the loss in rows out of support"].estimate > 0.98
    assert found.numbers["share of the gradient from tokens out of support"].estimate > 0.9
    assert found.numbers["share as likely as epsilon on the whole"].estimate == 0.5
    assert found.outcome is DataOutcome.EXPANDS
    inside = [row["index"] for row in found.rows if row["side"] == "completion" and row["inside"]]
    assert inside == list(range(0, 40, 2))
    assert "costliest_rows" in note_codes(found)
    assert found.evidence == ()
    assert context.sampler.generated_tokens == 0
    assert context.sampler.scored_tokens == sum(row["tokens"] for row in found.rows if row["side"] == "completion")


def test_one_improbable_word_in_a_long_row_is_said_to_do_both(tmp_path: Path) -> None:
    # Each of the two letters is drawn from ten, and gives a gradient of .9; what follows them is new, and gives 1.
    letters = [f"{chr(65 + i)}{chr(97 + j)}" for i in range(10) for j in range(10)]
    script = tuple((pair, 0.01) for pair in letters)
    context = make_context(tmp_path, shown([f"{pair}!" for pair in letters[:50]]), script=script)
    found = Data().run(context)
    assert found.numbers["share within support"].estimate == 0
    assert found.numbers["share of the loss in rows out of support"].estimate == 1
    assert found.numbers["share of the gradient from tokens out of support"].estimate == pytest.approx(1 / 2.8, abs=0.01)
    mixed = tuple(shown([pair + "!" if i % 4 == 0 else pair for i, pair in enumerate(letters[:48])]))
    context = replace(context, data=mixed)
    found = Data().run(context)
    assert found.numbers["share within support"].estimate == 0.75
    assert found.outcome is DataOutcome.BOTH


def test_what_the_policy_says_already_reshapes(tmp_path: Path) -> None:
    found = Data().run(make_context(tmp_path, shown([KNOWN, RARE] * 10)))
    assert found.numbers["share within support"].estimate == 1
    assert found.numbers["share of the gradient from tokens out of support"].estimate == 0
    expected = -np.log([0.5, 0.3]).mean() / 5  # four letters and the end
    assert found.numbers["nats per token"].estimate == pytest.approx(expected, rel=1e-3)
    assert found.outcome is DataOutcome.RESHAPES


def test_pairs_with_a_reversed_margin_are_found(tmp_path: Path) -> None:
    found = Data().run(make_context(tmp_path, paired([(KNOWN, RARE)] * 5 + [(RARE, KNOWN)] * 15)))
    numbers = found.numbers
    assert numbers["share of pairs ranked right"].estimate == 0.25
    assert numbers["margin"].estimate == pytest.approx(-0.5 * np.log(0.5 / 0.3), rel=1e-3)
    assert numbers["margin per token"].estimate == pytest.approx(numbers["margin"].estimate / 5)
    assert numbers["share of pairs that length alone ranks right"].estimate == 0.5
    assert numbers["tokens by which the chosen is longer"].estimate == 0
    assert numbers["share of rejected answers within support"].estimate == 1
    wrong = [row["index"] for row in found.rows if row["margin"] is not None and row["margin"] < 0]
    assert wrong == list(range(5, 20))


def test_length_is_told_apart_from_preference(tmp_path: Path) -> None:
    # Letter by letter, "no" is the less likely answer; as a whole it is likelier than the long one.
    script = (("no", 0.3), ("yes it is so because of this and all of that", 0.2), ("eh", 0.5))
    context = make_context(tmp_path, paired([(script[1][0], "no")] * 10), script=script)
    found = Data().run(context)
    assert found.numbers["share of pairs ranked right"].estimate == 0
    assert found.numbers["share of pairs ranked right per token"].estimate == 1
    assert found.numbers["share of pairs that length alone ranks right"].estimate == 0
    assert found.numbers["tokens by which the chosen is longer"].estimate == 42
    assert "length_of_chosen" in note_codes(found)


def test_labels_tell_what_to_learn_and_what_to_avoid(tmp_path: Path) -> None:
    rows = [
        DataRow(index=i, kind=RowKind.LABELLED, prompt=f"{i + 10}", completion=NEW if i % 4 == 3 else KNOWN, label=i % 2 == 0)
        for i in range(20)
    ]
    found = Data().run(make_context(tmp_path, rows))
    assert found.numbers["share within support"].estimate == 1
    assert found.numbers["share of rejected answers within support"].estimate == 0.5


def test_texts_and_chats_are_scored_where_they_can_be(tmp_path: Path) -> None:
    texts = ["Once", "Twice"]
    rows = [DataRow(index=i, kind=RowKind.TEXT, prompt=None, completion=text) for i, text in enumerate(texts)]
    context = make_context(tmp_path / "a", rows)
    assert Data().worth(context) is None
    with pytest.raises(SettingsError) as excinfo:
        Data().run(context)
    assert excinfo.value.code == "data_unreadable"
    spaced = [DataRow(index=0, kind=RowKind.TEXT, prompt=None, completion="Once so 4")]
    found = Data().run(make_context(tmp_path / "b", spaced, script=((" so 4", 1.0),)))
    assert found.numbers["nats per token"].estimate == pytest.approx(0, abs=1e-6)
    chat = DataRow(index=0, kind=RowKind.DEMONSTRATION, prompt=(Message("user", "5"),), completion=KNOWN)
    context = make_context(tmp_path / "c", [chat])
    assert Data().worth(context) is None
    assert Data().run(context).numbers["nats per token"].estimate == pytest.approx(-np.log(0.5) / 5, rel=1e-3)


def test_a_prompt_in_the_template_is_not_put_into_it_twice(tmp_path: Path) -> None:
    plain, wrapped = shown([KNOWN]), [replace(shown([KNOWN])[0], prompt="Q: 10?")]
    rows = [Data().run(make_context(tmp_path / str(i), data)).rows[0] for i, data in enumerate((plain, wrapped))]
    assert rows[0] == rows[1]


def test_measured_problems_in_the_data_are_named(tmp_path: Path) -> None:
    rows = [replace(row, prompt=f"{row.index + 2}") for row in shown([KNOWN] * 6)]  # 2 and 3 are measured, 4 and 5 are not
    found = Data().run(make_context(tmp_path, rows))
    assert "2 of 6 rows" in next(note.text for note in found.notes if note.code == "measured_prompts_in_data")


def test_the_policys_own_answers_set_the_limit(tmp_path: Path) -> None:
    assert limit_of_support([0.1] * 100, 0.01, DataThresholds()) == pytest.approx(-np.log(0.01))
    assert limit_of_support([9.0] * 100, 0.01, DataThresholds()) == 9
    assert limit_of_support([9.0] * 4 + [0.1] * 96, 0.01, DataThresholds()) == pytest.approx(-np.log(0.01))
    assert limit_of_support([9.0] * 10, 0.01, DataThresholds()) == pytest.approx(-np.log(0.01))
    # A policy that spreads over many answers draws tokens below epsilon all the time.
    script = tuple((f"{chr(33 + i)}", 1 / 90) for i in range(90))
    context = make_context(tmp_path, shown(["!", "so 4"] * 10), script=script, num=32)
    behavior = context.behavior
    context = with_measured(context, behavior=replace(behavior, measure=replace(behavior.measure, epsilon=0.05)))
    found = Data().run(context)
    assert found.numbers["share within support"].estimate == 0.5
    assert "limit_of_support_raised" in note_codes(found)


def test_it_is_the_same_again_and_bounded(tmp_path: Path) -> None:
    rows = shown([KNOWN, NEW] * 25)
    probe = Data(num_rows=12, longest=6)
    first, again, other = (
        probe.run(make_context(tmp_path / name, rows, seed=seed)) for name, seed in (("a", "s"), ("b", "s"), ("c", "t"))
    )
    assert finding_to_json(first) == finding_to_json(again)
    assert [r["index"] for r in first.rows] != [r["index"] for r in other.rows]
    assert sum(row["side"] == "completion" for row in first.rows) == 12
    assert max(row["tokens"] for row in first.rows if row["side"] == "completion") == 6
    assert {"rows_sampled", "answers_cut"} <= note_codes(first)
    assert finding_from_json(finding_to_json(first)).rows == first.rows
    assert len({tuple(row) for row in first.rows}) == 1


def test_plan_says_what_it_takes_and_needs(tmp_path: Path) -> None:
    context = make_context(tmp_path, shown([KNOWN]))
    probe = Data(num_rows=10, longest=100)
    assert probe.plan(context.behavior, Split.EVAL, AvailableInputs(data=True)).scored_tokens == 2000
    assert probe.plan(context.behavior, Split.EVAL, AvailableInputs()).impossible is SkipReason.NO_DATA
    assert probe.worth(replace(context, data=None)) is SkipReason.NO_DATA
