"""What of a chat is shown and what is learned: turns that are not learned, tools, thinking, parts, prefills, and long chats."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.character_engine import (
    ASKS_DATE,
    BOS,
    CHATML,
    DEFAULT_SYSTEM,
    DROPS_THINKING,
    END,
    ENDS_CHAT,
    HIDES_THINKING,
    NEXT_TURN_ENDS,
    OPENS_THINKING,
    READS_PARTS,
    SHOWS_TOOLS,
    START,
    THINKS,
    CharacterEngine,
)

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, MeasureSettings, Message, Problem, PromptFormat, Split, VerifierSpec
from posttrain.trainers.data.chats import ChatRenderer, ChatRow
from posttrain.trainers.data.data_set import read_data
from posttrain.trainers.training_types import RowRole, TrainingRow

Rows = Callable[..., tuple[TrainingRow, ...]]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Write rows to a file and read them with an engine."""

    def rows(engine: CharacterEngine, *given: dict[str, Any], prompt_format: str = "auto") -> tuple[TrainingRow, ...]:
        behavior = Behavior(
            name="sums",
            problems=(Problem(id="t", prompt="1+1?", answer="2", key="t", split=Split.TRAIN),),
            verifier=VerifierSpec(kind="exact"),
            prompt=PromptFormat(format=prompt_format),
            measure=MeasureSettings(epsilon=0.006),
        )
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        return read_data(path, engine, [behavior]).rows  # type: ignore[arg-type]

    return rows


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def shown(engine: CharacterEngine, row: TrainingRow) -> str:
    """Return a row as text, with what is learned in ‹›."""
    weights = np.ones(len(row.completion_ids)) if row.token_weights is None else row.token_weights
    said = "".join(
        f"‹{token}›" if weight else token
        for token, weight in zip(engine.tokenizer.convert_ids_to_tokens(list(row.completion_ids)), weights, strict=True)
    )
    return engine.text(row.prompt_ids) + said.replace("›‹", "")


# ----------------------------------------------------------------------------------------------------- which turns are learned


@pytest.mark.parametrize(
    ("no", "yes"), [({"weight": 0}, {"weight": 1}), ({"train": False}, {"train": True}), ({"trainable": False}, {})]
)
def test_a_turn_that_is_not_to_be_learned_is_shown_alone(no: dict[str, Any], yes: dict[str, Any], rows: Rows) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b", **no), user("c?"), assistant("d", **yes)]})
    assert shown(engine, row) == (
        f"{START}user\na?{END}\n{START}assistant\nb{END}\n{START}user\nc?{END}\n{START}assistant\n‹d{END}›"
    )
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b", **yes), user("c?"), assistant("d", **no)]})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\n‹b{END}›"


def test_a_completion_of_several_turns_teaches_those_of_the_assistant(rows: Rows) -> None:
    engine = CharacterEngine(CHATML)
    turns = [assistant("b"), {"role": "tool", "content": "c"}, assistant("d")]
    (row,) = rows(engine, {"prompt": [user("a?")], "completion": turns})
    assert shown(engine, row) == (
        f"{START}user\na?{END}\n{START}assistant\n‹b{END}›\n{START}tool\nc{END}\n{START}assistant\n‹d{END}›"
    )
    better, worse = rows(engine, {"prompt": [user("a?")], "chosen": turns, "rejected": [assistant("e")]})
    assert (better.role, worse.role) == (RowRole.CHOSEN, RowRole.REJECTED)
    assert better.prompt_ids == worse.prompt_ids
    assert shown(engine, better) == shown(engine, row)


# -------------------------------------------------------------------------------------- what the template writes around an answer


def test_what_the_template_writes_before_an_answer_is_learned_with_it(rows: Rows) -> None:
    engine = CharacterEngine(THINKS)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b")]})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\n‹<think>\n\n</think>\nb{END}›"


def test_template_arguments_reach_the_template(rows: Rows) -> None:
    engine = CharacterEngine(THINKS)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b")], "chat_template_kwargs": {"enable_thinking": False}})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\n<think>\n\n</think>\n‹b{END}›"


def test_the_chats_own_end_of_turn_is_learned_where_the_tokenizer_has_another(rows: Rows) -> None:
    engine = CharacterEngine(THINKS)
    engine.tokenizer.eos_token = BOS  # as of a base model, whose answers end with the end of the text
    engine.codec = TextCodec(engine.tokenizer, frozenset({1}))
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b")]})
    assert shown(engine, row).endswith(f"b{END}›")
    assert engine.codec.eos_ids == {1, 3}  # and sampling stops there
    (row,) = rows(engine, {"text": "ab"})
    assert shown(engine, row) == f"a‹b{BOS}›"


def test_what_begins_the_next_turn_ends_one_that_the_template_does_not_end(rows: Rows) -> None:
    engine = CharacterEngine(NEXT_TURN_ENDS)
    engine.codec = TextCodec(engine.tokenizer, frozenset({2, 3}))
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b"), user("c?"), assistant("d")]})
    assert shown(engine, row) == f"{START}user\na?{START}assistant\n‹b{START}›user\nc?{START}assistant\n‹d{END}›"


def test_a_token_behind_the_whole_chat_does_not_part_its_turns(rows: Rows) -> None:
    engine = CharacterEngine(ENDS_CHAT)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b"), user("c?"), assistant("d")]})
    assert shown(engine, row) == (
        f"{START}user\na?{END}\n{START}assistant\n‹b{END}›\n{START}user\nc?{END}\n{START}assistant\n‹d{END}›"
    )


def test_an_answer_begins_where_a_finished_one_differs_from_what_opens_one(rows: Rows) -> None:
    engine = CharacterEngine(HIDES_THINKING)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b")]})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\n‹b{END}›"


# --------------------------------------------------------------------------------------------- tools, calls, reasoning and parts

TOOL = {"type": "function", "function": {"name": "add"}}
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("a?"), assistant("b")]},
        {"prompt": [user("a?")], "completion": [assistant("b")]},
        {"prompt": "a?", "completion": "b"},
        {"prompt": [user("a?")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        {"prompt": [user("a?")], "completion": [assistant("b")], "label": True},
    ],
)
def test_tools_stand_in_the_prompt(row: dict[str, Any], tools: Any, rows: Rows) -> None:
    engine = CharacterEngine(SHOWS_TOOLS)
    made, *_ = rows(engine, {**row, "tools": tools})
    assert shown(engine, made) == f"[add]{START}user\na?{END}\n{START}assistant\n‹b{END}›"


def test_tool_calls_and_reasoning_are_learned(rows: Rows) -> None:
    engine = CharacterEngine(THINKS)
    (row,) = rows(
        engine,
        {"messages": [user("a?"), {"role": "assistant", "tool_calls": CALL}, {"role": "tool", "content": "c"}, assistant("d")]},
    )
    assert shown(engine, row).startswith(
        f"{START}user\na?{END}\n{START}assistant\n‹<think>\n\n</think>\n[add]{END}›\n{START}tool"
    )
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b", reasoning_content="so")]})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\n‹<think>\nso\n</think>\nb{END}›"


@pytest.mark.parametrize("more", [{"tool_calls": CALL}, {"reasoning_content": "so"}, {"thinking": "so"}])
def test_what_the_template_would_pass_over_is_refused(more: dict[str, Any], rows: Rows) -> None:
    with pytest.raises(BehaviorError) as refused:
        rows(CharacterEngine(CHATML), {"messages": [user("a?"), assistant("b", **more)]})
    assert refused.value.code == "not_read_by_template"
    assert "\n" not in str(refused.value)


CALLS_ALONE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is none %}{% for call in m.tool_calls %}[{{ call.function.name }}{{ call.function.arguments | tojson }}]"
    "{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes calls where there is no content alone, as DeepSeek-R1's distilled models do."""


@pytest.mark.parametrize("content", ["", None])
def test_calls_beside_an_empty_text_are_calls_alone(content: str | None, rows: Rows) -> None:
    engine = CharacterEngine(CALLS_ALONE)
    (row,) = rows(engine, {"messages": [user("a?"), assistant(content, tool_calls=CALL)]})
    assert shown(engine, row) == f'{START}user\na?{END}\n{START}assistant\n‹[add{{"a": 1}}]{END}›'


@pytest.mark.parametrize("template", [CHATML, CALLS_ALONE])
def test_a_call_that_is_only_named_in_the_content_is_refused(template: str, rows: Rows) -> None:
    with pytest.raises(BehaviorError) as refused:
        rows(CharacterEngine(template), {"messages": [user("a?"), assistant("let me add", tool_calls=CALL)]})
    assert refused.value.code == "not_read_by_template"


FORGETS = THINKS.replace("{{ m.reasoning_content or '' }}", "{% set reasoning_content = m.reasoning_content %}")
"""Reads reasoning and writes none."""


@pytest.mark.parametrize("num_turns", [1, 2])
def test_reasoning_that_is_read_and_not_written_is_refused(num_turns: int, rows: Rows) -> None:
    with pytest.raises(BehaviorError) as refused:
        rows(CharacterEngine(FORGETS), {"messages": [user("a?"), assistant("b", reasoning_content="so")] * num_turns})
    assert refused.value.code == "not_read_by_template"


@pytest.mark.parametrize("template", [CHATML, READS_PARTS])
def test_texts_and_parts_are_the_same_turn_whatever_the_template_knows(template: str, rows: Rows) -> None:
    engine = CharacterEngine(template)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b?"}]
    whole, split = rows(
        engine,
        {"messages": [user("ab?"), assistant("c")]},
        {"messages": [user(parts), assistant([{"type": "text", "text": "c"}])]},
    )
    assert shown(engine, whole) == shown(engine, split) == f"{START}user\nab?{END}\n{START}assistant\n‹c{END}›"


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}{% for call in m.tool_calls or [] %}[{{ call.function.name }}({{ ARGUMENTS }})]"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTED, EMPTY = "m.content", "m.content or ''"
OBJECTS, TEXTS = "call.function.arguments | tojson", "'' + call.function.arguments"
EITHER = "call.function.arguments if call.function.arguments is string else call.function.arguments | tojson"


@pytest.mark.parametrize("content", [PRINTED, EMPTY, "m.content.strip()", "'' + m.content"])
@pytest.mark.parametrize("arguments", [OBJECTS, TEXTS, EITHER])
@pytest.mark.parametrize("given", [{"a": 1}, '{"a": 1}'])
@pytest.mark.parametrize("said", [None, "", "b"])
def test_tool_calls_are_the_same_turn_whatever_form_the_template_reads(
    content: str, arguments: str, given: Any, said: str | None, rows: Rows
) -> None:
    engine = CharacterEngine(CALLS.replace("CONTENT", content).replace("ARGUMENTS", arguments))
    calls = [{"type": "function", "id": "1", "function": {"name": "add", "arguments": given}}]
    (row,) = rows(engine, {"messages": [user("a?"), assistant(said, tool_calls=calls)]})
    assert shown(engine, row) == f'{START}user\na?{END}\n{START}assistant\n‹{said or ""}[add({{"a": 1}})]{END}›'


def test_null_stays_where_the_template_asks_for_it(rows: Rows) -> None:
    calls = CALLS.replace("CONTENT", "'so ' if m.content is none else m.content").replace("ARGUMENTS", EITHER)
    engine = CharacterEngine(calls)
    (row,) = rows(engine, {"messages": [user("a?"), assistant(None, tool_calls=CALL)]})
    assert shown(engine, row).endswith(f'‹so [add({{"a": 1}})]{END}›')


LOSES_CONTENT = CALLS.replace("CONTENT", "'' if m.tool_calls else m.content").replace("ARGUMENTS", EITHER)
ONE_CALL = CALLS.replace("CONTENT", EMPTY).replace("ARGUMENTS", EITHER).replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")


@pytest.mark.parametrize(
    ("template", "turn"),
    [(LOSES_CONTENT, assistant("so", tool_calls=CALL)), (ONE_CALL, assistant("", tool_calls=[*CALL, *CALL]))],
    ids=["content beside a call", "the second call"],
)
@pytest.mark.parametrize("num_turns", [1, 2])
def test_what_the_template_leaves_out_of_a_turn_with_calls_is_refused(
    template: str, turn: dict[str, Any], num_turns: int, rows: Rows
) -> None:
    with pytest.raises(BehaviorError) as refused:
        rows(CharacterEngine(template), {"messages": [user("a?"), turn] * num_turns})
    assert refused.value.code == "not_read_by_template"


# -------------------------------------------------------------------------------------------------- prompts that have begun an answer


REWRITES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}\n</think>\n{{ m.content.split('</think>')[1] }}"
    "{% else %}\n</think>\n{{ m.content }}{% endif %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Moves thinking to where it belongs, and writes empty thinking before an answer that has none, or is not yet finished; as Qwen3 does."""


@pytest.mark.parametrize("begun", ["<think>so", "<think>\nso"])
def test_of_an_answer_that_is_written_otherwise_when_finished_what_was_begun_is_not_learned(begun: str, rows: Rows) -> None:
    engine = CharacterEngine(REWRITES)
    (row,) = rows(engine, {"prompt": [user("a?"), assistant(begun)], "completion": [assistant("+ so</think>b")]})
    assert shown(engine, row) == (f"{START}user\na?{END}\n{START}assistant\n<think>\nso‹+ so\n</think>\nb{END}›")


def test_an_answer_that_the_prompt_begins_is_gone_on_with(rows: Rows) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = rows(engine, {"prompt": [user("a?"), assistant("it is")], "completion": [assistant(" b")]})
    assert shown(engine, row) == f"{START}user\na?{END}\n{START}assistant\nit is‹ b{END}›"
    prompt = engine.codec.encode_prompt((Message("user", "a?"), Message("assistant", "it is")), PromptFormat())
    assert prompt.token_ids == row.prompt_ids


# ------------------------------------------------------------------------------------------------------------- texts, and the date


def test_nothing_stands_between_a_prompt_and_its_completion(rows: Rows) -> None:
    engine = CharacterEngine(None)
    made = rows(
        engine, {"prompt": "12", "completion": "34"}, {"prompt": "fr", "completion": "ance"}, {"prompt": "a:", "completion": " b"}
    )
    assert [shown(engine, row) for row in made] == [f"12‹34{END}›", f"fr‹ance{END}›", f"a:‹ b{END}›"]
    made = rows(engine, {"prompt": "12", "chosen": "34", "rejected": "5"})
    assert [shown(engine, row) for row in made] == [f"12‹34{END}›", f"12‹5{END}›"]


def test_prompt_and_completion_stay_texts_where_the_behaviors_prompts_are(rows: Rows) -> None:
    engine = CharacterEngine(CHATML)
    (row,) = rows(engine, {"prompt": "12", "completion": "34"}, prompt_format="completion")
    assert shown(engine, row) == f"12‹34{END}›"


@pytest.mark.parametrize(
    "row", [{"text": BOS + "ab"}, {"text": "ab"}, {"prompt": BOS + "a", "completion": "b"}, {"text": BOS + "ab" + END}]
)
def test_the_token_that_begins_a_text_stands_there_once(row: dict[str, Any], rows: Rows) -> None:
    engine = CharacterEngine(None, writes_bos=True)
    (made,) = rows(engine, row)
    assert engine.text(made.prompt_ids + made.completion_ids) == f"{BOS}ab{END}"


def test_a_template_that_asks_for_the_date_gives_the_same_tokens_every_day(rows: Rows) -> None:
    engine = CharacterEngine(ASKS_DATE)
    (row,) = rows(engine, {"messages": [user("a?"), assistant("b")]})
    assert shown(engine, row).startswith("today is 01 jan 2025\n")


# -------------------------------------------------------------------------------------------------------------------- long chats


class CountedRenderer(ChatRenderer):
    """Counts the turns that the template has written."""

    def __init__(self, codec: TextCodec) -> None:
        super().__init__(codec)
        self.num_turns = 0
        assert codec.template is not None
        render = codec.template.render

        def counted(messages: Sequence[Message], **more: Any) -> str:
            self.num_turns += len(messages)
            return render(messages, **more)

        codec.template.render = counted  # type: ignore[method-assign]


def talk(num: int, *, system: bool = False) -> tuple[Message, ...]:
    turns = [turn for i in range(num) for turn in (Message("user", f"{i}?"), Message("assistant", f"it is {i % 3}"))]
    return tuple([Message("system", "be brief"), *turns] if system else turns)


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, THINKS, ENDS_CHAT, SHOWS_TOOLS, DROPS_THINKING, HIDES_THINKING])
@pytest.mark.parametrize("system", [False, True])
def test_long_chats_are_written_turn_by_turn_as_in_whole(template: str, system: bool) -> None:
    engine = CharacterEngine(template)
    chat = talk(12, system=system)
    learned = tuple(i for i, turn in enumerate(chat) if turn.role == "assistant")
    renderer = CountedRenderer(engine.codec)
    (one,) = renderer.render(
        ChatRow(turns=chat, learned=learned, tools=({"function": {"name": "add"}},) if template is SHOWS_TOOLS else ())
    )
    for place, span in zip(learned, one.spans, strict=True):  # each span is that of the turn alone, rendered with all before it
        (alone,) = ChatRenderer(engine.codec).render(ChatRow(turns=chat[: place + 1], learned=(place,), tools=()))
        if template is not SHOWS_TOOLS:
            assert one.text[span.start : span.end] == alone.text[alone.spans[0].start : alone.spans[0].end].removesuffix(
                BOS
            ).rstrip("\n")
            assert one.text[: span.start] == alone.text[: alone.spans[0].start]


def test_the_time_of_a_chat_grows_with_its_turns_and_not_their_square() -> None:
    counts = []
    for num in (64, 128):
        engine = CharacterEngine(CHATML)
        chat = talk(num, system=True)
        renderer = CountedRenderer(engine.codec)
        renderer.render(ChatRow(turns=chat, learned=tuple(i for i, turn in enumerate(chat) if turn.role == "assistant")))
        counts.append(renderer.num_turns)
    assert counts[1] < 2.2 * counts[0]
    assert counts[1] < 12 * 2 * 128


def test_a_long_chat_whose_thinking_is_dropped_is_a_row_per_turn(rows: Rows) -> None:
    engine = CharacterEngine(DROPS_THINKING)
    turns = [turn for i in range(8) for turn in (user(f"{i}?"), assistant(f"<think>\nx\n</think>\n\n{i}"))]
    made = rows(engine, {"messages": turns})
    assert len(made) == 8
    assert all(shown(engine, row).endswith(f"assistant\n‹<think>\nx\n</think>\n\n{i}{END}›") for i, row in enumerate(made))


def test_a_long_chat_whose_answers_open_with_thinking_is_one_row(rows: Rows) -> None:
    engine = CharacterEngine(
        OPENS_THINKING.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<think>\n{% endif %}{{ m.content }}")
    )
    turns = [turn for i in range(8) for turn in (user(f"{i}?"), assistant(f"x</think>{i}"))]
    (row,) = rows(engine, {"messages": turns})
    assert shown(engine, row).count("<think>\n‹x</think>") == 8
