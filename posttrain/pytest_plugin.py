"""pytest plugin: gate conditions on runs as tests. It does nothing unless its fixture or its option is used.

    def test_no_drop(posttrain_gate):
        posttrain_gate("runs/compared", "*:delta pass@1>=-0.02")

or, without a test file, `pytest --posttrain-gate runs/compared '*:delta pass@1>=-0.02'`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from posttrain.diagnose.gates.gate_result import GateResult

UNDECIDED = ("skip", "xfail", "fail")
"""What may become of a test whose conditions are not decided."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("posttrain", "gates on runs of posttrain")
    group.addoption(
        "--posttrain-gate",
        nargs=2,
        action="append",
        default=[],
        metavar=("RUN", "CONDITION"),
        help="add a test that the condition holds on the run; may be given several times",
    )
    group.addoption(
        "--posttrain-undecided",
        choices=UNDECIDED,
        default="skip",
        help="what becomes of a test whose conditions are neither met nor proven not met (default: skip)",
    )


class GateItem(pytest.Item):
    """A condition of the command line, as a test."""

    run_folder: str
    condition: str

    def runtest(self) -> None:
        """Test the condition."""
        check_gate(self.run_folder, self.condition, undecided=self.config.getoption("--posttrain-undecided"))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return where the test stands and its name."""
        return self.path, None, self.name


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test per condition of the command line."""
    for run, condition in config.getoption("--posttrain-gate"):
        item: GateItem = GateItem.from_parent(session, name=f"posttrain gate {run} {condition}")
        item.run_folder, item.condition = run, condition
        items.append(item)


@pytest.fixture
def posttrain_gate(request: pytest.FixtureRequest) -> Callable[..., GateResult]:
    """Return a function that takes a run and conditions; the test fails where one is proven not met.

    Conditions that are not decided skip the test, or as `--posttrain-undecided` or the argument `undecided` says.
    """
    usual = request.config.getoption("--posttrain-undecided")

    def gate(run: str | os.PathLike[str], *conditions: str, undecided: str | None = None) -> GateResult:
        return check_gate(run, *conditions, undecided=undecided or usual)

    return gate


def check_gate(run: str | os.PathLike[str], *conditions: str, undecided: str = "skip") -> GateResult:
    """Return the result where all conditions are met; else fail, skip or xfail the running test.

    Args:
        run: The folder of a run or of a comparison.
        conditions: As for `posttrain gate`.
        undecided: One of `UNDECIDED`.
    """
    __tracebackhide__ = True
    from posttrain.analysis.input_error import InputError
    from posttrain.diagnose import gate
    from posttrain.diagnose.errors import UserError
    from posttrain.diagnose.gates.gate_result import describe_condition
    from posttrain.diagnose.types import Outcome

    if undecided not in UNDECIDED:
        pytest.fail(f"undecided: got {undecided!r}; give one of {', '.join(UNDECIDED)}", pytrace=False)
    wrong = ""
    try:
        result = gate(run, conditions)
    except (UserError, InputError) as error:
        wrong = str(error)
    if wrong:  # not within `except`, where pytest would print the error twice
        pytest.fail(wrong, pytrace=False)
    lines = "\n".join(describe_condition(one) for one in result.conditions if one.check.outcome is not Outcome.MET)
    if result.outcome is Outcome.NOT_MET:
        pytest.fail(lines, pytrace=False)
    if result.outcome is Outcome.INCONCLUSIVE:
        _end_undecided(lines, undecided)
    return result


def _end_undecided(reason: str, undecided: str) -> NoReturn:
    """End the running test as one whose conditions are not decided."""
    __tracebackhide__ = True
    if undecided == "skip":
        pytest.skip(reason)
    if undecided == "xfail":
        pytest.xfail(reason)
    pytest.fail(reason, pytrace=False)
