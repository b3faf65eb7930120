"""Chats of a data set are rendered in batches: the rows are those of each chat alone, and what is refused is named alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.character_engine import CHATML, DROPS_THINKING, REFUSES_SYSTEM, SHOWS_TOOLS, THINKS, CharacterEngine
from helpers.refusals import refused

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.template_process import RenderRequest
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, MeasureSettings, Message, Problem, Split, VerifierSpec
from posttrain.trainers.data.chats import ChatRenderer, ChatRow
from posttrain.trainers.data.data_set import read_data
from posttrain.trainers.training_types import TrainingRow

TOOL = {"type": "function", "function": {"name": "add"}}


def read(folder: Path, engine: CharacterEngine, chats: Sequence[dict[str, Any]]) -> tuple[TrainingRow, ...]:
    behavior = Behavior(
        name="sums",
        problems=(Problem(id="t", prompt="1+1?", answer="2", key="t", split=Split.TRAIN),),
        verifier=VerifierSpec(kind="exact"),
        measure=MeasureSettings(epsilon=0.006),
    )
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return read_data(path, engine, [behavior]).rows  # type: ignore[arg-type]


def chat(num_answers: int, name: str, **more: Any) -> dict[str, Any]:
    asked, said = {"role": "user", "content": f"{name}?"}, {"role": "assistant", "content": f"<think>\nx\n</think>\n\n{name}"}
    return {"messages": [asked, said] * num_answers, **more}


def learned(rows: Sequence[TrainingRow]) -> list[Any]:
    weights = [None if row.token_weights is None else row.token_weights.tolist() for row in rows]
    return [(row.prompt_ids, row.completion_ids, held, row.text) for row, held in zip(rows, weights, strict=True)]


def counted(engine: CharacterEngine) -> list[int]:
    """Return a list that gets the number of chats of every exchange with the process that renders."""
    template = engine.codec.template
    assert template is not None
    render_all, sizes = template.render_all, list[int]()

    def render(requests: Sequence[RenderRequest]) -> list[str | BehaviorError]:
        sizes.append(len(requests))
        return render_all(requests)

    template.render_all = render  # type: ignore[method-assign]
    return sizes


def test_chats_ask_in_batches(tmp_path: Path) -> None:
    engine = CharacterEngine(CHATML)
    sizes = counted(engine)
    assert len(read(tmp_path, engine, [chat(3, f"{i}") for i in range(200)])) == 200
    assert sum(sizes) >= 200 * 6
    assert len(sizes) < 20


@pytest.mark.parametrize("template", [CHATML, DROPS_THINKING, THINKS, {"default": THINKS, "tool_use": SHOWS_TOOLS}])
def test_rows_are_those_of_each_chat_alone(template: Any, tmp_path: Path) -> None:
    """Chats of few and of many turns, long ones, with tools, with template arguments, and with an answer that the prompt begins."""
    kinds: list[dict[str, Any]] = [
        chat(1, "a"),
        chat(3, "b"),
        chat(6, "c"),
        chat(1, "d" * 20_000),
        chat(2, "e", tools=[TOOL]),
        chat(2, "e"),
        chat(2, "f", chat_template_kwargs={"enable_thinking": False}),
        {"prompt": chat(1, "g")["messages"], "completion": [{"role": "assistant", "content": "h"}]},
    ]
    engine = CharacterEngine(template)
    alone = [learned(read(tmp_path, engine, [kind])) for kind in kinds]
    assert learned(read(tmp_path, engine, kinds * 10)) == [row for made in alone * 10 for row in made]


@pytest.mark.parametrize("first", [3, 63, 64, 100])
def test_the_first_row_that_the_template_refuses_is_named(first: int, tmp_path: Path) -> None:
    chats = [chat(2, f"{i}") for i in range(130)]
    for place in (first, first + 2, 129):
        chats[place]["messages"].insert(0, {"role": "system", "content": "be brief"})
    with refused(BehaviorError, "chat_refused_by_template") as caught:
        read(tmp_path, CharacterEngine(REFUSES_SYSTEM), chats)
    assert f"row {first} " in str(caught.value)


def test_a_refused_chat_does_not_change_those_beside_it() -> None:
    engine = CharacterEngine(REFUSES_SYSTEM)
    asked, said = Message("user", "a?"), Message("assistant", "b")
    good, bad = (asked, said, asked, said), (Message("system", "be brief"), asked, said)
    rows = [ChatRow(turns=turns, learned=(len(turns) - 1,)) for turns in (good, bad, good)]
    renderer = ChatRenderer(engine.codec)
    expected = renderer.render(ChatRow(turns=good, learned=(3,)))
    assert not renderer.prefetch(rows)
    sizes = counted(engine)
    assert renderer.render(rows[0]) == renderer.render(rows[2]) == expected
    assert not sizes
    with refused(BehaviorError, "chat_refused_by_template"):
        renderer.render(rows[1])


def test_the_row_on_which_a_template_hangs_is_named(tmp_path: Path) -> None:
    engine = CharacterEngine(
        "{% if messages[0].content == 'hang' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
        + CHATML
    )
    engine.codec = TextCodec(engine.tokenizer, frozenset({3}), template_seconds=2.0)
    chats = [chat(1, f"{i}") for i in range(70)]
    chats[5]["messages"][0]["content"] = "hang"
    with refused(BehaviorError, "chat_template_too_slow") as caught:
        read(tmp_path, engine, chats)
    assert "row 5 " in str(caught.value)
