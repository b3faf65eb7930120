"""Task families of the truth benchmark: problems that a small model can learn in a minute, with written-out reference steps.

A problem is a text. Its reference path is a list of steps; the last one states the answer (`answer 1642`), and each of the others is a line
that the following ones can be read from. A path in which one step is taken wrongly goes on from what was written, as a model's own mistakes do.

    words     a word backwards, its letters as digits             bdfa -> afdb, 1 6 4 2, 1642
    sums      two numbers of two digits in base six, with carries 35+24 -> 5+4=13, 3+2+1=10, 103
    codes     next letters, the first one to the end, as digits  bdfa -> cegb, egbc, 5723
    sorting   five letters, the least of those left first         dbgca -> a dbgc, b dgc, c dg, abcdg
    runs      lengths of three runs of letters (held out)         aabccc -> a2, b1, c3, a2b1c3
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Rng = random.Random
LETTERS = "abcdefgh"
BASE = 6
NUM_SLIPS = 6
"""Ways to take a line wrongly."""
HELD_OUT = "runs"
"""The family that no threshold, prior or effect may be tuned on."""


class Family:
    """One kind of task. Subclasses say what the lines of a path are, and what follows from a line that was taken wrongly."""

    name: str
    alphabet: str
    """Characters of answers."""
    num_lines: int
    """Steps before the answer."""
    num_features: int
    """Classes of problems that `feature` tells apart; success rates of plants differ between them."""

    def draw(self, rng: Rng) -> str:
        """Return a problem at random."""
        raise NotImplementedError

    def feature(self, problem: str) -> int:
        """Return the class of a problem, from 0 to `num_features` − 1, which is visible in its text."""
        raise NotImplementedError

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """Return the line that follows from the problem and the lines before, these being taken as they are."""
        raise NotImplementedError

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """Return a wrong line in the place of `line`, by one of `NUM_SLIPS` rules."""
        raise NotImplementedError

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """Return the answer that follows from the lines."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------------------- for all alike

    def lines(self, problem: str, *, bad: int | None = None, which: int = 0) -> list[str]:
        """Return the lines of a path.

        Args:
            problem: A problem.
            bad: The line that is taken wrongly; None for none.
            which: By which rule, from 0 to `NUM_SLIPS` − 1.
        """
        lines: list[str] = []
        for place in range(self.num_lines):
            lines.append(self.slip(problem, lines, which) if place == bad else self.line(problem, lines))
        return lines

    def path(self, problem: str, *, bad: int | None = None, which: int = 0) -> list[str]:
        """Return a path in steps; arguments as for `lines`."""
        lines = self.lines(problem, bad=bad, which=which)
        return [*(f"{line}\n" for line in lines), f"answer {self.conclude(problem, lines)}"]

    def steps(self, problem: str) -> list[str]:
        """Return the reference steps, of which the last one holds the answer."""
        return self.path(problem)

    def answer(self, problem: str) -> str:
        """Return the right answer."""
        return self.conclude(problem, self.lines(problem))

    def wrong(self, problem: str, rng: Rng, bad: int = 0) -> list[str]:
        """Return a plausible wrong path at random."""
        return self.path(problem, bad=bad, which=rng.randrange(NUM_SLIPS))


@dataclass(frozen=True)
class Words(Family):
    """A word backwards, its letters as digits, these as a number."""

    name: str = "words"
    alphabet: str = "12345678"
    num_lines: int = 2
    num_features: int = len(LETTERS)

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        return "".join(rng.sample(LETTERS, 4))

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return LETTERS.index(problem[0])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return " ".join(str(LETTERS.index(one) + 1) if one in LETTERS else "9" for one in lines[0]) if lines else problem[::-1]

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """See `Family`: a letter that is in no word, or a digit that stands for none."""
        return ("09"[which % 2] if lines else "ijklmn"[which]) + self.line(problem, lines)[1:]

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return lines[1].replace(" ", "")


@dataclass(frozen=True)
class Sums(Family):
    """Two numbers of two digits in base six: the sum of the last digits, that of the first digits with what is carried."""

    name: str = "sums"
    alphabet: str = "012345"
    num_lines: int = 2
    num_features: int = BASE

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        tens, ones = (rng.randrange(1, BASE), rng.randrange(1, BASE)), (rng.randrange(BASE), rng.randrange(BASE))
        return f"{tens[0]}{ones[0]}+{tens[1]}{ones[1]}"

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return int(problem[1])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        first, second = problem.split("+")
        terms = [int(first[0]), int(second[0])] if lines else [int(first[1]), int(second[1])]
        terms += [1] if lines and len(lines[0].split("=")[1]) > 1 else []
        return f"{'+'.join(map(str, terms))}={np.base_repr(sum(terms), BASE)}"

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """See `Family`: a result that no sum has."""
        return f"{self.line(problem, lines).split('=')[0]}=2{'uvwxyz'[which]}"

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return lines[1].split("=")[1] + lines[0].split("=")[1][-1]


@dataclass(frozen=True)
class Codes(Family):
    """A word of which every letter becomes the next one of the alphabet; then the first letter goes to the end, and letters become digits."""

    name: str = "codes"
    alphabet: str = "12345678"
    num_lines: int = 2
    num_features: int = len(LETTERS)

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        return "".join(rng.choices(LETTERS, k=4))

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return LETTERS.index(problem[0])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        if lines:
            return lines[0][1:] + lines[0][0]
        return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in problem)

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """See `Family`: a letter that is in no word."""
        return "ijklmn"[which] + self.line(problem, lines)[1:]

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return "".join(str(LETTERS.index(letter) + 1) if letter in LETTERS else "9" for letter in lines[1])


@dataclass(frozen=True)
class Sorting(Family):
    """Five letters in alphabetical order: the least one of those that are left, and what is left then."""

    name: str = "sorting"
    alphabet: str = LETTERS
    num_lines: int = 3
    num_features: int = len(LETTERS)

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        return "".join(rng.sample(LETTERS, 5))

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return LETTERS.index(problem[0])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        left = self._left(problem, lines)
        return _taken(left, min(left))

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """See `Family`: a letter that is not in the word."""
        return f"{'uvwxyz'[which]} {self._left(problem, lines)}"

    def _left(self, problem: str, lines: Sequence[str]) -> str:
        return lines[-1].split()[1] if lines else problem

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return "".join(line[0] for line in lines) + "".join(sorted(lines[-1].split()[1]))


def _taken(left: str, letter: str) -> str:
    return f"{letter} {left.replace(letter, '')}"


@dataclass(frozen=True)
class Runs(Family):
    """Three runs of equal letters: each letter with the length of its run."""

    name: str = "runs"
    alphabet: str = "abcdef123"
    num_lines: int = 3
    num_features: int = 6

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        return "".join(letter * rng.randint(1, 3) for letter in rng.sample("abcdef", 3))

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return "abcdef".index(problem[0])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        letter = list(dict.fromkeys(problem))[len(lines)]
        return f"{letter}{problem.count(letter)}"

    def slip(self, problem: str, lines: Sequence[str], which: int) -> str:
        """See `Family`: a length that no run has."""
        return self.line(problem, lines)[0] + "567890"[which]

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return "".join(lines)


FAMILIES: dict[str, Family] = {one.name: one for one in (Words(), Sums(), Codes(), Sorting(), Runs())}
