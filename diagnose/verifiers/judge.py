"""A language model behind a server says whether an answer is right.

    verifier: {kind: judge, url: "http://localhost:8000/v1", model: qwen, prompt: "...{question}...{answer}...{response}..."}

The server is asked in OpenAI's chat completions interface, once an answer, at temperature 0. It must reply with yes, no, or a number from 0
to 1, and nothing else but thinking that it has closed; that is the score, and .5 is a success unless the behavior says otherwise. Whatever
else it says or fails to say makes the grade missing: an unreachable or unclear judge is no failure of the answer. A judge can be
manipulated by the answer that it reads: read some of the answers that it calls right.

A behavior file may come from anywhere, so the server that it names gets no key unless the user allows its host: POSTTRAIN_API_KEY_HOSTS holds the
names of hosts, with commas between them, as in `POSTTRAIN_API_KEY_HOSTS=api.openai.com`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Grade, GradeStatus, Problem, PromptFormat
from posttrain.diagnose.verifiers.base import ModelVerifier

if TYPE_CHECKING:
    from posttrain.diagnose.engines.openai.transport import Transport

DEFAULT_PROMPT = (
    "Question:\n{question}\n\nExpected answer:\n{answer}\n\nResponse:\n{response}\n\n"
    "Does the response answer the question, and agree with the expected answer? Reply with yes or no and nothing else."
)
_HOSTS = "POSTTRAIN_API_KEY_HOSTS"
_FIELD = re.compile(r"\{(question|answer|response)\}")
_VERDICT = re.compile(r"[\s\"'`*.]*(?:(yes)|(no)|([01](?:\.\d*)?|\.\d+))[\s\"'`*.!]*", re.IGNORECASE)


class JudgeOptions(StrictModel):
    """Options of `judge`."""

    url: str
    """Address of the server, the part before /chat/completions. It gets the key in OPENAI_API_KEY only where POSTTRAIN_API_KEY_HOSTS names its host."""
    model: Annotated[str, StringConstraints(min_length=1)]
    """Name under which the judge is served."""
    prompt: str = DEFAULT_PROMPT
    """What it is asked; {response} stands for the answer to be judged, {question} and {answer} for what it answers."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of its reply, thinking included."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds until a reply counts as lost."""
    retries: int = Field(default=5, ge=0)
    """Tries after the first one."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query:
            raise ValueError(
                f"got {shorten(url)}; allowed: the address of a server without user, password or query, such as http://localhost:8000/v1"
            )
        return url.rstrip("/").removesuffix("/chat/completions")

    @field_validator("prompt")
    @classmethod
    def _shows_the_response(cls, prompt: str) -> str:
        if "{response}" not in prompt:
            raise ValueError(f"got {shorten(prompt)}; the text {{response}} must stand in it, where the answer to be judged goes")
        return prompt


class JudgeVerifier(ModelVerifier):
    """Asks a served model about each answer."""

    Options = JudgeOptions
    needs_answer = False

    def __init__(self, options: JudgeOptions) -> None:
        self._options = options
        self._transport: Transport | None = None
        self._has_replied = False

    def check_ready(self) -> None:
        """See the base class: the server must be there. What it thinks of the model's name and of the key is seen with the first answer.

        Raises:
            SettingsError: Nothing answers at its address.
        """
        transport = self._open()
        if not transport.is_reachable(self._options.url):
            raise SettingsError(
                f"verifier judge: nothing answers at {self._options.url} ({transport.last_failure}); start the server, or give its address as url",
                code="judge_unreachable",
            )

    def rate(self, problem: Problem, texts: Sequence[str], prompt_format: PromptFormat) -> list[Grade]:
        """Return what the judge says of each text.

        Raises:
            SettingsError: A server that has never replied refuses what it is asked: the address, the name of the model or the key is wrong.
        """
        from posttrain.diagnose.engines.openai.transport import Refused

        bodies = [self._body(problem, text) for text in texts]
        transport, url = self._open(), f"{self._options.url}/chat/completions"
        try:
            replies: list[Any] = list(transport.post_all(url, bodies, lambda *_: None))
        except Refused:  # of one of them, such as a text that a filter stops; the others are taken back, so ask one by one
            replies = []
            for body in bodies:
                try:
                    replies.append(transport.ask("POST", url, body))
                except Refused as error:
                    replies.append(error)
            if not self._has_replied and all(isinstance(reply, Refused) for reply in replies):
                raise self._as_judge(replies[0]) from replies[0]
        self._has_replied = self._has_replied or any(isinstance(reply, dict) for reply in replies)
        return [_grade(reply, transport.last_failure) for reply in replies]

    def _body(self, problem: Problem, text: str) -> dict[str, Any]:
        question = problem.prompt if isinstance(problem.prompt, str) else _written(problem)
        filled = {"question": question, "answer": problem.answer, "response": text}
        # In one pass: what stands in braces in an answer is a part of the answer.
        content = _FIELD.sub(lambda field: filled[field[1]], self._options.prompt)
        return {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content.encode("utf-8", "replace").decode()}],
            "temperature": 0,
            "max_tokens": self._options.max_tokens,
        }

    def _open(self) -> Transport:
        if self._transport is None:
            from posttrain.diagnose.engines.openai.transport import Transport

            try:
                self._transport = Transport(
                    timeout=self._options.timeout, retries=self._options.retries, sends_key=_gets_key(self._options.url)
                )
            except SettingsError as error:
                raise self._as_judge(error) from error
        return self._transport

    def _as_judge(self, error: Exception) -> Exception:
        """Return the same complaint, naming whom it is about."""
        said, host = str(error).removeprefix("engine openai: "), urlsplit(self._options.url).hostname
        if isinstance(error, SettingsError) and error.code == "key_refused" and not _gets_key(self._options.url):
            said += f"; and set {_HOSTS}={host}, because a server that a behavior file names gets the key of no other host"
        return SettingsError(f"verifier judge: {said}", code="judge_refused")


def _gets_key(url: str) -> bool:
    """Return whether the user allows a server to have the key."""
    allowed = {name.strip().casefold() for name in os.environ.get(_HOSTS, "").split(",")} - {""}
    return urlsplit(url).hostname in allowed


def _written(problem: Problem) -> str:
    """Return a chat as text."""
    assert not isinstance(problem.prompt, str)
    if len(problem.prompt) == 1:
        return problem.prompt[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in problem.prompt)


def read_verdict(reply: str) -> float | None:
    """Return the score that a reply states: 1 for yes, 0 for no, or a number in [0, 1]; None where it states no single one."""
    found = _VERDICT.fullmatch(reply.rpartition("</think>")[2])
    if found is None:
        return None
    score = 1.0 if found[1] else 0.0 if found[2] else float(found[3])
    return score if score <= 1.0 else None


def _grade(reply: Any, failure: str) -> Grade:
    """Return a grade from the server's answer; missing where there is none, or none that can be read."""
    if not isinstance(reply, dict):
        said = str(reply).removeprefix("engine openai: ") if reply is not None else f"no reply ({failure or 'unknown'})"
        return Grade(status=GradeStatus.ERROR, score=None, detail=f"judge: {said}"[:500])
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    score = read_verdict(content) if isinstance(content, str) else None
    if score is None:
        return Grade(
            status=GradeStatus.ERROR,
            score=None,
            detail=f"judge: got {shorten(content, 200)}; allowed: yes, no, or a number from 0 to 1",
        )
    return Grade(status=GradeStatus.SCORED, score=score, extracted=f"{score:g}", lenient_score=score)
