"""Data sets as training rows: what is prompt, what is learned, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.character_engine import (
    BOS,
    CHATML,
    DEFAULT_SYSTEM,
    DROPS_THINKING,
    END,
    ENDS_NOTHING,
    HIDES_THINKING,
    OPENS_THINKING,
    REFUSES_SYSTEM,
    SHOWS_TOOLS,
    START,
    CharacterEngine,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import (
    Behavior,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Sampling,
    Split,
    VerifierSpec,
)
from posttrain.trainers.data.data_set import DataSet, materials, read_data
from posttrain.trainers.sources.policy import problem_prompts
from posttrain.trainers.training_types import Material, MeasuredProblemError, RowRole, TrainingRow


@pytest.fixture
def behavior() -> Behavior:
    return Behavior(
        name="sums",
        problems=(
            Problem(id="t", prompt="1+1?", answer="2", key="t", split=Split.TRAIN),
            Problem(id="e", prompt="2 + 3", answer="5", key="e", split=Split.EVAL),
        ),
        verifier=VerifierSpec(kind="exact"),
        prompt=PromptFormat(template="so {question}?"),
        sampling=Sampling(max_tokens=7),
        measure=MeasureSettings(epsilon=0.006),
    )


Read = Callable[..., DataSet]


@pytest.fixture
def read(tmp_path: Path, behavior: Behavior) -> Read:
    """Write rows to a file and read them with an engine."""

    def read(engine: CharacterEngine, *rows: dict[str, Any], of: Behavior = behavior) -> DataSet:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_data(path, engine, [of])  # type: ignore[arg-type]

    return read


def shown(engine: CharacterEngine, row: TrainingRow) -> tuple[str, str]:
    """Prompt and completion as text; what is not learned stands in ‹›."""
    said = ""
    weights = row.token_weights if row.token_weights is not None else np.ones(len(row.completion_ids))
    for token, weight in zip(engine.tokenizer.convert_ids_to_tokens(list(row.completion_ids)), weights, strict=True):
        said += token if weight == 1 else f"‹{token}›"
        assert weight in (0, 1)
    return engine.text(row.prompt_ids), said.replace("›‹", "")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# ----------------------------------------------------------------------------------------------------------------- single rows


def test_plain_rows_are_written_as_completions_where_there_is_no_template(read: Read) -> None:
    engine = CharacterEngine(None)
    (row,) = read(engine, {"prompt": "a?", "completion": "b"}).rows
    assert shown(engine, row) == ("a?", "b" + END)
    assert (row.role, row.behavior, row.problem_id, row.split) == (RowRole.DEMONSTRATION, "data:rows.jsonl", "row0", Split.TRAIN)


def test_plain_prompts_are_the_users_turn_where_there_is_a_template(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = read(engine, {"prompt": "a?", "completion": "b"}).rows
    assert shown(engine, row) == (f"{START}user\na?{END}\n{START}assistant\n", "b" + END)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("a?")], "completion": [assistant("b")]},
        {"prompt": [user("a?")], "response": "b"},
        {"messages": [user("a?"), assistant("b"), user("c?")]},
    ],
)
def test_chats_of_one_answer_are_prompt_and_answer(row: dict[str, Any], read: Read) -> None:
    engine = CharacterEngine(CHATML)
    (made,) = read(engine, row).rows
    assert shown(engine, made) == (f"{START}user\na?{END}\n{START}assistant\n", "b" + END)
    assert made.token_weights is None


def test_pairs_stand_one_after_the_other_in_one_group(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    data = read(
        engine,
        {"prompt": [user("a?")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        {"chosen": [user("d?"), assistant("e")], "rejected": [user("d?"), assistant("f")]},
    )
    assert [(row.role, row.group_id, row.text) for row in data.rows] == [
        (RowRole.CHOSEN, "rows.jsonl#0", "b"),
        (RowRole.REJECTED, "rows.jsonl#0", "c"),
        (RowRole.CHOSEN, "rows.jsonl#1", "e"),
        (RowRole.REJECTED, "rows.jsonl#1", "f"),
    ]
    assert {shown(engine, row)[1] for row in data.rows} == {one + END for one in "bcef"}
    assert materials(data.rows, data.prompts) == {Material.PAIRS}


def test_pairs_of_texts_without_a_prompt_share_their_beginning(read: Read) -> None:
    engine = CharacterEngine(None)
    better, worse = read(engine, {"chosen": "the sky is blue.", "rejected": "the sky is black."}).rows
    assert shown(engine, better) == ("the sky is", " blue." + END)
    assert shown(engine, worse) == ("the sky is", " black." + END)


def test_labelled_answers_are_good_or_bad_and_no_pairs(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    data = read(
        engine,
        {"prompt": "a?", "completion": "b", "label": True},
        {"prompt": "a?", "completion": "c", "label": False},
    )
    assert [(row.role, row.text) for row in data.rows] == [(RowRole.CHOSEN, "b"), (RowRole.REJECTED, "c")]
    assert data.rows[0].group_id != data.rows[1].group_id
    assert materials(data.rows, data.prompts) == {Material.LABELS}


def test_labelled_steps_end_with_their_separators_and_the_last_before_the_end_token(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    data = read(engine, {"prompt": "a?", "completions": ["ab", "c\n", "de"], "labels": [True, False, True]})
    (row,) = data.rows
    assert shown(engine, row)[1] == "ab\nc\nde" + END
    assert (row.step_ends, row.step_scores) == ((2, 4, 6), (1.0, 0.0, 1.0))
    assert materials(data.rows, ()) == {Material.STEPS}


def test_a_step_without_a_token_of_its_own_ends_where_the_one_before_does(read: Read) -> None:
    engine = CharacterEngine(None)
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(["<unk>", END, "a", "b\nc", "?"])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"b\nc|[\s\S]"), behavior="isolated")
    engine.tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token=END)
    engine.codec = TextCodec(engine.tokenizer, frozenset({1}))
    (row,) = read(engine, {"prompt": "a? ", "completions": ["b", "c", "a"], "labels": [True, True, False]}).rows
    assert row.step_ends == (0, 1, 2)  # "b\n" ends within the token that "c" ends in as well
    assert len(row.completion_ids) == 4


@pytest.mark.parametrize("writes_bos", [False, True])
def test_of_a_text_all_is_learned_but_what_nothing_stands_before(writes_bos: bool, read: Read) -> None:
    engine = CharacterEngine(CHATML, writes_bos=writes_bos)
    first, single = read(engine, {"text": "once so"}, {"text": "o"}).rows
    assert shown(engine, first) == ((BOS, "once so" + END) if writes_bos else ("o", "nce so" + END))
    assert shown(engine, single) == ((BOS, "o" + END) if writes_bos else ("o", END))


# --------------------------------------------------------------------------------------------------------------- chats of turns

TALK = [user("a?"), assistant("b"), user("c?"), assistant("d"), user("e?")]


def test_all_turns_of_the_assistant_are_learned_in_one_row(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = read(engine, {"messages": TALK}).rows
    assert shown(engine, row) == (
        f"{START}user\na?{END}\n{START}assistant\n",
        f"b{END}‹\n{START}user\nc?{END}\n{START}assistant\n›d{END}",
    )


def test_a_default_system_message_stands_in_the_prompt(read: Read) -> None:
    engine = CharacterEngine(DEFAULT_SYSTEM)
    (row,) = read(engine, {"messages": TALK}).rows
    prompt, said = shown(engine, row)
    assert prompt == f"{START}system\nbe kind{END}\n{START}user\na?{END}\n{START}assistant\n"
    assert said == f"b{END}‹\n{START}user\nc?{END}\n{START}assistant\n›d{END}"


def test_where_earlier_thinking_is_dropped_each_turn_is_a_row_behind_what_the_model_would_read(read: Read) -> None:
    engine = CharacterEngine(DROPS_THINKING)
    talk = [user("a?"), assistant("<think>\nx\n</think>\n\nb"), user("c?"), assistant("<think>\ny\n</think>\n\nd")]
    first, second = read(engine, {"messages": talk}).rows
    assert shown(engine, first) == (f"{START}user\na?{END}\n{START}assistant\n", f"<think>\nx\n</think>\n\nb{END}")
    assert shown(engine, second) == (
        f"{START}user\na?{END}\n{START}assistant\nb{END}\n{START}user\nc?{END}\n{START}assistant\n",
        f"<think>\ny\n</think>\n\nd{END}",
    )
    assert first.problem_id == second.problem_id == "row0"


def test_a_chat_in_which_nothing_is_dropped_is_one_row_under_the_same_template(read: Read) -> None:
    engine = CharacterEngine(DROPS_THINKING)
    assert len(read(engine, {"messages": TALK}).rows) == 1


def test_a_template_that_refuses_system_messages_says_so_with_the_row(read: Read) -> None:
    engine = CharacterEngine(REFUSES_SYSTEM)
    assert len(read(engine, {"messages": TALK}).rows) == 1
    with pytest.raises(BehaviorError) as refused:
        read(engine, {"messages": TALK}, {"messages": [{"role": "system", "content": "be"}, *TALK]})
    assert all(fact in str(refused.value) for fact in ("rows.jsonl", "row 1", "system, user", "no system role"))
    assert "\n" not in str(refused.value)


def test_what_the_opening_of_an_answer_has_begun_is_not_said_twice(read: Read) -> None:
    answer = "<think>\nx\n</think>\n\nb"
    for template in (OPENS_THINKING, HIDES_THINKING):
        engine = CharacterEngine(template)
        (row,) = read(engine, {"messages": [user("a?"), assistant(answer)]}).rows
        assert shown(engine, row) == (f"{START}user\na?{END}\n{START}assistant\n<think>\n", f"x\n</think>\n\nb{END}")
    first, second = read(engine, {"messages": [user("a?"), assistant(answer), user("c?"), assistant(answer)]}).rows
    assert shown(engine, second)[0] == (
        f"{START}user\na?{END}\n{START}assistant\nb{END}\n{START}user\nc?{END}\n{START}assistant\n<think>\n"
    )
    assert first.completion_ids == second.completion_ids


def test_a_template_without_end_tokens_gives_a_row_per_turn_with_the_tokenizers_own(read: Read) -> None:
    engine = CharacterEngine(ENDS_NOTHING)
    first, second = read(engine, {"messages": TALK}).rows
    assert shown(engine, first) == ("user: a?\nassistant: ", "b" + END)
    assert shown(engine, second) == ("user: a?\nassistant: b\nuser: c?\nassistant: ", "d" + END)


def test_a_greeting_is_shown_and_not_learned(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = read(engine, {"messages": [assistant("hi"), user("a?"), assistant("b")]}).rows
    prompt, said = shown(engine, row)
    assert said == "b" + END
    assert prompt.startswith(f"{START}assistant\nhi{END}")


def test_each_row_reads_exactly_what_the_sampler_reads(read: Read) -> None:
    engine = CharacterEngine(DEFAULT_SYSTEM)
    (row,) = read(engine, {"messages": TALK}).rows
    chat = tuple(Message(turn["role"], turn["content"]) for turn in TALK[:3])
    later = engine.codec.encode_prompt(chat, PromptFormat()).token_ids
    whole = row.prompt_ids + row.completion_ids
    assert whole[: len(later)] == later


def test_chats_of_turns_need_a_template(read: Read) -> None:
    with pytest.raises(BehaviorError) as refused:
        read(CharacterEngine(None), {"messages": TALK})
    assert refused.value.code == "no_chat_template"


# --------------------------------------------------------------------------------------------------------- prompts, what is refused


def test_prompts_alone_become_problems_sampled_as_the_behavior_is(read: Read, behavior: Behavior) -> None:
    data = read(CharacterEngine(CHATML), {"prompt": "a?"}, {"prompt": [user("b?")]})
    assert data.rows == ()
    assert [item.name for item in data.prompts] == ["data:rows.jsonl/row0", "data:rows.jsonl/row1"]
    assert data.prompts[1].problem.prompt == (Message("user", "b?"),)
    assert {item.behavior.sampling.max_tokens for item in data.prompts} == {7}
    assert data.prompts[0].behavior.prompt.template == "{question}"
    assert {item.problem.split for item in data.prompts} == {Split.TRAIN}
    assert materials(data.rows, data.prompts) == {Material.PROMPTS}


def test_rows_count_by_their_weight_and_pairs_have_their_margin(read: Read) -> None:
    engine = CharacterEngine(CHATML)
    pair = {"prompt": "a?", "chosen": "b", "rejected": "c"}
    data = read(engine, {**pair, "weight": 2, "margin": 0.5}, {**pair, "weight": 0}, pair)
    assert [(row.problem_id, row.weight, row.margin) for row in data.rows if row.role is RowRole.CHOSEN] == [
        ("row0", 2.0, 0.5),
        ("row2", 1.0, 0.0),
    ]
    assert [row.weight for row in data.rows if row.role is RowRole.REJECTED] == [2.0, 1.0]
    assert (data.num_without_weight, data.weights, data.passed_over) == (1, (1.0, 2.0), set())
    with pytest.raises(BehaviorError) as refused:
        read(engine, {**pair, "weight": 0}, {**pair, "weight": 0.0})
    assert refused.value.code == "no_row_left"


TOOL = {"type": "function", "function": {"name": "add"}}
READS_BOTH = SHOWS_TOOLS.replace("{% if add_gen", "{% if terse %}terse{% endif %}{% if add_gen")


def test_prompts_alone_are_sampled_with_the_tools_and_template_arguments_of_their_row(read: Read) -> None:
    engine = CharacterEngine(READS_BOTH)
    asked = [user("a?")]
    rows = [
        {"prompt": asked, "tools": [TOOL], "chat_template_kwargs": {"terse": True}},
        {"prompt": asked},
        {"prompt": asked, "tools": json.dumps([TOOL])},
        {"prompt": "a?", "chat_template_kwargs": {"terse": True}},
    ]
    prompts = read(engine, *rows).prompts
    shown = engine.tokenizer.apply_chat_template
    expected = [
        shown(asked, tools=[TOOL], terse=True, add_generation_prompt=True, return_dict=False),
        shown(asked, add_generation_prompt=True, return_dict=False),
        shown(asked, tools=[TOOL], add_generation_prompt=True, return_dict=False),
        shown(asked, terse=True, add_generation_prompt=True, return_dict=False),
    ]
    assert len(set(map(tuple, expected))) == 4
    assert [request.prompt_ids for request in problem_prompts(engine, prompts)] == list(map(tuple, expected))
    assert {item.behavior.name for item in prompts} == {"data:rows.jsonl"}


def test_labelled_steps_stand_behind_the_tools_of_their_row(read: Read) -> None:
    engine = CharacterEngine(SHOWS_TOOLS)
    (row,) = read(engine, {"prompt": "a?", "completions": ["b", "c"], "labels": [True, False], "tools": [TOOL]}).rows
    assert shown(engine, row)[0] == f"[add]{START}user\na?{END}\n{START}assistant\n"


@pytest.mark.parametrize("more", [{"tools": [TOOL]}, {"chat_template_kwargs": {"terse": True}}])
@pytest.mark.parametrize(
    "row", [{"prompt": "a?"}, {"prompt": "a?", "completions": ["b"], "labels": [True]}, {"prompt": "a?", "completion": "b"}]
)
def test_tools_that_no_template_shows_are_refused(row: dict[str, Any], more: dict[str, Any], read: Read) -> None:
    with pytest.raises(BehaviorError) as refused:
        read(CharacterEngine(None), {**row, **more})
    assert refused.value.code == "no_chat_template"


def test_a_text_is_written_by_no_template_and_its_tools_are_passed_over(read: Read) -> None:
    data = read(CharacterEngine(SHOWS_TOOLS), {"text": "ab", "tools": [TOOL], "chat_template_kwargs": {"terse": True}})
    assert data.passed_over == {"tools", "chat_template_kwargs"}


ALLOWED = {"prompt": "1+1?", "text": "1+1?", "messages": [user("1+1?"), assistant("2")]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 +  3", "completion": "5"},
        {"prompt": "SO 2 + 3?", "completion": "5"},
        {"prompt": [user("2 + 3")], "completion": "5"},
        {"prompt": "2 + 3"},
        {"prompt": "2 + 3", "chosen": "5", "rejected": "6"},
        {"prompt": "2 + 3", "completions": ["5"], "labels": [True]},
        {"messages": [user("so 2 + 3?"), assistant("5"), user("thanks"), assistant("yes")]},
        {"text": "we know that 2 + 3 = 5."},
    ],
)
def test_what_asks_a_measured_problem_is_refused(row: dict[str, Any], read: Read) -> None:
    with pytest.raises(MeasuredProblemError) as refused:
        read(CharacterEngine(CHATML), {**row, **{key: ALLOWED[key] for key in row if key in ALLOWED}}, row)
    assert "1 rows" in str(refused.value)
    assert "row 1 is sums/e" in str(refused.value)


@pytest.mark.parametrize(
    "row", [{"text": "we know that 12 + 3 = 15"}, {"text": "and 2 + 34"}, {"prompt": "1+1?", "completion": "2"}]
)
def test_what_only_resembles_a_measured_problem_is_not(row: dict[str, Any], read: Read) -> None:
    assert len(read(CharacterEngine(None), row).rows) == 1


def test_of_a_measured_talk_the_last_turn_alone_may_be_asked(read: Read, behavior: Behavior) -> None:
    talk = (Message("user", "a?"), Message("assistant", "b"), Message("user", "why?"))
    measured = Problem(id="e", prompt=talk, answer="c", key="e", split=Split.EVAL)
    of = replace(behavior, problems=(behavior.problems[0], measured))
    engine = CharacterEngine(CHATML)
    assert len(read(engine, {"messages": [user("x?"), assistant("y"), user("why?"), assistant("c")]}, of=of).rows) == 1
    with pytest.raises(MeasuredProblemError) as refused:
        read(engine, {"messages": [user("a?"), assistant("b"), user("why?"), assistant("c")]}, of=of)
    assert "sums/e" in str(refused.value)
