"""Which problems may be trained on. Problems that are the same one (equal keys) always fall into the same split."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, Problem, Split


def normalise(text: str) -> str:
    """Reduce a text to what makes it the same question: NFKC, case folded, whitespace collapsed."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())


def default_key(prompt: str | tuple[Message, ...]) -> str:
    """Return the canonical key of a prompt whose symmetries are unknown: its normalised text, roles included for a chat."""
    if isinstance(prompt, str):
        return normalise(prompt)
    return "\n".join(f"{message.role}: {normalise(message.content)}" for message in prompt)


def split_keys(keys: Sequence[str], *, train: float, final: float, seed: int) -> dict[str, Split]:
    """Divide keys by fractions of the problems, deterministically.

    The keys are put in the order of a hash of seed and key, and the line is cut where the share of problems comes nearest to the
    fractions. So the split of a key depends on neither the order of the file nor on Python's own hash.

    Args:
        keys: One key per problem; repeated where problems are the same.
        train: Share of the problems for train.
        final: Share for final; what remains is eval, which keeps at least one key.
        seed: Chooses the split.

    Returns:
        The split of every distinct key.
    """
    counts = Counter(keys)
    line = sorted(counts, key=lambda key: (hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest(), key))
    before = [0, *accumulate(counts[key] for key in line)]
    total = before[-1]

    def cut(share: float, first: int) -> int:
        # Eval keeps the last key of the line; ties go to the shorter cut.
        return min(range(first, max(first, len(line) - 1) + 1), key=lambda i: (abs(before[i] - share * total), i))

    end_of_train = cut(train, 0)
    end_of_final = cut(train + final, end_of_train)
    return {
        key: Split.TRAIN if i < end_of_train else Split.FINAL if i < end_of_final else Split.EVAL for i, key in enumerate(line)
    }


def refuse_overlap(problems: Iterable[Problem], where: str) -> None:
    """Refuse problems that stand in two splits.

    Raises:
        BehaviorError: If a key occurs in more than one split.
    """
    seen: dict[str, tuple[Split, str]] = {}
    clashes: list[str] = []
    for problem in problems:
        split, first_id = seen.setdefault(problem.key, (problem.split, problem.id))
        if split is not problem.split:
            clashes.append(f"{first_id} ({split}) = {problem.id} ({problem.split})")
    if clashes:
        shown = ", ".join(clashes[:3]) + (", …" if len(clashes) > 3 else "")
        raise BehaviorError(
            f"{where}: {len(clashes)} problem(s) stand in two splits, for example {shown};"
            " measured problems are never trained on: remove them from one of the splits, or let `split` divide one file by key",
            code="overlapping_splits",
        )


def refuse_empty_split(problems: Iterable[Problem], where: str, measured: Split) -> None:
    """Refuse a division that leaves nothing to measure.

    Raises:
        BehaviorError: If no problem is in the split that is measured (`empty_eval_split` for eval).
    """
    counts = Counter(problem.split for problem in problems)
    if not counts[measured]:
        others = ", ".join(f"{split} {counts[split]}" for split in Split if split is not measured)
        raise BehaviorError(
            f"{where}: {measured} is empty ({others}), so nothing can be measured;"
            f' give some rows "split": "{measured}", or use split: {{train: 0.5, final: 0.1}}',
            code=f"empty_{measured}_split",
        )
