"""What is known about single reasoning-gym data sets: when two entries are the same problem, and how an answer is reached.

An adapter reads the metadata of an entry. It states the symmetries (3*4 is 4*3), offers fields for question templates, writes a
reference path step by step, and lists the filters that `where:` may use. Data sets without an adapter work too, without these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]
Fields = Mapping[str, Any]
Filter = Callable[[Fields, Any], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One entry, understood."""

    key: str
    """Equal for entries that are the same problem."""
    fields: Fields
    """What a question template may name; `answer` among them."""
    steps: tuple[str, ...]
    """A path to the answer, separators included; empty where none is known."""
    twins: tuple[Fields, ...] = ()
    """Fields of the same problem written otherwise, such as 4*3 for 3*4."""

    @property
    def answer(self) -> str:
        """Return the right answer."""
        return str(self.fields["answer"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """How to read one data set."""

    question: str
    """Template of the question, unless the behavior gives its own."""
    read: Callable[[Entry], Item | None]
    """Reads an entry; None for one that cannot be used."""
    filters: Mapping[str, Filter]
    """What `where:` may name: (fields, the value given) → keep it?"""
    fields: tuple[str, ...]
    """What a template may name."""


def in_sentences(*sentences: str) -> tuple[str, ...]:
    """Return steps that follow one another on one line; the blank belongs to the end of each step but the last."""
    return (*(sentence + " " for sentence in sentences[:-1]), sentences[-1])


def at_least(field: str) -> Filter:
    """Keep rows whose field is not below the value."""
    return lambda fields, value: bool(fields[field] >= value)


def at_most(field: str) -> Filter:
    """Keep rows whose field is not above the value."""
    return lambda fields, value: bool(fields[field] <= value)


def equals(field: str) -> Filter:
    """Keep rows whose field is the value."""
    return lambda fields, value: bool(fields[field] == value)


# -------------------------------------------------------------------------------------------------------- two-term arithmetic

WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def read_expression(entry: Entry) -> Item | None:
    """Read an expression such as `3 * 4`. Only those with one operator between whole numbers have fields and a path.

    The answer is worked out here: basic_arithmetic of reasoning-gym 0.1.25 states wrong ones for divisions (it divides by another
    number than it shows). Divisions that leave a remainder are not used.
    """
    expression = str(entry["metadata"]["expression"])
    match = re.fullmatch(r"(-?\d+) ([-+*/]) (-?\d+)", expression)
    if match is None:
        return _read_long_expression(entry, expression)
    a, operator, b = int(match[1]), match[2], int(match[3])
    if operator == "/" and (b == 0 or a % b):
        return None
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]

    def fields(first: int, second: int) -> Fields:
        terms = {"a": first, "operator": WORDS[operator], "b": second}
        return _expression_fields(f"{first} {operator} {second}", result, (a, b), operator) | terms

    commutes = operator in "+*"
    low, high = sorted((a, b)) if commutes else (a, b)
    return Item(
        key=f"{low}{operator}{high}",
        fields=fields(a, b),
        steps=(f"{a} {WORDS[operator]} {b} is {result}.",),
        twins=(fields(b, a),) if commutes else (),
    )


def _expression_fields(expression: str, answer: Any, numbers: Sequence[int], symbol: str) -> dict[str, Any]:
    """Return the fields of an expression; those of its terms are empty."""
    size = {"low": min(numbers), "high": max(numbers), "symbol": symbol}
    return {"a": "", "b": "", "operator": "", "expression": expression, "answer": answer, **size}


def _read_long_expression(entry: Entry, expression: str) -> Item | None:
    """Return an expression of several terms: sorted where it is only a sum or only a product, else as it stands."""
    if "/" in expression:
        return None
    key = expression.replace(" ", "")
    for operator in "+*":
        terms = expression.split(f" {operator} ")
        if len(terms) > 1 and all(re.fullmatch(r"-?\d+", term) for term in terms):
            key = operator.join(str(term) for term in sorted(map(int, terms)))
    numbers = [int(number) for number in re.findall(r"\d+", expression)]
    symbols = "".join(sorted(set(re.findall(r"(?<= )[-+*/](?= )", expression))))
    fields = _expression_fields(expression, entry["answer"], numbers, symbols)
    return Item(key=key, fields=fields, steps=(f"{expression} = {entry['answer']}.",))


EXPRESSION = Adapter(
    question="What is {expression}?",
    read=read_expression,
    filters={
        "min_factor": at_least("low"),
        "max_factor": at_most("high"),
        "max_smaller_factor": at_most("low"),
        "min_term": at_least("low"),
        "max_term": at_most("high"),
        "max_smaller_term": at_most("low"),
        "min_result": lambda fields, value: int(fields["answer"]) >= value,
        "max_result": lambda fields, value: int(fields["answer"]) <= value,
        "min_second": lambda fields, value: fields["b"] != "" and fields["b"] >= value,
        "max_second": lambda fields, value: fields["b"] != "" and fields["b"] <= value,
        "operator": equals("symbol"),
    },
    fields=("a", "b", "operator", "expression", "answer"),
)


# ------------------------------------------------------------------------------------------------------------ whole numbers


def read_gcd(entry: Entry) -> Item:
    """Read a greatest common divisor; two numbers come with Euclid's steps."""
    numbers = [int(number) for number in entry["metadata"]["numbers"]]
    result = math.gcd(*numbers)
    steps = []
    if len(numbers) == 2:
        high, low = max(numbers), min(numbers)
        while low:
            steps.append(f"{high} divided by {low} leaves {high % low}.")
            high, low = low, high % low
    return _of_numbers(numbers, result, (*steps, f"So the greatest common divisor is {result}."))


def read_lcm(entry: Entry) -> Item:
    """Read a least common multiple; two numbers come with the way over their greatest common divisor."""
    numbers = [int(number) for number in entry["metadata"]["numbers"]]
    result = math.lcm(*numbers)
    steps = []
    if len(numbers) == 2:
        a, b = numbers
        divisor = math.gcd(a, b)
        steps = [
            f"The greatest common divisor of {a} and {b} is {divisor}.",
            f"{a} divided by {divisor} is {a // divisor}.",
            f"{a // divisor} times {b} is {result}.",
        ]
    return _of_numbers(numbers, result, (*steps, f"So the least common multiple is {result}."))


def _of_numbers(numbers: Sequence[int], result: int, steps: tuple[str, ...]) -> Item:
    def fields(ordered: Sequence[int]) -> Fields:
        written = ", ".join(map(str, ordered))
        return {"numbers": written, "answer": result, "low": min(ordered), "high": max(ordered), "result": result}

    key = ",".join(map(str, sorted(numbers)))
    return Item(key=key, fields=fields(numbers), steps=in_sentences(*steps), twins=(fields(numbers[::-1]),))


NUMBER_FILTERS: Mapping[str, Filter] = {
    "min_number": at_least("low"),
    "max_number": at_most("high"),
    "min_result": at_least("result"),
    "max_result": at_most("result"),
}


def read_prime_factorization(entry: Entry) -> Item:
    """Read a factorization; the path splits the smallest prime off, one step at a time."""
    number = int(entry["metadata"]["number"])
    factors = sorted(int(factor) for factor in entry["metadata"]["factors"])
    answer = " * ".join(map(str, factors))
    steps = []
    rest = number
    for factor in factors[:-1]:
        steps.append(f"{rest} is {factor} times {rest // factor}.")
        rest //= factor
    fields = {"number": number, "answer": answer, "num_factors": len(factors)}
    return Item(key=str(number), fields=fields, steps=in_sentences(*steps, f"So: {answer}"))


# ------------------------------------------------------------------------------------------------------------ letters, order


def read_spell_backward(entry: Entry) -> Item | None:
    """Read a word to be reversed. Palindromes are not used: reversing them cannot be told from copying."""
    word = str(entry["metadata"]["word"])
    backward = word[::-1]
    if word.casefold() == backward.casefold():
        return None
    steps = in_sentences(f"The letters of {word} are {', '.join(word)}.", f"Backward: {', '.join(backward)}.", f"So: {backward}")
    fields = {"word": word, "answer": backward, "letters": len(word), "lowercase": word.islower() and word.isalpha()}
    return Item(key=word.casefold(), fields=fields, steps=steps)


def read_number_sorting(entry: Entry) -> Item:
    """Read numbers to be sorted. The key forgets their order; each number of the answer is a step."""
    metadata = entry["metadata"]
    written = [re.sub(r"\.0+$", "", str(number)) for number in metadata["original_numbers"]]
    direction = str(metadata["direction"])
    ordered = sorted(written, key=float, reverse=direction == "descending")
    fields = {
        "numbers": ", ".join(written),
        "direction": direction,
        "answer": ", ".join(ordered),
        "distinct": len(set(written)) == len(written),
        "is_sorted": ordered == written,
    }
    steps = (*(number + ", " for number in ordered[:-1]), ordered[-1])
    return Item(key=f"{direction}:{','.join(sorted(written, key=float))}", fields=fields, steps=steps)


ADAPTERS: Mapping[str, Adapter] = {
    "products": EXPRESSION,
    "chain_sum": EXPRESSION,
    "basic_arithmetic": EXPRESSION,
    "gcd": Adapter(
        question="What is the greatest common divisor of {numbers}?",
        read=read_gcd,
        filters=NUMBER_FILTERS,
        fields=("numbers", "answer"),
    ),
    "lcm": Adapter(
        question="What is the least common multiple of {numbers}?",
        read=read_lcm,
        filters=NUMBER_FILTERS,
        fields=("numbers", "answer"),
    ),
    "prime_factorization": Adapter(
        question="Write {number} as a product of prime numbers.",
        read=read_prime_factorization,
        filters={"min_factors": at_least("num_factors"), "max_factors": at_most("num_factors")},
        fields=("number", "answer"),
    ),
    "spell_backward": Adapter(
        question="Spell the word {word} backward.",
        read=read_spell_backward,
        filters={"min_letters": at_least("letters"), "max_letters": at_most("letters"), "lowercase": equals("lowercase")},
        fields=("word", "answer"),
    ),
    "number_sorting": Adapter(
        question="Sort in {direction} order: {numbers}",
        read=read_number_sorting,
        filters={"direction": equals("direction"), "distinct": equals("distinct"), "is_sorted": equals("is_sorted")},
        fields=("numbers", "direction", "answer"),
    ),
}
