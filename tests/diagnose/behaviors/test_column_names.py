"""Files whose columns are not ours: which column is read as what, what is said about it, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.refusals import refused

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, Message, Problem, Split, VerifierOrigin

ALL = BehaviorOptions(split_eval="all")


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(folder: Path, *rows: Mapping[str, Any], columns: dict[str, str] | None = None) -> Behavior:
    return load_behavior(write(folder / "rows.jsonl", *rows), BehaviorOptions(split_eval="all", columns=columns))


def one(folder: Path, row: Mapping[str, Any], columns: dict[str, str] | None = None) -> Problem:
    return load(folder, row, columns=columns).problems[0]


@pytest.mark.parametrize("prompt", ["question", "problem", "query", "input", "instruction", "Question", "Question Stem"])
@pytest.mark.parametrize("answer", ["target", "solution", "ground_truth", "gold", "expected", "label", "Final Answer"])
def test_usual_names_are_read(tmp_path: Path, prompt: str, answer: str) -> None:
    behavior = load(tmp_path, {prompt: "How many?", answer: "12", "level": 3, "day": "Monday"})
    (problem,) = behavior.problems
    assert (problem.prompt, problem.answer, dict(problem.metadata)) == ("How many?", "12", {"level": 3, "day": "Monday"})
    (note,) = behavior.notes
    assert "MATH" in note or (f"{prompt} → prompt" in note and f"{answer} → answer" in note)


@pytest.mark.parametrize("name", ["Answer", "ANSWER", "Answers"])
def test_our_names_are_known_however_they_are_written(tmp_path: Path, name: str) -> None:
    value = ["12"] if name == "Answers" else "12"
    (problem,) = load(tmp_path, {"ID": 4, "Prompt": "How many?", name: value, "Split": "test"}).problems
    assert (problem.id, problem.prompt, problem.answer, dict(problem.metadata)) == ("4", "How many?", "12", {})
    alike = load(tmp_path, *({"ID": 4, "Question": f"{i}?", name: value} for i in range(2)))
    assert [problem.id for problem in alike.problems] == ["row-1", "row-2"]


def test_answers_of_problems_without_a_solution_say_how_they_are_graded(tmp_path: Path) -> None:
    """SimpleQA and AIME have the columns of MATH, and the one no mathematics."""
    assert load(tmp_path, {"problem": "Who?", "answer": "Ada Lovelace"}).verifier.kind == "exact"
    assert load(tmp_path, {"problem": "Find m + n.", "answer": "204"}).verifier.kind == "number"
    assert load(tmp_path, {"problem": "Find r.", "answer": r"\sqrt{2}"}).verifier.kind == "math"


@pytest.mark.parametrize("metadata", ["{'topic': 'art'}", '{"topic": "art"}', {"topic": "art"}])
def test_metadata_may_be_a_text(tmp_path: Path, metadata: Any) -> None:
    assert one(tmp_path, {"prompt": "q", "answer": "1", "metadata": metadata}).metadata == {"topic": "art"}
    assert one(tmp_path, {"prompt": "q", "answer": "1", "metadata": "art"}).metadata == {"metadata": "art"}


def test_what_is_read_under_other_names_is_said_in_one_line(tmp_path: Path) -> None:
    (note,) = load(tmp_path, {"query": "1+1?", "gold": 2, "topic": "sums"}).notes
    assert note == "columns read: query → prompt, gold → answer; kept as metadata: topic"
    assert load(tmp_path, {"prompt": "1+1?", "answer": "2"}).notes == ()


def test_a_chat_is_the_prompt_and_its_last_turn_the_answer(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?", "name": None}]
    asked = (Message("system", "Be brief."), Message("user", "1+1?"))
    assert one(tmp_path, {"messages": turns, "answer": 2}).prompt == asked
    answered = one(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "2"}]})
    assert (answered.prompt, answered.answer) == (asked, "2")
    worked = one(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "1+1\nis 2"}], "answer": 2})
    assert (worked.prompt, worked.answer, worked.references[0].steps) == (asked, "2", ("1+1\n", "is 2"))
    shared = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
    assert (one(tmp_path, {"conversations": shared}).prompt, one(tmp_path, {"conversations": shared}).answer) == (asked[1:], "2")
    ideal = one(tmp_path, {"input": turns, "ideal": ["2", "two"]})
    assert (ideal.prompt, ideal.accepted_answers) == (asked, ("2", "two"))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "Who?", "context": "Ada wrote it.", "answer": "Ada"}, "Ada wrote it.\n\nWho?"),
        ({"question": "Who?", "passage": "Ada wrote it.", "answer": "Ada"}, "Ada wrote it.\n\nWho?"),
        ({"instruction": "Translate.", "input": "Haus", "output": "house"}, "Translate.\n\nHaus"),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, "Say hi."),
    ],
)
def test_a_text_that_the_question_is_about_stands_in_the_prompt(tmp_path: Path, row: Mapping[str, Any], prompt: str) -> None:
    assert one(tmp_path, row).prompt == prompt


@pytest.mark.parametrize(
    ("row", "answer", "steps", "kind"),
    [
        ({"prompt": "q", "answer": "3+4=<<3+4=7>>7\nTwice.\n#### 14"}, "14", ("3+4=7\n", "Twice.\n", "#### 14"), "number"),
        (
            {"query": "q", "target": "First 1.\nSo \\boxed{\\frac12}."},
            "\\frac12",
            ("First 1.\n", "So \\boxed{\\frac12}."),
            "math",
        ),
        ({"query": "q", "solution": "So \\boxed{7}."}, "7", ("So \\boxed{7}.",), "math"),
        ({"query": "q", "gold": "7", "rationale": "3+4\nis 7"}, "7", ("3+4\n", "is 7"), "number"),
        ({"prompt": "q", "answer": "7", "references": ["3+4\nis 7"]}, "7", ("3+4\n", "is 7"), "number"),
        ({"prompt": "q", "answer": "\\boxed{7}"}, "\\boxed{7}", None, "math"),
    ],
)
def test_worked_answers_become_an_answer_and_steps(
    tmp_path: Path, row: Mapping[str, Any], answer: str, steps: tuple[str, ...] | None, kind: str
) -> None:
    behavior = load(tmp_path, row)
    (problem,) = behavior.problems
    assert (problem.answer, behavior.verifier.kind) == (answer, kind)
    assert [reference.steps for reference in problem.references] == ([] if steps is None else [steps])


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"query": "q", "choices": ["w", "x"], "label": 1}, "B"),
        ({"ctx": "q", "endings": ["w", "x"], "label": "1"}, "B"),
        ({"query": "q", "options": {"A": "w", "B": "x"}, "answer": "B"}, "B"),
        ({"question": "q", "options": {"A": "w", "B": "x"}, "answer": "x", "answer_idx": "B"}, "B"),
        ({"context": "c", "query": "q", "options": ["w", "x"], "correct_option": 1}, "B"),
        ({"question": "q", "A": "w", "B": "x", "answer": "B"}, "B"),
        ({"sentence": "s", "question": "q", "option1": "w", "option2": "x", "answer": "2"}, "B"),
        ({"article": "c", "question": "q", "options": ["w", "x"], "answer": "B"}, "B"),
        ({"prompt": "q", "choices": ["1", "2"], "target": "(B)"}, "B"),
        ({"question": "q", "choices": ["w", "x"], "answer": "b"}, "B"),
        ({"query": "q", "choices": ["w", "x"], "answer": "B. x"}, "B"),
        ({"question": "q", "opa": "w", "opb": "x", "cop": 1}, "B"),
        ({"goal": "q", "sol1": "w", "sol2": "x", "label": 2}, "B"),
        ({"context": "c", "question": "q", "answerA": "w", "answerB": "x", "label": "2"}, "B"),
        ({"query": "q", "choices": ["7", "8"], "answer": "8"}, "B"),
        ({"goal": "q", "sol1": "w", "sol2": "x", "label": 0}, "A"),  # PIQA
        ({"question": "q", "options": ["A)w", "B)x"], "rationale": "so\nB", "correct": "B"}, "B"),  # AQuA
        ({"question": "q", "options": ["(A)w", "(B) x"], "label": "B"}, "B"),  # AGIEval
        ({"question": "q", "options": ["(A)w", "(B)x"], "answer": "(B)x"}, "B"),
        ({"question": "q", "choices": "['w', 'x']", "answer_index": 1}, "B"),  # MuSR
        ({"Question": "q", "A": "w", "B": "x", "Answer": "B"}, "B"),  # CMMLU
        ({"question": "q", "choices": ["True", "False"], "answer": False}, "B"),
    ],
)
def test_choices_with_an_index_a_letter_or_a_text(tmp_path: Path, row: Mapping[str, Any], letter: str) -> None:
    behavior = load(tmp_path, row)
    (problem,) = behavior.problems
    assert (problem.answer, behavior.verifier.kind) == (letter, "choice")
    assert str(problem.prompt).endswith(f"q\nA. {problem.metadata['choices'][0]}\nB. {problem.metadata['choices'][1]}")


def test_columns_of_choices_may_be_counted_from_zero(tmp_path: Path) -> None:
    rows = [{"goal": f"q{i}", "sol1": "w", "sol2": "x", "label": i % 2} for i in range(4)]
    assert [problem.answer for problem in load(tmp_path, *rows).problems] == ["A", "B", "A", "B"]
    from_one = [{**row, "label": row["label"] + 1} for row in rows]
    assert [problem.answer for problem in load(tmp_path, *from_one).problems] == ["A", "B", "A", "B"]


@pytest.mark.parametrize(
    "row",
    [
        {"Correct Answer": "right", "Incorrect Answer 1": "w1", "Incorrect Answer 2": "w2"},  # GPQA
        {"correct_answer": "right", "distractor2": "w2", "distractor1": "w1"},  # SciQ
        {"correct_answer": "right", "incorrect_answers": ["w1", "w2"]},  # OpenTDB
    ],
)
def test_wrong_answers_are_choices_beside_the_right_one(tmp_path: Path, row: Mapping[str, Any]) -> None:
    behavior = load(tmp_path, *({"question": f"q{i}", **row} for i in range(40)))
    letters = [problem.answer for problem in behavior.problems]
    assert {letters.count(letter) > 3 for letter in "ABC"} == {True}  # the right one is not always in the same place
    for problem in behavior.problems:
        choices = problem.metadata["choices"]
        assert (choices["ABC".index(problem.answer)], sorted(choices)) == ("right", ["right", "w1", "w2"])
        assert str(problem.prompt).endswith("".join(f"\n{letter}. {text}" for letter, text in zip("ABC", choices, strict=True)))
    assert behavior.verifier.kind == "choice"
    mapped = {"answer": next(iter(row)), "wrong": ",".join(list(row)[1:])}
    again = load(tmp_path, *({"question": f"q{i}", **row} for i in range(40)), columns=mapped)
    assert [problem.answer for problem in again.problems] == letters


def test_a_right_answer_that_is_a_letter_is_no_label_of_a_choice(tmp_path: Path) -> None:
    rows = [{"question": f"Which type is {i}?", "correct_answer": "B", "distractors": ["A", "AB", "B", "A"]} for i in range(20)]
    for problem in load(tmp_path, *rows).problems:
        choices = problem.metadata["choices"]
        assert (choices["ABC".index(problem.answer)], sorted(choices)) == ("B", ["A", "AB", "B"])


@pytest.mark.parametrize("listed", ["q (A)w (B)x", "A. w\nB. x", "(A) w\n(B) x", "A: w\nB: x", "- A) w\n- B) x"])
def test_choices_that_the_question_lists_are_not_listed_again(tmp_path: Path, listed: str) -> None:
    row = {"prompt": f"q\n{listed}", "choices": ["w", "x"], "answer": 1}
    assert one(tmp_path, row).prompt == row["prompt"]
    assert one(tmp_path, {**row, "prompt": "w or x?"}).prompt == "w or x?\nA. w\nB. x"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "w or x?"}]
    assert one(tmp_path, {**row, "prompt": chat}).prompt == (Message("system", "s"), Message("user", "w or x?\nA. w\nB. x"))


def test_choices_that_are_counted_from_one(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "choices": ["w", "x", "y"], "label": i} for i in (1, 2, 3)]
    from_one = load(tmp_path, *rows)
    assert [problem.answer for problem in from_one.problems] == ["A", "B", "C"]
    assert "counted from 1" in from_one.notes[0]
    from_zero = load(tmp_path, *({**row, "label": row["label"] - 1} for row in rows))
    assert [problem.answer for problem in from_zero.problems] == ["A", "B", "C"]
    with refused(BehaviorError, "invalid_row"):
        load(tmp_path, *rows, {"query": "q", "choices": ["w", "x", "y"], "label": 0})


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        (
            {"context": "c", "question": "q", "answers": {"text": ["Ada", "Ada L.", "Ada"], "answer_start": [1, 1, 1]}},
            ("Ada", "Ada L."),
        ),
        ({"question": "q", "answer": {"value": "Ada", "aliases": ["Ada", "A. L."], "type": "x"}}, ("Ada", "A. L.")),
        ({"question": "q", "answer": ["Ada", "A. L."]}, ("Ada", "A. L.")),
        ({"prompt": "q", "answer": ["Ada", "A."], "answers": ["L."]}, ("Ada", "A.", "L.")),
        ({"prompt": "q", "gold": "Ada", "answers": {"text": []}}, ("Ada",)),
        ({"passage": "c", "question": "q", "answer": True}, ("yes", "true")),  # BoolQ
        ({"passage": "c", "question": "q", "answer": False}, ("no", "false")),
        ({"question": "q", "answers": "['Ada', 'A. L.']"}, ("Ada", "A. L.")),
        ({"question": "q", "answer": None, "answer_number": 5}, ("5",)),  # MGSM
    ],
)
def test_several_right_answers(tmp_path: Path, row: Mapping[str, Any], answers: tuple[str, ...]) -> None:
    assert one(tmp_path, row).accepted_answers == answers


def test_more_choices_than_ten_widen_the_verifier(tmp_path: Path) -> None:
    behavior = load(tmp_path, {"query": "q", "choices": [f"c{i}" for i in range(12)], "label": 11})
    assert behavior.problems[0].answer == "L"
    assert behavior.verifier.options == {"letters": "ABCDEFGHIJKL"}
    listed = load(tmp_path, {"input": "q", "target": "(L)"}, {"input": "r", "target": "(A)"})
    assert (listed.verifier.kind, listed.verifier.options) == ("choice", {"letters": "ABCDEFGHIJKL"})


@pytest.mark.parametrize(("value", "text"), [(12, "12"), (12.0, "12"), (0.5, "0.5"), (-3, "-3"), ("12", "12")])
def test_numbers_are_taken_as_texts(tmp_path: Path, value: Any, text: str) -> None:
    problem = one(tmp_path, {"id": 7, "prompt": "q", "answer": value, "answers": [value, 99], "group": 3})
    assert (problem.id, problem.accepted_answers, problem.group) == ("7", (text, "99"), "3")


def test_ids_of_others_are_used_where_they_tell_rows_apart(tmp_path: Path) -> None:
    apart = load(tmp_path, {"query": "1+1?", "gold": 2, "idx": 5}, {"query": "1+2?", "gold": 3, "idx": 6})
    assert [problem.id for problem in apart.problems] == ["5", "6"]
    alike = load(tmp_path, {"query": "1+1?", "gold": 2, "idx": 5}, {"query": "1+2?", "gold": 3, "idx": 5})
    assert [problem.id for problem in alike.problems] == ["row-1", "row-2"]
    assert alike.problems[1].metadata == {"idx": 5}


@pytest.mark.parametrize("columns", [{"prompt": "frage", "answer": "wert"}, {"frage": "prompt", "wert": "answer"}])
def test_a_map_is_understood_both_ways(tmp_path: Path, columns: dict[str, str]) -> None:
    problem = one(tmp_path, {"frage": "1+1?", "wert": 2, "question": "not this"}, columns)
    assert (problem.prompt, problem.answer, dict(problem.metadata)) == ("1+1?", "2", {"question": "not this"})


def test_a_map_of_two_of_our_names_means_ours_first(tmp_path: Path) -> None:
    assert one(tmp_path, {"prompt": "x", "hint": "1+1?", "answer": 2}, {"prompt": "hint"}).prompt == "1+1?"


def test_a_map_stands_in_a_behavior_file_too_and_of_choices(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", {"frage": "q", "erste": "w", "zweite": "x", "richtig": "B"})
    path = tmp_path / "mine.yaml"
    path.write_text(
        "problems: rows.jsonl\ncolumns: {prompt: frage, choices: 'erste,zweite', answer: richtig}\nsplit: {train: 0.0, final: 0.0}\n"
    )
    behavior = load_behavior(path)
    assert (behavior.problems[0].prompt, behavior.problems[0].answer, behavior.verifier.kind) == ("q\nA. w\nB. x", "B", "choice")


@pytest.mark.parametrize(
    ("columns", "code", "named"),
    [
        ({"prompt": "frag"}, "unknown_column", "'frage'"),
        ({"frag": "prompt"}, "unknown_column", "'frage'"),
        ({"promt": "frage"}, "unknown_column", "'prompt'"),
        ({"a": "b"}, "unknown_column", "frage, wert"),
        ({"prompt": "frage", "wert": "prompt"}, "column_twice", "prompt twice"),
        ({"answer": "wert"}, "unknown_columns", "--map prompt=frage"),
        (None, "unknown_columns", "--map prompt=frage answer=wert"),
        ({"prompt": "frage"}, "missing_key", "got the columns wert beside the prompt"),
    ],
)
def test_what_cannot_be_guessed_is_refused_with_the_columns(
    tmp_path: Path, columns: dict[str, str] | None, code: str, named: str
) -> None:
    with refused(BehaviorError, code) as caught:
        one(tmp_path, {"frage": "1+1?", "wert": 2}, columns)
    assert named in str(caught.value)


@pytest.mark.parametrize("key", ["reference", "anwser", "hints", "Spilt"])
def test_a_misspelt_column_of_ours_is_refused(tmp_path: Path, key: str) -> None:
    with refused(BehaviorError, "unknown_key") as caught:
        load(tmp_path, {"question": "q", "prompt": "q", "target": "1"}, {"question": "q", "prompt": "r", "target": "1", key: "x"})
    assert "rows.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("split", "expected"), [("test", Split.EVAL), ("validation", Split.EVAL), ("final", Split.FINAL), ("eval", Split.EVAL)]
)
@pytest.mark.parametrize("names", [("prompt", "answer"), ("question", "answer"), ("query", "gold")])
def test_a_column_of_splits_is_kept_to(tmp_path: Path, names: tuple[str, str], split: str, expected: Split) -> None:
    rows = [{names[0]: f"q{i}", names[1]: "1", "split": one} for i, one in enumerate(("train", "test", split))]
    behavior = load_behavior(write(tmp_path / "rows.jsonl", *rows))
    assert [problem.split for problem in behavior.problems] == [Split.TRAIN, Split.EVAL, expected]
    assert all("split" not in problem.metadata for problem in behavior.problems)
    every = load_behavior(tmp_path / "rows.jsonl", ALL)
    assert len(every.split(Split.EVAL)) == 3


ROWS = [{"query": f'What, "exactly", is\t{i}; plus 1?', "gold": i + 1, "tags": ["a", "b"]} for i in range(4)]


@pytest.mark.parametrize(
    "name",
    [
        "r.jsonl",
        "r.json",
        "r.csv",
        "r.tsv",
        "r.tsv.gz",
        "r.parquet",
        "r.jsonl.gz",
        "semi.csv",
        "examples.json",
        "by_column.json",
        "by_list.json",
        "by_row.json",
        "numbered.csv",
    ],
)
def test_the_same_rows_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    frame, path = pd.DataFrame(ROWS), tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        texts = {
            "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
            "json": {
                "examples.json": json.dumps({"canary": "x", "version": 1, "examples": ROWS}),
                "by_column.json": frame.to_json(),
                "by_list.json": json.dumps(frame.to_dict("list")),
                "by_row.json": frame.to_json(orient="index"),
            }.get(name, json.dumps(ROWS)),
            "csv": frame.to_csv(index="numbered" in name, sep=";" if "semi" in name else ","),
            "tsv": frame.to_csv(index=False, sep="\t"),
        }
        content = texts[name.removesuffix(".gz").rpartition(".")[2]].encode()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = load_behavior(path, ALL)
    assert [(problem.prompt, problem.answer) for problem in found.problems] == [(row["query"], str(row["gold"])) for row in ROWS]
    assert found.verifier.kind == "number"


def test_an_object_with_one_list_of_turns_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "1+1?"}], "answer": 2}))
    assert load_behavior(path, ALL).problems[0].prompt == (Message("user", "1+1?"),)


def test_rows_of_bbh(tmp_path: Path) -> None:
    behavior = load_behavior(Path(__file__).parent / "layouts" / "bbh.jsonl", ALL)
    assert (behavior.verifier.kind, behavior.verifier_origin) == ("choice", VerifierOrigin.GUESSED)
    assert (behavior.problems[0].answer, behavior.problems[0].metadata["choices"][1]) == ("(B)", "an anvil")
    texts = load(tmp_path, {"input": "not True is", "target": "False"}, {"input": "not False is", "target": "True"})
    assert texts.verifier.kind == "exact"
    numbers = load(tmp_path, {"input": "(1 + 2) =", "target": "3"})
    assert (numbers.verifier.kind, numbers.problems[0].prompt) == ("number", "(1 + 2) =")


@pytest.mark.parametrize(
    ("share", "counts"), [("all", (20, 0, 0)), (1.0, (20, 0, 0)), (0.8, (16, 3, 1)), (0.4, (8, 10, 2)), (0.1, (2, 15, 3))]
)
def test_the_share_of_eval(tmp_path: Path, share: Any, counts: tuple[int, int, int]) -> None:
    path = write(tmp_path / "rows.jsonl", *({"prompt": f"q{i}", "answer": str(i)} for i in range(20)))
    behavior = load_behavior(path, BehaviorOptions(split_eval=share))
    assert tuple(len(behavior.split(split)) for split in (Split.EVAL, Split.TRAIN, Split.FINAL)) == counts


def test_a_share_of_eval_beside_splits_that_are_given_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *({"prompt": f"q{i}", "answer": "1", "split": "eval"} for i in range(3)))
    (tmp_path / "mine.yaml").write_text("problems: rows.jsonl\nsplit: {train: train.jsonl}\n")
    for source in (path, tmp_path / "mine.yaml"):
        with refused(BehaviorError, "split_given_twice"):
            load_behavior(source, BehaviorOptions(split_eval=0.5))
    assert len(load_behavior(tmp_path / "mine.yaml", ALL).split(Split.EVAL)) == 3


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2+2?", "answer": "4", "response": "It is 4.", "correct": True},
        {"input": "2+2?", "output": "It is 4.", "score": 1.0, "step": 3},  # verl
        {"prompt": "2+2?", "completion": "It is 4.", "advantage": 0.5},  # TRL
        {"example_id": 1, "prompt": "2+2?", "completion": "It is 4.", "reward": 1.0},  # verifiers
        {"responses_create_params": {"input": "2+2?"}, "response": {"output": []}, "reward": 1.0},  # NeMo Gym
    ],
)
def test_graded_samples_of_a_model_are_no_problems(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(BehaviorError) as caught:
        load(tmp_path, row)
    assert caught.value.code == "samples_no_problems"


def test_graded_samples_are_problems_where_the_columns_are_said(tmp_path: Path) -> None:
    row = {"question": "2+2?", "answer": "4", "response": "It is 4.", "correct": True}
    assert one(tmp_path, row, {"prompt": "question", "answer": "answer"}).answer == "4"
    assert one(tmp_path, {"question": "2+2?", "response": "4"}).answer == "4"
