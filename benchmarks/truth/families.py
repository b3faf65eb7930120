"""Task families of the truth benchmark: problems that a small model can learn in a minute, with written-out reference steps.

A problem is a text. Its reference path is a list of steps; the last one states the answer (`answer 1642`), and each of the others is a line
that the following ones can be read from. A path in which one step is taken wrongly goes on from what was written, as a model's own mistakes do.

    words     a word backwards, its letters as digits             bdfa -> afdb, 1 6 4 2, 1642
    sums      two numbers of two digits in base six, with carries 35+24 -> 5+4=13, 3+2+1=10, 103
    pointers  three steps through a table of pairs                da cb ... :c -> cb, bf, fa, bfa
    sorting   five letters, the least of those left first         dbgca -> a dbgc, b dgc, c dg, abcdg
    runs      lengths of three runs of letters (held out)         aabccc -> a2, b1, c3, a2b1c3
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

Rng = random.Random
LETTERS = "abcdefgh"
NODES = "abcdef"
BASE = 6
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

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """Return at least three wrong lines in the place of `line`, the one of the most regular mistake first."""
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
            which: Which wrong line, modulo their number.
        """
        lines: list[str] = []
        for place in range(self.num_lines):
            if place == bad:
                wrong = self.wrong_lines(problem, lines)
                lines.append(wrong[which % len(wrong)])
            else:
                lines.append(self.line(problem, lines))
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

    def num_wrong(self, problem: str, bad: int) -> int:
        """Return how many wrong lines there are in the place `bad`."""
        return len(self.wrong_lines(problem, self.lines(problem)[:bad]))

    def wrong(self, problem: str, rng: Rng, bad: int = 0) -> list[str]:
        """Return a plausible wrong path at random."""
        return self.path(problem, bad=bad, which=rng.randrange(self.num_wrong(problem, bad)))


def different(right: str, candidates: Sequence[str]) -> list[str]:
    """Return those candidates that differ from what is right and from one another, in order."""
    return [one for one in dict.fromkeys(candidates) if one != right]


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
        return " ".join(str(LETTERS.index(one) + 1) for one in lines[0]) if lines else problem[::-1]

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """See `Family`."""
        right = self.line(problem, lines)
        if not lines:
            others = [letter + right[1:] for letter in LETTERS]
            return different(right, [problem, *others])
        digits = right.split()
        others = [" ".join([str(digit), *digits[1:]]) for digit in range(1, 9)]
        return different(right, [" ".join(digits[::-1]), *others])

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
        return self._written(problem, lines, 0)

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """See `Family`."""
        right = self.line(problem, lines)
        return different(
            right,
            [self._written(problem, lines, off) for off in (1, -1, 2, -2, 3, -3, 4, 5) if self._sum(problem, lines) + off >= 0],
        )

    def _terms(self, problem: str, lines: Sequence[str]) -> list[int]:
        first, second = problem.split("+")
        if not lines:
            return [int(first[1]), int(second[1])]
        carried = len(lines[0].split("=")[1]) > 1
        return [int(first[0]), int(second[0]), *([1] if carried else [])]

    def _sum(self, problem: str, lines: Sequence[str]) -> int:
        return sum(self._terms(problem, lines))

    def _written(self, problem: str, lines: Sequence[str], off: int) -> str:
        terms = self._terms(problem, lines)
        return f"{'+'.join(map(str, terms))}={in_base(sum(terms) + off)}"

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return lines[1].split("=")[1] + lines[0].split("=")[1][-1]


def in_base(number: int) -> str:
    """Return a number from 0 to 35 in base six."""
    return str(number) if number < BASE else f"{number // BASE}{number % BASE}"


@dataclass(frozen=True)
class Pointers(Family):
    """Three steps through a table that sends each of six letters to another one."""

    name: str = "pointers"
    alphabet: str = NODES
    num_lines: int = 3
    num_features: int = len(NODES)

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        targets = list(NODES)
        while any(source == target for source, target in zip(NODES, targets, strict=True)):
            rng.shuffle(targets)
        pairs = [source + target for source, target in zip(NODES, targets, strict=True)]
        rng.shuffle(pairs)
        return f"{' '.join(pairs)} {rng.choice(NODES)}"

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return NODES.index(problem[-1])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        *pairs, start = problem.split()
        source = lines[-1][1] if lines else start
        return next(pair for pair in pairs if pair[0] == source)

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """See `Family`."""
        right = self.line(problem, lines)
        return different(right, [right[0] * 2, *(right[0] + node for node in NODES)])

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return "".join(line[1] for line in lines)


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

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """See `Family`."""
        left = self._left(problem, lines)
        return different(self.line(problem, lines), [_taken(left, max(left)), *(_taken(left, letter) for letter in left)])

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
    alphabet: str = "abcdef12345"
    num_lines: int = 3
    num_features: int = 6

    def draw(self, rng: Rng) -> str:
        """See `Family`."""
        return "".join(letter * rng.randint(1, 4) for letter in rng.sample("abcdef", 3))

    def feature(self, problem: str) -> int:
        """See `Family`."""
        return "abcdef".index(problem[0])

    def line(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        letter = self._letter(problem, lines)
        return f"{letter}{problem.count(letter)}"

    def wrong_lines(self, problem: str, lines: Sequence[str]) -> list[str]:
        """See `Family`."""
        letter = self._letter(problem, lines)
        right = problem.count(letter)
        return different(f"{letter}{right}", [f"{letter}{right + 1}", *(f"{letter}{count}" for count in range(1, 6))])

    def _letter(self, problem: str, lines: Sequence[str]) -> str:
        return list(dict.fromkeys(problem))[len(lines)]

    def conclude(self, problem: str, lines: Sequence[str]) -> str:
        """See `Family`."""
        return "".join(lines)


FAMILIES: dict[str, Family] = {one.name: one for one in (Words(), Sums(), Pointers(), Sorting(), Runs())}
