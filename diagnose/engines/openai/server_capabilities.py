"""What a completions server is and can do, found out by asking it before the first sample."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from posttrain.diagnose.engines.models.loading import load_tokenizer
from posttrain.diagnose.engines.models.model_source import DEMO
from posttrain.diagnose.engines.openai.transport import Refused, Reply, Transport
from posttrain.diagnose.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "The answer is"
"""The prompt that a server is tried with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a server accepts and returns, found out by asking it."""

    is_vllm: bool
    takes_token_ids: bool
    gives_token_ids: bool
    logprobs: str
    """`policy`: of the untruncated policy at temperature 1; `sampler`: of the distribution that is sampled; `none`."""
    scores: bool
    context: int | None
    """Tokens of prompt and sample together; None where the server does not say."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers from this server lack, a sentence each."""
        lacking = []
        if not self.is_vllm:
            lacking.append(
                "The server is not known to be vLLM: whatever it does by default with top-k, min-p and penalties is part of the samples."
            )
        if not self.takes_token_ids:
            lacking.append("Prompts were sent as text: how the server tokenises them is not known here.")
        if not self.gives_token_ids:
            lacking.append("The server gives no token ids: those stored are texts tokenised again.")
        if self.logprobs == "none":
            lacking.append("The server gives no log-probabilities: they are stored as NaN.")
        if not self.scores:
            lacking.append("The server cannot score: reference paths and the sampler-scorer agreement are not measured.")
        return tuple(lacking)


def base_address(url: str) -> str:
    """Return the address before /completions.

    Raises:
        SettingsError: It is no address of a web server, or holds a password.
    """
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        port_known, parts = False, urlsplit("")
    has_blanks = any(one.isspace() or not one.isprintable() for one in url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known or has_blanks:
        raise SettingsError(
            f"engine openai: got the address {url!r}; give that of a server, such as openai:http://localhost:8000/v1",
            code="engine_address",
        )
    if parts.username or parts.password or parts.query:
        raise SettingsError(
            "engine openai: got an address with a user, a password or a query; give the address alone, and the key as OPENAI_API_KEY",
            code="secret_in_address",
        )
    path = parts.path.rstrip("/").removesuffix("/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def served_models(transport: Transport, base: str) -> list[Reply]:
    """Return the cards of the served models; empty where the server has no list."""
    try:
        reply = transport.ask("GET", f"{base}/models")
    except Refused as error:
        if error.code == "key_refused":
            raise
        return []
    return dicts_of(transport.require(reply, f"{base}/models"), "data")


def find_tokenizer(model: str, cards: Sequence[Reply]) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of MODEL where MODEL is a folder, a hub id or the demo; else that of the folder the server says it serves."""
    root = next((str(card["root"]) for card in cards if card.get("id") == model and card.get("root")), model)
    for source in dict.fromkeys((model, root)):
        if (
            source == DEMO
            or Path(source).expanduser().is_dir()
            or (source.count("/") == 1 and not source.startswith((".", "/", "~")))
        ):
            try:
                return load_tokenizer(source)
            except ModelError:
                continue
    return None


def find_card(model: str, tokenizer: PreTrainedTokenizerBase | None, cards: Sequence[Reply], base: str) -> Reply:
    """Find the card of MODEL by its name or by its folder; make one with the name alone where the server has no list.

    Raises:
        ModelError: The server has a list, and the model is not in it.
    """
    names = [model, os.path.realpath(Path(model).expanduser())]
    if tokenizer is not None:
        names.append(tokenizer.name_or_path)
    for name in names:
        for card in cards:
            if name in (card.get("id"), card.get("root")):
                return card
    if cards:
        raise ModelError(
            f"model {model}: not served at {base}; served are {', '.join(str(card.get('id')) for card in cards[:10])}",
            code="model_not_served",
        )
    return {"id": model}


def probe_server(
    transport: Transport, base: str, served: str, is_vllm: bool, ids: tuple[int, ...] | None, context: int | None
) -> Capabilities:
    """Find out what a server takes and gives with one token: ids before text, with log-probabilities before without.

    Args:
        transport: Speaks with the server.
        base: Its address before /completions.
        served: Name of the model there.
        is_vllm: Whether the server says that it is vLLM.
        ids: The tokens of `PROBE`; None where no tokenizer is known.
        context: Tokens that the model can read, as far as the server says.

    Raises:
        SettingsError: The server takes no prompt of either kind.
    """
    url, refusal = f"{base}/completions", None
    for takes_ids, logprobs in product((True, False), (True, False)):
        if takes_ids and ids is None:
            continue
        prompt = list(ids) if takes_ids and ids else PROBE
        body: Reply = {"model": served, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, "seed": 1}
        body |= {"logprobs": 1} if logprobs else {}
        body |= {"return_token_ids": True} if is_vllm else {}
        try:
            reply = transport.require(transport.ask("POST", url, body), url)
        except Refused as error:
            refusal = refusal or error
            continue
        num_read = dict_of(reply, "usage").get("prompt_tokens")
        if takes_ids and ids and num_read is not None and num_read != len(ids):
            continue  # it took the ids for something else
        choice = _first_choice(reply)
        return Capabilities(
            is_vllm=is_vllm,
            takes_token_ids=takes_ids,
            gives_token_ids=choice.get("token_ids") is not None,
            logprobs=_logprobs_kind(transport, url, body, choice) if logprobs else "none",
            scores=is_vllm and takes_ids,
            context=context,
        )
    raise refusal or SettingsError(
        f"engine openai: {base} takes neither token ids nor text as a prompt; use a server with /completions",
        code="server_takes_no_prompt",
    )


def _logprobs_kind(transport: Transport, url: str, body: Reply, choice: Reply) -> str:
    """Tell of which distribution log-probabilities are, by whether the temperature changes them; see `Capabilities.logprobs`."""
    plain = _top_logprob(choice)
    if plain is None:
        return "none"
    at_two = _top_logprob(_first_choice(transport.ask("POST", url, body | {"temperature": 2.0})))
    return "policy" if at_two is not None and abs(at_two - plain) < 1e-2 else "sampler"


def _first_choice(reply: Reply | None) -> Reply:
    return next(iter(dicts_of(reply, "choices")), {})


def _top_logprob(choice: Reply) -> float | None:
    """Return the log-probability of the most likely first token; None where none was given."""
    tops = list_of(dict_of(choice, "logprobs"), "top_logprobs")
    first = tops[0] if tops else None
    values = list(first.values()) if isinstance(first, dict) else []
    return max(values) if values and all(isinstance(value, int | float) for value in values) else None


def dict_of(reply: Reply | None, name: str) -> Reply:
    """Return the object under a name; empty where there is none."""
    found = (reply or {}).get(name)
    return found if isinstance(found, dict) else {}


def dicts_of(reply: Reply | None, name: str) -> list[Reply]:
    """Return the objects in the list under a name; empty where there is none."""
    return [each for each in list_of(reply, name) if isinstance(each, dict)]


def list_of(reply: Reply | None, name: str) -> list[Any]:
    """Return the list under a name; empty where there is none."""
    found = (reply or {}).get(name)
    return found if isinstance(found, list) else []
