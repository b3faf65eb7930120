"""What tells a behavior from others: a hash of all that could change a number."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from json.encoder import encode_basestring_ascii

from posttrain.diagnose.behaviors.schema import AUTO
from posttrain.diagnose.dataclass_fields import fields_of
from posttrain.diagnose.types import Behavior, LimitSource, Problem, PromptFormat

_PARTS = ("prompt", "sampling", "measure", "verifier")
_encode = json.JSONEncoder(sort_keys=True, default=str).encode


def fingerprint_behavior(behavior: Behavior, identity: str) -> str:
    """Hash everything but where a setting or the whole was read from, and where the model or the function of a verifier lies.

    Args:
        behavior: Its own fingerprint does not count.
        identity: Of the model of its verifier; empty where it has none.

    Returns:
        The SHA-256 of its JSON with sorted keys, as 64 hexadecimal digits.
    """
    content = fields_of(behavior) | {"source": "", "fingerprint": ""}
    content |= {name: dataclasses.asdict(content[name]) for name in _PARTS}
    for name in ("thinking", "template_arguments", "tools"):  # settings that came later: without them a behavior is what it was
        if content["prompt"][name] == getattr(PromptFormat(), name):
            del content["prompt"][name]
    if content["sampling"]["known"]:
        del content["sampling"]["known"]
    for name in ("options", "verifier_origin", "notes", "limit_source", "problems"):  # they change no number, or come below
        del content[name]
    if behavior.limit_source is LimitSource.AUTO:
        content["sampling"]["max_tokens"] = AUTO
    options = content["verifier"]["options"]
    options.pop("folder", None)
    if identity:
        options["model"] = identity
    before = _encode({name: value for name, value in content.items() if name < "problems"})
    behind = _encode({name: value for name, value in content.items() if name > "problems"})
    found = hashlib.sha256(f'{before.removesuffix("}")}, "problems": ['.encode())
    for place, problem in enumerate(behavior.problems):
        found.update(f"{', ' if place else ''}{_problem(problem)}".encode())
    found.update(f"], {behind.removeprefix('{')}".encode())
    return found.hexdigest()


def _problem(problem: Problem) -> str:
    """Return a problem as JSON with sorted keys: there may be 10^5, whose values go to the encoder one by one where it is slow at objects."""
    answers = f'"answers": {_encode(problem.answers)}, ' if problem.answers else ""  # as it was before there could be several
    references = [fields_of(reference) for reference in problem.references]
    return (
        f'{{"answer": {_text(problem.answer)}, {answers}"group": {_text(problem.group)}, "hint": {_text(problem.hint)}, "id": {_text(problem.id)}, '
        f'"key": {_text(problem.key)}, "metadata": {_encode(problem.metadata) if problem.metadata else "{}"}, '
        f'"prompt": {_text(problem.prompt) if isinstance(problem.prompt, str) else _encode(problem.prompt)}, '
        f'"references": {_encode(references) if references else "[]"}, "split": {_text(problem.split)}}}'
    )


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)
