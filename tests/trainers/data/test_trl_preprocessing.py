"""Rows to tokens, compared id by id with TRL's own preprocessing: public chat template families times data layouts.

Which tokens stand in a row and which of them are learned is TRL's, but for the differences that `theirs_in_full`, `by_turn` and `compare` list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.template_families import FAMILIES, EncodingEngine, Family, make_family_tokenizer
from helpers.trl_rows import Row, TokenRow, dpo_rows, kto_rows, prompt_rows, sft_rows
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast
from trl.data_utils import common_prefix_length

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, PromptFormat, Split, VerifierSpec
from posttrain.trainers.data.data_set import read_data

Turn = dict[str, Any]


def user(content: Any) -> Turn:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> Turn:
    return {"role": "assistant", "content": content, **more}


QUESTION, ANSWER = [user("What is 12 and 34?")], [assistant("The answer is 46.")]
SYSTEM = [{"role": "system", "content": "Be kind."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "One."}}, "required": ["a"]},
        },
    }
]
NUMBER = 7788
"""Of a tool call; it stands nowhere else."""
KWARGS = {"enable_thinking": False, "date_string": "01 Jan 2020", "reasoning_effort": "high"}


def call(family: Family) -> Turn:
    arguments = {"a": NUMBER}
    return assistant(
        "",
        tool_calls=[
            {
                "type": "function",
                "id": "abcdefghi",
                "function": {"name": "add", "arguments": json.dumps(arguments) if family.arguments_are_text else arguments},
            }
        ],
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of one shape, and how TRL prepares them."""

    theirs: Callable[[PreTrainedTokenizerFast, Sequence[Row], Path], list[TokenRow]]
    rows: list[Row] = field(default_factory=list)
    of_family: Callable[[Family], list[Row]] | None = None
    """Gives the rows, where they differ between families."""
    marked: bool = False
    """Whether the family's template with generation markers is used, by which TRL learns the assistant's words alone."""
    prompt_format: str = "auto"


def call_rows(family: Family) -> list[Row]:
    """Return a chat with a tool call and its result."""
    result = {"role": "tool", "name": "add", "content": "46"}
    return [{"messages": [*QUESTION, call(family), result, *ANSWER], "tools": TOOLS}]


def last_call_rows(family: Family) -> list[Row]:
    """Return a prompt that is answered with a tool call; of DeepSeek's templates the one without markers wants text always."""
    answer = call(replace(family, arguments_are_text=family.arguments_are_text or family.name == "deepseekv3"))
    return [{"prompt": QUESTION, "completion": [answer], "tools": TOOLS}]


def chat(*turns: Turn, **columns: Any) -> Layout:
    """Return the layout of one whole chat, of which the assistant's words are learned."""
    return Layout(sft_rows, [{"messages": list(turns), **columns}], marked=True)


def texts(theirs: Callable[..., list[TokenRow]], *rows: Row) -> Layout:
    """Return a layout of texts that are no chats."""
    return Layout(theirs, list(rows), prompt_format="completion")


OTHER = [assistant("Five.")]
LAYOUTS = {
    "text": texts(sft_rows, {"text": "What is 12? Four."}, {"text": "中国的首都是北京"}),
    "prompt and completion texts": texts(
        sft_rows,
        {"prompt": "12", "completion": "34"},
        {"prompt": "Fr", "completion": "ance"},
        {"prompt": "What is 12?", "completion": " The answer."},
        {"prompt": "What is 12?\n", "completion": "The answer."},
        {"prompt": "中国的首都是", "completion": "北京"},
        {"prompt": "What is 12?\n", "completion": "\nThe answer."},
    ),
    "prompt and completion chats": Layout(
        sft_rows,
        [
            {"prompt": QUESTION, "completion": ANSWER},
            {"prompt": SYSTEM + QUESTION, "completion": ANSWER},
            {"prompt": [*QUESTION, *ANSWER, user("And five?")], "completion": OTHER},
        ],
    ),
    "prompt and completion chats with tools": Layout(sft_rows, [{"prompt": QUESTION, "completion": ANSWER, "tools": TOOLS}]),
    "chat template arguments": Layout(sft_rows, [{"prompt": QUESTION, "completion": ANSWER, "chat_template_kwargs": KWARGS}]),
    "messages of a single turn": chat(*QUESTION, *ANSWER),
    "messages of several turns": chat(*QUESTION, *ANSWER, user("And five?"), assistant("Then 51.")),
    "messages with a system message": chat(*SYSTEM, *QUESTION, *ANSWER),
    "messages with tools": chat(*QUESTION, *ANSWER, tools=TOOLS),
    "messages with tools as text": chat(*QUESTION, *ANSWER, tools=json.dumps(TOOLS)),
    "messages with tool calls": Layout(sft_rows, of_family=call_rows, marked=True),
    "completions of a tool call": Layout(sft_rows, of_family=last_call_rows),
    "messages with reasoning": chat(*QUESTION, assistant("46.", reasoning_content="Let me add.")),
    "messages with content parts": chat(user([{"type": "text", "text": "What?"}]), *ANSWER),
    "preference texts": texts(
        dpo_rows,
        {"prompt": "What is 12?", "chosen": " The answer.", "rejected": " four"},
        {"prompt": "Fr", "chosen": "ance", "rejected": "our"},
    ),
    "preference chats": Layout(dpo_rows, [{"prompt": QUESTION, "chosen": ANSWER, "rejected": OTHER}]),
    "preference chats without a prompt": Layout(dpo_rows, [{"chosen": QUESTION + ANSWER, "rejected": QUESTION + OTHER}]),
    "preference chats with tools": Layout(dpo_rows, [{"prompt": QUESTION, "chosen": ANSWER, "rejected": OTHER, "tools": TOOLS}]),
    "labelled texts": texts(
        kto_rows,
        {"prompt": "What is 12?", "completion": " The answer.", "label": True},
        {"prompt": "Fr", "completion": "our", "label": False},
    ),
    "labelled chats": Layout(
        kto_rows,
        [
            {"prompt": QUESTION, "completion": ANSWER, "label": True},
            {"prompt": QUESTION, "completion": OTHER, "label": False},
        ],
    ),
    "prompts as texts": texts(prompt_rows, {"prompt": "What is 12?"}, {"prompt": "中国的首都是"}),
    "prompts as chats": Layout(prompt_rows, [{"prompt": QUESTION}, {"prompt": SYSTEM + QUESTION}]),
    "prompts with tools": Layout(
        prompt_rows,
        [{"prompt": QUESTION, "tools": TOOLS}, {"prompt": QUESTION}, {"prompt": SYSTEM + QUESTION, "tools": json.dumps(TOOLS)}],
    ),
    "prompts with template arguments": Layout(
        prompt_rows, [{"prompt": QUESTION}, {"prompt": QUESTION, "chat_template_kwargs": KWARGS, "tools": TOOLS}]
    ),
}


def our_rows(
    tokenizer: PreTrainedTokenizerFast, family: Family, rows: Sequence[Row], folder: Path, *, prompt_format: str
) -> list[TokenRow]:
    """Return the rows as they are trained on here, from a file of them."""
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = EncodingEngine(family, tokenizer)
    behavior = Behavior(
        name="other",
        problems=(Problem(id="p", prompt="nothing of it", answer="", key="p", split=Split.EVAL),),
        verifier=VerifierSpec(kind="exact"),
        measure=MeasureSettings(epsilon=0.006),
        prompt=PromptFormat(format=prompt_format),
    )
    found = read_data(path, engine, [behavior])
    prompts = [engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt).token_ids for item in found.prompts]
    return [
        TokenRow(
            (*row.prompt_ids, *row.completion_ids),
            (False,) * len(row.prompt_ids)
            + tuple((row.token_weights > 0).tolist() if row.token_weights is not None else [True] * len(row.completion_ids)),
        )
        for row in found.rows
    ] + [TokenRow(ids, (False,) * len(ids)) for ids in prompts]


def turns_of(row: Row) -> list[Turn]:
    """Return all turns of a row's chats."""
    return [
        turn for value in row.values() if isinstance(value, list) for turn in value if isinstance(turn, dict) and "role" in turn
    ]


def words_of(rows: Sequence[Row]) -> list[str]:
    """Return what a chat says, which its tokens must say too."""
    found = []
    for turn in (turn for row in rows for turn in turns_of(row)):
        content = turn["content"]
        found += [content] if isinstance(content, str) else [part["text"] for part in content]
        found += [turn["reasoning_content"]] if "reasoning_content" in turn else []
        found += [str(NUMBER)] if "tool_calls" in turn else []
    return found


def rewritten(rows: Sequence[Row], write: Callable[[Any], Any]) -> list[Row]:
    """Return the rows with the content of every turn written otherwise."""

    def change(value: Any) -> Any:
        if not (isinstance(value, list) and value and "role" in value[0]):
            return value
        return [{**turn, "content": write(turn["content"])} for turn in value]

    return [{key: change(value) for key, value in row.items()} for row in rows]


def as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def as_null(content: Any) -> Any:
    return None if content == "" else content


def as_text(content: Any) -> Any:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def theirs_in_full(
    layout: Layout, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], folder: Path
) -> tuple[list[Row], list[TokenRow]] | None:
    """Return the rows, and what TRL makes of them, with contents as this template reads them; None where it cannot write what they say.

    Some templates read texts alone and write the list of a content's parts as it is printed; others read parts alone and write nothing
    of a text, or write tool calls where the content is null alone. TRL trains on that. We write what was said.
    """
    for write in (lambda content: content, as_parts, as_text, as_null):
        given = rewritten(rows, write)
        try:
            found = layout.theirs(tokenizer, given, folder)
        except (TemplateError, TypeError):
            continue
        text = "".join(tokenizer.decode(row.ids) for row in found)
        if all(words in text for words in words_of(rows)) and "'type': 'text'" not in text and '"type": "text"' not in text:
            return given, found
    return None


FAST = {"gemma", "glm4moe", "gptoss", "llama3", "phi3", "qwen2_5_base", "qwen3"}
"""Templates that differ most from one another; all others are marked slow."""
EVERY = [pytest.param(family, id=str(family), marks=() if str(family) in FAST else pytest.mark.slow) for family in FAMILIES]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", EVERY)
def test_rows_have_the_tokens_of_trl(family: Family, layout: str, tmp_path: Path) -> None:
    given = LAYOUTS[layout]
    rows = given.rows if given.of_family is None else given.of_family(family)
    marked = given.marked and family.has_generation_markers
    tokenizer = make_family_tokenizer(family, marked=marked)

    def ours() -> list[TokenRow]:
        return our_rows(tokenizer, family, rows, tmp_path, prompt_format=given.prompt_format)

    known = theirs_in_full(given, tokenizer, rows, tmp_path)
    if known is None:  # the template cannot write such a chat, or not all of it
        with pytest.raises(BehaviorError) as refused:
            ours()
        assert refused.value.code in ("chat_refused_by_template", "not_read_by_template", "turn_left_out_by_template")
        return
    readable, theirs = known
    found = ours()
    if len(found) > len(theirs):  # the template writes earlier turns otherwise once later ones follow: a row for each
        theirs = by_turn(tokenizer, readable[0], tmp_path)
    elif given.marked and not marked:
        theirs = [TokenRow(row.ids, None) for row in theirs]
    assert len(found) == len(theirs)
    for our, their in zip(found, theirs, strict=True):
        starts = answer_starts(tokenizer, readable[0], their.ids) if given.marked else set()
        compare(our, their, tokenizer, starts)


def by_turn(tokenizer: PreTrainedTokenizerFast, row: Row, folder: Path) -> list[TokenRow]:
    """Return TRL's row for every turn of the assistant, each as the completion of what stands before it."""
    turns = row["messages"]
    shared = {key: value for key, value in row.items() if key != "messages"}
    pairs = [
        {"prompt": turns[:place], "completion": [turn], **shared}
        for place, turn in enumerate(turns)
        if turn["role"] == "assistant"
    ]
    return sft_rows(tokenizer, pairs, folder)


def answer_starts(tokenizer: PreTrainedTokenizerFast, row: Row, ids: Sequence[int]) -> set[int]:
    """Return where each answer begins: behind what the model is shown when it is asked."""
    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
    places = [place for place, turn in enumerate(row["messages"]) if turn["role"] == "assistant"]
    shown = [
        tokenizer.apply_chat_template(row["messages"][:place], tools=tools, add_generation_prompt=True, return_dict=False)
        for place in places
    ]
    return {common_prefix_length(each, list(ids)) for each in shown}


def compare(ours: TokenRow, theirs: TokenRow, tokenizer: PreTrainedTokenizerFast, starts: set[int]) -> None:
    """Compare a row with TRL's, but for differences on purpose.

    - Blanks that a template writes behind the end of an answer are no part of our row at its end, and not learned elsewhere: sampling stops before
      them.
    - Where a template does not end the last answer, our row ends with the token that ends an answer, so that the model learns to stop.
    - Generation markers often begin an answer earlier or later than the prompt ends that is shown when the model is asked. Ours begins there.
    - The first token of a text is predicted from nothing, and is learned nowhere.
    """
    special = set(tokenizer.all_special_ids)

    def show(row: TokenRow) -> str:
        """Return the text of a row, with what is learned between marks."""
        parts = [
            tokenizer.decode([token]) if not learned else f"⟦{tokenizer.decode([token])}⟧"
            for token, learned in zip(row.ids, row.learned or [False] * len(row.ids), strict=True)
        ]
        return "".join(parts).replace("⟧⟦", "")

    def blank(place: int) -> bool:
        return not tokenizer.decode([theirs.ids[place]]).strip()

    def follows_end(place: int) -> bool:
        while place > 0 and blank(place):
            place -= 1
        return theirs.ids[place] in special

    ids, learned = list(theirs.ids), list(theirs.learned) if theirs.learned is not None else None
    if len(ids) > len(ours.ids) and all(map(blank, range(len(ours.ids), len(ids)))):
        ids = ids[: len(ours.ids)]
    elif ids == list(ours.ids[:-1]) and ours.ids[-1] in special:
        ids = list(ours.ids)
        learned = [*learned, True] if learned is not None else None
    assert ids == list(ours.ids), f"ids differ\nours:   {show(ours)!r}\ntheirs: {show(theirs)!r}"
    if learned is None or ours.learned is None:
        return
    learned = learned[: len(ids)]
    learned[0] = ours.learned[0]
    for place in range(len(ids)):
        if learned[place] and not ours.learned[place] and blank(place) and follows_end(place):
            learned[place] = False
    for start in starts:
        last, first = start - 1, start
        while last >= 0 and learned[last] and not ours.learned[last]:
            learned[last] = False
            last -= 1
        while first < len(ids) and ours.learned[first] and not learned[first]:
            learned[first] = True
            first += 1
    assert learned == list(ours.learned), f"learned tokens differ\nours:   {show(ours)!r}\ntheirs: {show(theirs)!r}"
