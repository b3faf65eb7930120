"""Success rates of behaviors, and of pairs of behaviors, from families that nothing in this project was tuned on.

Every family draws the parameters of its mixing distribution afresh for each behavior, and no family is made of the rates at which the
estimators keep support points. A family maps two uniform numbers per problem to its success rate, so that the population that the problems
come from is known to 1/`LATTICE` (the same map on a lattice), and any mean over it too.

    behavior = FAMILIES["beta"](rng)
    rates, groups = behavior.draw(rng, 60)
    behavior.population       # [LATTICE] rates of equal weight
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, logit, ndtri

from posttrain.diagnose.types import Bottleneck, default_epsilon

EPSILON, MASTERED = default_epsilon(8), 0.9
MIXED = 0.2
"""Share of the problems that each of two kinds holds of a mixed behavior."""
LATTICE = 2048
Array = NDArray[np.float64]
RateMap = Callable[[Array, Array], Array]
"""From two uniform numbers per problem to its success rate."""
_STEPS = np.arange(LATTICE)
_LATTICE = ((_STEPS + 0.5) / LATTICE, (_STEPS * 0.6180339887498949 + 0.5) % 1.0)
LABELS = (Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED)


@dataclass(frozen=True)
class HeldOutBehavior:
    """One behavior: a distribution of problems with known success rates."""

    rates: RateMap
    num_groups: int | None = None
    """Groups of related problems: `rates` takes the first number per group; None where problems are unrelated."""

    @property
    def population(self) -> Array:
        """Return [LATTICE] rates of equal weight."""
        return self.rates(*_LATTICE)

    def draw(self, rng: np.random.Generator, num_problems: int) -> tuple[Array, tuple[str, ...] | None]:
        """Draw the rates of [P] problems, and the group of each."""
        if self.num_groups is None:
            return self.rates(rng.random(num_problems), rng.random(num_problems)), None
        size = rng.dirichlet(np.full(self.num_groups, 1.5))  # unequal
        member = np.concatenate([np.arange(self.num_groups), rng.choice(self.num_groups, num_problems, p=size)])[:num_problems]
        return self.rates(rng.random(self.num_groups)[member], rng.random(num_problems)), tuple(f"g{i}" for i in member)


@dataclass(frozen=True)
class HeldOutPair:
    """One behavior before and after a change."""

    rates: Callable[[Array, Array], tuple[Array, Array]]

    @property
    def population(self) -> tuple[Array, Array]:
        """Return [LATTICE] rates of equal weight before and after."""
        return self.rates(*_LATTICE)

    def draw(self, rng: np.random.Generator, num_problems: int) -> tuple[Array, Array]:
        """Draw [P] rates before and after."""
        return self.rates(rng.random(num_problems), rng.random(num_problems))


# ------------------------------------------------------------------------------------------------------------------ families


def _uniform_in_logit(rng: np.random.Generator, low: float, high: float) -> float:
    return float(expit(rng.uniform(logit(low), logit(high))))


def _uniform_in_log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _kumaraswamy(a: float, b: float) -> RateMap:
    return lambda u, v: (1.0 - (1.0 - u) ** (1.0 / b)) ** (1.0 / a)


def _mixture(share: float, first: RateMap, second: RateMap) -> RateMap:
    """Return the first map for a share of the problems, the second for the others."""

    def rates(u: Array, v: Array) -> Array:
        inside = u < share
        return np.where(inside, first(np.minimum(u / share, 1 - 1e-12), v), second(np.maximum((u - share) / (1 - share), 0.0), v))

    return rates


def _at(rate: float) -> RateMap:
    return lambda u, v: np.full_like(u, rate)


def one_rate(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a behavior whose problems share one rate."""
    return HeldOutBehavior(_at(_uniform_in_logit(rng, 0.001, 0.99)))


def one_faint_rate(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a behavior whose problems share one rate from ε/4 to 8 ε, which few samples do not tell from zero."""
    return HeldOutBehavior(_at(_uniform_in_log(rng, EPSILON / 4, 8 * EPSILON)))


def few_atoms(rng: np.random.Generator) -> HeldOutBehavior:
    """Make two to four rates, anywhere in the logit."""
    number = int(rng.integers(2, 5))
    atoms = np.array([_uniform_in_logit(rng, 0.0005, 0.995) for _ in range(number)])
    edges = np.cumsum(rng.dirichlet(np.full(number, 1.5)))[:-1]
    return HeldOutBehavior(lambda u, v: atoms[np.searchsorted(edges, u, side="right")])


def beta(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a beta distribution of random mean and size."""
    mean, size = _uniform_in_logit(rng, 0.01, 0.97), _uniform_in_log(rng, 0.3, 40.0)
    return HeldOutBehavior(lambda u, v: betaincinv(mean * size, (1 - mean) * size, u))


def zero_inflated(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a share of impossible problems beside a skewed distribution."""
    rest = _kumaraswamy(_uniform_in_log(rng, 0.4, 3.0), _uniform_in_log(rng, 0.5, 4.0))
    return HeldOutBehavior(_mixture(rng.uniform(0.1, 0.8), _at(0.0), rest))


def logit_normal(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a normal distribution in the logit, narrow to very wide."""
    mean, spread = rng.normal(-1.0, 2.5), _uniform_in_log(rng, 0.2, 6.0)
    return HeldOutBehavior(lambda u, v: expit(mean + spread * ndtri(np.clip(u, 1e-9, 1 - 1e-9))))


def faint_slice(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a log-uniform slice about ε or about 1/n."""
    low, ratio = _uniform_in_log(rng, 0.001, 0.03), _uniform_in_log(rng, 2.0, 40.0)
    return HeldOutBehavior(lambda u, v: np.minimum(low * ratio**u, 1.0))


def faint_part(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a part of the problems lie at one rate between ε and 1/16, the others anywhere in the middle."""
    middle = _kumaraswamy(rng.uniform(1.0, 4.0), rng.uniform(1.0, 4.0))
    return HeldOutBehavior(_mixture(rng.uniform(0.2, 0.8), _at(_uniform_in_log(rng, 1.2 * EPSILON, 0.9 / 16)), middle))


def skewed(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a power law, a Kumaraswamy distribution, or a Weibull distribution cut at one."""
    kind, shape = rng.integers(3), _uniform_in_log(rng, 0.4, 6.0)
    if kind == 0:
        return HeldOutBehavior(lambda u, v: u**shape)
    if kind == 1:
        return HeldOutBehavior(_kumaraswamy(_uniform_in_log(rng, 0.2, 6.0), _uniform_in_log(rng, 0.3, 8.0)))
    scale = _uniform_in_log(rng, 0.02, 0.8)
    return HeldOutBehavior(lambda u, v: np.minimum(scale * (-np.log1p(-u)) ** (1.0 / min(shape, 3.0)), 1.0))


def item_response(rng: np.random.Generator) -> HeldOutBehavior:
    """Make logistic difficulties against one ability, over a floor of guessing."""
    floor = rng.choice([0.0, 0.0, 0.1, 0.25])
    ability, slope = rng.normal(-0.5, 2.0), _uniform_in_log(rng, 0.5, 4.0)
    return HeldOutBehavior(lambda u, v: floor + (1 - floor) * expit(slope * (ability - logit(np.clip(u, 1e-9, 1 - 1e-9)))))


def near_mastered(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a distribution about .9: some problems mastered, some nearly, a few not at all."""
    spread, centre = _uniform_in_log(rng, 0.1, 2.0), logit(rng.uniform(0.82, 0.97))
    body: RateMap = lambda u, v: expit(centre + spread * ndtri(np.clip(u, 1e-9, 1 - 1e-9)))  # noqa: E731
    return HeldOutBehavior(_mixture(rng.uniform(0.0, 0.15) + 1e-6, _at(rng.uniform(0.0, 0.3)), body))


def near_epsilon(rng: np.random.Generator) -> HeldOutBehavior:
    """Make a log-normal distribution about ε, beside a part that succeeds."""
    spread = _uniform_in_log(rng, 0.1, 1.5)
    faint: RateMap = lambda u, v: np.minimum(EPSILON * np.exp(spread * ndtri(np.clip(u, 1e-9, 1 - 1e-9))), 1.0)  # noqa: E731
    return HeldOutBehavior(_mixture(rng.uniform(0.3, 0.95), faint, _kumaraswamy(rng.uniform(0.7, 3.0), rng.uniform(0.7, 3.0))))


def clustered(rng: np.random.Generator, num_groups: int | None = None) -> HeldOutBehavior:
    """Make groups of unequal sizes that share an effect; in some behaviors a few groups are impossible."""
    mean, between, within = rng.normal(-0.5, 1.5), _uniform_in_log(rng, 0.3, 2.5), _uniform_in_log(rng, 0.2, 2.0)
    impossible = rng.choice([0.0, 0.0, rng.uniform(0.1, 0.4)])

    def rates(u: Array, v: Array) -> Array:
        effect = between * ndtri(np.clip((u - impossible) / (1 - impossible), 1e-9, 1 - 1e-9))
        return np.where(u < impossible, 0.0, expit(mean + effect + within * ndtri(np.clip(v, 1e-9, 1 - 1e-9))))

    return HeldOutBehavior(rates, int(rng.integers(5, 31)) if num_groups is None else num_groups)


def borderline(rng: np.random.Generator, num_problems: int) -> Array:
    """Make [P] rates whose label hangs on one problem more, on a mean close to .9, or on rates close to ε."""
    more = num_problems // 2 + int(rng.integers(0, 2))
    kind = rng.integers(5)
    if kind == 0:  # as many out of support as within, or one more
        return np.where(np.arange(num_problems) < more, rng.choice([0.0, EPSILON / 3]), _uniform_in_log(rng, 0.015, 0.5))
    if kind == 1:  # the same, beside a third that is mastered
        third = num_problems // 3
        rest = np.where(np.arange(num_problems - third) < (num_problems - third) // 2 + 1, 0.0, rng.uniform(0.1, 0.5))
        return np.concatenate([np.full(third, rng.uniform(0.91, 0.99)), rest])
    if kind == 2:
        return np.full(num_problems, rng.choice([rng.uniform(0.88, 0.898), rng.uniform(0.902, 0.92)]))
    if kind == 3:
        return np.full(num_problems, EPSILON * rng.choice([rng.uniform(0.6, 0.95), rng.uniform(1.05, 1.6)]))
    return np.asarray(np.geomspace(EPSILON**2 / 0.3, 0.3, num_problems) * rng.choice([0.98, 1.02]))


FAMILIES: dict[str, Callable[[np.random.Generator], HeldOutBehavior]] = {
    "one rate": one_rate,
    "one faint rate": one_faint_rate,
    "few atoms": few_atoms,
    "beta": beta,
    "zero-inflated": zero_inflated,
    "logit-normal": logit_normal,
    "faint slice": faint_slice,
    "faint part": faint_part,
    "skewed": skewed,
    "item response": item_response,
    "near mastered": near_mastered,
    "near epsilon": near_epsilon,
    "clustered": clustered,
}


# ------------------------------------------------------------------------------------------------------------------- changes


def _base(rng: np.random.Generator) -> RateMap:
    """Return one of the families without groups, at random."""
    names = [name for name in FAMILIES if name != "clustered"]
    return FAMILIES[names[rng.integers(len(names))]](rng).rates


def _move(rates: Array, by: float) -> Array:
    """Move rates in the logit; 0 and 1 stay."""
    return np.where((rates > 0) & (rates < 1), expit(logit(np.clip(rates, 1e-12, 1 - 1e-12)) + by), rates)


def _part_changes(
    rng: np.random.Generator, before: float, after: float, lowest: float = 0.1, highest: float = 0.5
) -> HeldOutPair:
    """Make a share of the problems change from one rate to another; the others stay as they are."""
    base, share = _base(rng), rng.uniform(lowest, highest)

    def rates(u: Array, v: Array) -> tuple[Array, Array]:
        stay = base(u, v)
        return np.where(v < share, before, stay), np.where(v < share, after, stay)

    return HeldOutPair(rates)


def unchanged(rng: np.random.Generator) -> HeldOutPair:
    """Make one model, sampled twice."""
    base = _base(rng)
    return HeldOutPair(lambda u, v: (base(u, v), base(u, v)))


def uniform_lift(rng: np.random.Generator) -> HeldOutPair:
    """Make every problem easier by the same step in the logit."""
    base, by = _base(rng), rng.uniform(0.3, 1.5)
    return HeldOutPair(lambda u, v: (base(u, v), _move(base(u, v), by)))


def lift_inside(rng: np.random.Generator) -> HeldOutPair:
    """Raise what is in support, at 2 ε or more; below it nothing changes."""
    base, by = _base(rng), rng.uniform(0.5, 2.0)

    def rates(u: Array, v: Array) -> tuple[Array, Array]:
        first = base(u, v)
        return first, np.where(first >= 2 * EPSILON, _move(first, by), first)

    return HeldOutPair(rates)


def faint_lift(rng: np.random.Generator) -> HeldOutPair:
    """Raise a part from a rate just inside support (1.3 to 5 ε): no problem enters support."""
    return _part_changes(rng, _uniform_in_log(rng, 1.3 * EPSILON, 5 * EPSILON), rng.uniform(0.1, 0.4), 0.2)


def expansion(rng: np.random.Generator) -> HeldOutPair:
    """Raise a part from zero, or from far below ε."""
    return _part_changes(rng, float(rng.choice([0.0, EPSILON / 20])), rng.uniform(0.04, 0.5))


def attrition(rng: np.random.Generator) -> HeldOutPair:
    """Let a part fall to zero."""
    return _part_changes(rng, rng.uniform(0.05, 0.5), 0.0)


def faint_loss(rng: np.random.Generator) -> HeldOutPair:
    """Let a part fall to 3 to 8 ε: no problem leaves support."""
    return _part_changes(rng, rng.uniform(0.1, 0.25), _uniform_in_log(rng, 3 * EPSILON, 8 * EPSILON), 0.3, 0.6)


def lift_with_faint_loss(rng: np.random.Generator) -> HeldOutPair:
    """Let half fall from about .15 to about 6 ε while the others rise: a gain, and no problem leaves support."""
    fall, low, start, end = rng.uniform(0.1, 0.25), rng.uniform(0.025, 0.06), rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.8)
    return HeldOutPair(lambda u, v: (np.where(u < 0.5, fall, start), np.where(u < 0.5, low, end)))


def crossing(rng: np.random.Generator) -> HeldOutPair:
    """Sharpen: what succeeds often succeeds more often, what succeeds seldom no longer does."""
    share, faint, by = rng.uniform(0.2, 0.6), rng.uniform(0.03, 0.15), rng.uniform(0.5, 1.5)
    high = _kumaraswamy(rng.uniform(1.0, 3.0), rng.uniform(1.0, 3.0))

    def rates(u: Array, v: Array) -> tuple[Array, Array]:
        stay = np.maximum(high(u, v), 0.2)
        return np.where(v < share, faint, stay), np.where(v < share, 0.0, _move(stay, by))

    return HeldOutPair(rates)


CHANGES: dict[str, Callable[[np.random.Generator], HeldOutPair]] = {
    "unchanged": unchanged,
    "uniform lift": uniform_lift,
    "lift inside": lift_inside,
    "faint lift": faint_lift,
    "expansion": expansion,
    "attrition": attrition,
    "faint loss": faint_loss,
    "lift, faint loss": lift_with_faint_loss,
    "crossing": crossing,
}


# --------------------------------------------------------------------------------------------------------------------- truth


def true_problem_labels(rates: Array) -> NDArray[np.int64]:
    """Return [P] index into `LABELS`; −1 for a rate exactly at a threshold, where either label counts as wrong."""
    label = np.where(rates < EPSILON, 0, np.where(rates >= MASTERED, 2, 1))
    return np.where((rates == EPSILON) | (rates == MASTERED), -1, label)


def true_label(rates: Array) -> Bottleneck:
    """Return the label of a behavior whose success rates are known: mastered by its mean, mixed where two kinds hold a fifth each, else the majority's."""
    kinds = sorted([(rates < EPSILON).mean(), ((rates >= EPSILON) & (rates < MASTERED)).mean(), (rates >= MASTERED).mean()])
    mixed = rates.mean() < MASTERED and kinds[1] >= MIXED
    return Bottleneck.MIXED if mixed else true_majority(rates)


def true_majority(rates: Array) -> Bottleneck:
    """Return the label of a behavior whose success rates are known: mastered by its mean, else what holds more of its problems."""
    if rates.mean() >= MASTERED:
        return Bottleneck.MASTERED
    below, between = (rates < EPSILON).sum(), ((rates >= EPSILON) & (rates < MASTERED)).sum()
    return Bottleneck.MISSING_SUPPORT if below > between else Bottleneck.POOR_CHOICE


def true_shares(rates: Array) -> dict[str, float]:
    """Return the share of problems that each share of a gate is about."""
    below, above = float((rates < EPSILON).mean()), float((rates >= MASTERED).mean())
    return {
        "share_within_support": 1.0 - below,
        "share_missing_support": below,
        "share_poor_choice": 1.0 - below - above,
        "share_mastered": above,
    }
