"""Behavior files: what they mean, and one line for each thing that can be wrong with them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose.behaviors import load_behavior, load_behaviors
from posttrain.diagnose.behaviors.splits import default_key, normalise, split_keys
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, Purpose, Split, default_epsilon


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(num: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "prompt": f"What is {i} plus 1?", "answer": str(i + 1), **more} for i in range(num)]


def write_yaml(folder: Path, text: str, num: int = 10) -> Path:
    write_rows(folder / "problems.jsonl", rows(num))
    path = folder / "some.yaml"
    path.write_text(text)
    return path


FULL = """
name: full
problems: problems.jsonl
verifier: {kind: number, tolerance: 0.5}
prompt: {system: "Be brief.", template: "Q: {question}", format: completion, examples: [{question: "1+1?", answer: "2"}]}
sampling: {temperature: 0.7, top_p: 0.9, top_k: 5, min_p: 0.1, repetition_penalty: 1.1, max_tokens: 9, stop: ["\\n"]}
measure: {primary_k: 4, epsilon: 0.01, success: 0.5, group_size: 4}
split: {train: 0.3, final: 0.2, by: key, seed: 1}
purpose: retention
"""


def test_every_setting_arrives(tmp_path: Path) -> None:
    behavior = load_behavior(write_yaml(tmp_path, FULL))
    assert behavior.name == "full"
    assert behavior.source.endswith("some.yaml")
    assert (behavior.verifier.kind, dict(behavior.verifier.options)) == ("number", {"tolerance": 0.5})
    assert (behavior.prompt.system, behavior.prompt.template) == ("Be brief.", "Q: {question}")
    assert behavior.prompt.format == "completion"
    assert behavior.prompt.examples == (("1+1?", "2"),)
    sampling = behavior.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.7, 0.9, 5, 0.1)
    assert (sampling.repetition_penalty, sampling.max_tokens, sampling.stop) == (1.1, 9, ("\n",))
    measure = behavior.measure
    assert (measure.primary_k, measure.epsilon, measure.success, measure.group_size) == (4, 0.01, 0.5, 4)
    assert behavior.purpose is Purpose.RETENTION
    assert [len(behavior.split(split)) for split in (Split.TRAIN, Split.FINAL, Split.EVAL)] == [3, 2, 5]


def test_epsilon_follows_the_group_size(tmp_path: Path) -> None:
    behavior = load_behavior(write_yaml(tmp_path, "problems: problems.jsonl\nmeasure: {group_size: 16}\n"))
    assert behavior.measure.epsilon == default_epsilon(16)


def test_a_bare_jsonl_file(tmp_path: Path) -> None:
    behavior = load_behavior(write_rows(tmp_path / "my sums.jsonl", rows(20)))
    assert behavior.name == "my-sums"
    assert behavior.verifier.kind == "number"
    assert [len(behavior.split(split)) for split in (Split.TRAIN, Split.FINAL, Split.EVAL)] == [10, 2, 8]


@pytest.mark.parametrize("name", ["my.json", "my.lines.json", "my.csv", "my.jsonl.gz", "my.JSON.gz", "my.csv.gz", "my.ndjson"])
def test_rows_in_other_files(tmp_path: Path, name: str) -> None:
    """The same rows in every kind of file give the same problems."""
    given = [
        {
            "id": f"p{i}",
            "prompt": f'What is {i} + 1, "exactly"?\nSay it.',
            "answer": str(i + 1),
            "references": [["so", str(i + 1)]],
            "metadata": {"i": i},
            "hint": "count, then stop",
        }
        for i in range(10)
    ]
    del given[3]["hint"]
    expected = load_behavior(write_rows(tmp_path / "plain.jsonl", given))
    kind = name.lower().removesuffix(".gz")
    if kind.endswith("csv"):
        table = io.StringIO()
        writer = csv.DictWriter(table, list(given[0]))
        writer.writeheader()
        writer.writerows(
            [{key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()} for row in given]
        )
        text = table.getvalue()
    elif kind == "my.json":
        text = json.dumps(given, indent=1)
    else:
        text = "\n".join(map(json.dumps, given))
    content = ("\N{ZERO WIDTH NO-BREAK SPACE}" + text).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = load_behavior(tmp_path / name)
    assert found.name == ("my.lines" if "lines" in name else "my")
    assert found.problems == expected.problems
    assert load_behavior(write_yaml(tmp_path, f"problems: {name}\nname: plain")).problems == expected.problems
    train = load_behavior(write_yaml(tmp_path, f"problems: problems.jsonl\nsplit: {{train: {name}, final: 0.2}}"))
    assert len(train.split(Split.TRAIN)) == 10


@pytest.mark.parametrize(
    ("name", "content", "code", "place"),
    [
        ("a.json", b'[{"prompt": "q", "answer": "1"}, 2]', "not_an_object", "element 2"),
        ("a.json", b'[{"prompt": "q"', "invalid_json", "array of objects"),
        ("a.json", b'{"prompt": "q"\n}', "invalid_json", "array of objects"),
        ("a.json", b"[]", "empty_file", ""),
        ("a.csv", b"prompt,answer\nq,1,2\n", "invalid_csv", "row 1"),
        ("a.csv", b"prompt,prompt\nq,1\n", "invalid_csv", "twice"),
        ("a.csv", b'prompt,answer\n"q,1\n', "invalid_csv", "a.csv"),
        ("a.csv", b"frage;loesung\nq;1\n", "unknown_columns", "row 1"),
        ("a.tsv", b"prompt\tanswer\nq\t1\t2\n", "invalid_csv", "row 1"),
        ("a.csv", b"", "empty_file", ""),
        ("a.jsonl.gz", b"no gzip", "unreadable_file", ""),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "q", "answer": "1"}', mtime=0)[:-6], "unreadable_file", ""),
        ("a.json", b'[{"prompt": "\\ud800", "answer": "1"}]', "half_character", "element 1"),
    ],
)
def test_other_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes, code: str, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BehaviorError) as refused:
        load_behavior(tmp_path / name)
    assert refused.value.code == code
    assert place in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("answers", "kind"), [(["1", "2.5"], "number"), (["A", "J"], "choice"), (["A", "2"], "exact"), (["K"], "exact")]
)
def test_the_verifier_is_guessed(tmp_path: Path, answers: list[str], kind: str) -> None:
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": f"q{i}", "answer": answer} for i, answer in enumerate(answers)])
    assert load_behavior(path).verifier.kind == kind


def test_rows(tmp_path: Path) -> None:
    references = ["one\ntext", ["a", "b"], {"steps": ["a", "b", "c"], "joiner": " "}]
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = tmp_path / "x.jsonl"
    path.write_text(
        json.dumps({"prompt": "q", "answer": "a", "references": references, "group": "g", "key": "k", "metadata": {"x": 1}})
        + "\n\n"
        + json.dumps({"id": "c", "prompt": chat, "answer": "b"})
    )
    first, second = load_behavior(path).problems
    assert first.id == "row-1"
    assert (first.group, first.key, first.metadata) == ("g", "k", {"x": 1})
    assert [reference.steps for reference in first.references] == [("one\n", "text"), ("a\n", "b"), ("a ", "b ", "c")]
    assert second.prompt == (Message("system", "s"), Message("user", "u"))
    assert second.key == default_key(second.prompt)


def test_splits_named_by_the_rows_and_by_a_train_file(tmp_path: Path) -> None:
    marked = rows(3)
    for row, split in zip(marked, ("train", "eval", "final"), strict=True):
        row["split"] = split
    assert [problem.split.value for problem in load_behavior(write_rows(tmp_path / "m.jsonl", marked)).problems] == [
        "train",
        "eval",
        "final",
    ]
    write_rows(tmp_path / "train.jsonl", [{"prompt": f"new {i}", "answer": "1"} for i in range(4)])
    behavior = load_behavior(write_yaml(tmp_path, "problems: problems.jsonl\nsplit: {train: train.jsonl, final: 0.2}"))
    assert [len(behavior.split(split)) for split in (Split.TRAIN, Split.FINAL, Split.EVAL)] == [4, 2, 8]


def test_fingerprints(tmp_path: Path) -> None:
    text = "name: x\nproblems: problems.jsonl\n"
    first = load_behavior(write_yaml(tmp_path, text))
    (tmp_path / "other").mkdir()
    assert load_behavior(write_yaml(tmp_path / "other", text)).fingerprint == first.fingerprint
    for change in ("sampling: {max_tokens: 65}", "split: {seed: 1}", "verifier: {kind: exact}", "prompt: {system: s}"):
        assert load_behavior(write_yaml(tmp_path, text + change)).fingerprint != first.fingerprint


def test_what_concerns_thinking_arrives(tmp_path: Path) -> None:
    plain = load_behavior(write_yaml(tmp_path, "name: x\nproblems: problems.jsonl"))
    assert (plain.prompt.thinking, plain.prompt.template_variables) == ("auto", {})
    seen = {plain.fingerprint}
    for setting, thinking, variables in (
        ("thinking: none", "none", {}),
        ("thinking: ['<a>', '</a>']", ("<a>", "</a>"), {}),
        ("template_arguments: {enable_thinking: false}", "auto", {"enable_thinking": False}),
        ("template_arguments: {enable_thinking: true}", "auto", {"enable_thinking": True}),
    ):
        behavior = load_behavior(write_yaml(tmp_path, f"name: x\nproblems: problems.jsonl\nprompt: {{{setting}}}"))
        assert (behavior.prompt.thinking, behavior.prompt.template_variables) == (thinking, variables)
        seen.add(behavior.fingerprint)
    assert len(seen) == 5
    default = load_behavior(write_yaml(tmp_path, "name: x\nproblems: problems.jsonl\nprompt: {thinking: auto}"))
    assert default.fingerprint == plain.fingerprint


def test_keys_ignore_case_whitespace_and_width() -> None:
    assert normalise(" What  IS\n３ plus 1? ") == normalise("what is 3 plus 1?")
    assert default_key((Message("user", "A"),)) != default_key((Message("assistant", "A"),))


@pytest.mark.parametrize("num", [1, 2, 3, 7, 10, 99])
def test_fractions_are_met_and_order_does_not_matter(num: int) -> None:
    keys = [f"k{i}" for i in range(num)]
    splits = split_keys(keys, train=0.5, final=0.1, seed=0)
    counts = Counter(splits.values())
    assert counts[Split.EVAL] >= 1
    assert abs(counts[Split.TRAIN] - num * 0.5) <= 0.5
    assert split_keys(keys[::-1], train=0.5, final=0.1, seed=0) == splits
    if num == 99:
        assert counts[Split.FINAL] == 10 or abs(counts[Split.FINAL] - 9.9) <= 1
        assert split_keys(keys, train=0.5, final=0.1, seed=1) != splits


def test_equal_problems_share_a_split(tmp_path: Path) -> None:
    doubled = rows(20) + [{**row, "id": row["id"] + "b", "prompt": row["prompt"].upper()} for row in rows(20)]
    behavior = load_behavior(write_rows(tmp_path / "x.jsonl", doubled))
    by_key: dict[str, set[Split]] = {}
    for problem in behavior.problems:
        by_key.setdefault(problem.key, set()).add(problem.split)
    assert len(by_key) == 20
    assert all(len(splits) == 1 for splits in by_key.values())
    assert len(behavior.split(Split.TRAIN)) == 20


def refused(source: str | Path, code: str | None = None) -> str:
    with pytest.raises(BehaviorError) as caught:
        load_behavior(source)
    assert code in (None, caught.value.code)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("", "empty_file", "empty"),
        ("{", "invalid_json", "not JSON"),
        ("[1]", "not_an_object", "a row is an object"),
        ('{"prompt": "q"}', "missing_key", "no answer"),
        ('{"prompt": "q", "answer": " "}', "invalid_row", "empty string"),
        ('{"answer": "a"}', "missing_key", "no prompt"),
        ('{"prompt": "q", "answer": "a", "hint": true}', "invalid_row", "got True"),
        ('{"prompt": "q", "answer": NaN}', "invalid_row", "got nan"),
        ('{"prompt": "q", "answer": "a", "reference": "x"}', "unknown_key", "did you mean 'references'?"),
        ('{"prompt": "q", "answer": "a", "references": "x"}', "invalid_row", "a list"),
        ('{"prompt": "q", "answer": "a", "references": [[]]}', "invalid_row", "list of steps"),
        ('{"prompt": "q", "answer": "a", "references": [{"step": ["x"]}]}', "invalid_row", "list of steps"),
        ('{"prompt": "q", "answer": "a", "split": "tset"}', "unknown_split", "allowed: eval, final, train"),
        ('{"prompt": "q", "answer": "a", "metadata": 1}', "invalid_row", "an object"),
        ('{"prompt": [], "answer": "a"}', "invalid_row", "prompt: got []"),
        ('{"prompt": [{"role": "usr", "content": "x"}], "answer": "a"}', "unknown_role", "did you mean 'user'?"),
        ('{"prompt": [{"role": "assistant", "content": "x"}], "answer": "a"}', "invalid_row", "ends with the user"),
    ],
)
def test_wrong_rows(tmp_path: Path, line: str, code: str, part: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line)
    message = refused(path, code)
    assert part in message
    assert message.startswith(f"{path}:1: " if line else f"{path}: ")


def test_wrong_files_of_rows(tmp_path: Path) -> None:
    assert "already used in line 1" in refused(write_rows(tmp_path / "x.jsonl", [*rows(1), *rows(1)]))
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(tmp_path / "x.jsonl")
    overlap = [{**rows(1)[0], "id": f"p{i}", "split": split} for i, split in enumerate(("train", "eval"))]
    message = refused(write_rows(tmp_path / "x.jsonl", overlap))
    assert "1 problem(s) stand in two splits" in message
    assert "p0 (train) = p1 (eval)" in message
    assert "eval is empty" in refused(write_rows(tmp_path / "x.jsonl", rows(3, split="train")))
    assert "2 have none" in refused(write_rows(tmp_path / "x.jsonl", [{**rows(1)[0], "split": "eval"}, *rows(3)[1:]]))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("problem: problems.jsonl", "did you mean 'problems'?"),
        ("problems: problems.jsonl\nprompt: {tempalte: x}", "prompt: unknown key 'tempalte'"),
        ("problems: problems.jsonl\nprompt: {examples: [{question: q, reply: a}]}", "allowed: answer, question"),
        ("problems: problems.jsonl\nprompt: {template: x}", "{question}"),
        ("problems: problems.jsonl\nprompt: {format: chatty}", "got 'chatty'"),
        ("problems: problems.jsonl\nprompt: {examples: [{question: 'what is 1 plus 1?', answer: x}]}", "p1 are worked examples"),
        ("problems: problems.jsonl\nprompt: {thinking: yes}", "got True; allowed: auto, none"),
        ("problems: problems.jsonl\nprompt: {thinking: [<think>]}", "an opening and a closing marker"),
        ("problems: problems.jsonl\nprompt: {thinking: ['a ', 'a']}", "an opening and a closing marker"),
        ("problems: problems.jsonl\nprompt: {template_arguments: {tools: []}}", "got 'tools', which the prompt sets itself"),
        ("problems: problems.jsonl\nprompt: {template_arguments: {day: 2025-01-01}}", "write dates in quotes"),
        ("problems: problems.jsonl\nsampling: {temperature: -1}", "sampling.temperature: got -1"),
        ("problems: problems.jsonl\nsampling: {max_tokens: 0}", "sampling.max_tokens: got 0"),
        ("problems: problems.jsonl\nmeasure: {epsilon: 1.5}", "measure.epsilon: got 1.5"),
        ("problems: problems.jsonl\nverifier: {kind: numbr}", "did you mean 'number'?"),
        ("problems: problems.jsonl\nverifier: {kind: number, tolerence: 1}", "did you mean 'tolerance'?"),
        ("problems: problems.jsonl\nverifier: {kind: choice}", "problem p0: answer: got '1'"),
        ("problems: problems.jsonl\nverifier: {kind: reasoning_gym}", "no reasoning-gym entry"),
        ("problems: problems.jsonl\nsplit: {train: 0.9, final: 0.1}", "no problem in eval"),
        ("problems: problems.jsonl\nsplit: {train: -0.1}", "train: got -0.1"),
        ("problems: problems.jsonl\nsplit: {train: train.tsv}", ".json, .csv"),
        ("problems: problems.jsonl\nsplit: {train: problems.jsonl}", "10 problem(s) stand in two splits"),
        ("problems: problems.jsonl\npurpose: both", "'target' or 'retention'"),
        ("problems: problems.jsonl\nname: a/b", "name: got 'a/b'"),
        ("problems: missing.jsonl", "no such file"),
        ("problems: problems.jsonl\nreasoning_gym: {dataset: products}", "got problems and reasoning_gym of"),
        ("reasoning_gym: {dataset: products}\nsplit: {train: rows.jsonl}", "split.train: got 'rows.jsonl'"),
        ("name: x", "got none of"),
        ("- a", "a behavior is a mapping"),
        ("", "a behavior is a mapping"),
        ("name: x: y", "some.yaml:1: not valid YAML"),
        ("name: [", "not valid YAML"),
        ("reasoning_gym: {dataset: product}", "did you mean 'products'?"),
        ("reasoning_gym: {dataset: products, sise: 3}", "did you mean 'size'?"),
        ("reasoning_gym: {dataset: products, min_terms: 3, max_terms: 2}", "refuses its settings"),
        ("reasoning_gym: {dataset: products, where: {max_facter: 3}}", "did you mean 'max_factor'?"),
        ("reasoning_gym: {dataset: products, where: {max_factor: three}}", "allowed: a number"),
        ("reasoning_gym: {dataset: products, where: {min_factor: 999999}}", "loosen `where`"),
        ("reasoning_gym: {dataset: products, question: 'What is {x}?'}", "unknown template field 'x'"),
        ("reasoning_gym: {dataset: products, question: 'What is {?'}", "braces"),
        ("reasoning_gym: {dataset: letter_counting, where: {a: 1}}", "has no filters"),
        ("reasoning_gym: {dataset: letter_counting, answer: x}", "offers no fields"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, part: str) -> None:
    assert part in refused(write_yaml(tmp_path, text))


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "setting",
    [
        *(f"sampling: {{{key}: NUMBER}}" for key in ("temperature", "top_p", "min_p", "repetition_penalty", "max_tokens")),
        *(f"measure: {{{key}: NUMBER}}" for key in ("epsilon", "success", "primary_k")),
        *(f"split: {{{key}: NUMBER}}" for key in ("train", "final", "seed")),
        "verifier: {kind: number, tolerance: NUMBER}",
        "verifier: {kind: reward_model, model: m, threshold: NUMBER}",
    ],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, setting: str, number: str) -> None:
    with pytest.raises(BehaviorError) as excinfo:
        load_behavior(write_yaml(tmp_path, f"problems: problems.jsonl\n{setting.replace('NUMBER', number)}\n"))
    assert "\n" not in str(excinfo.value)


def test_what_is_no_behavior(tmp_path: Path) -> None:
    message = refused("prodcts")
    assert "did you mean 'products'?" in message
    assert "spell_backward" in message
    assert "no such file" in refused(tmp_path / "x.yaml")
    assert "folder" in refused(tmp_path)


def test_names_must_differ(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", rows(3))
    assert [behavior.name for behavior in load_behaviors([path])] == ["x"]
    with pytest.raises(BehaviorError) as excinfo:
        load_behaviors([path, path])
    assert excinfo.value.code == "duplicate_name"
