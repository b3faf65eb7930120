"""What a chat template writes around an answer: what opens it in a prompt and in a chat, what ends it, and what follows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.diagnose.engines.chat_template import ChatTemplate
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

_QUESTION, _ANSWER = "what trains", "posttrain"
_THOUGHT = re.compile(r"[^\w\s]{1,2}\w{0,12}(?:think|thought|reason)", re.IGNORECASE)


class AnswerTurn(NamedTuple):
    """What a template writes around an answer to the last message of a chat, as texts."""

    before: str
    """Between the last message and its answer, in a chat that holds both."""
    after: str
    """Behind the answer."""
    prompt_end: str
    """Behind the last message, where the model is to answer: with the generation prompt."""
    question_end: str
    """Behind the last message, without a generation prompt."""
    next_turn: str
    """Between the answer and a next message of the user; empty where the template refuses one."""

    @property
    def lacks_generation_prompt(self) -> bool:
        """Return whether a prompt ends before what opens an answer, because the template writes no generation prompt for such a chat."""
        return not _opening(self.prompt_end, self.question_end) and bool(_opening(self.before, self.question_end))

    @property
    def opens_otherwise(self) -> bool:
        """Return whether the generation prompt and what opens the answers of a chat differ; one may go on further, as with an empty thought."""
        chat, prompt = (_opening(text, self.question_end) for text in (self.before, self.prompt_end))
        return bool(chat and prompt) and not (chat.startswith(prompt) or prompt.startswith(chat))

    @property
    def ending(self) -> str:
        """Return the first text, no blank, that follows an answer: what a sample could be stopped at; empty where there is none."""
        lines = (self.after.strip() or self.next_turn.strip()).splitlines()
        return lines[0].strip() if lines else ""


def answer_turn(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    arguments: Mapping[str, Any] | None = None,
) -> AnswerTurn | None:
    """Return what a template writes around the answer to a chat.

    Args:
        template: The template.
        messages: A chat that does not end with the assistant. The last message is replaced by another of its role, which can be found again.
        tools: As for `ChatTemplate.render`.
        arguments: As for `ChatTemplate.render`.

    Returns:
        None where the template loses the message or the answer, or refuses such a chat.
    """
    asked = [*messages[:-1], messages[-1]._replace(content=_QUESTION, extra="")]
    answered = [*asked, Message("assistant", _ANSWER)]
    try:
        chat = template.render(answered, tools=tools, arguments=arguments)
        prompt, question = (
            template.render(asked, generation_prompt=adds, tools=tools, arguments=arguments) for adds in (True, False)
        )
    except BehaviorError:
        return None
    head, found, after = chat.rpartition(_ANSWER)
    if not found or any(_QUESTION not in text for text in (head, prompt, question)):
        return None
    before, prompt_end, question_end = (text.rpartition(_QUESTION)[2] for text in (head, prompt, question))
    try:
        longer = template.render([*answered, Message("user", _QUESTION)], tools=tools, arguments=arguments)
        next_turn = longer.rpartition(_QUESTION)[0].rpartition(_ANSWER)[2]
    except BehaviorError:
        next_turn = ""
    return AnswerTurn(before=before, after=after, prompt_end=prompt_end, question_end=question_end, next_turn=next_turn)


def _opening(text: str, question_end: str) -> str:
    """Return what opens an answer, without blanks: up to a thought, which may stand in prompts or in finished chats alone."""
    pairs = enumerate(zip(text, question_end, strict=False))
    common = next((place for place, (a, b) in pairs if a != b), min(len(text), len(question_end)))
    return "".join(_THOUGHT.split(text[common:], maxsplit=1)[0].split())
